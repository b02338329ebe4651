"""The one place where a window is computed.

A compiled loop over the events of a key, sorted by time, and a sorted list of instants at which to ask. The offline store
calls it for every key, the online store for the keys of one request; the same machine code, so the same bits.

For an instant ``t``, a window ``w`` and a delay ``d``, the events with ``t - d - w <= timestamp < t - d`` and
``known < known_as_of <= until`` count. Two edges move over the sorted events, so the range of positions is found in amortised
constant time; counts, sums and sums of squares are differences of exact integer prefix sums; minima and maxima come from
monotonic queues (Lemire 2006), distinct counts from a counter per value, percentiles from a tree of counters (Fenwick 1994)
over a fixed logarithmic histogram. All of these ignore known time. The few events that are in the window but must not be
seen, because they were not known yet or have been superseded, are then taken out again: they are listed once an instant. An
instant that is asked with knowledge older than itself lists them by a scan.

A row of the events may be a *block*: many events summarized, of a key too hot to be read event by event. Whoever passes
blocks has made sure that each lies wholly inside or outside of every window that is asked, that all of it was known, and
that no other row's time lies within it. Distinct counts do not see into blocks.

Integers only: int64 values, sums checked against overflow, squares in 128 bits. Mean and standard deviation are formed
last, in one floating-point expression each.

All compiled code that depends on other compiled code stands in this one file: numba's cache notices a change of a file, and
not one of the files that it imports from.
"""

from typing import Any, NamedTuple

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
    P50,
    P75,
    P90,
    P95,
    P99,
    SINCE_FIRST,
    SINCE_LAST,
    STD,
    SUM,
)

# A null integer, in stored values and in results. A real value never reaches it: columns are checked as they come in.
NULL = np.int64(np.iinfo(np.int64).min)
# The ``until`` of an event that nothing supersedes.
FOR_EVER = np.int64(np.iinfo(np.int64).max)
_MICROSECONDS = 1_000_000.0
_LOW = uint64(0xFFFFFFFF)
_OK, _OVERFLOW = 0, 1
# Instants handled at a time: what they need stays in the processor's cache.
_GROUP = 512
# Keys are batched up to so many events, so that a key of few events costs little more than its events.
_BATCH = 4096
# A batch goes on over keys that are not asked to one that is, where they have few events: those cost less than another batch.
_PASSED = 512
_MOST = uint64(0x7FFFFFFFFFFFFFFF)
# Percentiles: magnitudes below 64 have a bucket each, beyond that every doubling has 32; so a bucket's middle is within
# 1/64 of every value in it. Buckets of negative values stand before those of the others, largest magnitude first.
_EXACT, _PER_DOUBLING, _SIGN = 64, 32, 2048
BUCKETS = 4096


class Blocks(NamedTuple):
    """Summaries of many events each, for c columns and b blocks.

    Attributes:
        index: int64[n] for each row of the events its block, or -1 where the row is one event. The row's own time is that
            of the block's first event, its known time that of the one known last, its values are null.
        count, last_time: int64[b] events, and the time of the last.
        numbers, sums: int64[c, b] values that are not null, and their sum.
        high, low: uint64[c, b] the sum of their squares in 128 bits.
        least, greatest, first, last: int64[c, b] values; ``NULL`` where there are none.
        histogram_starts: int64[c * b + 1] where in the next two column i of block j begins, at ``i * b + j``, and ends.
        histogram_buckets, histogram_counts: int64, a bucket and how many of the column's values lie in it.
    """

    index: Any
    count: Any
    last_time: Any
    numbers: Any
    sums: Any
    high: Any
    low: Any
    least: Any
    greatest: Any
    first: Any
    last: Any
    histogram_starts: Any
    histogram_buckets: Any
    histogram_counts: Any


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
def bucket_of(value: Any) -> Any:
    """The histogram's bucket of a value, 0 to ``BUCKETS - 1``, in the order of values."""
    magnitude = -value if value < 0 else value
    place = magnitude
    if magnitude >= _EXACT:
        shift = 0
        while (magnitude >> shift) >= _EXACT:
            shift += 1
        # The leading bit and the five after it: 32 to 63.
        place = (magnitude >> shift) + _PER_DOUBLING * shift
    return _SIGN - 1 - place if value < 0 else _SIGN + place


@njit(cache=True, nogil=True)
def middle_of(bucket: Any) -> Any:
    """The value that stands for a bucket: its middle, towards zero."""
    place = _SIGN - 1 - bucket if bucket < _SIGN else bucket - _SIGN
    magnitude = place
    if place >= _EXACT:
        shift = place // _PER_DOUBLING - 1
        magnitude = ((place - _PER_DOUBLING * shift) << shift) + ((1 << shift) >> 1)
    return -magnitude if bucket < _SIGN else magnitude


@njit(cache=True, nogil=True)
def _magnitude(value: Any) -> Any:
    return uint64(-value) if value < 0 else uint64(value)


# What a row holds, be it an event or a block. Where there are no blocks, the compiler drops their half of each.


@njit(cache=True, nogil=True)
def _events_of(blocks: Any, i: Any) -> Any:
    """How many events a row stands for."""
    if blocks is None:
        return 1
    b = blocks.index[i]
    return blocks.count[b] if b >= 0 else 1


@njit(cache=True, nogil=True)
def _sum_of(values: Any, blocks: Any, c: Any, i: Any) -> Any:
    """How many numbers a row holds, and their sum."""
    value = values[c, i]
    if blocks is None:
        return (1, value) if value != NULL else (0, 0)
    b = blocks.index[i]
    if b >= 0:
        return blocks.numbers[c, b], blocks.sums[c, b]
    return (1, value) if value != NULL else (0, 0)


@njit(cache=True, nogil=True)
def _squares_of(values: Any, blocks: Any, c: Any, i: Any) -> Any:
    """The sum of the squares of a row's numbers, as (high, low) words."""
    if blocks is not None:
        b = blocks.index[i]
        if b >= 0:
            return blocks.high[c, b], blocks.low[c, b]
    return _square(values[c, i]) if values[c, i] != NULL else (uint64(0), uint64(0))


@njit(cache=True, nogil=True)
def _least_of(values: Any, blocks: Any, c: Any, i: Any) -> Any:
    if blocks is not None:
        b = blocks.index[i]
        if b >= 0:
            return blocks.least[c, b]
    return values[c, i]


@njit(cache=True, nogil=True)
def _greatest_of(values: Any, blocks: Any, c: Any, i: Any) -> Any:
    if blocks is not None:
        b = blocks.index[i]
        if b >= 0:
            return blocks.greatest[c, b]
    return values[c, i]


@njit(cache=True, nogil=True)
def _first_of(values: Any, blocks: Any, c: Any, i: Any) -> Any:
    if blocks is not None:
        b = blocks.index[i]
        if b >= 0:
            return blocks.first[c, b]
    return values[c, i]


@njit(cache=True, nogil=True)
def _last_of(values: Any, blocks: Any, c: Any, i: Any) -> Any:
    if blocks is not None:
        b = blocks.index[i]
        if b >= 0:
            return blocks.last[c, b]
    return values[c, i]


@njit(cache=True, nogil=True)
def _last_time_of(timestamps: Any, blocks: Any, i: Any) -> Any:
    if blocks is not None:
        b = blocks.index[i]
        if b >= 0:
            return blocks.last_time[b]
    return timestamps[i]


@njit(cache=True, nogil=True)
def _largest(values: Any, base: Any, n: Any, blocks: Any, c: Any) -> Any:
    """The greatest magnitude of a column over one key, as uint64, and how many events there are."""
    largest, total = uint64(0), 0
    for i in range(base, base + n):
        total += _events_of(blocks, i)
        for value in (_least_of(values, blocks, c, i), _greatest_of(values, blocks, c, i)):
            if value != NULL:
                largest = max(largest, _magnitude(value))
    return largest, total


@njit(cache=True, nogil=True)
def _prefix_sums(values: Any, base: Any, n: Any, blocks: Any, c: Any, counts: Any, sums: Any) -> Any:
    counts[0] = sums[0] = 0
    for i in range(n):
        number, total = _sum_of(values, blocks, c, base + i)
        counts[i + 1] = counts[i] + number
        sums[i + 1] = sums[i] + total


@njit(cache=True, nogil=True)
def _prefix_squares(
    values: Any, base: Any, n: Any, blocks: Any, c: Any, small: Any, high: Any, low: Any
) -> Any:
    """Prefix sums of squares; ``small`` says that all of them together fit 63 bits, so that the high words stay zero."""
    high[0] = low[0] = uint64(0)
    if small and blocks is None:
        for i in range(n):
            value = values[c, base + i]
            high[i + 1] = uint64(0)
            low[i + 1] = low[i] + (uint64(value * value) if value != NULL else uint64(0))
        return
    for i in range(n):
        s_high, s_low = _squares_of(values, blocks, c, base + i)
        low[i + 1] = low[i] + s_low
        high[i + 1] = high[i] + s_high + (uint64(1) if low[i + 1] < s_low else uint64(0))


@njit(cache=True, nogil=True)
def _ends(values: Any, base: Any, n: Any, blocks: Any, c: Any, last: Any, first: Any) -> Any:
    """For each row the nearest at or before it, and at or after it, that holds a number; -1 and n where there is none."""
    latest, nearest = -1, n
    for i in range(n):
        if _last_of(values, blocks, c, base + i) != NULL:
            latest = i
        last[i] = latest
    for i in range(n - 1, -1, -1):
        if _first_of(values, blocks, c, base + i) != NULL:
            nearest = i
        first[i] = nearest


@njit(cache=True, nogil=True)
def _seen(known: Any, until: Any, i: Any, as_of: Any) -> Any:
    return known[i] < as_of and (len(until) == 0 or as_of <= until[i])


@njit(cache=True, nogil=True)
def _is_hidden(i: Any, hidden: Any, begin: Any, end: Any) -> Any:
    """Whether a row stands in ``hidden[begin:end]``, which ascends."""
    place, beyond = begin, end
    while place < beyond:
        middle = (place + beyond) // 2
        if hidden[middle] < i:
            place = middle + 1
        else:
            beyond = middle
    return place < end and hidden[place] == i


@njit(cache=True, nogil=True)
def _hidden_from(lo: Any, hidden: Any, begin: Any, end: Any) -> Any:
    """The first place in ``hidden[begin:end]`` that lies in a window from row ``lo``."""
    while begin < end and hidden[begin] < lo:
        begin += 1
    return begin


@njit(cache=True, nogil=True)
def _counted(events: Any, lows: Any, highs: Any, hidden: Any, starts: Any, rows: Any, out: Any) -> Any:
    """Counts of events; ``events`` int64[n + 1] counts them up to each row, or is empty where each row is one."""
    for g in range(len(rows)):
        lo, hi = lows[g], highs[g]
        found = hi - lo if len(events) == 0 else events[hi] - events[lo]
        if starts[g + 1] > starts[g]:
            found -= starts[g + 1] - _hidden_from(lo, hidden, starts[g], starts[g + 1])
        out[rows[g]] = found


@njit(cache=True, nogil=True)
def _added(
    values: Any, counts: Any, sums: Any, lows: Any, highs: Any, hidden: Any, starts: Any, rows: Any, mean: Any,
    whole: Any, real: Any,
) -> Any:  # fmt: skip
    """Sums, or means, of one column."""
    for g in range(len(rows)):
        lo, hi = lows[g], highs[g]
        number, total = counts[hi] - counts[lo], sums[hi] - sums[lo]
        for h in range(_hidden_from(lo, hidden, starts[g], starts[g + 1]), starts[g + 1]):
            value = values[hidden[h]]
            if value != NULL:
                number -= 1
                total -= value
        if not mean:
            whole[rows[g]] = total
        elif number > 0:
            real[rows[g]] = float(total) / float(number)
        else:
            real[rows[g]] = np.nan


@njit(cache=True, nogil=True)
def _deviated(
    values: Any, counts: Any, sums: Any, high: Any, low: Any, lows: Any, highs: Any, hidden: Any, starts: Any, rows: Any,
    real: Any,
) -> Any:  # fmt: skip
    for g in range(len(rows)):
        lo, hi = lows[g], highs[g]
        number, total = counts[hi] - counts[lo], sums[hi] - sums[lo]
        square_low = low[hi] - low[lo]
        square_high = high[hi] - high[lo] - (uint64(1) if low[hi] < low[lo] else uint64(0))
        for h in range(_hidden_from(lo, hidden, starts[g], starts[g + 1]), starts[g + 1]):
            value = values[hidden[h]]
            if value != NULL:
                number -= 1
                total -= value
                s_high, s_low = _square(value)
                borrow = uint64(1) if square_low < s_low else uint64(0)
                square_low -= s_low
                square_high = square_high - s_high - borrow
        real[rows[g]] = np.nan if number < 2 else _deviation(number, total, square_high, square_low)


@njit(cache=True, nogil=True)
def _bound(values: Any, blocks: Any, c: Any, i: Any, least: Any) -> Any:
    return _least_of(values, blocks, c, i) if least else _greatest_of(values, blocks, c, i)


@njit(cache=True, nogil=True)
def _extreme(
    values: Any,
    base: Any,
    blocks: Any,
    c: Any,
    known: Any,
    until: Any,
    lo: Any,
    hi: Any,
    as_of: Any,
    least: Any,
) -> Any:
    """Least or greatest value of a range that is seen, by looking at each row; null if there is none."""
    best = NULL
    for i in range(lo, hi):
        value = _bound(values, blocks, c, base + i, least)
        better = best == NULL or (value < best if least else value > best)
        if value != NULL and better and _seen(known, until, i, as_of):
            best = value
    return best


@njit(cache=True, nogil=True)
def _extremes(
    values: Any, base: Any, blocks: Any, c: Any, known: Any, until: Any, as_of: Any, least: Any, queue: Any, ends: Any,
    heads: Any, first: Any, mates: Any, program: Any, lows: Any, highs: Any, hidden: Any, starts: Any, rows: Any, out: Any,
) -> Any:  # fmt: skip
    """Minima, or maxima, of one column over several windows: aggregate ``first`` and its ``mates``.

    The rows that no later one outdoes stand in one queue; each window begins at a place of its own in it. ``queue`` int64[n],
    ``ends`` (tail, next row) and ``heads`` int64[a], an aggregate's first place, go on from one group to the next.
    """
    tail, following = ends[0], ends[1]
    widest, a = program[first, 2], mates[first]
    while a >= 0:
        widest, a = max(widest, program[a, 2]), mates[a]
    for g in range(len(rows)):
        hi, lowest = highs[g], tail
        following = max(following, lows[widest, g])  # what lies before is another key's
        while following < hi:
            value = _bound(values, blocks, c, base + following, least)
            if value != NULL:
                while tail > 0:
                    back = _bound(values, blocks, c, base + queue[tail - 1], least)
                    if back < value if least else back > value:
                        break
                    tail -= 1
                lowest = min(lowest, tail)
                queue[tail] = following
                tail += 1
            following += 1
        a = first
        while a >= 0:
            lo = lows[program[a, 2], g]
            head = min(heads[a], lowest)
            while head < tail and queue[head] < lo:
                head += 1
            heads[a] = head
            best = NULL
            if head < tail:
                if _is_hidden(queue[head], hidden, starts[g], starts[g + 1]):
                    best = _extreme(values, base, blocks, c, known, until, lo, hi, as_of[g], least)
                else:
                    best = _bound(values, blocks, c, base + queue[head], least)
            out[rows[g], a] = best
            a = mates[a]
    ends[0], ends[1] = tail, following


@njit(cache=True, nogil=True)
def _lasts(
    values: Any, base: Any, blocks: Any, c: Any, last: Any, lows: Any, highs: Any, hidden: Any, starts: Any, rows: Any,
    out: Any,
) -> Any:  # fmt: skip
    for g in range(len(rows)):
        lo, hi = lows[g], highs[g]
        i = last[hi - 1] if hi > lo else -1
        while i >= lo and _is_hidden(i, hidden, starts[g], starts[g + 1]):
            i = last[i - 1] if i > 0 else -1
        out[rows[g]] = _last_of(values, blocks, c, base + i) if i >= lo else NULL


@njit(cache=True, nogil=True)
def _firsts(
    values: Any, base: Any, n: Any, blocks: Any, c: Any, first: Any, lows: Any, highs: Any, hidden: Any, starts: Any,
    rows: Any, out: Any,
) -> Any:  # fmt: skip
    for g in range(len(rows)):
        lo, hi = lows[g], highs[g]
        i = first[lo] if lo < hi else n
        while i < hi and _is_hidden(i, hidden, starts[g], starts[g + 1]):
            i = first[i + 1] if i + 1 < n else n
        out[rows[g]] = _first_of(values, blocks, c, base + i) if i < hi else NULL


@njit(cache=True, nogil=True)
def _since_last(
    timestamps: Any,
    base: Any,
    blocks: Any,
    now: Any,
    lows: Any,
    highs: Any,
    hidden: Any,
    starts: Any,
    rows: Any,
    out: Any,
) -> Any:
    for g in range(len(rows)):
        i = highs[g] - 1
        while i >= lows[g] and _is_hidden(i, hidden, starts[g], starts[g + 1]):
            i -= 1
        found = np.nan
        if i >= lows[g]:
            found = float(now[g] - _last_time_of(timestamps, blocks, base + i)) / _MICROSECONDS
        out[rows[g]] = found


@njit(cache=True, nogil=True)
def _since_first(
    times: Any, now: Any, lows: Any, highs: Any, hidden: Any, starts: Any, rows: Any, out: Any
) -> Any:
    for g in range(len(rows)):
        i = lows[g]
        while i < highs[g] and _is_hidden(i, hidden, starts[g], starts[g + 1]):
            i += 1
        out[rows[g]] = float(now[g] - times[i]) / _MICROSECONDS if i < highs[g] else np.nan


@njit(cache=True, nogil=True)
def _distinct(
    slot: Any, tally: Any, ends: Any, lows: Any, highs: Any, hidden: Any, starts: Any, rows: Any, out: Any
) -> Any:
    """Distinct values. ``tally`` int64[n] and ``ends`` (first row, next row, distinct values) go on from group to group."""
    for g in range(len(rows)):
        lo, hi = lows[g], highs[g]
        while ends[0] < lo and ends[0] < ends[1]:
            ends[2] += _tallied(tally, slot[ends[0]], -1)
            ends[0] += 1
        ends[0], ends[1] = lo, max(lo, ends[1])
        while ends[1] < hi:
            ends[2] += _tallied(tally, slot[ends[1]], 1)
            ends[1] += 1
        found = ends[2]
        begin = _hidden_from(lo, hidden, starts[g], starts[g + 1])
        for h in range(begin, starts[g + 1]):
            found += _tallied(tally, slot[hidden[h]], -1)
        for h in range(begin, starts[g + 1]):
            _tallied(tally, slot[hidden[h]], 1)
        out[rows[g]] = found


@njit(cache=True, nogil=True)
def _tallied(tally: Any, s: Any, change: Any) -> Any:
    """Count a value once more, or once less; returns by how much the number of distinct values changes."""
    if s < 0:
        return 0
    before = tally[s]
    tally[s] = before + change
    return (1 if tally[s] > 0 else 0) - (1 if before > 0 else 0)


@njit(cache=True, nogil=True)
def _count_bucket(tree: Any, bucket: Any, change: Any) -> Any:
    place = bucket + 1
    while place <= BUCKETS:
        tree[place] += change
        place += place & -place


@njit(cache=True, nogil=True)
def _count_row(tree: Any, values: Any, blocks: Any, c: Any, i: Any, sign: Any) -> Any:
    """Put a row's values into the tree, or take them out; returns how many there are."""
    if blocks is not None:
        b = blocks.index[i]
        if b >= 0:
            at = c * len(blocks.count) + b
            for h in range(blocks.histogram_starts[at], blocks.histogram_starts[at + 1]):
                _count_bucket(tree, blocks.histogram_buckets[h], sign * blocks.histogram_counts[h])
            return blocks.numbers[c, b]
    if values[c, i] == NULL:
        return 0
    _count_bucket(tree, bucket_of(values[c, i]), sign)
    return 1


@njit(cache=True, nogil=True)
def _percentiles(
    values: Any, base: Any, blocks: Any, c: Any, percent: Any, tree: Any, ends: Any, lows: Any, highs: Any, hidden: Any,
    starts: Any, rows: Any, out: Any,
) -> Any:  # fmt: skip
    """Percentiles by nearest rank. ``tree`` int64[BUCKETS + 1] and ``ends`` (first row, next row, numbers) go on."""
    for g in range(len(rows)):
        lo, hi = lows[g], highs[g]
        while ends[0] < lo and ends[0] < ends[1]:
            ends[2] -= _count_row(tree, values, blocks, c, base + ends[0], -1)
            ends[0] += 1
        ends[0], ends[1] = lo, max(lo, ends[1])
        while ends[1] < hi:
            ends[2] += _count_row(tree, values, blocks, c, base + ends[1], 1)
            ends[1] += 1
        number = ends[2]
        begin = _hidden_from(lo, hidden, starts[g], starts[g + 1])
        for h in range(begin, starts[g + 1]):
            number -= _count_row(tree, values, blocks, c, base + hidden[h], -1)
        out[rows[g]] = middle_of(_ranked(tree, (percent * number + 99) // 100)) if number > 0 else NULL
        for h in range(begin, starts[g + 1]):
            _count_row(tree, values, blocks, c, base + hidden[h], 1)


@njit(cache=True, nogil=True)
def _ranked(tree: Any, rank: Any) -> Any:
    """The bucket of the value with this rank, from 1."""
    place, step = 0, BUCKETS
    while step > 0:
        if place + step <= BUCKETS and tree[place + step] < rank:
            place += step
            rank -= tree[place]
        step //= 2
    return place


@njit(cache=True, nogil=True)
def _percent(function: Any) -> Any:
    """The percent of a percentile function; 0 for every other function."""
    if function == P50:
        return 50
    if function == P75:
        return 75
    if function == P90:
        return 90
    if function == P95:
        return 95
    return 99 if function == P99 else 0


@njit(cache=True, nogil=True)
def _needs(program: Any, columns: Any) -> Any:
    """What is needed to compute a program.

    Returns:
        bool[4, columns], what each column is used for: sums, squares, ends, codes. int64[a], the next aggregate that shares a
        minimum's or maximum's queue, -1 for none, and bool[a], whether it is the first. How many queues, tallies and trees.
    """
    needs = np.zeros((4, columns), dtype=np.bool_)
    mates, leads = np.full(len(program), -1), np.ones(len(program), dtype=np.bool_)
    queues = tallies = trees = 0
    for a in range(len(program)):
        function, c = program[a, 0], program[a, 1]
        if function == SUM or function == MEAN or function == STD:
            needs[0, c] = True
            needs[1, c] |= function == STD
        elif function == LAST or function == FIRST:
            needs[2, c] = True
        elif function == COUNT_DISTINCT:
            needs[3, c] = True
            tallies += 1
        elif function == MIN or function == MAX:
            for b in range(a):
                if program[b, 0] == function and program[b, 1] == c and mates[b] < 0:
                    mates[b], leads[a] = a, False
            queues += leads[a]
        elif _percent(function) > 0:
            trees += 1
    return needs, mates, leads, queues, tallies, trees


@njit(cache=True, nogil=True)
def _find_rows(
    times: Any, known: Any, until: Any, base: Any, event_starts: Any, instants: Any, as_of: Any, instant_starts: Any,
    begin: Any, end: Any, windows: Any, delay: Any, edges: Any, pending: Any, lows: Any, highs: Any, hidden: Any, starts: Any,
) -> Any:  # fmt: skip
    """The rows that instants from ``begin`` on can count, and those of them that must not be seen.

    Fills, for the instants of a group, ``lows`` int64[w, g] and ``highs`` int64[g], counted from row ``base``, and the hidden
    rows of each in ``hidden`` by ``starts`` int64[g + 1]. ``edges`` (one for each window, then the end, how many are pending,
    the key) and ``pending`` go on from one group to the next. Returns how many instants the group has.
    """
    lengths = len(windows)
    hi, waiting, key = edges[lengths], edges[lengths + 1], edges[lengths + 2]
    n = event_starts[key + 1] - base
    g = 0
    starts[0] = 0
    while g < len(highs) and begin + g < end:
        if begin + g >= instant_starts[key + 1]:
            while begin + g >= instant_starts[key + 1]:
                key += 1
            hi, waiting, n = event_starts[key] - base, 0, event_starts[key + 1] - base
            edges[:lengths] = hi
        now, asked = instants[begin + g], as_of[begin + g]
        edge = now - delay
        while hi < n and times[hi] < edge:
            # Known no later than it may count, and for ever: seen by every instant asked with knowledge up to itself.
            if known[hi] - times[hi] > delay or (len(until) > 0 and until[hi] != FOR_EVER):
                pending[waiting] = hi
                waiting += 1
            hi += 1
        for w in range(lengths):
            while edges[w] < hi and times[edges[w]] < edge - windows[w]:
                edges[w] += 1
        oldest = edges[lengths - 1]
        # Forget what every later instant sees and what has left the longest window.
        still = 0
        for p in range(waiting):
            i = pending[p]
            if i >= oldest and (known[i] >= now or (len(until) > 0 and until[i] != FOR_EVER)):
                pending[still] = i
                still += 1
        waiting = still
        filled = starts[g]
        if filled + (waiting if asked >= now else hi - oldest) > len(hidden):
            break
        if asked >= now:
            for p in range(waiting):
                if not _seen(known, until, pending[p], asked):
                    hidden[filled] = pending[p]
                    filled += 1
        else:
            for i in range(oldest, hi):
                if not _seen(known, until, i, asked):
                    hidden[filled] = i
                    filled += 1
        for w in range(lengths):
            lows[w, g] = edges[w]
        highs[g] = hi
        starts[g + 1] = filled
        g += 1
    edges[lengths], edges[lengths + 1], edges[lengths + 2] = hi, waiting, key
    return g


@njit(cache=True, nogil=True)
def _end_of_batch(event_starts: Any, instant_starts: Any, key: Any, end_key: Any) -> Any:
    """The key before which a batch from ``key`` on ends: one key, or as many as have few events; the last is asked."""
    end = ahead = key + 1
    if instant_starts[end] == instant_starts[key]:
        return end
    while (
        ahead < end_key
        and event_starts[ahead + 1] - event_starts[key] <= _BATCH
        and event_starts[ahead] - event_starts[end] <= _PASSED
    ):
        ahead += 1
        if instant_starts[ahead] > instant_starts[ahead - 1]:
            end = ahead
    return end


@njit(cache=True, nogil=True)
def _adds_up(values: Any, event_starts: Any, key: Any, end: Any, blocks: Any, c: Any) -> Any:
    """The first of the keys of which the sum of a column's values could pass 63 bits, or -1."""
    for each in range(key, end):
        largest, total = _largest(
            values, event_starts[each], event_starts[each + 1] - event_starts[each], blocks, c
        )
        if largest > _MOST // uint64(max(total, 1)):
            return each
    return -1


@njit(cache=True, nogil=True)
def window_values(
    timestamps: Any,
    known: Any,
    until: Any,
    values: Any,
    event_starts: Any,
    blocks: Any,
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

    Keys with few events are computed in batches, as if their events were one sequence: both edges of every window move
    forward only, from one key to the next as within a key.

    Args:
        timestamps, known: int64[n] event and known times in microseconds, events ordered by (key, timestamp, event id).
        until: int64[n] the last ``known_as_of`` that sees the event (``FOR_EVER``: each does), or int64[0] if that goes for all.
        values: int64[c, n] stored columns; ``NULL`` where null.
        event_starts: int64[k + 1]; the events of key i are ``event_starts[i]:event_starts[i + 1]``.
        blocks: ``Blocks``, or None if every row is an event.
        instants, known_as_of: int64[m] instants and what was known at them, ordered by (key, instant).
        instant_starts: int64[k + 1], as ``event_starts``.
        rows: int64[m] the row of the result that each instant fills.
        program: int64[a, 3] function, column (-1: none), window of each aggregate.
        windows: int64[w] lengths, ascending. delay: microseconds.
        first_key, end_key: range of keys of this call; calls on disjoint ranges may run at the same time.
        whole, real: int64[r, a] and the same memory as float64[r, a]. Float functions (mean, std, seconds since) write
            float64, NaN where null; the others int64, ``NULL`` where null.

    Returns:
        (status, key, column): status 0, or 1 if the sum of a column's values over a key could pass 2**63.
    """
    columns, lengths = len(values), len(windows)
    needs, mates, leads, queues, tallies, trees = _needs(program, columns)
    most = 0
    key = first_key
    while key < end_key:
        end = _end_of_batch(event_starts, instant_starts, key, end_key)
        if instant_starts[end] > instant_starts[key]:
            most = max(most, event_starts[end] - event_starts[key])
        key = end
    room = most + 1
    events = np.empty(0 if blocks is None else room, dtype=np.int64)
    counts = np.empty((columns, room), dtype=np.int64)
    sums = np.empty((columns, room), dtype=np.int64)
    high = np.empty((columns, room), dtype=np.uint64)
    low = np.empty((columns, room), dtype=np.uint64)
    last = np.empty((columns, room), dtype=np.int64)
    first = np.empty((columns, room), dtype=np.int64)
    slot = np.empty((columns, room if tallies else 1), dtype=np.int64)
    queue = np.empty((queues, room if queues else 1), dtype=np.int64)
    tally = np.empty((tallies, room if tallies else 1), dtype=np.int64)
    tree = np.zeros((trees, BUCKETS + 1 if trees else 1), dtype=np.int64)
    queue_ends = np.empty((queues, 2), dtype=np.int64)
    heads = np.empty(len(program), dtype=np.int64)
    tally_ends = np.empty((tallies, 3), dtype=np.int64)
    tree_ends = np.empty((trees, 3), dtype=np.int64)
    edges = np.empty(lengths + 3, dtype=np.int64)
    pending = np.empty(room, dtype=np.int64)
    hidden = np.empty(room + _GROUP, dtype=np.int64)
    lows = np.empty((lengths, _GROUP), dtype=np.int64)
    highs = np.empty(_GROUP, dtype=np.int64)
    starts = np.empty(_GROUP + 1, dtype=np.int64)

    key = first_key
    while key < end_key:
        batch = key
        key = _end_of_batch(event_starts, instant_starts, batch, end_key)
        begin, end = instant_starts[batch], instant_starts[key]
        if begin == end:
            continue
        base = event_starts[batch]
        n = event_starts[key] - base
        times, kn = timestamps[base : base + n], known[base : base + n]
        un = until[base : base + n] if len(until) else until
        if blocks is not None:
            events[0] = 0
            for i in range(n):
                events[i + 1] = events[i] + _events_of(blocks, base + i)
        for c in range(columns):
            if needs[0, c]:
                largest, total = _largest(values, base, n, blocks, c)
                if largest > _MOST // uint64(max(total, 1)):
                    wrong = _adds_up(values, event_starts, batch, key, blocks, c)
                    if wrong >= 0:
                        return _OVERFLOW, wrong, c
                _prefix_sums(values, base, n, blocks, c, counts[c], sums[c])
                if needs[1, c]:
                    small = largest < uint64(1 << 31) and largest * largest <= _MOST // uint64(max(total, 1))
                    _prefix_squares(values, base, n, blocks, c, small, high[c], low[c])
            if needs[2, c]:
                _ends(values, base, n, blocks, c, last[c], first[c])
            if needs[3, c]:
                _slots(values[c, base : base + n], slot[c])
        edges[:] = 0
        edges[lengths + 2] = batch
        queue_ends[:] = 0
        heads[:] = 0
        tally_ends[:] = 0
        tree_ends[:] = 0
        tally[:, : n + 1] = 0
        while begin < end:
            size = _find_rows(
                times, kn, un, base, event_starts, instants, known_as_of, instant_starts, begin, end, windows, delay, edges,
                pending, lows, highs, hidden, starts,
            )  # fmt: skip
            now, as_of = instants[begin : begin + size], known_as_of[begin : begin + size]
            to = rows[begin : begin + size]
            q = d = t = 0
            for a in range(len(program)):
                function, c = program[a, 0], program[a, 1]
                lo, w, r = lows[program[a, 2]], whole[:, a], real[:, a]
                if function == COUNT:
                    _counted(events, lo, highs, hidden, starts, to, w)
                elif function == SUM or function == MEAN:
                    _added(
                        values[c, base : base + n], counts[c], sums[c], lo, highs, hidden, starts, to, function == MEAN, w, r
                    )  # fmt: skip
                elif function == STD:
                    _deviated(
                        values[c, base : base + n], counts[c], sums[c], high[c], low[c], lo, highs, hidden, starts, to, r
                    )  # fmt: skip
                elif function == MIN or function == MAX:
                    if leads[a]:
                        _extremes(
                            values, base, blocks, c, kn, un, as_of, function == MIN, queue[q], queue_ends[q], heads, a, mates,
                            program, lows, highs, hidden, starts, to, whole,
                        )  # fmt: skip
                        q += 1
                elif function == LAST:
                    _lasts(values, base, blocks, c, last[c], lo, highs, hidden, starts, to, w)
                elif function == FIRST:
                    _firsts(values, base, n, blocks, c, first[c], lo, highs, hidden, starts, to, w)
                elif function == SINCE_LAST:
                    _since_last(timestamps, base, blocks, now, lo, highs, hidden, starts, to, r)
                elif function == SINCE_FIRST:
                    _since_first(times, now, lo, highs, hidden, starts, to, r)
                elif function == COUNT_DISTINCT:
                    _distinct(slot[c], tally[d], tally_ends[d], lo, highs, hidden, starts, to, w)
                    d += 1
                else:
                    _percentiles(
                        values, base, blocks, c, _percent(function), tree[t], tree_ends[t], lo, highs, hidden, starts, to, w
                    )  # fmt: skip
                    t += 1
            begin += size
        t = 0
        for a in range(len(program)):
            if _percent(program[a, 0]) > 0:
                # What is still counted is taken out again: cheaper than to clear a tree for each batch.
                for i in range(tree_ends[t, 0], tree_ends[t, 1]):
                    _count_row(tree[t], values, blocks, program[a, 1], base + i, -1)
                t += 1
    return _OK, 0, 0


@njit(cache=True, nogil=True)
def summarized(timestamps: Any, values: Any, blocks: Any, starts: Any, added: Any, ranked: Any) -> Any:
    """Runs of rows, each as one block.

    Args:
        timestamps, values, blocks: as in ``window_values``; rows may be events or blocks, in the order of time.
        starts: int64[b + 1]; rows ``starts[j]:starts[j + 1]``, of one key and at least one, become block j.
        added, ranked: bool[c] the columns whose values are numbers, and those that need a histogram.

    Returns:
        The attributes of ``Blocks`` from ``count`` on. Sums wrap at 64 bits; ``window_values`` checks what may add up.
    """
    columns, size = len(values), len(starts) - 1
    count, last_time = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    numbers, sums = np.zeros((columns, size), dtype=np.int64), np.zeros((columns, size), dtype=np.int64)
    high, low = np.zeros((columns, size), dtype=np.uint64), np.zeros((columns, size), dtype=np.uint64)
    least, greatest = np.full((columns, size), NULL), np.full((columns, size), NULL)
    first, last = np.full((columns, size), NULL), np.full((columns, size), NULL)
    for j in range(size):
        for i in range(starts[j], starts[j + 1]):
            count[j] += _events_of(blocks, i)
            last_time[j] = _last_time_of(timestamps, blocks, i)
            for c in range(columns):
                number, total = _sum_of(values, blocks, c, i)
                if not added[c] or number == 0:
                    continue
                numbers[c, j] += number
                sums[c, j] += total
                s_high, s_low = _squares_of(values, blocks, c, i)
                low[c, j] += s_low
                high[c, j] += s_high + (uint64(1) if low[c, j] < s_low else uint64(0))
                if least[c, j] == NULL or _least_of(values, blocks, c, i) < least[c, j]:
                    least[c, j] = _least_of(values, blocks, c, i)
                greatest[c, j] = max(greatest[c, j], _greatest_of(values, blocks, c, i))
                if first[c, j] == NULL:
                    first[c, j] = _first_of(values, blocks, c, i)
                last[c, j] = _last_of(values, blocks, c, i)
    histogram_starts, buckets, counts = _histograms(values, blocks, starts, ranked)
    return (
        count, last_time, numbers, sums, high, low, least, greatest, first, last, histogram_starts, buckets, counts
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _histograms(values: Any, blocks: Any, starts: Any, ranked: Any) -> Any:
    """The histograms of runs of rows, as ``Blocks`` keeps them."""
    size = len(starts) - 1
    histogram_starts = np.zeros(len(values) * size + 1, dtype=np.int64)
    buckets, counts = np.empty(16, dtype=np.int64), np.empty(16, dtype=np.int64)
    dense = np.zeros(BUCKETS, dtype=np.int64)
    filled = 0
    for c in range(len(values)):
        for j in range(size):
            for i in range(starts[j], starts[j + 1]) if ranked[c] else range(0):
                _fill(dense, values, blocks, c, i)
            for bucket in range(BUCKETS) if ranked[c] else range(0):
                if dense[bucket] > 0:
                    if filled == len(buckets):
                        buckets, counts = np.append(buckets, buckets), np.append(counts, counts)
                    buckets[filled], counts[filled] = bucket, dense[bucket]
                    filled += 1
                    dense[bucket] = 0
            histogram_starts[c * size + j + 1] = filled
    return histogram_starts, buckets[:filled].copy(), counts[:filled].copy()


@njit(cache=True, nogil=True)
def _fill(dense: Any, values: Any, blocks: Any, c: Any, i: Any) -> Any:
    """Count a row's values by bucket."""
    if blocks is not None:
        b = blocks.index[i]
        if b >= 0:
            at = c * len(blocks.count) + b
            for h in range(blocks.histogram_starts[at], blocks.histogram_starts[at + 1]):
                dense[blocks.histogram_buckets[h]] += blocks.histogram_counts[h]
            return
    if values[c, i] != NULL:
        dense[bucket_of(values[c, i])] += 1


@njit(cache=True, nogil=True)
def window_values_of_views(
    fixed: Any,
    values: Any,
    starts: Any,
    rooms: Any,
    columns: Any,
    versions: Any,
    programs: Any,
    program_starts: Any,
    windows: Any,
    window_starts: Any,
    delays: Any,
    instants: Any,
    known_as_of: Any,
    out: Any,
) -> Any:
    """``window_values`` of several views, each for the same n keys, one instant a key: one call a request.

    Args:
        fixed: int64[4, m] times, known times, ids, ``until`` of the events; those of view v stand from ``rooms[v]`` on.
        values: int64, for each view its columns one after the other, each as long as its room.
        starts: int64[v * (n + 1)], each view's, counted from the start of its room.
        columns, versions, delays: of each view how many columns, whether ``until`` counts, and its delay.
        programs, windows: of all views, view v's from ``program_starts[v]`` and ``window_starts[v]`` on.
        instants, known_as_of: int64[n].
        out: int64, for each view its int64[n, a].

    Returns:
        (status, view, key, column), as there.
    """
    n, cell, place = len(instants), 0, 0
    keys = np.arange(n + 1)
    for v in range(len(columns)):
        begin, end, c = rooms[v], rooms[v + 1], columns[v]
        program = programs[program_starts[v] : program_starts[v + 1]]
        a = len(program)
        whole = out[place : place + n * a].reshape((n, a))
        until = fixed[3, begin:end] if versions[v] else fixed[3, begin:begin]
        status, key, column = window_values(
            fixed[0, begin:end], fixed[1, begin:end], until,
            values[cell : cell + c * (end - begin)].reshape((c, end - begin)), starts[v * (n + 1) : (v + 1) * (n + 1)], None,
            instants, known_as_of, keys, keys[:n], program, windows[window_starts[v] : window_starts[v + 1]], delays[v],
            0, n, whole, whole.view(np.float64),
        )  # fmt: skip
        if status:
            return status, v, key, column
        cell += c * (end - begin)
        place += n * a
    return _OK, 0, 0, 0
