"""Compiled passes over columns of events: sorted by key, merged with those of earlier slabs, cut into keys.

A key is a non-negative code, int32 or int64. Every pass is linear in the events and works without Python's lock, so
several run at once.
No function here calls another compiled one (see ``kernel.py`` on caches).
"""

from typing import Any

import numpy as np
from numba import njit, uint64
from numpy.typing import NDArray

from feature_repo.windows.memory import empty

Integers = NDArray[np.int64]
# Most bits that one pass sorts by: its counters stay in the processor's cache.
_DIGIT = 14
_SPREAD = uint64(0x9E3779B97F4A7C15)
NOTHING: Integers = np.empty(0, dtype=np.int64)
ALL_PASS: NDArray[np.bool_] = np.empty(0, dtype=np.bool_)


def ordered(
    codes: NDArray[Any],
    greatest: int,
    order: Integers = NOTHING,
    times: Integers = NOTHING,
    floor: int = 0,
    passes: NDArray[np.bool_] = ALL_PASS,
) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """As ``order_by``, with room to work in."""
    size = len(codes)
    found, sorted_codes = empty((size,), np.int32), empty((size,), codes.dtype.type)
    spare = size if greatest >> _DIGIT else 0
    other, other_codes = empty((spare,), np.int32), empty((spare,), codes.dtype.type)
    positions, sorted_codes = order_by(
        codes, greatest, order, times, floor, passes, found, sorted_codes, other, other_codes
    )
    return positions, sorted_codes


@njit(cache=True, nogil=True)
def combine(codes: Any, ids: Any, size: Any) -> None:
    """Make the codes of keys with one more part, numbered from 0 to ``size - 1``; a negative number stands for no key."""
    for i in range(len(codes)):
        if codes[i] >= 0:
            codes[i] = codes[i] * size + ids[i] if ids[i] >= 0 else -1


@njit(cache=True, nogil=True)
def mark(codes: Any, marks: Any) -> None:
    """Set the mark of each code that is a key; several codes may share one. There are 2**k marks."""
    for i in range(len(codes)):
        if codes[i] >= 0:
            marks[(uint64(codes[i]) * _SPREAD >> uint64(32)) & uint64(len(marks) - 1)] = True


@njit(cache=True, nogil=True)
def leave_unmarked(codes: Any, marks: Any) -> None:
    """Make those codes -1 whose mark is not set."""
    for i in range(len(codes)):
        if codes[i] >= 0 and not marks[(uint64(codes[i]) * _SPREAD >> uint64(32)) & uint64(len(marks) - 1)]:
            codes[i] = -1


@njit(cache=True, nogil=True)
def order_by(
    codes: Any, greatest: Any, order: Any, times: Any, floor: Any, passes: Any, found: Any, sorted_codes: Any, other: Any,
    other_codes: Any,
) -> Any:  # fmt: skip
    """The stable order of codes from 0 to ``greatest``: a radix sort in as few passes as the counters' room allows.

    Args:
        codes: negative ones are left out. order: positions in the order to begin with; none: as they are.
        times: those before ``floor`` are left out; none: all stay. passes: those that are false are left out; none: all stay.
        found, other: int32[n], and ``sorted_codes``, ``other_codes`` like ``codes``: room to work in. The others may be empty
            if one pass is enough.

    Returns:
        Positions, and the code at each, in ``found`` and ``sorted_codes`` or in the others.
    """
    n, bits = len(codes), 1
    while (greatest >> bits) > 0:
        bits += 1
    count = (bits + _DIGIT - 1) // _DIGIT
    width = (bits + count - 1) // count
    mask = (1 << width) - 1
    ends = np.zeros((count, mask + 2), dtype=np.int64)
    kept = 0
    for i in range(n):
        code = codes[i]
        if code < 0 or (len(times) > 0 and times[i] < floor) or (len(passes) > 0 and not passes[i]):
            continue
        kept += 1
        for p in range(count):
            ends[p, ((code >> (p * width)) & mask) + 1] += 1
    for p in range(count):
        for b in range(mask + 1):
            ends[p, b + 1] += ends[p, b]
    for at in range(n):
        i = order[at] if len(order) > 0 else at
        code = codes[i]
        if code < 0 or (len(times) > 0 and times[i] < floor) or (len(passes) > 0 and not passes[i]):
            continue
        to = ends[0, code & mask]
        ends[0, code & mask] = to + 1
        found[to] = i
        sorted_codes[to] = code
    for p in range(1, count):
        for at in range(kept):
            code = sorted_codes[at]
            b = (code >> (p * width)) & mask
            to = ends[p, b]
            ends[p, b] = to + 1
            other[to] = found[at]
            other_codes[to] = code
        found, other = other, found
        sorted_codes, other_codes = other_codes, sorted_codes
    return found[:kept], sorted_codes[:kept]


@njit(cache=True, nogil=True)
def gather(values: Any, positions: Any, out: Any) -> None:
    """``out[i] = values[positions[i]]``, without a copy of the positions in another type."""
    for i in range(len(positions)):
        out[i] = values[positions[i]]


@njit(cache=True, nogil=True)
def tied(codes: Any, times: Any, positions: Any) -> Any:
    """Where events share code and time with a neighbour, ascending.

    Args:
        codes: of the events sorted by code and time. times: of all events. positions: of the sorted ones among all.
    """
    n = len(codes)
    found = 0
    for i in range(1, n):
        found += codes[i] == codes[i - 1] and times[positions[i]] == times[positions[i - 1]]
    ties = np.empty(min(n, 2 * found), dtype=np.int64)
    at = 0
    for i in range(1, n):
        if codes[i] == codes[i - 1] and times[positions[i]] == times[positions[i - 1]]:
            if at == 0 or ties[at - 1] != i - 1:
                ties[at] = i - 1
                at += 1
            ties[at] = i
            at += 1
    return ties[:at]


@njit(cache=True, nogil=True)
def surviving(times: Any, floor: Any) -> Any:
    """How many events are not before ``floor``."""
    count = 0
    for i in range(len(times)):
        count += times[i] >= floor
    return count


@njit(cache=True, nogil=True)
def merge(
    old_codes: Any, old: Any, floor: Any, new_codes: Any, new: Any, new_start: Any, new_end: Any, codes: Any,
    merged: Any,
) -> Any:  # fmt: skip
    """Merge events sorted by code with a range of others that are; of equal codes the old ones come first.

    Args:
        old, new, merged: int64[f, n] fields, the first of them the time; old events before ``floor`` are left out.
    """
    fields = len(merged)
    i, j, at = 0, new_start, 0
    while i < len(old_codes) or j < new_end:
        if j >= new_end or (i < len(old_codes) and old_codes[i] <= new_codes[j]):
            if old[0, i] >= floor:
                codes[at] = old_codes[i]
                for f in range(fields):
                    merged[f, at] = old[f, i]
                at += 1
            i += 1
        else:
            codes[at] = new_codes[j]
            for f in range(fields):
                merged[f, at] = new[f, j]
            at += 1
            j += 1


@njit(cache=True, nogil=True)
def key_starts(event_codes: Any, ask_codes: Any) -> Any:
    """Cut sorted events and sorted asks into the same keys.

    Events of keys that are not asked stand between those that are, so each stretch of them is a key without asks.

    Returns:
        (event starts, ask starts), int64[k + 1] each.
    """
    m, n = len(ask_codes), len(event_codes)
    asked = 0
    for j in range(m):
        asked += j == 0 or ask_codes[j] != ask_codes[j - 1]
    event_starts = np.empty(2 * asked + 2, dtype=np.int64)
    ask_starts = np.empty(2 * asked + 2, dtype=np.int64)
    event_starts[0] = ask_starts[0] = 0
    keys, i, j = 0, 0, 0
    while j < m:
        code = ask_codes[j]
        while i < n and event_codes[i] < code:
            i += 1
        keys += 1
        event_starts[keys], ask_starts[keys] = i, j
        while i < n and event_codes[i] == code:
            i += 1
        while j < m and ask_codes[j] == code:
            j += 1
        keys += 1
        event_starts[keys], ask_starts[keys] = i, j
    keys += 1
    event_starts[keys], ask_starts[keys] = n, m
    return event_starts[: keys + 1], ask_starts[: keys + 1]
