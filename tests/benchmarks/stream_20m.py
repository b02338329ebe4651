"""W on 20M rows, streamed to Parquet: against the floor, and against DuckDB's ``RANGE`` windows written to Parquet."""

from pathlib import Path

from tests.benchmarks.bench import Bench
from tests.benchmarks.events import Lake
from tests.benchmarks.measure import in_own_process, median, seconds
from tests.benchmarks.sql import connect, differing_sql, range_sql, rows_sql
from tests.benchmarks.streamed import against_floor
from tests.benchmarks.workload import columns

_LIMIT_S = 1_800.0
_ONE_IN = 50


def run(bench: Bench) -> None:
    """RANGE once, in a process of its own; values of one transaction in fifty are compared."""
    rows = bench.size(20_000_000, 60_000)
    lake, written, conditions = against_floor(bench, rows, "<= 5", bench.size(2, 1))
    ours = median(conditions["ours_s"])
    other = bench.home / "range.parquet"
    bench.step("RANGE windows")
    try:
        outcome = in_own_process(_range, lake, other, limit_s=_LIMIT_S)
    except TimeoutError:
        bench.record(
            "range_faster_at_least", _LIMIT_S / ours, "x", against="DuckDB's RANGE windows, ended unfinished",
            goal=">= 8", limit_s=_LIMIT_S, **conditions,
        )  # fmt: skip
        return
    bench.record(
        "range_faster", outcome.value / ours, "x", against="DuckDB's RANGE windows", goal=">= 8",
        range_s=round(outcome.value, 1), range_peak_gb=round(outcome.peak_bytes / 1e9, 2), **conditions,
    )  # fmt: skip
    bench.step("comparing values")
    sample = f"WHERE hash(transaction_id) % {_ONE_IN} = 0"
    wanted = columns(lake.path)
    with connect() as connection:
        matched, differ = differing_sql(
            connection,
            f"(SELECT * FROM read_parquet('{written}/**/*.parquet') {sample})",
            f"(SELECT * FROM read_parquet('{other}') {sample})",
            wanted,
        )
    bench.record(
        "differing", sum(differ.values()), "values", against="DuckDB's RANGE windows, in integers", goal="<= 0",
        compared=matched * len(wanted), differ=differ, rows=rows,
    )  # fmt: skip


def _range(lake: Lake, target: Path) -> float:
    query = range_sql(columns(lake.path), rows_sql(lake))
    with connect() as connection:
        return seconds(lambda: connection.execute(f"COPY ({query}) TO '{target}' (FORMAT parquet)"))
