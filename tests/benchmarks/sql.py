"""W in plain DuckDB: the floor that no method avoids, and the windows as a person would write them."""

import duckdb
import pyarrow as pa

from tests.benchmarks.events import Lake
from tests.benchmarks.workload import AMOUNT, Column

_BATCH_ROWS = 1_000_000
READ = ("transaction_id", "customer_id", "terminal_id", "event_timestamp", "created_timestamp", AMOUNT)
"""The columns that W reads."""


def connect() -> duckdb.DuckDBPyConnection:
    """DuckDB as it comes, in UTC."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def sort_by_each_key(lake: Lake) -> int:
    """The floor: the rows in order of each key and time, as Arrow batches; returns the rows seen."""
    seen = 0
    with connect() as connection:
        for key in ("customer_id", "terminal_id"):
            query = (
                f"SELECT {', '.join(READ)} FROM {lake.sql('transactions')} ORDER BY {key}, event_timestamp"
            )
            for batch in connection.sql(query).to_arrow_reader(_BATCH_ROWS):
                seen += batch.num_rows
    return seen


def rows_sql(lake: Lake) -> str:
    """Transactions with integer times and whether they were frauds."""
    return (
        "SELECT t.transaction_id, t.customer_id, t.terminal_id, epoch_us(t.event_timestamp) AS us, "
        f"t.{AMOUNT} AS x, c.transaction_id IS NOT NULL AS fraud FROM {lake.sql('transactions')} t "
        f"LEFT JOIN (SELECT DISTINCT transaction_id FROM {lake.sql('chargebacks')}) c USING (transaction_id)"
    )


def range_sql(lake: Lake, columns: list[Column]) -> str:
    """W by ``RANGE`` frames; each sum and count is taken once, means and deviations are formed from them."""
    parts = {part: None for column in columns for part in _parts(column)}
    frames = {_frame(column): _frame_sql(column) for column in columns}
    inner = ", ".join(
        f"{expression} OVER {frame} AS {_part_name(kind, frame)}" for kind, expression, frame in parts
    )
    windows = ", ".join(f"{name} AS ({sql})" for name, sql in frames.items())
    outer = ", ".join(f'{_finish(column)} AS "{column.name}"' for column in columns)
    return (
        f"SELECT transaction_id, {outer} FROM "
        f"(SELECT transaction_id, us, {inner} FROM ({rows_sql(lake)}) WINDOW {windows})"
    )


def run_range(lake: Lake, columns: list[Column]) -> pa.Table:
    """``range_sql`` as an Arrow table."""
    with connect() as connection:
        return connection.sql(range_sql(lake, columns)).to_arrow_table()


_EXPRESSIONS = {
    "count": "count(*)",
    "frauds": "count(*) FILTER (WHERE fraud)",
    "sum": "sum(x)",
    "squares": "sum(x * x)",
    "max": "max(x)",
    "distinct": "count(DISTINCT terminal_id)",
    "last": "max(us)",
}
_NEEDS = {
    "count": ("count",),
    "sum": ("sum",),
    "mean": ("count", "sum"),
    "max": ("max",),
    "std": ("count", "sum", "squares"),
    "count_distinct": ("distinct",),
    "seconds_since_last": ("last",),
}


def kinds(column: Column) -> tuple[str, ...]:
    """The sums, counts and extremes that a column is formed from."""
    return ("frauds",) if column.source == "chargebacks" else _NEEDS[column.function]


def _parts(column: Column) -> list[tuple[str, str, str]]:
    return [(kind, _EXPRESSIONS[kind], _frame(column)) for kind in kinds(column)]


def _frame(column: Column) -> str:
    return f"{'_'.join(column.keys)}_{column.delay_us}_{column.window_us}"


def _frame_sql(column: Column) -> str:
    return (
        f"PARTITION BY {', '.join(column.keys)} ORDER BY us RANGE BETWEEN "
        f"{column.delay_us + column.window_us} PRECEDING AND {column.delay_us + 1} PRECEDING"
    )


def _part_name(kind: str, frame: str) -> str:
    return f"{kind}_{frame}"


def _finish(column: Column) -> str:
    part = {kind: _part_name(kind, _frame(column)) for kind in kinds(column)}
    if column.source == "chargebacks":
        return part["frauds"]
    return finished(column.function, part)


def finished(function: str, part: dict[str, str]) -> str:
    """SQL of a column, from the SQL of what it is formed from."""
    if function == "sum":
        return f"CAST(coalesce({part['sum']}, 0) AS BIGINT)"
    if function == "mean":
        return f"CAST({part['sum']} AS DOUBLE) / nullif({part['count']}, 0)"
    if function == "std":
        n, total, squares = part["count"], part["sum"], part["squares"]
        return (
            f"CASE WHEN {n} > 1 THEN sqrt(CAST({n} * {squares} - {total} * {total} AS DOUBLE) "
            f"/ CAST({n} * ({n} - 1) AS DOUBLE)) END"
        )
    if function == "seconds_since_last":
        return f"(us - {part['last']}) / 1e6"
    return next(iter(part.values()))


def differing(ours: pa.Table, other: pa.Table, columns: list[Column]) -> dict[str, int]:
    """How many values of each column differ in any bit between two tables, matched by ``transaction_id``.

    Raises:
        ValueError: the tables have other rows.
    """
    with connect() as connection:
        connection.register("ours", ours)
        connection.register("theirs", other)
        counts = ", ".join(
            f'count(*) FILTER (WHERE ours."{c.name}" IS DISTINCT FROM theirs."{c.name}")' for c in columns
        )
        query = f"SELECT count(*), {counts} FROM ours JOIN theirs USING (transaction_id)"
        ((matched, *differ),) = connection.sql(query).fetchall()
    if matched != ours.num_rows or matched != other.num_rows:
        raise ValueError(
            f"tables of {ours.num_rows} and {other.num_rows} rows: {matched} of them match; they are of other events"
        )
    return {column.name: count for column, count in zip(columns, differ, strict=True) if count}
