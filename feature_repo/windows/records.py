"""Events as online state holds them: records of some 13 bytes and the values, packed and read in one pass.

====================  ==========================================================================================================
7 bytes               event time, microseconds since 1970 UTC, signed 54 bits (the years 1684 to 2255), little-endian; the top
                      two bits say what stands at the end
6 bytes               the event's number, see ``event_number``
each stored column    a number: 0 for null, else its zigzag form plus one, seven bits a byte (LEB128);
                      a code: 7 bytes, see ``value_code``; all zero for null
0, 3 or 7 bytes       known time less event time, signed, as the two bits say: none (``AT_ONCE``), ``SOON``, ``LATER``
====================  ==========================================================================================================

``VOID`` records, of views with corrections only, stand for an event that no longer passes the filter: they count
nowhere and hide older versions. They are as long as ``LATER`` ones.
"""

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from feature_repo.windows.evaluate import Events, Integers
from feature_repo.windows.kernel import NULL
from feature_repo.windows.predicate import Predicate
from feature_repo.windows.spec import StoredColumn, ViewSpec

Bytes = NDArray[np.uint8]

AT_ONCE, SOON, LATER, VOID = range(4)
FIXED = 13
"""Bytes of a record's time and number; no record is shorter."""
NEVER = 2**63 - 1
_FLAG_SHIFT = 54
_TIME_MASK: int = 2**_FLAG_SHIFT - 1
_REACH: int = 2 ** (_FLAG_SHIFT - 1)
_SOON_REACH = 2**23
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_INT64 = range(-(2**63) + 1, 2**63)
_NUMBER, _CODE = 0, 1
_NO_CODE = bytes(7)


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
    return code(value) >> 16


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


def check_time(name: str, time: int) -> int:
    """The time itself.

    Raises:
        ValueError: a record cannot hold it.
    """
    if not -_REACH <= time < _REACH:
        raise ValueError(
            f"{name} {time} microseconds since 1970: states hold the years 1684 to 2255; correct it, or leave the event out"
        )
    return time


def _pack_number(value: int | None) -> bytes:
    if value is None or value == NULL:
        return b"\0"
    left = (value << 1 if value >= 0 else ~(value << 1)) + 1
    packed = bytearray()
    while left > 127:
        packed.append(left & 127 | 128)
        left >>= 7
    packed.append(left)
    return bytes(packed)


@lru_cache(maxsize=65_536)
def _pack_code(value: Hashable, kind: str) -> bytes:
    # The kind is there because 1 and True are one key to a cache, and not one text.
    return value_code(value).to_bytes(7, "little")


def _packed_column(column: StoredColumn, condition: Predicate | None) -> Callable[[Mapping[str, Any]], bytes]:
    """What packs one column of an event."""
    name, scale = column.name, column.scale

    def value_of(event: Mapping[str, Any]) -> Any:
        return event[name] if condition is None else condition.truth(event)

    if column.kind == "number":
        return lambda event: _pack_number(number(value_of(event), scale, name))

    def pack(event: Mapping[str, Any]) -> bytes:
        value = value_of(event)
        packed: bytes = _NO_CODE if value is None else _pack_code(value, str(type(value)))
        return packed

    return pack


@dataclass(frozen=True, slots=True)
class Packed:
    """An event, packed: ``values`` of each view."""

    time: int
    known_us: int | None
    number: bytes
    values: list[bytes]

    def record(self, view: int, *, void: bool = False) -> bytes:
        """The record of one view; ``void``: the event does not pass the filter, and hides older versions of it."""
        flag, known = _known_part(self.time, self.known_us, void)
        start = ((self.time & _TIME_MASK) | flag << _FLAG_SHIFT).to_bytes(7, "little")
        return start + self.number + self.values[view] + known


class Packer:
    """Packs events of one source, each column once an event, whatever number of views keep it.

    Args:
        specs: views of one source with one event id and one event time.
    """

    def __init__(self, specs: Sequence[ViewSpec]) -> None:
        self._event_id, self._timestamp = specs[0].event_id, specs[0].timestamp
        places: dict[tuple[StoredColumn, str], int] = {}
        self._columns: list[Callable[[Mapping[str, Any]], bytes]] = []
        self._layouts: list[list[int]] = []
        for spec in specs:
            tests, texts = dict(spec.tests), dict(spec.conditions)
            for column in spec.columns:
                if (column, texts.get(column.name, "")) not in places:
                    places[column, texts.get(column.name, "")] = len(self._columns)
                    self._columns.append(_packed_column(column, tests.get(column.name)))
            self._layouts.append([places[c, texts.get(c.name, "")] for c in spec.columns])

    def time(self, event: Mapping[str, Any]) -> int:
        """The event's time, microseconds.

        Raises:
            KeyError: it has none. ValueError: no time zone, or out of reach.
        """
        return check_time("event time", to_microseconds(event[self._timestamp]))

    def pack(self, event: Mapping[str, Any], time: int, known_us: int | None) -> Packed:
        """One event, of which each view's record can be had.

        Args:
            event: a row of the source, Python values. time: its ``time``.
            known_us: known time in microseconds; None leaves it to the server's clock.

        Raises:
            KeyError: a column is missing. TypeError, ValueError: a value that the windows cannot hold exactly.
        """
        name = event_number(event[self._event_id]).to_bytes(6, "little")
        values = [pack(event) for pack in self._columns]
        return Packed(
            time, known_us, name, [b"".join([values[i] for i in layout]) for layout in self._layouts]
        )


def _known_part(time: int, known_us: int | None, void: bool) -> tuple[int, bytes]:
    if known_us is None:
        return (VOID if void else AT_ONCE), b""
    late = check_time("known time", known_us) - time
    if void:
        return VOID, late.to_bytes(7, "little", signed=True)
    if late == 0:
        return AT_ONCE, b""
    if -_SOON_REACH <= late < _SOON_REACH:
        return SOON, late.to_bytes(3, "little", signed=True)
    return LATER, late.to_bytes(7, "little", signed=True)


def pack_event(spec: ViewSpec, event: Mapping[str, Any], known_us: int) -> bytes:
    """One event as a record of the view's state.

    Raises:
        KeyError, TypeError, ValueError: as ``Packer.pack``.
    """
    packer = Packer([spec])
    return packer.pack(event, packer.time(event), known_us).record(0)


def kinds(spec: ViewSpec) -> Bytes:
    """How each stored column is packed, uint8[c]."""
    return np.array([_NUMBER if c.kind == "number" else _CODE for c in spec.columns], dtype=np.uint8)


@njit(cache=True, nogil=True, inline="always")
def _put(out: Any, at: Any, value: Any, size: Any) -> Any:
    for i in range(size):
        out[at + i] = np.uint8((value >> np.int64(8 * i)) & np.int64(255))
    return at + size


@njit(cache=True, nogil=True)
def _pack_many(
    times: Any, known: Any, numbers: Any, void: Any, values: Any, kinds: Any, out: Any, ends: Any
) -> Any:
    """Fill ``out`` with records and ``ends`` with where each ends; returns the row that cannot be held, or -1."""
    at = 0
    for i in range(len(times)):
        time, late = times[i], known[i] - times[i]
        if not (-_REACH <= time < _REACH and -_REACH <= known[i] < _REACH):
            return i
        flag = LATER
        if void[i]:
            flag = VOID
        elif late == 0:
            flag = AT_ONCE
        elif -_SOON_REACH <= late < _SOON_REACH:
            flag = SOON
        at = _put(out, at, (time & _TIME_MASK) | (np.int64(flag) << np.int64(_FLAG_SHIFT)), 7)
        at = _put(out, at, numbers[i], 6)
        for c in range(len(kinds)):
            value = values[c, i]
            if kinds[c] == _CODE:
                at = _put(out, at, np.int64(0) if value == NULL else value, 7)
            elif value == NULL:
                out[at] = np.uint8(0)
                at += 1
            else:
                left = (np.uint64(value) << np.uint64(1)) ^ np.uint64(value >> np.int64(63))
                left += np.uint64(1)
                while left > np.uint64(127):
                    out[at] = np.uint8((left & np.uint64(127)) | np.uint64(128))
                    left >>= np.uint64(7)
                    at += 1
                out[at] = np.uint8(left)
                at += 1
        if flag == SOON:
            at = _put(out, at, late, 3)
        elif flag != AT_ONCE:
            at = _put(out, at, late, 7)
        ends[i] = at
    return -1


def pack_records(
    spec: ViewSpec,
    times: Integers,
    known: Integers,
    numbers: Integers,
    values: Integers,
    void: Bytes | None = None,
) -> tuple[Bytes, Integers]:
    """Many events as records.

    Args:
        times, known: int64[n] microseconds. numbers: int64[n] ``event_number``. values: int64[c, n], ``NULL`` where null.
        void: uint8[n], 1 for those that count nowhere.

    Returns:
        The records one after the other, and int64[n + 1] where each starts.

    Raises:
        ValueError: a time out of reach.
    """
    n, how = len(times), kinds(spec)
    out = np.empty(n * (FIXED + 7 + 10 * len(how)), dtype=np.uint8)
    starts = np.zeros(n + 1, dtype=np.int64)
    nothing = np.zeros(n, dtype=np.uint8) if void is None else void
    wrong = _pack_many(times, known, numbers, nothing, values, how, out, starts[1:])
    if wrong >= 0:
        check_time(f"{spec.view}: event time", int(times[wrong]))
        check_time(f"{spec.view}: known time", int(known[wrong]))
    return out[: starts[-1]], starts


@njit(cache=True, nogil=True, inline="always")
def _get(data: Any, at: Any, size: Any) -> Any:
    value = np.int64(0)
    for i in range(size):
        value |= np.int64(data[at + i]) << np.int64(8 * i)
    return value


@njit(cache=True, nogil=True, inline="always")
def _signed(value: Any, bits: Any) -> Any:
    shift = np.int64(64 - bits)
    return (value << shift) >> shift


@njit(cache=True, nogil=True)
def _parse(data: Any, begin: Any, end: Any, kinds: Any, times: Any, known: Any, numbers: Any, void: Any, values: Any,
           at: Any) -> Any:  # fmt: skip
    """Lay the records of ``data[begin:end]`` out by column from place ``at`` on; returns the place after, or -1: damaged."""
    p = begin
    while p < end:
        if p + FIXED > end:
            return -1
        raw = _get(data, p, 7)
        flag = raw >> np.int64(_FLAG_SHIFT)
        times[at] = _signed(raw, _FLAG_SHIFT)
        numbers[at] = _get(data, p + 7, 6)
        p += FIXED
        for c in range(len(kinds)):
            if kinds[c] == _CODE:
                if p + 7 > end:
                    return -1
                value = _get(data, p, 7)
                values[c, at] = NULL if value == 0 else value
                p += 7
            else:
                left, shift = np.uint64(0), np.uint64(0)
                while True:
                    if p >= end or shift > np.uint64(63):
                        return -1
                    byte = np.uint64(data[p])
                    p += 1
                    left |= (byte & np.uint64(127)) << shift
                    shift += np.uint64(7)
                    if byte < np.uint64(128):
                        break
                if left == np.uint64(0):
                    values[c, at] = NULL
                else:
                    left -= np.uint64(1)
                    values[c, at] = np.int64(left >> np.uint64(1)) ^ -np.int64(left & np.uint64(1))
        late = np.int64(0)
        if flag == SOON:
            if p + 3 > end:
                return -1
            late = _signed(_get(data, p, 3), 24)
            p += 3
        elif flag != AT_ONCE:
            if p + 7 > end:
                return -1
            late = _signed(_get(data, p, 7), 56)
            p += 7
        known[at] = times[at] + late
        void[at] = flag == VOID
        at += 1
    return at


@njit(cache=True, nogil=True)
def _sorted_already(times: Any, numbers: Any, begin: Any, end: Any) -> Any:
    for i in range(begin + 1, end):
        if times[i - 1] > times[i] or (times[i - 1] == times[i] and numbers[i - 1] >= numbers[i]):
            return False
    return True


@njit(cache=True, nogil=True)
def _order(times: Any, known: Any, numbers: Any, values: Any, begin: Any, end: Any) -> Any:
    """Put places ``begin:end`` in order of (time, number), of equals only the first that stands there; returns the end."""
    order = np.argsort(numbers[begin:end], kind="mergesort")
    order = order[np.argsort(times[begin:end][order], kind="mergesort")] + begin
    kept, count = np.empty(end - begin, dtype=np.int64), 0
    for place in range(end - begin):
        i = order[place]
        if count > 0 and times[kept[count - 1]] == times[i] and numbers[kept[count - 1]] == numbers[i]:
            continue
        kept[count] = i
        count += 1
    kept = kept[:count]
    times[begin : begin + count] = times[kept]
    known[begin : begin + count] = known[kept]
    numbers[begin : begin + count] = numbers[kept]
    for c in range(len(values)):
        values[c, begin : begin + count] = values[c][kept]
    return begin + count


@njit(cache=True, nogil=True)
def _order_versions(
    times: Any, known: Any, numbers: Any, until: Any, void: Any, values: Any, begin: Any, end: Any, voids: Any
) -> Any:
    """As ``_order``, of views with corrections: each version counts until the next of the event is known.

    Versions of one number with one known time are one delivery. Void ones are left out unless ``voids``.
    """
    order = np.argsort(known[begin:end], kind="mergesort")
    order = order[np.argsort(numbers[begin:end][order], kind="mergesort")] + begin
    kept, count = np.empty(end - begin, dtype=np.int64), 0
    for place in range(end - begin):
        i = order[place]
        if count > 0 and numbers[kept[count - 1]] == numbers[i]:
            if known[kept[count - 1]] == known[i]:
                continue
            until[kept[count - 1]] = known[i]
        until[i] = NEVER
        kept[count] = i
        count += 1
    kept = kept[:count]
    kept = kept[np.argsort(times[kept], kind="mergesort")]
    if not voids:
        kept = kept[void[kept] == 0]
    count = len(kept)
    times[begin : begin + count] = times[kept]
    known[begin : begin + count] = known[kept]
    numbers[begin : begin + count] = numbers[kept]
    until[begin : begin + count] = until[kept]
    void[begin : begin + count] = void[kept]
    for c in range(len(values)):
        values[c, begin : begin + count] = values[c][kept]
    return begin + count


@njit(cache=True, nogil=True)
def _decode(data: Any, bounds: Any, views: Any, rooms: Any, columns: Any, kinds: Any, versions: Any, voids: Any, times: Any,
            known: Any, numbers: Any, until: Any, void: Any, values: Any, starts: Any) -> Any:  # fmt: skip
    """Lay the bodies ``data[bounds[s, 0]:bounds[s, 1]]`` out, those of view v being ``views[v]:views[v + 1]``.

    View v's records fill places from ``rooms[v]`` on, and its ``starts``, counted from there, those from ``views[v] + v`` on.
    Returns the body that is damaged, or -1.
    """
    room_of_values = 0
    for v in range(len(views) - 1):
        begin, room, c = rooms[v], rooms[v + 1] - rooms[v], columns[v]
        mine = values[room_of_values : room_of_values + c * room].reshape((c, room))
        room_of_values += c * room
        t, k, n = times[begin : begin + room], known[begin : begin + room], numbers[begin : begin + room]
        u, d = until[begin : begin + room], void[begin : begin + room]
        at = 0
        for s in range(views[v], views[v + 1]):
            starts[s + v] = at
            end = _parse(data, bounds[s, 0], bounds[s, 1], kinds[v, :c], t, k, n, d, mine, at)
            if end < 0:
                return s
            if versions[v]:
                at = _order_versions(t, k, n, u, d, mine, at, end, voids)
            elif _sorted_already(t, n, at, end):
                at = end
            else:
                at = _order(t, k, n, mine, at, end)
        starts[views[v + 1] + v] = at
    return -1


@dataclass(frozen=True)
class Decoded:
    """Events of several states of one view as the kernel reads them, and what only states know of them.

    Attributes:
        numbers: int64[n] ``event_number`` of each. void: uint8[n].
    """

    events: Events
    numbers: Integers
    void: Bytes


class Decoder:
    """Reads states of several views at once: one compiled call a request."""

    def __init__(self, specs: Sequence[ViewSpec]) -> None:
        self._specs = tuple(specs)
        self._columns = np.array([len(spec.columns) for spec in specs], dtype=np.int64)
        self._widths = [FIXED + sum(1 if c.kind == "number" else 7 for c in spec.columns) for spec in specs]
        self._kinds = np.zeros((len(specs), max(1, *self._columns.tolist(), 1)), dtype=np.uint8)
        for row, spec in zip(self._kinds, specs, strict=True):
            row[: len(spec.columns)] = kinds(spec)
        self._versions = np.array([spec.corrected for spec in specs], dtype=np.uint8)

    def decode(
        self, data: bytes, bounds: Integers, views: Sequence[int], *, voids: bool = False
    ) -> list[Decoded]:
        """Bodies of every view, each key's events in order of (time, number), each event once.

        Args:
            data: what holds the bodies. bounds: int64[s, 2] from where to where each reaches.
            views: the bodies of view v are those from ``views[v]`` up to ``views[v + 1]``.
            voids: whether to give void records as well.

        Raises:
            ValueError: a body is no whole number of records.
        """
        sizes = bounds[:, 1] - bounds[:, 0]
        total = np.zeros(len(sizes) + 1, dtype=np.int64)
        np.cumsum(sizes, out=total[1:])
        rooms = [0]
        for width, (begin, end) in zip(self._widths, pairwise(views), strict=True):
            rooms.append(rooms[-1] + int(total[end] - total[begin]) // width)
        n = rooms[-1]
        fixed = np.empty((4, n), dtype=np.int64)
        void = np.empty(n, dtype=np.uint8)
        cells = [c * (b - a) for c, (a, b) in zip(self._columns.tolist(), pairwise(rooms), strict=True)]
        values = np.empty(sum(cells), dtype=np.int64)
        starts = np.empty(len(sizes) + len(self._specs), dtype=np.int64)
        damaged = _decode(
            np.frombuffer(data, dtype=np.uint8), bounds, np.array(views, dtype=np.int64), np.array(rooms, dtype=np.int64),
            self._columns, self._kinds, self._versions, voids, fixed[0], fixed[1], fixed[2], fixed[3], void, values, starts,
        )  # fmt: skip
        if damaged >= 0:
            view = max(v for v in range(len(self._specs)) if views[v] <= damaged)
            raise ValueError(
                f"{self._specs[view].view}: a state with {sizes[damaged]} bytes of records is no whole number of them; "
                "delete it and materialize the view again"
            )
        found, cell = [], 0
        for v, spec in enumerate(self._specs):
            own = slice(rooms[v], rooms[v + 1])
            events = Events(
                timestamps=fixed[0, own],
                known=fixed[1, own],
                values=values[cell : cell + cells[v]].reshape(len(spec.columns), rooms[v + 1] - rooms[v]),
                starts=starts[views[v] + v : views[v + 1] + v + 1],
                until=fixed[3, own] if spec.corrected else None,
            )
            cell += cells[v]
            found.append(Decoded(events, fixed[2, own], void[own]))
        return found


def decode(spec: ViewSpec, bodies: Sequence[bytes], *, voids: bool = False) -> Decoded:
    """Bodies of one view, as ``Decoder.decode``."""
    ends = np.cumsum([0, *map(len, bodies)], dtype=np.int64)
    bounds = np.stack([ends[:-1], ends[1:]], axis=1)
    return Decoder([spec]).decode(b"".join(bodies), bounds, [0, len(bodies)], voids=voids)[0]
