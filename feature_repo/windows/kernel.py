"""The one place where a window is computed.

A compiled loop over the events of a key, sorted by time, and a sorted list of instants at which to ask. The offline store
calls it for every key, the online store for the keys of one request; the same machine code, so the same bits.

For an instant ``t``, a window ``w`` and a delay ``d``, the events with ``t - d - w <= timestamp < t - d`` and
``known < known_as_of`` count. Two edges move over the sorted events, so the range of positions is found in amortised constant
time; counts, sums and sums of squares are differences of exact integer prefix sums; minima and maxima come from monotonic
queues (Lemire 2006), distinct counts from a counter per value. All of these ignore known time. The few events that are in the
window but were not known yet are then taken out again: they are at most those whose known time lies after the instant, and
are listed once an instant. An instant that is asked with knowledge older than itself lists them by a scan.

Integers only: int64 values, sums checked against overflow, squares in 128 bits. Mean and standard deviation are formed
last, in one floating-point expression each.
"""

from typing import Any

import numpy as np
from numba import njit, uint64

from feature_repo.windows.functions import (
    COUNT,
    COUNT_DISTINCT,
    FIRST,
    LAST,
    MAX,
    MEAN,
    MIN,
    SINCE_FIRST,
    SINCE_LAST,
    STD,
    SUM,
)

# A null integer, in stored values and in results. A real value never reaches it: columns are checked as they come in.
NULL = np.int64(np.iinfo(np.int64).min)
_MICROSECONDS = 1_000_000.0
_LOW = uint64(0xFFFFFFFF)
_OK, _OVERFLOW = 0, 1


@njit(cache=True, nogil=True, inline="always")
def _square(value: Any) -> Any:
    """``value * value`` as (high, low) words of 64 bits."""
    magnitude = uint64(-value) if value < 0 else uint64(value)
    low, high = magnitude & _LOW, magnitude >> uint64(32)
    cross = low * high
    bottom = low * low
    middle = bottom + ((cross & uint64(0x7FFFFFFF)) << uint64(33))
    carry = uint64(1) if middle < bottom else uint64(0)
    return high * high + (cross >> uint64(31)) + carry, middle


@njit(cache=True, nogil=True, inline="always")
def _multiply(high: Any, low: Any, factor: Any) -> Any:
    """A 128-bit number times a 64-bit one, modulo 2**128."""
    f = uint64(factor)
    low_low, low_high = low & _LOW, low >> uint64(32)
    f_low, f_high = f & _LOW, f >> uint64(32)
    a, b, c = low_low * f_low, low_high * f_low, low_low * f_high
    middle = (a >> uint64(32)) + (b & _LOW) + (c & _LOW)
    top = low_high * f_high + (b >> uint64(32)) + (c >> uint64(32)) + (middle >> uint64(32))
    return high * f + top, (middle << uint64(32)) | (a & _LOW)


@njit(cache=True, nogil=True, inline="always")
def _to_float(high: Any, low: Any) -> float:
    """The nearest float64 to a number below 2**126: 64 leading bits, the rest folded into the last, then one rounding."""
    if high == uint64(0):
        return float(low)
    shift = 0
    while high >> uint64(shift) != uint64(0):
        shift += 1
    top = (high << uint64(64 - shift)) | (low >> uint64(shift))
    rest = low & ((uint64(1) << uint64(shift)) - uint64(1))
    if rest != uint64(0):
        top |= uint64(1)
    return float(top) * 2.0**shift


@njit(cache=True, nogil=True, inline="always")
def _deviation(count: Any, total: Any, high: Any, low: Any) -> float:
    """Sample standard deviation: the square root of (n * sum of squares - sum squared) / (n * (n - 1)), exact up to there."""
    n_high, n_low = _multiply(high, low, count)
    t_high, t_low = _square(total)
    difference = n_low - t_low
    borrow = uint64(1) if n_low < t_low else uint64(0)
    numerator = _to_float(n_high - t_high - borrow, difference)
    return float(np.sqrt(numerator / float(count * (count - 1))))


@njit(cache=True, nogil=True)
def _slots(values: Any, slot: Any) -> int:
    """Number the distinct values of one key from 0 in ``slot``; nulls get -1. Returns how many there are."""
    size = 4
    while size < 2 * len(values):
        size *= 2
    table = np.full(size, -1, dtype=np.int64)
    distinct = 0
    for i in range(len(values)):
        value = values[i]
        if value == NULL:
            slot[i] = -1
            continue
        place = (uint64(value) * uint64(0x9E3779B97F4A7C15)) >> uint64(32)
        at = np.int64(place & uint64(size - 1))
        while table[at] >= 0 and values[table[at]] != value:
            at = (at + 1) & (size - 1)
        if table[at] < 0:
            table[at] = i
            slot[i] = distinct
            distinct += 1
        else:
            slot[i] = slot[table[at]]
    return distinct


@njit(cache=True, nogil=True)
def _prefixes(values: Any, counts: Any, sums: Any, high: Any, low: Any, last: Any, first: Any) -> Any:
    """Fill the prefix arrays of one column over one key. Returns False if a sum of its values could overflow."""
    n = len(values)
    largest = uint64(0)
    counts[0] = sums[0] = 0
    high[0] = low[0] = uint64(0)
    latest = -1
    for i in range(n):
        value = values[i]
        counts[i + 1], sums[i + 1], high[i + 1], low[i + 1] = counts[i], sums[i], high[i], low[i]
        if value != NULL:
            magnitude = uint64(-value) if value < 0 else uint64(value)
            largest = max(largest, magnitude)
            counts[i + 1] += 1
            sums[i + 1] += value
            s_high, s_low = _square(value)
            low[i + 1] = low[i] + s_low
            high[i + 1] = high[i] + s_high + (uint64(1) if low[i + 1] < s_low else uint64(0))
            latest = i
        last[i] = latest
    nearest = n
    for i in range(n - 1, -1, -1):
        if values[i] != NULL:
            nearest = i
        first[i] = nearest
    return largest == uint64(0) or largest <= uint64(0x7FFFFFFFFFFFFFFF) // uint64(max(n, 1))


@njit(cache=True, nogil=True, inline="always")
def _unknown(i: Any, hidden: Any, hidden_count: Any) -> Any:
    return hidden_count > 0 and hidden[np.searchsorted(hidden[:hidden_count], i) % hidden_count] == i


@njit(cache=True, nogil=True)
def _extreme(values: Any, known: Any, lo: Any, hi: Any, as_of: Any, sign: Any) -> Any:
    """Least (sign 1) or greatest (sign -1) known value of a range, by looking at each; null if there is none."""
    best = NULL
    for i in range(lo, hi):
        value = values[i]
        if value != NULL and known[i] < as_of and (best == NULL or sign * value < sign * best):
            best = value
    return best


@njit(cache=True, nogil=True)
def window_values(
    timestamps: Any,
    known: Any,
    values: Any,
    event_starts: Any,
    instants: Any,
    known_as_of: Any,
    instant_starts: Any,
    rows: Any,
    program: Any,
    windows: Any,
    delay: Any,
    first_key: Any,
    end_key: Any,
    whole: Any,
    real: Any,
) -> Any:
    """Compute every aggregate of one view for the keys ``first_key <= key < end_key``.

    Args:
        timestamps, known: int64[n] event and known times in microseconds, events ordered by (key, timestamp, event id).
        values: int64[c, n] stored columns; ``NULL`` where null.
        event_starts: int64[k + 1]; the events of key i are ``event_starts[i]:event_starts[i + 1]``.
        instants, known_as_of: int64[m] instants and what was known at them, ordered by (key, instant).
        instant_starts: int64[k + 1], as ``event_starts``.
        rows: int64[m] the row of the result that each instant fills.
        program: int64[a, 3] function, column (-1: none), window of each aggregate.
        windows: int64[w] lengths, ascending. delay: microseconds.
        first_key, end_key: range of keys of this call; calls on disjoint ranges may run at the same time.
        whole, real: int64[r, a] and the same memory as float64[r, a]. Count, sum, min, max, last, first and distinct counts are
            written as int64 (``NULL`` where null), the others as float64 (NaN where null).

    Returns:
        (status, key, column): status 0, or 1 if the sum of a column's values over a key could pass 2**63.
    """
    aggregates, columns, lengths = len(program), len(values), len(windows)
    most = 0
    for key in range(first_key, end_key):
        most = max(most, event_starts[key + 1] - event_starts[key])
    counts = np.zeros((columns, most + 1), dtype=np.int64)
    sums = np.zeros((columns, most + 1), dtype=np.int64)
    high = np.zeros((columns, most + 1), dtype=np.uint64)
    low = np.zeros((columns, most + 1), dtype=np.uint64)
    last = np.zeros((columns, most + 1), dtype=np.int64)
    first = np.zeros((columns, most + 1), dtype=np.int64)
    used_numbers = np.zeros(columns, dtype=np.bool_)
    used_codes = np.zeros(columns, dtype=np.bool_)
    queues = 0
    counters = 0
    for a in range(aggregates):
        function, column = program[a, 0], program[a, 1]
        if function == COUNT_DISTINCT:
            used_codes[column] = True
            counters += 1
        elif column >= 0:
            used_numbers[column] = True
            if function == MIN or function == MAX:
                queues += 1
    queue = np.zeros((queues, most + 1 if queues else 1), dtype=np.int64)
    queue_head = np.zeros(queues, dtype=np.int64)
    queue_tail = np.zeros(queues, dtype=np.int64)
    queue_next = np.zeros(queues, dtype=np.int64)
    slot = np.zeros((columns, most + 1 if counters else 1), dtype=np.int64)
    tally = np.zeros((counters, most + 1 if counters else 1), dtype=np.int64)
    tally_lo = np.zeros(counters, dtype=np.int64)
    tally_hi = np.zeros(counters, dtype=np.int64)
    tally_count = np.zeros(counters, dtype=np.int64)
    lows = np.zeros(lengths, dtype=np.int64)
    hidden = np.zeros(most + 1, dtype=np.int64)
    pending = np.zeros(most + 1, dtype=np.int64)

    for key in range(first_key, end_key):
        begin, end = instant_starts[key], instant_starts[key + 1]
        if begin == end:
            continue
        base = event_starts[key]
        n = event_starts[key + 1] - base
        ts, kn = timestamps[base : base + n], known[base : base + n]
        for c in range(columns):
            column_values = values[c, base : base + n]
            if used_numbers[c] and not _prefixes(
                column_values, counts[c], sums[c], high[c], low[c], last[c], first[c]
            ):
                return _OVERFLOW, key, c
            if used_codes[c]:
                _slots(column_values, slot[c])
        lows[:] = 0
        hi = 0
        waiting = 0
        queue_head[:] = 0
        queue_tail[:] = 0
        queue_next[:] = 0
        tally[:, : n + 1] = 0
        tally_lo[:] = 0
        tally_hi[:] = 0
        tally_count[:] = 0
        for j in range(begin, end):
            now, as_of, row = instants[j], known_as_of[j], rows[j]
            edge = now - delay
            while hi < n and ts[hi] < edge:
                # Known no later than it may count: known to every instant asked with knowledge up to itself.
                if kn[hi] - ts[hi] > delay:
                    pending[waiting] = hi
                    waiting += 1
                hi += 1
            for w in range(lengths):
                while lows[w] < hi and ts[lows[w]] < edge - windows[w]:
                    lows[w] += 1
            # Forget what every later instant knows and what has left the longest window.
            still = 0
            for p in range(waiting):
                if kn[pending[p]] >= now and pending[p] >= lows[lengths - 1]:
                    pending[still] = pending[p]
                    still += 1
            waiting = still
            hides = 0
            if as_of < now:
                for i in range(lows[lengths - 1], hi):
                    if kn[i] >= as_of:
                        hidden[hides] = i
                        hides += 1
            else:
                for p in range(waiting):
                    if kn[pending[p]] >= as_of:
                        hidden[hides] = pending[p]
                        hides += 1

            next_queue = 0
            next_counter = 0
            for a in range(aggregates):
                function, c = program[a, 0], program[a, 1]
                lo = lows[program[a, 2]]
                start = 0
                while start < hides and hidden[start] < lo:
                    start += 1
                if function == COUNT:
                    whole[row, a] = hi - lo - (hides - start)
                elif function == SUM or function == MEAN or function == STD:
                    number = counts[c, hi] - counts[c, lo]
                    total = sums[c, hi] - sums[c, lo]
                    for h in range(start, hides):
                        value = values[c, base + hidden[h]]
                        if value != NULL:
                            number -= 1
                            total -= value
                    if function == SUM:
                        whole[row, a] = total
                    elif function == MEAN:
                        real[row, a] = float(total) / float(number) if number > 0 else np.nan
                    elif number < 2:
                        real[row, a] = np.nan
                    else:
                        square_low = low[c, hi] - low[c, lo]
                        borrow = uint64(1) if low[c, hi] < low[c, lo] else uint64(0)
                        square_high = high[c, hi] - high[c, lo] - borrow
                        for h in range(start, hides):
                            value = values[c, base + hidden[h]]
                            if value != NULL:
                                s_high, s_low = _square(value)
                                borrow = uint64(1) if square_low < s_low else uint64(0)
                                square_low -= s_low
                                square_high = square_high - s_high - borrow
                        real[row, a] = _deviation(number, total, square_high, square_low)
                elif function == MIN or function == MAX:
                    sign = 1 if function == MIN else -1
                    q = next_queue
                    next_queue += 1
                    while queue_next[q] < hi:
                        i = queue_next[q]
                        queue_next[q] += 1
                        value = values[c, base + i]
                        if value == NULL:
                            continue
                        while (
                            queue_tail[q] > queue_head[q]
                            and sign * values[c, base + queue[q, queue_tail[q] - 1]] >= sign * value
                        ):
                            queue_tail[q] -= 1
                        queue[q, queue_tail[q]] = i
                        queue_tail[q] += 1
                    while queue_head[q] < queue_tail[q] and queue[q, queue_head[q]] < lo:
                        queue_head[q] += 1
                    best = NULL
                    if queue_head[q] < queue_tail[q]:
                        i = queue[q, queue_head[q]]
                        if hides > start and _unknown(i, hidden, hides):
                            best = _extreme(values[c, base : base + n], kn, lo, hi, as_of, sign)
                        else:
                            best = values[c, base + i]
                    whole[row, a] = best
                elif function == LAST:
                    i = last[c, hi - 1] if hi > 0 else -1
                    while i >= lo and _unknown(i, hidden, hides):
                        i = last[c, i - 1] if i > 0 else -1
                    whole[row, a] = values[c, base + i] if i >= lo else NULL
                elif function == FIRST:
                    i = first[c, lo] if lo < n else n
                    while i < hi and _unknown(i, hidden, hides):
                        i = first[c, i + 1] if i + 1 < n else n
                    whole[row, a] = values[c, base + i] if i < hi else NULL
                elif function == SINCE_LAST:
                    i = hi - 1
                    while i >= lo and _unknown(i, hidden, hides):
                        i -= 1
                    real[row, a] = float(now - ts[i]) / _MICROSECONDS if i >= lo else np.nan
                elif function == SINCE_FIRST:
                    i = lo
                    while i < hi and _unknown(i, hidden, hides):
                        i += 1
                    real[row, a] = float(now - ts[i]) / _MICROSECONDS if i < hi else np.nan
                elif function == COUNT_DISTINCT:
                    k = next_counter
                    next_counter += 1
                    while tally_hi[k] < hi:
                        s = slot[c, tally_hi[k]]
                        tally_hi[k] += 1
                        if s >= 0:
                            tally[k, s] += 1
                            if tally[k, s] == 1:
                                tally_count[k] += 1
                    while tally_lo[k] < lo:
                        s = slot[c, tally_lo[k]]
                        tally_lo[k] += 1
                        if s >= 0:
                            tally[k, s] -= 1
                            if tally[k, s] == 0:
                                tally_count[k] -= 1
                    distinct = tally_count[k]
                    for h in range(start, hides):
                        s = slot[c, hidden[h]]
                        if s >= 0:
                            tally[k, s] -= 1
                            if tally[k, s] == 0:
                                distinct -= 1
                    for h in range(start, hides):
                        s = slot[c, hidden[h]]
                        if s >= 0:
                            tally[k, s] += 1
                    whole[row, a] = distinct
    return _OK, 0, 0
