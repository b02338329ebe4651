"""How a source's columns become the canonical ones: a TOML file, named built-in or one's own.

``fraud mapping show handbook`` prints one to copy. Three tables, each a canonical column a line::

    [transactions]
    transaction_id  = { column = "TRANSACTION_ID" }                 # text or integers; becomes text
    event_timestamp = { column = "TX_DATETIME", zone = "UTC" }      # zone of values that carry none
    customer_id     = { column = "CUSTOMER_ID" }
    terminal_id     = { column = "TERMINAL_ID" }
    amount          = { column = "TX_AMOUNT" }                      # divide_by = 100 when it is in cents
    currency        = { constant = "USD" }                          # or a column of ISO 4217 codes
    status          = { column = "STATE", values = { A = "approved", D = "declined", P = "pending" } }
    channel         = { column = "CHANNEL", optional = true }       # a file without the column is accepted
    created_timestamp = { column = "RECEIVED_MS", unit = "ms" }     # s, ms or us since 1970 UTC

    [label]                         # optional: a column of the transactions that tells which were charged back
    column     = "TX_FRAUD"
    genuine    = ["0"]              # values, as text, of transactions without a chargeback; null is one too
    chargeback = { "1" = "4837" }   # value = reason code; any other value is an error
    delay      = "7d"               # reported so long after the transaction; or a column of the report's time:
    # reported = { column = "CB_TIME", zone = "UTC" }

    [chargebacks]                   # optional: the columns of a separate file of chargebacks
    transaction_id    = { column = "TX_ID" }
    created_timestamp = { column = "REPORTED", zone = "Europe/Berlin" }
    reason_code       = { column = "REASON" }

Required in ``[transactions]``: the first seven. Optional: ``channel``, ``category``, the four coordinates
(degrees), ``created_timestamp`` (when the source knew of the event; without it, the event time) and
``amount_usd_cents`` (whole cents settled in US dollars; without it, converted from amount and currency). All
of ``[chargebacks]`` is required.

Times: a value with an offset (``2018-04-01T02:00:00+02:00``, a zoned Parquet type) says its own zone. One
without needs ``zone``, an IANA name; of an hour that occurs twice in autumn the second is meant, and one that
spring skips is moved on by the skipped hour. Numbers need ``unit``. Days without a time of day mean midnight.
"""

import tomllib
from collections.abc import Mapping as Table
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

from feature_repo.reason_codes import REASON_CODES
from feature_repo.windows.durations import parse_duration

__all__ = [
    "CHARGEBACK_COLUMNS",
    "TRANSACTION_COLUMNS",
    "Field",
    "Label",
    "Mapping",
    "built_in",
    "load_mapping",
    "mapping_text",
]

# Canonical column to its kind, which decides how it is converted (pipelines/conversion.py).
TRANSACTION_COLUMNS = {
    "transaction_id": "id",
    "event_timestamp": "timestamp",
    "customer_id": "id",
    "terminal_id": "id",
    "amount": "amount",
    "currency": "currency",
    "status": "text",
    "channel": "text",
    "category": "text",
    "customer_latitude": "number",
    "customer_longitude": "number",
    "terminal_latitude": "number",
    "terminal_longitude": "number",
    "amount_usd_cents": "integer",
    "created_timestamp": "timestamp",
}
CHARGEBACK_COLUMNS = {"transaction_id": "id", "created_timestamp": "timestamp", "reason_code": "text"}
REQUIRED = tuple(TRANSACTION_COLUMNS)[:7]

_UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_DIVISORS = (1, 10, 100, 1000, 10000)
_OPTIONS = {
    "id": {"column", "constant"},
    "timestamp": {"column", "zone", "unit", "optional"},
    "amount": {"column", "divide_by"},
    "currency": {"column", "constant", "values"},
    "text": {"column", "constant", "values", "optional"},
    "number": {"column", "optional"},
    "integer": {"column", "optional"},
}


@dataclass(frozen=True)
class Field:
    """Where one canonical column comes from: a source column, or a constant.

    ``us_per_unit`` is how many microseconds a numeric timestamp counts, ``divide_by`` how many units of a
    numeric amount make one unit of the currency, ``values`` maps source values to canonical ones (others stay
    as they are).
    """

    name: str
    kind: str
    column: str | None = None
    constant: str | None = None
    zone: str | None = None
    us_per_unit: int | None = None
    divide_by: int = 1
    values: tuple[tuple[str, str], ...] = ()
    optional: bool = False


@dataclass(frozen=True)
class Label:
    """The column that tells which transactions were charged back, and when that was reported."""

    column: str
    genuine: tuple[str, ...]
    chargeback: tuple[tuple[str, str], ...]
    delay: timedelta | None
    reported: Field | None


@dataclass(frozen=True)
class Mapping:
    """One source's way into the canonical tables; see the module's text for the file it is read from."""

    name: str
    transactions: tuple[Field, ...]
    label: Label | None
    chargebacks: tuple[Field, ...]


def built_in() -> dict[str, Path]:
    """The mappings that come with the product, by name."""
    files = sorted(Path(__file__).parent.glob("mapping_*.toml"))
    return {file.stem.removeprefix("mapping_"): file for file in files}


def mapping_text(name: str) -> str:
    """A built-in mapping's file as text.

    Raises:
        ValueError: there is no such mapping.
    """
    known = built_in()
    if name not in known:
        raise ValueError(f"mapping {name!r}: not built in; built in are {', '.join(known)}")
    return known[name].read_text(encoding="utf-8")


def load_mapping(name_or_path: str | Path) -> Mapping:
    """A built-in mapping by its name, or one's own by its path.

    Raises:
        ValueError: no such mapping, or a line of it cannot be used; the message names file, table and key.
    """
    known = built_in()
    file = known.get(str(name_or_path), Path(name_or_path))
    if not file.is_file():
        raise ValueError(
            f"mapping {str(name_or_path)!r}: neither a file nor built in; "
            f"built in are {', '.join(known)}; 'fraud mapping show {next(iter(known))}' prints one to copy"
        )
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file}: not TOML: {error}; compare with 'fraud mapping show handbook'") from None
    return _mapping(file, content)


def _mapping(file: Path, content: dict[str, Any]) -> Mapping:
    _refuse_unknown(str(file), content, {"transactions", "label", "chargebacks"})
    where = f"{file} [transactions]"
    transactions = _fields(where, content.get("transactions", {}), TRANSACTION_COLUMNS, REQUIRED)
    label = content.get("label")
    chargebacks = content.get("chargebacks")
    return Mapping(
        file.stem.removeprefix("mapping_"),
        transactions,
        _label(f"{file} [label]", label) if label is not None else None,
        _fields(f"{file} [chargebacks]", chargebacks, CHARGEBACK_COLUMNS, tuple(CHARGEBACK_COLUMNS))
        if chargebacks is not None
        else (),
    )


def _fields(
    where: str, lines: Table[str, Any], kinds: Table[str, str], required: tuple[str, ...]
) -> tuple[Field, ...]:
    _refuse_unknown(where, lines, set(kinds))
    missing = [name for name in required if name not in lines]
    if missing:
        raise ValueError(
            f"{where}: {', '.join(missing)}: not mapped; "
            'write each as name = { column = "..." } or name = { constant = "..." }'
        )
    fields = tuple(_field(f"{where} {name}", name, kinds[name], line) for name, line in lines.items())
    wrong = next((field.name for field in fields if field.optional and field.name in required), None)
    if wrong:
        raise ValueError(f"{where} {wrong}: optional, but every event needs it; remove optional")
    return fields


def _field(where: str, name: str, kind: str, line: Any) -> Field:
    if not isinstance(line, dict):
        raise ValueError(f'{where}: {line!r}: not a table; write {name} = {{ column = "..." }}')
    _refuse_unknown(where, line, _OPTIONS[kind])
    if ("column" in line) == ("constant" in line):
        raise ValueError(f"{where}: give one of column and constant")
    zone, unit, divide_by = line.get("zone"), line.get("unit"), line.get("divide_by", 1)
    if zone is not None and zone not in available_timezones():
        raise ValueError(
            f"{where}: zone {zone!r}: not an IANA time zone; write one like UTC or Europe/Berlin"
        )
    if unit is not None and unit not in _UNITS:
        raise ValueError(f"{where}: unit {unit!r}: unknown; write one of {', '.join(_UNITS)}")
    if divide_by not in _DIVISORS:
        raise ValueError(f"{where}: divide_by {divide_by!r}: write one of {_DIVISORS}")
    return Field(
        name,
        kind,
        _text(where, "column", line),
        _text(where, "constant", line),
        zone,
        _UNITS[unit] if unit else None,
        divide_by,
        tuple((str(key), str(value)) for key, value in line.get("values", {}).items()),
        bool(line.get("optional", False)),
    )


def _label(where: str, lines: Table[str, Any]) -> Label:
    _refuse_unknown(where, lines, {"column", "genuine", "chargeback", "delay", "reported"})
    column = _text(where, "column", lines)
    codes = tuple((str(value), str(code)) for value, code in lines.get("chargeback", {}).items())
    if column is None or not codes:
        raise ValueError(f'{where}: give column and chargeback, such as chargeback = {{ "1" = "10.4" }}')
    unknown = [code for _, code in codes if code not in REASON_CODES]
    if unknown:
        raise ValueError(f"{where}: reason code {unknown[0]!r}: not in feature_repo/reason_codes.csv; add it")
    if ("delay" in lines) == ("reported" in lines):
        raise ValueError(f'{where}: give one of delay (such as "7d") and reported (a column)')
    reported = lines.get("reported")
    return Label(
        column,
        tuple(str(value) for value in lines.get("genuine", [])),
        codes,
        parse_duration(lines["delay"]) if "delay" in lines else None,
        _field(f"{where} reported", "reported", "timestamp", reported) if reported is not None else None,
    )


def _text(where: str, key: str, line: Table[str, Any]) -> str | None:
    value = line.get(key)
    if value is not None and (not isinstance(value, str) or not value):
        raise ValueError(f"{where}: {key} {value!r}: write text in quotes")
    return value


def _refuse_unknown(where: str, lines: Table[str, Any], known: set[str]) -> None:
    unknown = sorted(set(lines) - known)
    if unknown:
        raise ValueError(f"{where}: {unknown[0]!r}: unknown; known are {', '.join(sorted(known))}")
