"""Compiled passes over columns of events: sorted by key, merged with those of earlier slabs, cut into keys.

A key is a non-negative int64 code. Every pass is linear in the events and works without Python's lock, so several run at once.
No function here calls another compiled one (see ``kernel.py`` on caches).
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Positions = NDArray[np.int32]
_DIGIT = 11


@njit(cache=True, nogil=True)
def order_by(codes: Any, greatest: Any) -> Any:
    """The stable order of codes from 0 to ``greatest``, as int32 positions: a radix sort, 11 bits a pass."""
    n = len(codes)
    order = np.arange(n).astype(np.int32)
    other = np.empty(n, dtype=np.int32)
    keys = codes.copy()
    other_keys = np.empty(n, dtype=np.int64)
    buckets = np.int64(1) << _DIGIT
    shift = 0
    while (greatest >> shift) > 0:
        ends = np.zeros(buckets + 1, dtype=np.int64)
        for i in range(n):
            ends[((keys[i] >> shift) & (buckets - 1)) + 1] += 1
        for b in range(buckets):
            ends[b + 1] += ends[b]
        for i in range(n):
            key = keys[i]
            b = (key >> shift) & (buckets - 1)
            at = ends[b]
            ends[b] = at + 1
            other[at] = order[i]
            other_keys[at] = key
        order, other = other, order
        keys, other_keys = other_keys, keys
        shift += _DIGIT
    return order


@njit(cache=True, nogil=True)
def tied(codes: Any, times: Any) -> Any:
    """Positions, ascending, of events that share code and time with a neighbour; events are sorted by both."""
    n = len(codes)
    found = 0
    for i in range(1, n):
        found += codes[i] == codes[i - 1] and times[i] == times[i - 1]
    positions = np.empty(min(n, 2 * found), dtype=np.int64)
    at = 0
    for i in range(1, n):
        if codes[i] == codes[i - 1] and times[i] == times[i - 1]:
            if at == 0 or positions[at - 1] != i - 1:
                positions[at] = i - 1
                at += 1
            positions[at] = i
            at += 1
    return positions[:at]


@njit(cache=True, nogil=True)
def surviving(times: Any, floor: Any) -> Any:
    """How many events are not before ``floor``."""
    count = 0
    for i in range(len(times)):
        count += times[i] >= floor
    return count


@njit(cache=True, nogil=True)
def merge(
    old_codes: Any, old: Any, floor: Any, new_codes: Any, new: Any, new_start: Any, new_end: Any, codes: Any, merged: Any
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
