"""The parts of SQL by which events are read, for retrieval and for materialization alike."""

import duckdb

from feature_repo.lake import quote
from feature_repo.windows import scalars
from feature_repo.windows.spec import StoredColumn, ViewSpec

_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "BOOLEAN"}


def event_number_sql(column: str) -> str:
    """An event's id as the number that states keep (see ``scalars.event_number``)."""
    return scalars.event_number_sql(f"CAST({quote(column)} AS VARCHAR)")


def refuse_nulls(
    connection: duckdb.DuckDBPyConnection, spec: ViewSpec, source: str, full: frozenset[str] = frozenset()
) -> None:
    """Refuse events without id, event time or known time: there is no saying when they count, or whether they did.

    Args:
        full: columns that are known to be null in no event.

    Raises:
        ValueError: names the column, and how many events lack it.
    """
    needed = [spec.event_id, spec.timestamp, *([spec.created] if spec.created else [])]
    for column in [name for name in dict.fromkeys(needed) if name not in full]:
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
    conditions = dict(spec.tests)
    named = [*spec.keys, spec.event_id, spec.timestamp]
    named += [spec.created] if spec.created else []
    for column in spec.columns:
        named += conditions[column.name].columns if column.name in conditions else [column.name]
    named += spec.predicate.columns if spec.predicate else []
    for name in named:
        if name not in types:
            raise ValueError(
                f"{spec.view}: column {name!r} is not in source {spec.source!r}; it has {', '.join(sorted(types))}"
            )


def column_sql(spec: ViewSpec, column: StoredColumn, types: dict[str, str]) -> str:
    """A stored column of a view, a condition as 1 and 0, null where it is unknown; raises as ``stored_sql``."""
    condition = dict(spec.conditions).get(column.name)
    if condition and column.kind == "number":
        return f"CAST(({condition}) AS BIGINT)"
    return stored_sql(spec.view, column, types[column.name])


def stored_sql(view: str, column: StoredColumn, duckdb_type: str) -> str:
    """A stored column as BIGINT.

    Raises:
        ValueError: a type that cannot be added exactly; the message names view, column and way out.
    """
    name = quote(column.name)
    if column.kind == "code":
        return scalars.value_code_sql(f"CAST({name} AS VARCHAR)")
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
