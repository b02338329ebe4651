"""A million keys of state from history by ``feast materialize``."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from tests.benchmarks.bench import Bench
from tests.benchmarks.keyed import END, THREE_COLUMNS, events, open_keyed, reopen
from tests.benchmarks.measure import in_own_process, seconds
from tests.benchmarks.server import client_of, used_memory

_EVENTS_A_KEY = 3
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


def run(bench: Bench) -> None:
    """Three events a key, a view that aggregates three columns; the load in a process of its own."""
    keys = bench.size(1_000_000, 5_000)
    bench.step("making events")
    store = open_keyed(bench.home, events(np.repeat(np.arange(keys), _EVENTS_A_KEY), seed=3), THREE_COLUMNS)
    client = client_of(store)
    before = used_memory(client)
    bench.step("materializing")
    outcome = in_own_process(_materialize, bench.home)
    conditions = {
        "keys": keys, "events": keys * _EVENTS_A_KEY,
        "server_gb": round((used_memory(client) - before) / 1e9, 3), "keys_in_redis": client.dbsize(),
    }  # fmt: skip
    bench.record("seconds", outcome.value, "s", goal="< 60", **conditions)
    bench.record("memory", outcome.peak_bytes / 1e9, "GB", goal="< 2", **conditions)


def _materialize(home: Path) -> float:
    store = reopen(home, THREE_COLUMNS)
    return seconds(lambda: store.materialize(_BEGINNING, END))
