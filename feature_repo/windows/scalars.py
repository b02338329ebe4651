"""Single values as the integers that states hold and history is read as: instants, ids, numbers, compared values.

Each has its Python and, where history is read by it, its SQL.
"""

import hashlib
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from feature_repo.windows.kernel import NULL

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_INT64 = range(-(2**63) + 1, 2**63)


def to_microseconds(instant: datetime) -> int:
    """Microseconds since 1970 UTC, exact.

    Raises:
        ValueError: the instant has no time zone.
    """
    if instant.tzinfo is None:
        raise ValueError(
            f"instant {instant}: no time zone; give one, such as datetime(..., tzinfo=timezone.utc)"
        )
    return (instant - _EPOCH) // _MICROSECOND


def from_microseconds(instant: int) -> datetime:
    """The inverse of ``to_microseconds``."""
    return _EPOCH + instant * _MICROSECOND


def code(value: Any) -> int:
    """Low 64 bits of the MD5 of a value's text, unsigned; DuckDB's ``md5_number_lower(CAST(value AS VARCHAR))``.

    Raises:
        TypeError: a type whose text the two sides would write differently.
    """
    return int.from_bytes(_digest(value), "little")


def _digest(value: Any) -> bytes:
    if isinstance(value, str):
        text = value
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, int) or (isinstance(value, date) and not isinstance(value, datetime)):
        text = str(value)
    else:
        raise TypeError(
            f"value {value!r}: {type(value).__name__} cannot be counted as distinct; use text, integers or dates"
        )
    return hashlib.md5(text.encode(), usedforsecurity=False).digest()[8:]


def event_number(value: Any) -> int:
    """An event's id as 48 bits: it identifies the event among those of one key and instant, and settles their order.

    Raises:
        TypeError: as ``code``.
    """
    return int.from_bytes(event_number_bytes(value), "little")


def event_number_bytes(value: Any) -> bytes:
    """``event_number`` as 6 bytes, little-endian.

    Raises:
        TypeError: as ``code``.
    """
    return _digest(value)[2:]


def event_number_sql(text: str) -> str:
    """``event_number`` of a DuckDB expression of type VARCHAR, as BIGINT."""
    return f"CAST(md5_number_lower({text}) >> 16 AS BIGINT)"


def value_code(value: Any) -> int:
    """A value that is compared only, as 56 bits of which the lowest is set, so that none is zero; 55 of them tell.

    Raises:
        TypeError: as ``code``.
    """
    return code(value) >> 8 | 1


def value_code_sql(text: str) -> str:
    """``value_code`` of a DuckDB expression of type VARCHAR, as BIGINT; null of null."""
    return f"CAST((md5_number_lower({text}) >> 8) | 1 AS BIGINT)"


def number(value: Any, scale: int, column: str) -> int:
    """A column's value as an integer in units of ``10**-scale``; None is null.

    Raises:
        TypeError: a float, or no number at all. ValueError: more decimal places than ``scale``, or beyond 63 bits.
    """
    if type(value) is int and not scale and _INT64.start <= value < _INT64.stop:
        return value
    if value is None:
        return int(NULL)
    if isinstance(value, float) or not isinstance(value, int | Decimal):
        raise TypeError(
            f"column {column!r}: {value!r} is {type(value).__name__}; windows add integers: store cents, "
            f"or a decimal and declare its scale (window.scale)"
        )
    if isinstance(value, Decimal) and not value.is_finite():
        raise ValueError(f"column {column!r}: {value} is no number that windows can add; leave it null")
    scaled = Decimal(value).scaleb(scale) if scale else value
    if scaled != int(scaled) or int(scaled) not in _INT64:
        raise ValueError(
            f"column {column!r}: {value} is no 63-bit integer at {scale} decimal places; declare a larger scale"
        )
    return int(scaled)
