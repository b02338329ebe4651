"""Bytes of online state, by the server's own count (``MEMORY USAGE``), for a view that aggregates three columns.

A state may take 200 bytes a key and 32 an event: what a key takes beyond its 200, for each of its events, is reported of the
number of events a key at which it is most.
"""

from datetime import UTC, datetime

import numpy as np

from feature_repo.windows.recorder import EventRecorder
from tests.benchmarks.bench import Bench
from tests.benchmarks.keyed import END, SOURCE, THREE_COLUMNS, as_events, events, open_keyed
from tests.benchmarks.server import client_of, memory_of_keys

_FIXED = 200
_EVENTS_A_KEY = (1, 3, 10, 30, 100, 300, 1_000, 10_000)
_BATCH = 500
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


def run(bench: Bench) -> None:
    """For each number of events a key: loaded from history, and recorded live in order of time."""
    loaded: dict[int, float] = {}
    live: dict[int, float] = {}
    total = bench.size(20_000, 2_000)
    for count in _EVENTS_A_KEY:
        bench.step(f"{count} events a key")
        keys = max(1, total // count)
        rows = events(np.repeat(np.arange(keys), count), seed=count)
        store = open_keyed(bench.home, rows, THREE_COLUMNS)
        client = client_of(store)
        store.materialize(_BEGINNING, END)
        loaded[count] = memory_of_keys(client) / keys
        client.flushdb()
        recorder = EventRecorder.compile(store)
        for start in range(0, len(rows), _BATCH):
            recorder.record(SOURCE, as_events(rows.slice(start, _BATCH)))
        live[count] = memory_of_keys(client) / keys
        client.flushdb()
    for name, found in (("loaded", loaded), ("live", live)):
        bench.record(
            f"{name}_bytes_an_event", max((found[n] - _FIXED) / n for n in found), "bytes",
            against="what a key takes beyond 200 bytes", goal="<= 32", columns=3,
            bytes_a_key={str(n): round(size, 1) for n, size in found.items()},
        )  # fmt: skip
