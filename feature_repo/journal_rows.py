"""What the journal says, as rows of the lake's tables, and decisions back as the journal said them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from feature_repo.lake import DECISIONS, SCHEMAS, snapshot

__all__ = ["decisions_table", "events_table", "lake_decisions"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_AMOUNT = "amount_usd_cents"
# A decision's columns by how they stand in the journal: instants as microseconds, objects of numbers, all others as they are.
_INSTANTS = ("event_timestamp", "known_as_of", "created_timestamp", "decided_at")
_OBJECTS = ("request", "features", "state_seen")
_PLAIN = tuple(name for name in DECISIONS.names if name not in (*_INSTANTS, *_OBJECTS, "more", "event_day"))
_HAVE_COLUMNS = frozenset((*_PLAIN, *_OBJECTS, *(f"{name}_us" for name in _INSTANTS)))


def events_table(table: str, rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Canonical rows, as ``row_of_event`` gives them, as the table's schema says; the day is derived, the amount exact.

    Raises:
        ValueError: an event does not fit.
    """
    schema = SCHEMAS[table]
    for row in rows:
        row["event_day"] = row["event_timestamp"].astimezone(UTC).date()
        if row.get("amount") is not None:
            row["amount"] = Decimal(row["amount"])
    unknown = sorted(set().union(*rows) - set(schema.names))
    if unknown:
        raise ValueError(
            f"journal: event of {table} has columns {unknown}, which the table lacks: {schema.names}"
        )
    try:
        found = pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"journal: events of {table} do not fit its schema: {error}") from error
    return _whole(found, f"event of {table}")


def decisions_table(records: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Journalled decisions as rows of ``DECISIONS``; what has no column goes to ``more``.

    Raises:
        ValueError: a decision does not fit.
    """
    try:
        arrays = {field.name: _column(field, records) for field in DECISIONS if field.name != "event_day"}
        arrays["event_day"] = arrays["event_timestamp"].cast(pa.date32())
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, TypeError) as error:
        raise ValueError(f"journal: decisions do not fit their table: {error}") from error
    return _whole(
        pa.Table.from_arrays([arrays[name] for name in DECISIONS.names], schema=DECISIONS), "decision"
    )


def lake_decisions(lake: Path) -> Iterator[dict[str, Any]]:
    """The lake's decisions as the journal had them, to the bit, in order of deciding.

    Raises:
        FileNotFoundError: there is no table of decisions.
    """
    rows = snapshot(lake / "decisions").sql
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        names = ", ".join(DECISIONS.names)
        found = connection.sql(f"SELECT {names} FROM {rows} ORDER BY decided_at, transaction_id")
        for batch in found.to_arrow_reader(10_000):
            yield from map(_record, batch.to_pylist(maps_as_pydicts="strict"))


def _record(row: dict[str, Any]) -> dict[str, Any]:
    record = {name: row[name] for name in (*_PLAIN, *_OBJECTS) if row[name] is not None}
    for name in _INSTANTS:
        if row[name] is not None:
            record[f"{name}_us"] = (row[name] - _EPOCH) // _MICROSECOND
    if record.get("request", {}).get(_AMOUNT) is not None:
        record["request"][_AMOUNT] = int(record["request"][_AMOUNT])
    return {**record, **json.loads(row["more"])}


def _more(record: Mapping[str, Any]) -> str:
    """Whatever has no column, and the columns that are null, for null is not absent."""
    rest = {name: value for name, value in record.items() if name not in _HAVE_COLUMNS or value is None}
    return json.dumps(rest, ensure_ascii=False)


def _column(field: pa.Field, records: Sequence[Mapping[str, Any]]) -> pa.Array:
    if field.name == "more":
        return pa.array([_more(record) for record in records], field.type)
    if field.name in _INSTANTS:
        name = f"{field.name}_us"
        return pa.array([record.get(name) for record in records], pa.int64()).cast(field.type)
    values = [record.get(field.name) for record in records]
    return _objects(values, field.type) if field.name in _OBJECTS else pa.array(values, field.type)


def _objects(values: Sequence[Mapping[str, Any] | None], kind: pa.DataType) -> pa.Array:
    """JSON objects as a column of maps."""
    ends, end = [0], 0
    for value in values:
        end += len(value or {})
        ends.append(end)
    present = [value for value in values if value]
    keys = pa.array([key for value in present for key in value], kind.key_type)
    items = pa.array([item for value in present for item in value.values()], kind.item_type)
    nulls = pa.array([value is None for value in values])
    return pa.MapArray.from_arrays(pa.array(ends, pa.int32()), keys, items, type=kind, mask=nulls)


def _whole(found: pa.Table, what: str) -> pa.Table:
    for required in (column.name for column in found.schema if not column.nullable):
        if found[required].null_count:
            at = found[required].is_null().index(True).as_py()
            raise ValueError(
                f"journal: {what} {found['transaction_id'][at]}: {required} is null; "
                "repair or remove its line, then load again"
            )
    return found
