"""A mapping and a source's column types, to the SQL that yields canonical values.

Every expression works on ``raw_<canonical>``, the source's value under the canonical column's name, and is
null where a value cannot be converted; ``pipelines/contracts.py`` tells such nulls from missing values and
reports them.
"""

from collections.abc import Iterable

from pipelines.mapping import Field
from pipelines.problems import IngestError
from pipelines.source_files import Source

__all__ = ["converted", "raw_columns", "refuse_unusable"]

_TEXT = ("VARCHAR", "UUID", "ENUM")
_INTEGER = (
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "HUGEINT",
    "UTINYINT",
    "USMALLINT",
    "UINTEGER",
    "UBIGINT",
)
_NUMBER = (*_INTEGER, "FLOAT", "DOUBLE", "DECIMAL")
_ZONED = ("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ")
_ZONELESS = ("TIMESTAMP", "DATE")
_ACCEPTED = {
    "id": (*_TEXT, *_INTEGER),
    "timestamp": (*_TEXT, *_INTEGER, *_ZONELESS),
    "amount": (*_TEXT, *_NUMBER),
    "number": (*_TEXT, *_NUMBER),
    "integer": (*_TEXT, *_INTEGER),
    "currency": _TEXT,
    "text": (*_TEXT, *_INTEGER, "BOOLEAN"),
}
_WAY_OUT = {
    "id": "store identifiers as text or whole numbers (a float 12.0 is not the id 12)",
    "timestamp": "store timestamps, text with an offset, or whole numbers with unit in the mapping",
    "amount": "store amounts as numbers, or as text with digits and a decimal point",
    "number": "store it as a number",
    "integer": "store it as whole numbers",
    "currency": "store ISO 4217 codes as text, or map a constant",
    "text": "store it as text",
}
# The end of a text timestamp that says its own zone; the time of day before it keeps a date's «-01» from
# being one.
_OFFSET = r"\d:\d\d(:\d\d([.,]\d+)?)?\s*(Z|z|UTC|GMT|[+-]\d\d(:?\d\d)?)$"
_YEAR_9999_S = 253_402_300_799


def refuse_unusable(source: Source, fields: Iterable[Field]) -> None:
    """Check that the source has the mapped columns, of types that convert.

    Raises:
        IngestError: naming each column that is missing, of another type, or of times without a zone.
    """
    problems = [problem for field in fields if (problem := _unusable(source, field))]
    if problems:
        raise IngestError(*problems)


def _unusable(source: Source, field: Field) -> str | None:
    if field.column is None or (field.optional and field.column not in source.types):
        return None
    where = f"{source.name}: column {field.column!r}"
    if field.column not in source.types:
        has = ", ".join(source.types)
        return f"{where} (for {field.name}): missing; it has {has}; correct the mapping, or use another"
    of_type = source.types[field.column]
    if not of_type.startswith(_ACCEPTED[field.kind]):
        return f"{where} (for {field.name}): type {of_type}: not usable; {_WAY_OUT[field.kind]}"
    if field.kind != "timestamp" or of_type.startswith((*_ZONED, *_TEXT)):
        return None
    if of_type.startswith(_INTEGER) and field.us_per_unit is None:
        way_out = 'add unit = "s" (or ms, us) to the mapping'
        return f"{where} (for {field.name}): type {of_type}: times of unknown unit; {way_out}"
    if of_type.startswith(_ZONELESS) and field.zone is None:
        return (
            f"{where} (for {field.name}): type {of_type}: times without a time zone; "
            'add the zone that they are in to the mapping, such as zone = "UTC"'
        )
    return None


def raw_columns(source: Source, fields: Iterable[Field]) -> str:
    """SELECT items: each field's source value as ``raw_<canonical>``."""
    return ", ".join(f"{_raw(source, field)} AS raw_{field.name}" for field in fields)


def _raw(source: Source, field: Field) -> str:
    if field.constant is not None:
        return _quoted(field.constant)
    if field.column not in source.types:
        return "CAST(NULL AS VARCHAR)"
    column = _name(field.column)
    text_like = source.types[field.column].startswith(_TEXT)
    return f"nullif(CAST({column} AS VARCHAR), '')" if text_like else column


def converted(source: Source, field: Field) -> str:
    """The canonical value of a field as SQL over ``raw_<canonical>``; null where it does not convert."""
    of_type = source.types.get(field.column or "", "VARCHAR")
    raw = f"raw_{field.name}"
    if field.kind == "timestamp":
        return _timestamp(raw, of_type, field)
    if field.kind == "amount":
        return _amount(raw, of_type, field.divide_by)
    if field.kind == "number":
        number = f"TRY_CAST({raw} AS DOUBLE)"
        return f"CASE WHEN NOT isnan({number}) THEN {number} END"
    if field.kind == "integer":
        return f"TRY_CAST({raw} AS BIGINT)"
    text = f"CAST({raw} AS VARCHAR)"
    if field.kind == "currency":
        text = f"upper(trim({text}))"
    cases = " ".join(f"WHEN {_quoted(old)} THEN {_quoted(new)}" for old, new in field.values)
    return f"CASE CAST({raw} AS VARCHAR) {cases} ELSE {text} END" if cases else text


def _timestamp(raw: str, of_type: str, field: Field) -> str:
    if of_type.startswith(_ZONED):
        return f"CAST({raw} AS TIMESTAMPTZ)"
    if of_type.startswith(_INTEGER):
        us = field.us_per_unit or 1
        within = f"{raw} BETWEEN 0 AND {_YEAR_9999_S * (1_000_000 // us)}"
        return f"CASE WHEN {within} THEN make_timestamptz(CAST({raw} AS BIGINT) * {us}) END"
    local = f"TRY_CAST({raw} AS TIMESTAMP)"
    zoneless = f"timezone({_quoted(field.zone)}, {local})" if field.zone else "NULL"
    if not of_type.startswith(_TEXT):
        return zoneless
    return f"CASE WHEN {has_offset(raw)} THEN TRY_CAST({raw} AS TIMESTAMPTZ) ELSE {zoneless} END"


def has_offset(raw: str) -> str:
    """SQL: a text timestamp ends in an offset of its own."""
    return f"regexp_matches({raw}, {_quoted(_OFFSET)})"


def _amount(raw: str, of_type: str, divide_by: int) -> str:
    # A float by way of its shortest text, so that the decimal is the number as people see it printed.
    printed = f"CAST({raw} AS VARCHAR)" if of_type.startswith(("FLOAT", "DOUBLE")) else raw
    if divide_by == 1:
        return f"TRY_CAST({printed} AS DECIMAL(18, 4))"
    share = f"{1 / divide_by:.4f}".rstrip("0")
    return f"TRY_CAST(TRY_CAST({printed} AS DECIMAL(24, 8)) * {share} AS DECIMAL(18, 4))"


def _name(column: str | None) -> str:
    return '"' + (column or "").replace('"', '""') + '"'


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
