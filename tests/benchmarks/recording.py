"""A million events recorded in bulk, client and server on one core together."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from feature_repo.windows.recorder import EventRecorder
from tests.benchmarks.bench import Bench
from tests.benchmarks.events import Lake, simulated
from tests.benchmarks.measure import seconds
from tests.benchmarks.server import client_of, used_memory
from tests.benchmarks.sql import connect
from tests.benchmarks.workload import open_store

_BATCH = 1_000
_COLUMNS = (
    "transaction_id",
    "event_timestamp",
    "customer_id",
    "terminal_id",
    "amount_usd_cents",
    "created_timestamp",
)


def run(bench: Bench) -> None:
    """Transactions in order of time into the states of W's four views of them, a thousand a call."""
    core = min(os.sched_getaffinity(0))
    # Before the server is started: it inherits the core.
    os.sched_setaffinity(0, {core})
    rows = bench.size(1_000_000, 20_000)
    lake = simulated(bench, rows)
    store = open_store(bench.home, lake)
    recorder = EventRecorder.compile(store)
    client = client_of(store)
    before = used_memory(client)
    bench.step("recording")
    # Events are made as they are needed, outside of the clock: a million of them would be gigabytes.
    took = sum(
        seconds(lambda events=events: recorder.record("transactions", events)) for events in _batches(lake)
    )
    bench.record(
        "million", took * 1_000_000 / rows, "s", goal="<= 60", rows=rows, batch=_BATCH, views=4,
        server_gb=round((used_memory(client) - before) / 1e9, 3),
    )  # fmt: skip


def _batches(lake: Lake) -> Iterator[Sequence[dict[str, Any]]]:
    query = f"SELECT {', '.join(_COLUMNS)} FROM {lake.sql('transactions')} ORDER BY event_timestamp"
    with connect() as connection:
        for batch in connection.sql(query).to_arrow_reader(_BATCH):
            yield batch.to_pylist()
