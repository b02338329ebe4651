"""Events as the windows keep them: fixed-width records of integers, the same offline and online.

A record is ``3 + c`` little-endian int64: event time and known time in microseconds, the event's id and each stored column.
Ids and ``code`` columns are the low 64 bits of an MD5, which DuckDB and Python compute alike. The state of a key is a header
of one int64 (see ``HEADER``) followed by its records in order of arrival; whoever reads puts them in order of time and
drops what was delivered twice.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
from numba import njit

from feature_repo.windows.evaluate import Asks, Events, Integers, evaluate
from feature_repo.windows.kernel import NULL
from feature_repo.windows.spec import StoredColumn, ViewSpec

FIXED = 3  # event time, known time, id
WORD = 8
# The header: events up to and including this event time (microseconds) may have been dropped. Nothing dropped: the least int64.
HEADER = WORD
NOTHING_DROPPED = int(NULL)
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


def code(value: Any) -> int:
    """Low 64 bits of the MD5 of a value's text, unsigned; DuckDB's ``md5_number_lower(CAST(value AS VARCHAR))``.

    Raises:
        TypeError: a type whose text the two sides would write differently.
    """
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, str):
        text = value
    elif isinstance(value, int) or (isinstance(value, date) and not isinstance(value, datetime)):
        text = str(value)
    else:
        raise TypeError(
            f"value {value!r}: {type(value).__name__} cannot be counted as distinct; use text, integers or dates"
        )
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[8:], "little")


def number(value: Any, scale: int, column: str) -> int:
    """A column's value as an integer in units of ``10**-scale``; None is null.

    Raises:
        TypeError: a float, or no number at all. ValueError: more decimal places than ``scale``, or beyond 63 bits.
    """
    if value is None:
        return int(NULL)
    if isinstance(value, float) or not isinstance(value, int | Decimal):
        raise TypeError(
            f"column {column!r}: {value!r} is {type(value).__name__}; windows add integers: store cents, "
            f"or a decimal and declare its scale (window.scale)"
        )
    scaled = Decimal(value).scaleb(scale) if scale else value
    if scaled != int(scaled) or int(scaled) not in _INT64:
        raise ValueError(
            f"column {column!r}: {value} is no 63-bit integer at {scale} decimal places; declare a larger scale"
        )
    return int(scaled)


def _signed(unsigned: int) -> int:
    return unsigned - 2**64 if unsigned >= 2**63 else unsigned


def _stored(column: StoredColumn, value: Any) -> int:
    if column.kind == "number":
        return number(value, column.scale, column.name)
    return int(NULL) if value is None else _signed(code(value))


def pack_event(spec: ViewSpec, event: Mapping[str, Any], known_us: int) -> bytes:
    """One event as a record of the view's state.

    Args:
        event: a row of the view's source, Python values, event time as an aware datetime.
        known_us: known time in microseconds.

    Raises:
        KeyError: a column is missing. TypeError, ValueError: a value the windows cannot hold exactly.
    """
    fixed = [to_microseconds(event[spec.timestamp]), known_us, _signed(code(event[spec.event_id]))]
    return np.array([*fixed, *(_stored(c, event[c.name]) for c in spec.columns)], dtype="<i8").tobytes()


def from_microseconds(instant: int) -> datetime:
    """The inverse of ``to_microseconds``."""
    return _EPOCH + instant * _MICROSECOND


@njit(cache=True, nogil=True)
def _order(records: Any, starts: Any, timestamps: Any, known: Any, values: Any, kept: Any) -> None:
    """Lay records out by column, each key's in order of (time, id), repeated deliveries dropped."""
    at = 0
    for key in range(len(starts) - 1):
        kept[key] = at
        begin, n = starts[key], starts[key + 1] - starts[key]
        ordered = True
        for i in range(begin + 1, begin + n):
            earlier, later = records[i - 1, 0], records[i, 0]
            if earlier > later or (
                earlier == later and np.uint64(records[i - 1, 2]) >= np.uint64(records[i, 2])
            ):
                ordered = False
                break
        order = np.arange(n)
        if not ordered:
            by_id = np.argsort(records[begin : begin + n, 2].astype(np.uint64), kind="mergesort")
            order = by_id[np.argsort(records[begin : begin + n, 0][by_id], kind="mergesort")]
        for place in range(n):
            i = begin + order[place]
            if place > 0:
                before = begin + order[place - 1]
                if records[before, 0] == records[i, 0] and records[before, 2] == records[i, 2]:
                    continue
            timestamps[at], known[at] = records[i, 0], records[i, 1]
            for c in range(len(values)):
                values[c, at] = records[i, 3 + c]
            at += 1
    kept[len(starts) - 1] = at


def decode_states(spec: ViewSpec, states: list[bytes]) -> Events:
    """States of several keys as the kernel reads them.

    Raises:
        ValueError: a state is no whole number of records.
    """
    width = FIXED + len(spec.columns)
    bodies = [state[HEADER:] for state in states]
    sizes = [len(body) for body in bodies]
    if any(size % (width * WORD) for size in sizes):
        raise ValueError(
            f"{spec.view}: a state of {max(sizes)} bytes is no whole number of {width * WORD}-byte records"
        )
    records = np.frombuffer(b"".join(bodies), dtype="<i8").reshape(-1, width)
    starts = np.zeros(len(states) + 1, dtype=np.int64)
    np.cumsum([size // (width * WORD) for size in sizes], out=starts[1:])
    n = len(records)
    events = Events(
        timestamps=np.empty(n, dtype=np.int64),
        known=np.empty(n, dtype=np.int64),
        values=np.empty((len(spec.columns), n), dtype=np.int64),
        starts=np.empty(len(starts), dtype=np.int64),
    )
    _order(records, starts, events.timestamps, events.known, events.values, events.starts)
    return events


def windows_of_states(
    spec: ViewSpec,
    states: list[bytes],
    instants: Integers,
    known_as_of: Integers,
    floor: int = NOTHING_DROPPED,
) -> tuple[Integers, Integers]:
    """The view's aggregates of several states, one instant each.

    Args:
        states: header and records of each key, ``b""`` where there are none.
        instants, known_as_of: int64[k] microseconds.
        floor: events of any key may be missing up to and including this event time.

    Returns:
        int64[k, a] results (float outputs as the bits of a float64), and int64[k] how many events each state held.

    Raises:
        LookupError: an instant lies so far back that events of its window may have been dropped.
    """
    for state, instant in zip(states, instants, strict=True):
        dropped = max(floor, int.from_bytes(state[:HEADER], "little", signed=True)) if state else floor
        if dropped >= instant - spec.horizon_us:
            raise LookupError(
                f"{spec.view}: the window at {from_microseconds(int(instant))} reaches back to events that were dropped "
                f"(up to {from_microseconds(dropped)}); ask offline, or materialize again from that time"
            )
    events = decode_states(spec, states)
    each = np.arange(len(states) + 1, dtype=np.int64)
    out = np.empty((len(states), len(spec.aggregates)), dtype=np.int64)
    evaluate(spec, events, Asks(instants, known_as_of, each, each[:-1]), range(len(states)), out)
    return out, np.diff(events.starts)
