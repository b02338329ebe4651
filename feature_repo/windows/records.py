"""Events as online state holds them: records of some 13 bytes and the values, packed and read in one pass each.

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

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from feature_repo.windows.evaluate import Integers
from feature_repo.windows.kernel import NULL
from feature_repo.windows.spec import ViewSpec

Bytes = NDArray[np.uint8]

AT_ONCE, SOON, LATER, VOID = range(4)
FIXED = 13
"""Bytes of a record's time and number; no record is shorter."""
FLAG_SHIFT = 54
TIME_MASK: int = 2**FLAG_SHIFT - 1
SOON_REACH = 2**23
NEVER = 2**63 - 1
_REACH: int = 2 ** (FLAG_SHIFT - 1)
_NUMBER, _CODE = 0, 1


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
        elif -SOON_REACH <= late < SOON_REACH:
            flag = SOON
        at = _put(out, at, (time & TIME_MASK) | (np.int64(flag) << np.int64(FLAG_SHIFT)), 7)
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
        flag = raw >> np.int64(FLAG_SHIFT)
        times[at] = _signed(raw, FLAG_SHIFT)
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
def _gather(rows: Any, kept: Any, begin: Any) -> Any:
    """Put the places ``kept`` of each row at ``begin`` and after; returns the place after them."""
    end = begin + len(kept)
    for row in range(len(rows)):
        rows[row, begin:end] = rows[row][kept]
    return end


@njit(cache=True, nogil=True)
def _order(fixed: Any, values: Any, begin: Any, end: Any) -> Any:
    """Put places ``begin:end`` in order of (time, number), of equals only the one known first; returns the end."""
    times, known, numbers = fixed[0], fixed[1], fixed[2]
    order = np.argsort(numbers[begin:end], kind="mergesort")
    order = order[np.argsort(times[begin:end][order], kind="mergesort")] + begin
    kept, count = np.empty(end - begin, dtype=np.int64), 0
    for place in range(end - begin):
        i = order[place]
        if count > 0 and times[kept[count - 1]] == times[i] and numbers[kept[count - 1]] == numbers[i]:
            if known[i] < known[kept[count - 1]]:
                kept[count - 1] = i
            continue
        kept[count] = i
        count += 1
    _gather(fixed, kept[:count], begin)
    return _gather(values, kept[:count], begin)


@njit(cache=True, nogil=True)
def _order_versions(fixed: Any, void: Any, values: Any, begin: Any, end: Any, voids: Any) -> Any:
    """As ``_order``, of views with corrections: each version counts until the next of the event is known.

    Versions of one number with one known time are one delivery. Void ones are left out unless ``voids``.
    """
    times, known, numbers, until = fixed[0], fixed[1], fixed[2], fixed[3]
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
    void[begin : begin + len(kept)] = void[kept]
    _gather(fixed, kept, begin)
    return _gather(values, kept, begin)


@njit(cache=True, nogil=True)
def decode_bodies(
    data: Any, bounds: Any, views: Any, widths: Any, columns: Any, kinds: Any, versions: Any, voids: Any
) -> Any:
    """Lay the bodies ``data[bounds[s, 0]:bounds[s, 1]]`` out, those of view v being ``views[v]:views[v + 1]``.

    Args:
        widths: of each view the bytes of its shortest record.

    Returns:
        The body that is damaged, or -1; then the fields of ``evaluate.Laid``. View v's ``starts`` begin at ``views[v] + v``.
    """
    rooms = np.zeros(len(views), dtype=np.int64)
    cells = 0
    for v in range(len(columns)):
        size = 0
        for s in range(views[v], views[v + 1]):
            size += bounds[s, 1] - bounds[s, 0]
        rooms[v + 1] = rooms[v] + size // widths[v]
        cells += columns[v] * (size // widths[v])
    fixed = np.empty((4, rooms[-1]), dtype=np.int64)
    void = np.empty(rooms[-1], dtype=np.uint8)
    values = np.empty(cells, dtype=np.int64)
    starts = np.empty(len(bounds) + len(columns), dtype=np.int64)
    cell = 0
    for v in range(len(columns)):
        begin, end, c = rooms[v], rooms[v + 1], columns[v]
        mine = values[cell : cell + c * (end - begin)].reshape((c, end - begin))
        cell += c * (end - begin)
        t, k, n, own = fixed[0, begin:end], fixed[1, begin:end], fixed[2, begin:end], fixed[:, begin:end]
        d, at = void[begin:end], 0
        for s in range(views[v], views[v + 1]):
            starts[s + v] = at
            last = _parse(data, bounds[s, 0], bounds[s, 1], kinds[v, :c], t, k, n, d, mine, at)
            if last < 0:
                return s, rooms, fixed, void, values, starts
            if versions[v]:
                at = _order_versions(own, d, mine, at, last, voids)
            elif _sorted_already(t, n, at, last):
                at = last
            else:
                at = _order(own, mine, at, last)
        starts[views[v + 1] + v] = at
    return -1, rooms, fixed, void, values, starts
