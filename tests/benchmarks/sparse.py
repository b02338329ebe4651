"""200,000 labels at arbitrary instants over 20M events, against a DuckDB range join and a union into a window query.

A label asks of a transaction's keys, so the few terminals with many events are asked about as often as they occur.
"""

import threading
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa

from tests.benchmarks.bench import Bench
from tests.benchmarks.events import DAY_US, DAYS, FIRST_DAY, Lake, simulated
from tests.benchmarks.measure import in_turns, median, rounded, seconds
from tests.benchmarks.sql import connect, differing, join_sql, rows_sql, union_sql
from tests.benchmarks.workload import ASKED, columns, open_store, retrieve

_SEED = 17
_FIRST_ASKED_DAY = 40
_PATIENCE = 3.0


def run(bench: Bench) -> None:
    """Ours and the range join in turns; the union, which may take minutes, is ended at three times the range join's time."""
    lake = simulated(bench, bench.size(20_000_000, 60_000))
    labels = _labels(lake, bench.size(200_000, 2_000))
    store = open_store(bench.home, lake)
    wanted = columns(lake.path)
    frame = pd.DataFrame({key: labels[key] for key in ASKED[:-1]})
    frame["event_timestamp"] = pd.to_datetime(labels["us"], unit="us", utc=True)
    asked = pa.Table.from_pandas(labels, preserve_index=False)
    queries = {
        name: build(wanted, rows_sql(lake), "labels")
        for name, build in (("join", join_sql), ("union", union_sql))
    }
    bench.step("warming, and comparing values")
    ours = retrieve(store, frame).append_column("label", [labels["label"]])
    other = differing(ours, _run(queries["join"], asked), wanted, "label")
    conditions = {"rows": lake.rows, "labels": len(frame), "columns": len(wanted)}
    bench.record(
        "differing",
        sum(other.values()),
        "values",
        against="the range join",
        goal="<= 0",
        differ=other,
        **conditions,
    )
    bench.step("timing")
    calls = {"ours": lambda: retrieve(store, frame), "join": lambda: _run(queries["join"], asked)}
    taken = in_turns(calls, bench.size(3, 1))
    bench.step("the union")
    limit = _PATIENCE * median(taken["join"])
    union = _at_most(limit, queries["union"], asked)
    better = min(median(taken["join"]), limit if union is None else union)
    bench.record(
        "ratio", median(taken["ours"]) / better, "x", against="the better of a range join and a union-window query",
        goal="<= 1.5", ours_s=rounded(taken["ours"]), join_s=rounded(taken["join"]),
        union_s=f"ended at {limit:.0f}" if union is None else round(union, 2), **conditions,
    )  # fmt: skip


def _labels(lake: Lake, count: int) -> pd.DataFrame:
    """Keys of transactions chosen at random, at instants chosen at random."""
    query = (
        f"SELECT customer_id, terminal_id FROM {lake.sql('transactions')} "
        f"ORDER BY hash(transaction_id), transaction_id LIMIT {count}"
    )
    with connect() as connection:
        frame: pd.DataFrame = connection.sql(query).df()
    random = np.random.default_rng(_SEED)
    first, last = (FIRST_DAY + _FIRST_ASKED_DAY) * DAY_US, (FIRST_DAY + DAYS) * DAY_US
    return frame.assign(us=random.integers(first, last, len(frame)), label=np.arange(len(frame)))


def _run(query: str, labels: pa.Table, started: Any = None) -> pa.Table:
    with connect() as connection:
        connection.register("labels", labels)
        if started is not None:
            started(connection)
        return connection.sql(query).to_arrow_table()


def _at_most(limit: float, query: str, labels: pa.Table) -> float | None:
    """Seconds that the query took, or None if it was ended after ``limit``."""
    timers: list[threading.Timer] = []

    def watch(connection: duckdb.DuckDBPyConnection) -> None:
        timers.append(threading.Timer(limit, connection.interrupt))
        timers[0].start()

    try:
        return seconds(lambda: _run(query, labels, watch))
    except duckdb.InterruptException:
        return None
    finally:
        timers[0].cancel()
