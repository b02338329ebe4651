"""Requests, parsed strictly by hand: JSON in, a typed transaction or chargeback out, or a problem.

A ``transaction`` (``POST /v1/score``, ``POST /v1/transactions``):

=====================  ========  ======================================================================
field                  required  value
=====================  ========  ======================================================================
``transaction_id``     yes       text, 1 to 128 printable characters
``customer_id``        yes       text, likewise
``terminal_id``        yes       text, likewise
``event_timestamp``    yes       RFC 3339 with a zone, such as ``2026-11-21T10:00:00.123456Z``;
                                 digits below the microsecond are cut off
``amount``             yes       number or decimal string, 0 or more, rounded as bulk loads round it
``currency``           no        ISO 4217 code; default ``USD``
``channel``            no        text
``category``           no        text
coordinates            no        degrees, as ``customer_latitude``, ``customer_longitude``,
                                 ``terminal_latitude`` and ``terminal_longitude``
``status``             no        approved, declined or pending, where the outcome is known (replays);
                                 default: as decided here
``created_timestamp``  no        when it became known (replays), RFC 3339 with a zone;
                                 default: now, by the store's clock
=====================  ========  ======================================================================

A ``chargeback`` (``POST /v1/chargebacks``) has ``transaction_id``, ``reason_code``, and
``created_timestamp`` (when it was reported; default now); and, for a transaction that this service has
not scored, ``customer_id``, ``terminal_id``, ``event_timestamp`` (of the transaction) and
``amount_usd_cents``. An optional field may be null.

A question for features (``POST /v1/features``) has the fields of a transaction that are keys, request columns or instants,
all of them optional here: which keys are needed is the model's business.

Beside each field's parser stands its JSON schema, from which ``bento.openapi`` describes the bodies.
"""

import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from bento.card_numbers import SHORTEST, holds_card_number
from bento.problem import Problem, problem
from bento.service_settings import ID_FIELDS, service_settings
from feature_repo.currency import AMOUNT_LIMIT, as_amount, currencies, to_usd_cents
from feature_repo.reason_codes import REASON_CODES

__all__ = [
    "CLOCK_SKEW_US",
    "MAX_AMOUNT_USD_CENTS",
    "MAX_BODY_BYTES",
    "MAX_TEXT",
    "Chargeback",
    "Transaction",
    "body_schemas",
    "chargeback_from",
    "check_times",
    "parse_chargeback",
    "parse_json",
    "parse_question",
    "parse_transaction",
    "transaction_from",
    "type_name",
]

MAX_BODY_BYTES = 64 * 1024
MAX_TEXT = 128
# Clocks of card terminals and servers differ by about this much even when both are synchronised.
CLOCK_SKEW_US = 5_000_000
# A billion dollars. Windows add cents in 63 bits: even 90 million events of this size cannot overflow a key.
MAX_AMOUNT_USD_CENTS = 10**11
STATUSES = ("approved", "declined", "pending")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_RFC3339 = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?([Zz]|[+-]\d{2}:\d{2})?", re.ASCII
)
_DECIMAL = re.compile(r"-?\d{1,40}(\.\d{1,40})?", re.ASCII)
_NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction as requested: UTC, ``*_us`` in microseconds since 1970, coordinates in degrees."""

    transaction_id: str
    event_timestamp: datetime
    event_timestamp_us: int
    customer_id: str
    terminal_id: str
    amount: Decimal
    currency: str
    amount_usd_cents: int
    status: str | None
    channel: str | None
    category: str | None
    customer_latitude: float | None
    customer_longitude: float | None
    terminal_latitude: float | None
    terminal_longitude: float | None
    created_timestamp: datetime | None
    created_timestamp_us: int | None

    def request_columns(self) -> dict[str, Any]:
        """The columns that on-demand transforms read beside the windows; None where unknown."""
        return {name: getattr(self, name) for name in REQUEST_COLUMNS}

    def entity_row(self) -> dict[str, Any]:
        """The row to read features for: keys, request columns (NaN: unknown), instant, known time."""
        row = {name: _NAN if value is None else value for name, value in self.request_columns().items()}
        row["customer_id"] = self.customer_id
        row["terminal_id"] = self.terminal_id
        row["event_timestamp_us"] = self.event_timestamp_us
        if self.created_timestamp_us is not None:
            row["known_as_of_us"] = self.created_timestamp_us
        return row

    def event(self, status: str) -> dict[str, Any]:
        """The canonical row to record; ``status`` holds where the request gave none."""
        row = {name: getattr(self, name) for name in _EVENT_COLUMNS}
        row["status"] = self.status or status
        return row


REQUEST_COLUMNS = (
    "amount_usd_cents",
    "customer_latitude",
    "customer_longitude",
    "terminal_latitude",
    "terminal_longitude",
)
_EVENT_COLUMNS = tuple(field.name for field in fields(Transaction) if not field.name.endswith("timestamp_us"))


@dataclass(frozen=True, slots=True)
class Chargeback:
    """A chargeback as reported; what the request left out about its transaction is None."""

    transaction_id: str
    reason_code: str
    customer_id: str | None
    terminal_id: str | None
    event_timestamp: datetime | None
    amount_usd_cents: int | None
    created_timestamp: datetime | None

    def event(self) -> dict[str, Any]:
        """The canonical row to record."""
        return {field.name: getattr(self, field.name) for field in fields(Chargeback)}


def parse_transaction(body: bytes, now_us: int) -> Transaction:
    """The transaction in a request's body.

    Args:
        body: JSON in UTF-8.
        now_us: this server's clock, microseconds since 1970 UTC.

    Raises:
        Problem: what is wrong first, in the order of the table above.
    """
    return transaction_from(parse_json(body), now_us)


def parse_chargeback(body: bytes, now_us: int) -> Chargeback:
    """The chargeback in a request's body; see :func:`parse_transaction`."""
    return chargeback_from(parse_json(body), now_us)


def parse_question(body: bytes, now_us: int) -> dict[str, Any]:
    """The row to read features for; see :func:`parse_transaction`.

    Keys and request columns that were not given are None, and so is ``known_as_of_us``; the instant is now if not given.
    """
    given = _fields(parse_json(body), _QUESTION_FIELDS, "")
    read = {name: field.read(given, name, "") for name, field in _QUESTION_FIELDS.items()}
    event = read.pop("event_timestamp") or _EPOCH + timedelta(microseconds=now_us)
    created, amount, currency = read.pop("created_timestamp"), read.pop("amount"), read.pop("currency")
    check_times(event, created, now_us)
    read["event_timestamp_us"] = _us(event)
    read["known_as_of_us"] = None if created is None else _us(created)
    read["amount_usd_cents"] = None if amount is None else _cents(amount, currency or "USD", event, "")
    return read


def body_schemas() -> dict[str, dict[str, Any]]:
    """The JSON schemas of a ``Transaction``, a ``Chargeback`` and a ``FeatureQuestion``, as they are parsed here."""
    tables = {
        "Transaction": _TRANSACTION_FIELDS,
        "Chargeback": _CHARGEBACK_FIELDS,
        "FeatureQuestion": _QUESTION_FIELDS,
    }
    return {
        name: {
            "type": "object",
            "properties": {each: field.json_schema() for each, field in table.items()},
            "required": [each for each, field in table.items() if field.required],
            "additionalProperties": False,
        }
        for name, table in tables.items()
    }


def parse_json(body: bytes) -> Any:
    """The body's JSON value, decimals exact; NaN and infinities are decimals too, refused by the fields.

    Raises:
        Problem: not JSON in UTF-8, or an object that gives a field twice.
    """
    try:
        return _decode(body.decode())
    except UnicodeDecodeError as error:
        raise Problem("invalid-json", f"byte {error.start} is not UTF-8; send JSON in UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise Problem("invalid-json", f"{error.msg} at {where} of the body; send one JSON object") from None
    except RecursionError:
        raise Problem("invalid-json", "the body is nested too deeply; send one flat JSON object") from None
    except ValueError as error:
        raise Problem("invalid-json", f"a number is too long ({error}); send fewer digits") from None


def transaction_from(value: Any, now_us: int, where: str = "") -> Transaction:
    """A decoded JSON value as a transaction; ``where`` goes before field names: ``transactions[3].``."""
    given = _fields(value, _TRANSACTION_FIELDS, where)
    read = {name: field.read(given, name, where) for name, field in _TRANSACTION_FIELDS.items()}
    event, created = read["event_timestamp"], read["created_timestamp"]
    check_times(event, created, now_us, where)
    read["currency"] = read["currency"] or "USD"
    return Transaction(
        **read,
        event_timestamp_us=_us(event),
        created_timestamp_us=None if created is None else _us(created),
        amount_usd_cents=_cents(read["amount"], read["currency"], event, where),
    )


def chargeback_from(value: Any, now_us: int, where: str = "") -> Chargeback:
    """A decoded JSON value as a chargeback; see :func:`transaction_from`."""
    given = _fields(value, _CHARGEBACK_FIELDS, where)
    read = {name: field.read(given, name, where) for name, field in _CHARGEBACK_FIELDS.items()}
    if read["event_timestamp"] is not None:
        check_times(read["event_timestamp"], read["created_timestamp"], now_us, where)
    elif read["created_timestamp"] is not None:
        _check_not_future(f"{where}created_timestamp", read["created_timestamp"], now_us)
    return Chargeback(**read)


@dataclass(frozen=True, slots=True)
class _Field:
    """How a field's value is read: ``parse(path, value)`` returns it or raises a ``Problem``.

    Attributes:
        schema: the JSON schema of what ``parse`` takes.
        example: what to send, in words; said of a required field that is missing, and in the description.
    """

    parse: Callable[[str, Any], Any]
    schema: Mapping[str, Any]
    required: bool = False
    example: str = ""

    def json_schema(self) -> dict[str, Any]:
        """Its schema, with null where it is optional."""
        described = {"description": self.example, **self.schema}
        return described if self.required else {"anyOf": [described, {"type": "null"}]}

    def read(self, given: Mapping[str, Any], name: str, where: str) -> Any:
        value = given.get(name)
        if value is not None:
            return self.parse(where + name, value)
        if not self.required:
            return None
        if name in given:
            raise problem("wrong-type", where + name, f"it is null, but required; send {self.example}")
        raise problem("missing-field", where + name, f"it is required; send {self.example}")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    given = dict(pairs)
    if len(given) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise problem("invalid-json", twice, "the field is given twice; give it once")
    return given


_decode = json.JSONDecoder(parse_float=Decimal, parse_constant=Decimal, object_pairs_hook=_pairs).decode


def _fields(value: Any, known: Mapping[str, _Field], where: str) -> dict[str, Any]:
    if type(value) is not dict:
        path = where.removesuffix(".") or None
        raise problem("invalid-json", path, f"it must be a JSON object, not {type_name(value)}")
    for name in value:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise problem(
                "unknown-field",
                where + name[:MAX_TEXT],
                f"it is not a field here; {hint}known are {', '.join(known)}",
            )
    return value


def _text(path: str, value: Any) -> str:
    if type(value) is not str:
        raise problem("wrong-type", path, f"it must be text, not {type_name(value)}; put it in quotes")
    if not 0 < len(value) <= MAX_TEXT:
        raise problem("invalid-value", path, f"it has {len(value)} characters; send 1 to {MAX_TEXT}")
    if not value.isprintable() or value[0] == " " or value[-1] == " ":
        raise problem(
            "invalid-value",
            path,
            f"{value!r} has characters that do not print, or spaces around it; remove them",
        )
    if len(value) >= SHORTEST and holds_card_number(value):
        _refuse_card_number(path)
    return value


def _refuse_card_number(path: str) -> None:
    """Refuse the value, unless the deployment says that ids of this field only look like card numbers."""
    name = path.rpartition(".")[2]
    if name in service_settings().numeric_ids:
        return
    if_id = f"; if ids here are digits and no card numbers, name {name} in FRAUD_NUMERIC_IDS"
    raise problem(
        "card-number",
        path,
        "it holds what looks like a card number, which is neither kept nor shown; send a token or an id in its place"
        + (if_id if name in ID_FIELDS else ""),
    )


def _timestamp(path: str, value: Any) -> datetime:
    if type(value) is not str:
        raise problem("wrong-type", path, f"it must be text, not {type_name(value)}; send {_TIME_EXAMPLE}")
    match = _RFC3339.fullmatch(value)
    if match is None:
        raise problem(
            "invalid-value", path, f"{value[:MAX_TEXT]!r} is not an RFC 3339 time; send {_TIME_EXAMPLE}"
        )
    day, clock, fraction, zone = match.groups()
    if zone is None:
        raise problem(
            "invalid-value", path, f"{value!r} has no time zone; add Z for UTC, or an offset such as +01:00"
        )
    zone = "+00:00" if zone in "Zz" else zone
    try:
        instant = datetime.fromisoformat(f"{day}T{clock}.{(fraction or '0')[:6]:0<6}{zone}").astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise problem("invalid-value", path, f"{value!r}: {error}; send {_TIME_EXAMPLE}") from None
    if instant < _EPOCH:
        raise problem("invalid-value", path, f"{value!r} lies before 1970; send the time of the transaction")
    return instant


def _amount(path: str, value: Any) -> Decimal:
    if type(value) is str:
        if not _DECIMAL.fullmatch(value):
            raise problem(
                "invalid-value",
                path,
                f'{value[:MAX_TEXT]!r} is no decimal number; send digits such as "12.50"',
            )
        value = Decimal(value)
    elif type(value) is int:
        value = Decimal(value)
    elif type(value) is not Decimal:
        raise problem("wrong-type", path, f"it must be a number or a decimal string, not {type_name(value)}")
    if not value.is_finite():
        raise problem("invalid-value", path, f"it is {value}; send digits such as 12.50")
    if value >= AMOUNT_LIMIT:
        raise problem("invalid-value", path, f"it is too large; an amount must be below {AMOUNT_LIMIT:f}")
    if value < 0:
        raise problem("invalid-value", path, f"{value:.8g} is negative; an amount is 0 or more")
    return as_amount(abs(value))


def _whole_cents(path: str, value: Any) -> int:
    if type(value) is not int:
        raise problem("wrong-type", path, f"it must be a whole number of US cents, not {type_name(value)}")
    if not 0 <= value <= MAX_AMOUNT_USD_CENTS:
        raise problem("invalid-value", path, f"it is outside 0 to {MAX_AMOUNT_USD_CENTS} US cents")
    return value


def _degrees(limit: int) -> Callable[[str, Any], float]:
    def parse(path: str, value: Any) -> float:
        if type(value) not in (int, Decimal):
            raise problem("wrong-type", path, f"it must be a number of degrees, not {type_name(value)}")
        if not (Decimal(value).is_finite() and -limit <= value <= limit):
            raise problem("invalid-value", path, f"it is outside -{limit} to {limit} degrees")
        return float(value)

    return parse


def _one_of(*allowed: str) -> Callable[[str, Any], str]:
    def parse(path: str, value: Any) -> str:
        text = _text(path, value)
        if text not in allowed:
            raise problem("invalid-value", path, f"{text!r} is not known; send one of {', '.join(allowed)}")
        return text

    return parse


def _reason_code(path: str, value: Any) -> str:
    code = _text(path, value)
    if code not in REASON_CODES:
        raise problem(
            "invalid-value",
            path,
            f"{code!r} is not in feature_repo/reason_codes.csv; send one that is, or add it",
        )
    return code


def _cents(amount: Decimal, currency: str, event: datetime, where: str) -> int:
    try:
        cents = to_usd_cents(amount, currency, event.date())
    except ValueError as error:
        raise problem("invalid-value", f"{where}currency", str(error)) from None
    if cents > MAX_AMOUNT_USD_CENTS:
        raise problem(
            "invalid-value", f"{where}amount", f"it is above {MAX_AMOUNT_USD_CENTS} US cents; split it"
        )
    return cents


def check_times(event: datetime, created: datetime | None, now_us: int, where: str = "") -> None:
    """Both times against the clock ``now_us``, and against each other.

    Raises:
        Problem: one lies in the future, or ``created`` before ``event``; 5 s are allowed for clock skew.
    """
    _check_not_future(f"{where}event_timestamp", event, now_us)
    if created is None:
        return
    _check_not_future(f"{where}created_timestamp", created, now_us)
    if _us(created) < _us(event) - CLOCK_SKEW_US:
        raise problem(
            "invalid-value",
            f"{where}created_timestamp",
            f"{created.isoformat()} is before event_timestamp {event.isoformat()}: nothing is known before "
            "it happens; send when it became known, or leave it out",
        )


def _check_not_future(path: str, instant: datetime, now_us: int) -> None:
    ahead_us = _us(instant) - now_us
    if ahead_us > CLOCK_SKEW_US:
        raise problem(
            "in-the-future",
            path,
            f"{instant.isoformat()} is {ahead_us / 1e6:.1f} s ahead of this server's clock, "
            f"{CLOCK_SKEW_US / 1e6:.0f} s are allowed for clock skew; check the zone and the sender's clock",
        )


def _us(instant: datetime) -> int:
    return (instant - _EPOCH) // _MICROSECOND


def type_name(value: Any) -> str:
    """What a decoded JSON value is, in a word or two."""
    if value is None:
        return "null"
    return _TYPE_NAMES[type(value)]


_TYPE_NAMES = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    Decimal: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}
_TIME_EXAMPLE = "an RFC 3339 time with its zone, such as 2026-11-21T10:00:00Z"

_TEXT: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT}
_TIME = {"type": "string", "format": "date-time", "pattern": rf"^{_RFC3339.pattern.removesuffix('?')}$"}
_AMOUNT = {
    "anyOf": [
        {"type": "number", "minimum": 0, "exclusiveMaximum": int(AMOUNT_LIMIT)},
        {"type": "string", "pattern": rf"^{_DECIMAL.pattern}$"},
    ]
}
_CENTS = {"type": "integer", "minimum": 0, "maximum": MAX_AMOUNT_USD_CENTS}


def _coordinate(limit: int, example: str) -> _Field:
    return _Field(_degrees(limit), {"type": "number", "minimum": -limit, "maximum": limit}, example=example)


_TRANSACTION_FIELDS = {
    "transaction_id": _Field(_text, _TEXT, True, "the transaction's id as text"),
    "customer_id": _Field(_text, _TEXT, True, "the customer's id as text"),
    "terminal_id": _Field(_text, _TEXT, True, "the terminal's id as text"),
    "event_timestamp": _Field(_timestamp, _TIME, True, _TIME_EXAMPLE),
    "amount": _Field(_amount, _AMOUNT, True, 'a number or a decimal string, such as "12.50"'),
    "currency": _Field(_text, {"enum": list(currencies())}, example="an ISO 4217 code; left out, it is USD"),
    "channel": _Field(_text, _TEXT, example="how it was made, as text"),
    "category": _Field(_text, _TEXT, example="what was bought, as text"),
    "customer_latitude": _coordinate(90, "degrees north"),
    "customer_longitude": _coordinate(180, "degrees east"),
    "terminal_latitude": _coordinate(90, "degrees north"),
    "terminal_longitude": _coordinate(180, "degrees east"),
    "status": _Field(
        _one_of(*STATUSES),
        {"enum": list(STATUSES)},
        example="the outcome where it is known; left out, it is as decided here",
    ),
    "created_timestamp": _Field(_timestamp, _TIME, example="when it became known; left out, it is now"),
}

_CHARGEBACK_FIELDS = {
    "transaction_id": _Field(_text, _TEXT, True, "the id of the transaction that was charged back, as text"),
    "reason_code": _Field(
        _reason_code,
        {"enum": list(REASON_CODES)},
        True,
        'the card network\'s reason code, such as "10.4"',
    ),
    "customer_id": _Field(_text, _TEXT, example="the transaction's; needed if it was not scored here"),
    "terminal_id": _Field(_text, _TEXT, example="the transaction's; needed if it was not scored here"),
    "event_timestamp": _Field(
        _timestamp, _TIME, example="of the transaction; needed if it was not scored here"
    ),
    "amount_usd_cents": _Field(
        _whole_cents, _CENTS, example="the transaction's; needed if it was not scored here"
    ),
    "created_timestamp": _Field(_timestamp, _TIME, example="when it was reported; left out, it is now"),
}

_QUESTION_FIELDS = {
    "customer_id": _Field(_text, _TEXT, example="the customer's id; needed if a feature is the customer's"),
    "terminal_id": _Field(_text, _TEXT, example="the terminal's id; needed if a feature is the terminal's"),
    "event_timestamp": _Field(_timestamp, _TIME, example="the instant asked about; left out, it is now"),
    "amount": _Field(_amount, _AMOUNT, example='a number or a decimal string, such as "12.50"'),
    **{
        name: _TRANSACTION_FIELDS[name]
        for name in ("currency", *(column for column in REQUEST_COLUMNS if column in _TRANSACTION_FIELDS))
    },
    "created_timestamp": _Field(
        _timestamp, _TIME, example="only what was known before counts; left out, it is now"
    ),
}
