"""W against polars: ``DataFrame.rolling`` by group, the fastest form of it that was found.

Its sums of integers are exact; its means and deviations are taken over floats, so their last bits differ.
"""

from collections.abc import Iterable
from itertools import groupby
from typing import Any

import pyarrow as pa

from tests.benchmarks.bench import Bench
from tests.benchmarks.events import Lake
from tests.benchmarks.measure import need
from tests.benchmarks.versus import against
from tests.benchmarks.workload import AMOUNT, Column

_TIME = "event_timestamp"


def run(bench: Bench) -> None:
    """All of W."""
    need("polars")
    against(bench, "polars, rolling by group", compute, goal=">= 1", rounds=3)


def compute(lake: Lake, columns: list[Column]) -> pa.Table:
    """W of every transaction, in order of time; read from the lake's files, as ours is."""
    import polars as pl

    rows = _rows(pl, lake).sort(_TIME).with_row_index("row")
    parts = [rows.select("transaction_id")]
    for keys, wanted in groupby(columns, key=lambda column: column.keys):
        # By a number that rises with the sorted keys: groups then stay in order, and cost less than by text.
        group = pl.struct(keys).rle_id().set_sorted().alias("group")
        ordered = rows.sort(*keys, _TIME).with_columns(group)
        computed = [_window(pl, ordered, window) for window in _by_window(wanted)]
        back = ordered.get_column("row").arg_sort()
        parts.append(pl.concat(computed, how="horizontal")[back])
    return pl.concat(parts, how="horizontal").to_arrow()


def _rows(pl: Any, lake: Lake) -> Any:
    read = ["transaction_id", "customer_id", "terminal_id", _TIME, AMOUNT]
    transactions = pl.read_parquet(lake.files("transactions"), columns=read)
    frauds = pl.read_parquet(lake.files("chargebacks"), columns=["transaction_id"]).unique()
    return transactions.join(
        frauds.with_columns(fraud=pl.lit(1)), on="transaction_id", how="left"
    ).with_columns(pl.col("fraud").fill_null(0).cast(pl.Int64), moment=pl.col(_TIME).dt.epoch("us"))


def _by_window(columns: Iterable[Column]) -> list[list[Column]]:
    groups: dict[tuple[int, int], list[Column]] = {}
    for column in columns:
        groups.setdefault((column.window_us, column.delay_us), []).append(column)
    return list(groups.values())


def _window(pl: Any, ordered: Any, columns: list[Column]) -> Any:
    first = columns[0]
    rolling = ordered.rolling(
        _TIME, period=f"{first.window_us}us", offset=f"{-first.window_us - first.delay_us}us", closed="left",
        group_by="group",
    )  # fmt: skip
    answer = rolling.agg(_expression(pl, column) for column in columns)
    return answer.select(_finish(pl, column) for column in columns)


def _expression(pl: Any, column: Column) -> Any:
    if column.source == "chargebacks":
        return pl.col("fraud").sum().alias(column.name)
    amount = pl.col(AMOUNT)
    expressions = {
        "count": pl.len(),
        "sum": amount.sum(),
        "mean": amount.mean(),
        "max": amount.max(),
        "std": amount.std(),
        "count_distinct": pl.col("terminal_id").n_unique(),
        "seconds_since_last": pl.col("moment").last(),
    }
    return expressions[column.function].alias(column.name)


def _finish(pl: Any, column: Column) -> Any:
    answer = pl.col(column.name)
    if column.function == "seconds_since_last":
        return ((pl.col(_TIME).dt.epoch("us") - answer) / 1e6).alias(column.name)
    return answer.cast(pl.Int64) if column.function in ("count", "count_distinct") else answer
