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
    # It would draw over what the benchmark prints.
    connection.execute("SET enable_progress_bar = false")
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
    """Transactions with integer times and whether they were frauds, as ``range_sql`` and ``join_sql`` read them."""
    return (
        "SELECT t.transaction_id, t.customer_id, t.terminal_id, epoch_us(t.event_timestamp) AS us, "
        f"t.{AMOUNT} AS x, c.transaction_id IS NOT NULL AS fraud, "
        f"terminal_id AS place, epoch_us(t.event_timestamp) AS moment FROM {lake.sql('transactions')} t "
        f"LEFT JOIN (SELECT DISTINCT transaction_id FROM {lake.sql('chargebacks')}) c USING (transaction_id)"
    )


def range_sql(columns: list[Column], rows: str, identity: str = "transaction_id", where: str = "true") -> str:
    """W by ``RANGE`` frames; each sum and count is taken once, means and deviations are formed from them.

    Args:
        rows: query of ``identity``, the keys, ``us``, ``x``, ``fraud``, ``place`` and ``moment``; rows whose ``x``, ``place`` and
            ``moment`` are null do not count.
        where: which rows are answered.
    """
    parts = {part: None for column in columns for part in _parts(column)}
    frames = {_frame(column): _frame_sql(column) for column in columns}
    inner = ", ".join(
        f"{expression} OVER {frame} AS {_part_name(kind, frame)}" for kind, expression, frame in parts
    )
    windows = ", ".join(f"{name} AS ({sql})" for name, sql in frames.items())
    outer = ", ".join(f'{_finish(column)} AS "{column.name}"' for column in columns)
    return (
        f"SELECT {identity}, {outer} FROM "
        f"(SELECT {identity}, us, {inner} FROM ({rows}) WINDOW {windows}) WHERE {where}"
    )


def join_sql(columns: list[Column], rows: str, labels: str) -> str:
    """W at the instants of labels by range joins, one for each key and delay, with an aggregate a column.

    Args:
        rows: as in ``range_sql``. labels: table of ``label``, the keys and ``us``.
    """
    answers = []
    for keys, delay in dict.fromkeys((column.keys, column.delay_us) for column in columns):
        wanted = [column for column in columns if (column.keys, column.delay_us) == (keys, delay)]
        parts = {(kind, column.window_us): None for column in wanted for kind in kinds(column)}
        sums = ", ".join(
            f"{_filtered(_EXPRESSIONS[kind], f'moment >= l.us - {delay + window}')} "
            f"AS {_part_name(kind, _frame_of(keys, delay, window))}"
            for kind, window in parts
        )
        finish = ", ".join(f'{_finish(column)} AS "{column.name}"' for column in wanted)
        longest = max(column.window_us for column in wanted)
        match = " AND ".join(f"r.{key} = l.{key}" for key in keys)
        answers.append(
            f"(SELECT label, {finish} FROM (SELECT l.label, any_value(l.us) AS us, {sums} FROM {labels} l LEFT JOIN r ON {match} "
            f"AND r.us >= l.us - {delay + longest} AND r.us < l.us - {delay} GROUP BY l.label))"
        )
    joined = answers[0] + "".join(f" JOIN {answer} USING (label)" for answer in answers[1:])
    return f"WITH r AS MATERIALIZED ({rows}) SELECT * FROM {joined}"


def union_sql(columns: list[Column], rows: str, labels: str) -> str:
    """W at the instants of labels by ``RANGE`` windows over the rows and the labels together."""
    both = (
        f"SELECT NULL::BIGINT AS label, customer_id, terminal_id, us, x, fraud, place, moment FROM ({rows}) UNION ALL "
        f"SELECT label, customer_id, terminal_id, us, NULL, false, NULL, NULL FROM {labels}"
    )
    return range_sql(columns, both, "label", "label IS NOT NULL")


def _filtered(expression: str, condition: str) -> str:
    if expression.endswith("FILTER (WHERE fraud)"):
        return expression.replace("fraud)", f"fraud AND {condition})")
    return f"{expression} FILTER (WHERE {condition})"


def run_range(lake: Lake, columns: list[Column]) -> pa.Table:
    """``range_sql`` as an Arrow table."""
    with connect() as connection:
        return connection.sql(range_sql(columns, rows_sql(lake))).to_arrow_table()


_EXPRESSIONS = {
    "count": "count(x)",
    "frauds": "count(*) FILTER (WHERE fraud)",
    "sum": "sum(x)",
    "squares": "sum(x * x)",
    "max": "max(x)",
    "distinct": "count(DISTINCT place)",
    "last": "max(moment)",
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
    return _frame_of(column.keys, column.delay_us, column.window_us)


def _frame_of(keys: tuple[str, ...], delay_us: int, window_us: int) -> str:
    return f"{'_'.join(keys)}_{delay_us}_{window_us}"


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


def differing(
    ours: pa.Table, other: pa.Table, columns: list[Column], identity: str = "transaction_id"
) -> dict[str, int]:
    """How many values of each column differ in any bit between two tables, matched by ``identity``.

    Raises:
        ValueError: the tables have other rows.
    """
    with connect() as connection:
        connection.register("ours", ours)
        connection.register("theirs", other)
        matched, found = differing_sql(connection, "ours", "theirs", columns, identity)
    if matched != ours.num_rows or matched != other.num_rows:
        raise ValueError(
            f"tables of {ours.num_rows} and {other.num_rows} rows: {matched} match; they are of other events"
        )
    return found


def differing_sql(
    connection: duckdb.DuckDBPyConnection,
    ours: str,
    theirs: str,
    columns: list[Column],
    identity: str = "transaction_id",
) -> tuple[int, dict[str, int]]:
    """How many rows of two table expressions match by ``identity``, and how many values of each column differ in them."""
    counts = ", ".join(f'count(*) FILTER (WHERE a."{c.name}" IS DISTINCT FROM b."{c.name}")' for c in columns)
    query = f"SELECT count(*), {counts} FROM {ours} a JOIN {theirs} b USING ({identity})"
    ((matched, *differ),) = connection.sql(query).fetchall()
    return matched, {column.name: count for column, count in zip(columns, differ, strict=True) if count}
