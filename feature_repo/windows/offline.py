"""Windows over history: DuckDB prunes, filters and sorts; the kernel computes.

The entity rows stand in a table ``asks`` with their keys, ``__instant`` and ``__known`` in microseconds and ``__row``, their
place in the result. ``plan`` says in SQL what is read; ``compute`` runs it and the kernel.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from os import cpu_count

import duckdb
import numpy as np
import pyarrow as pa
from feast.types import Int64

from feature_repo.lake import quote
from feature_repo.windows import records
from feature_repo.windows.evaluate import Asks, Events, Integers, evaluate
from feature_repo.windows.kernel import NULL
from feature_repo.windows.sources import instant_sql
from feature_repo.windows.spec import StoredColumn, ViewSpec

_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "BOOLEAN"}


@dataclass(frozen=True)
class Plan:
    """What one view reads, as SQL: its keys, its entity rows by key and instant, its events by key and time."""

    keys: str
    asks: str
    events: str


def plan(
    spec: ViewSpec, source: str, types: dict[str, str], join_keys: dict[str, str], oldest: int, newest: int
) -> Plan:
    """The queries of one view.

    Args:
        source: table expression of its events.
        types: DuckDB type of each of the source's columns.
        join_keys: column of ``asks`` for each of the view's keys.
        oldest, newest: range of the instants, microseconds; no event outside what they can count is read.

    Raises:
        ValueError: the source lacks a column, or has it in a type that cannot be added exactly.
    """
    check_columns(spec, types)
    keys = ", ".join(f"CAST({quote(join_keys[k])} AS {types[k]}) AS {quote(k)}" for k in spec.keys)
    using = ", ".join(quote(k) for k in spec.keys)
    same = " AND ".join(f"CAST(a.{quote(join_keys[k])} AS {types[k]}) = k.{quote(k)}" for k in spec.keys)
    stored = "".join(
        f", {stored_sql(spec.view, c, types[c.name])} AS __v{i}" for i, c in enumerate(spec.columns)
    )
    moment = instant_sql(spec.timestamp, types)
    time = f"epoch_us({moment})"
    known = f"epoch_us({instant_sql(spec.created, types)})" if spec.created else time
    where = f" AND ({spec.where})" if spec.where else ""
    identity = event_number_sql(spec.event_id)
    first, last = oldest - spec.horizon_us, newest - spec.delay_us
    return Plan(
        keys=f"SELECT {using}, row_number() OVER () - 1 AS __key FROM (SELECT DISTINCT {keys} FROM asks)",
        asks=f"SELECT k.__key, a.__instant, a.__known, a.__row FROM asks a JOIN keys k ON {same} ORDER BY 1, 2",
        events=(
            f"SELECT k.__key, {time} AS __time, {known} AS __known, {identity} AS __id{stored} "
            f"FROM {source} e JOIN keys k USING ({using}) "
            f"WHERE {moment} >= make_timestamptz({first}) AND {moment} < make_timestamptz({last}){where} "
            "ORDER BY k.__key, __time, __id"
        ),
    )


def compute(
    connection: duckdb.DuckDBPyConnection,
    spec: ViewSpec,
    source: str,
    join_keys: dict[str, str],
    rows: int,
) -> dict[str, pa.Array]:
    """Every aggregate of one view for every row of ``asks``, in row order.

    Args:
        connection: where ``asks`` is.
        rows: how many rows ``asks`` has.

    Raises:
        ValueError: see ``plan``; also a null event or known time. OverflowError: see ``evaluate``.
    """
    ((oldest, newest),) = connection.execute("SELECT min(__instant), max(__instant) FROM asks").fetchall()
    types = dict(
        connection.execute(
            f"SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM {source})"
        ).fetchall()
    )
    if rows == 0:
        oldest = newest = 0
    queries = plan(spec, source, types, join_keys, oldest, newest)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE keys AS {queries.keys}")
    ((keys,),) = connection.execute("SELECT count(*) FROM keys").fetchall()
    asks = _columns(connection, queries.asks)
    events = _columns(connection, queries.events)
    refuse_nulls(connection, spec, source)
    events = _once(events)
    out = np.empty((rows, len(spec.aggregates)), dtype=np.int64)
    _fill_rows_without_key(spec, out, asks)
    edges = np.arange(keys + 1)
    prepared = Events(
        timestamps=_integers(events["__time"]),
        known=_integers(events["__known"]),
        values=np.stack([_integers(events[f"__v{i}"]) for i in range(len(spec.columns))])
        if spec.columns
        else np.empty((0, len(events["__time"])), dtype=np.int64),
        starts=np.searchsorted(_integers(events["__key"]), edges),
    )
    wanted = Asks(
        instants=_integers(asks["__instant"]),
        known_as_of=_integers(asks["__known"]),
        starts=np.searchsorted(_integers(asks["__key"]), edges),
        rows=_integers(asks["__row"]),
    )
    _evaluate_in_parallel(spec, prepared, wanted, out)
    return {a.name: _arrow(out[:, i], a.row.returns == Int64) for i, a in enumerate(spec.aggregates)}


def event_number_sql(column: str) -> str:
    """An event's id as the number that states keep (see ``records.event_number``)."""
    return records.event_number_sql(f"CAST({quote(column)} AS VARCHAR)")


def refuse_nulls(connection: duckdb.DuckDBPyConnection, spec: ViewSpec, source: str) -> None:
    """Refuse events without id, event time or known time: there is no saying when they count, or whether they did.

    Raises:
        ValueError: names the column, and how many events lack it.
    """
    for column in dict.fromkeys([spec.event_id, spec.timestamp, *([spec.created] if spec.created else [])]):
        # Parquet's own statistics answer this without a read where there are none, as there should be.
        query = f"SELECT count(*) FROM {source} WHERE {quote(column)} IS NULL"
        ((missing,),) = connection.execute(query).fetchall()
        if missing:
            raise ValueError(
                f"{spec.view}: column {column!r} of {spec.source} is null in {missing} events; "
                "give every event its id, when it happened and when it became known, or leave it out"
            )


def check_columns(spec: ViewSpec, types: dict[str, str]) -> None:
    """Refuse a source that lacks a column of the view.

    Raises:
        ValueError: names the column, and those there are.
    """
    named = [*spec.keys, spec.event_id, spec.timestamp, *(c.name for c in spec.columns)]
    named += [spec.created] if spec.created else []
    named += spec.predicate.columns if spec.predicate else []
    for name in named:
        if name not in types:
            raise ValueError(
                f"{spec.view}: column {name!r} is not in source {spec.source!r}; it has {', '.join(sorted(types))}"
            )


def stored_sql(view: str, column: StoredColumn, duckdb_type: str) -> str:
    """A stored column as BIGINT.

    Raises:
        ValueError: a type that cannot be added exactly; the message names view, column and way out.
    """
    name = quote(column.name)
    if column.kind == "code":
        return records.value_code_sql(f"CAST({name} AS VARCHAR)")
    if duckdb_type in _INTEGERS:
        return f"CAST({name} AS BIGINT) * {10**column.scale}"
    if duckdb_type.startswith("DECIMAL"):
        places = int(duckdb_type.rstrip(")").split(",")[1])
        if places <= column.scale:
            return f"CAST(CAST({name} AS DECIMAL(38, {column.scale})) * {10**column.scale} AS BIGINT)"
        raise ValueError(
            f"{view}: column {column.name!r} is {duckdb_type} and its scale {column.scale}; "
            f"declare window.scale of {places} or more"
        )
    raise ValueError(
        f"{view}: column {column.name!r} is {duckdb_type}; "
        "windows add integers: store cents, or a decimal and declare its scale"
    )


def _once(events: pa.Table) -> pa.Table:
    """Events delivered more than once, next to each other in the order of the query, are counted once."""
    same = np.ones(max(len(events) - 1, 0), dtype=bool)
    for name in ("__id", "__time", "__key"):
        values = _integers(events[name])
        same &= values[1:] == values[:-1]
    return events.filter(np.concatenate([[True], ~same])) if same.any() else events


def _columns(connection: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    return connection.sql(query).to_arrow_table()


def _integers(column: pa.ChunkedArray) -> Integers:
    """A column as contiguous int64; nulls become the kernel's null, 64-bit codes keep their bits."""
    if column.null_count:
        column = column.fill_null(
            pa.scalar(int(NULL) + (2**64 if pa.types.is_uint64(column.type) else 0), column.type)
        )
    values = column.to_numpy()
    return np.ascontiguousarray(values if values.dtype == np.int64 else values.view(np.int64))


def _fill_rows_without_key(spec: ViewSpec, out: Integers, asks: pa.Table) -> None:
    """Rows whose key is null have windows of no events: the kernel never visits them."""
    if len(asks) == len(out):
        return
    empty = np.empty((1, len(spec.aggregates)), dtype=np.int64)
    nothing = np.empty(0, dtype=np.int64)
    starts = np.zeros(2, dtype=np.int64)
    zero = np.zeros(1, dtype=np.int64)
    events = Events(nothing, nothing, np.empty((len(spec.columns), 0), dtype=np.int64), starts)
    evaluate(spec, events, Asks(zero, zero, np.array([0, 1]), zero), range(1), empty)
    out[:] = empty


def _evaluate_in_parallel(spec: ViewSpec, events: Events, asks: Asks, out: Integers) -> None:
    """Run the kernel on as many threads as there are cores, each on a range of keys with its share of the work."""
    keys = len(events.starts) - 1
    work = events.starts + asks.starts
    workers = cpu_count() or 1
    cuts = np.searchsorted(work, np.linspace(0, work[-1], 4 * workers + 1))
    cuts[0], cuts[-1] = 0, keys
    ranges = [range(int(a), int(b)) for a, b in pairwise(cuts) if a < b]
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(evaluate, spec, events, asks, keys, out) for keys in ranges]:
            done.result()


def _arrow(values: Integers, whole: bool) -> pa.Array:
    values = np.ascontiguousarray(values)
    if whole:
        return pa.array(values, mask=values == NULL)
    real = values.view(np.float64)
    return pa.array(real, mask=np.isnan(real))
