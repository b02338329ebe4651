"""The faults: where in ``kernel.py``, what stands there, and what is put in its place.

``why`` is given where the fault changes no answer, so that no test can notice it: such a line costs time or guards a limit.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One fault; ``was`` stands exactly once in the function ``at``."""

    at: str
    was: str
    is_now: str
    why: str = ""

    @property
    def name(self) -> str:
        return f"{self.at}: {self.was} -> {self.is_now}"


FAULTS = [
    # The window: t - d - w <= time < t - d.
    Fault("_find_rows", "times[hi] < edge:", "times[hi] <= edge:"),
    Fault("_find_rows", "times[edges[w]] < edge - windows[w]", "times[edges[w]] <= edge - windows[w]"),
    Fault("_find_rows", "edge = now - delay", "edge = now"),
    Fault("_find_rows", "edge - windows[w]", "now - windows[w]"),
    Fault("_find_rows", "edge = now - delay", "edge = now - delay + 1"),
    Fault("_find_rows", "edge = now - delay", "edge = now - delay - 1"),
    Fault("_find_rows", "while edges[w] < hi and times", "while edges[w] < hi - 1 and times"),
    # Known time.
    Fault("_seen", "known[i] < as_of", "known[i] <= as_of"),
    Fault("_seen", "known[i] < as_of", "True"),
    Fault("_seen", "as_of <= until[i]", "as_of < until[i]"),
    Fault("_seen", "as_of <= until[i]", "True"),
    Fault("_find_rows", "if known[hi] - times[hi] > delay", "if known[hi] - times[hi] > delay + 1"),
    Fault("_find_rows", "if known[hi] - times[hi] > delay", "if known[hi] - times[hi] > 2 * delay"),
    Fault("_find_rows", "if known[hi] - times[hi] > delay", "if False"),
    Fault(
        "_find_rows", "if known[hi] - times[hi] > delay", "if known[hi] - times[hi] >= delay",
        "an event known just when it begins to count is listed, and then found to be seen",
    ),
    Fault("_find_rows", "(len(until) > 0 and until[hi] != FOR_EVER)", "False"),
    Fault("_find_rows", "(len(until) > 0 and until[i] != FOR_EVER)", "False"),
    Fault("_find_rows", "if i >= oldest and", "if i > oldest and"),
    Fault("_find_rows", "known[i] >= now", "known[i] > now"),
    Fault("_find_rows", "else hi - oldest) > len(hidden)", "else hi - oldest) > 2 * len(hidden)"),
    Fault("_find_rows", "for i in range(oldest, hi):", "for i in range(oldest, hi - 1):"),
    Fault("_find_rows", "for i in range(oldest, hi):", "for i in range(oldest + 1, hi):"),
    Fault("_find_rows", "if asked >= now:", "if asked >= now - 1:"),
    Fault(
        "_find_rows", "if asked >= now:", "if asked > now:",
        "an instant asked with knowledge up to itself is answered by the scan: the same, slower",
    ),
    Fault("_hidden_from", "hidden[begin] < lo", "hidden[begin] <= lo"),
    Fault("_hidden_from", "hidden[begin] < lo", "False"),
    Fault("_is_hidden", "hidden[place] == i", "False"),
    Fault("_is_hidden", "place = middle + 1", "place = middle + 2"),
    Fault("_is_hidden", "beyond = middle", "beyond = middle - 1"),
    Fault("_is_hidden", "place < end and", "place < end - 1 and"),
    # One key after another.
    Fault("_find_rows", "if begin + g >= instant_starts[key + 1]:", "if begin + g > instant_starts[key + 1]:"),
    Fault(
        "_find_rows",
        "while begin + g >= instant_starts[key + 1]:",
        "if begin + g >= instant_starts[key + 1]:",
    ),
    Fault(
        "_find_rows", "hi, waiting, n = event_starts[key] - base, 0,", "hi, waiting, n = event_starts[key] - base, waiting,",
        "what waited lies before the next key's first row, and is forgotten as what has left the window is",
    ),
    Fault("_find_rows", "edges[:lengths] = hi", "edges[:lengths] = 0"),
    # Counts, sums, squares.
    Fault("_counted", "found -= starts[g + 1]", "found += starts[g + 1]"),
    Fault("_counted", "events[hi] - events[lo]", "hi - lo"),
    Fault("_added", "number -= 1", "number -= 0"),
    Fault("_added", "total -= value", "total -= 0"),
    Fault("_added", "elif number > 0:", "elif number > 1:"),
    Fault("_deviated", "if number < 2", "if number < 1"),
    Fault("_deviated", "if number < 2", "if number < 3"),
    Fault("_deviated", "square_low -= s_low", "square_low -= uint64(0)"),
    Fault("_deviated", "square_high = square_high - s_high - borrow", "square_high = square_high - s_high"),
    Fault("_deviated", "- (uint64(1) if low[hi] < low[lo] else uint64(0))", "- uint64(0)"),
    Fault("_deviation", "count * (count - 1)", "count * count"),
    Fault("_deviation", "- t_high - borrow", "- t_high"),
    Fault("_to_float", "top |= uint64(1)", "top |= uint64(0)"),
    Fault("_square", "high * high + (cross >> uint64(31)) + carry", "high * high + (cross >> uint64(31))"),
    Fault("_prefix_sums", "sums[i + 1] = sums[i] + total", "sums[i + 1] = total"),
    Fault("_prefix_squares", "+ (uint64(1) if low[i + 1] < s_low else uint64(0))", "+ uint64(0)"),
    Fault("_adds_up", "if largest > _MOST //", "if largest >= _MOST //"),
    Fault("_adds_up", "if largest > _MOST //", "if largest > uint64(2) * _MOST //"),
    # Least and greatest.
    Fault("_extremes", "queue[head] < lo", "queue[head] <= lo"),
    Fault("_extremes", "queue[head] < lo", "False"),
    Fault("_extremes", "if back < value if least else back > value:", "if back > value if least else back < value:"),
    Fault("_extremes", "while following < hi:", "while following < hi - 1:"),
    # Of equal values the older is kept as well: the queue grows beyond its room.
    Fault("_extremes", "if back < value if least else back > value:", "if back <= value if least else back >= value:"),
    Fault("_extremes", "head = min(heads[a], lowest)", "head = heads[a]"),
    Fault("_extremes", "head = min(heads[a], lowest)", "head = min(heads[a], tail)"),
    Fault("_extremes", "lowest = min(lowest, tail)", "lowest = tail"),
    Fault("_extremes", "max(widest, program[a, 2])", "program[first, 2]"),
    Fault(
        "_extremes", "max(following, lows[widest, g])", "following",
        "rows that no window reaches any more enter the queue too, and each window passes over them",
    ),
    Fault("_extremes", "while tail > 0:", "while tail > 1:"),
    Fault("_needs", "program[b, 0] == function and", "True and"),
    Fault("_needs", "and program[b, 1] == c and", "and True and"),
    Fault("_extreme", "and _seen(known, until, i, as_of)", "and True"),
    Fault("_extreme", "range(lo, hi)", "range(lo + 1, hi)"),
    Fault("_extreme", "range(lo, hi)", "range(lo, hi - 1)"),
    # First, last, since.
    Fault("_lasts", "while i >= lo and _is_hidden", "while i > lo and _is_hidden"),
    Fault("_lasts", "base + i) if i >= lo", "base + i) if i > lo"),
    Fault("_lasts", "last[hi - 1] if hi > lo", "last[hi - 1] if hi > lo + 1"),
    Fault("_firsts", "base + i) if i < hi", "base + i) if i < hi - 1"),
    Fault("_firsts", "while i < hi and _is_hidden", "while i < hi - 1 and _is_hidden"),
    Fault("_firsts", "first[i + 1] if i + 1 < n", "first[i + 1] if i + 2 < n"),
    Fault("_since_last", "highs[g] - 1", "highs[g] - 2"),
    Fault("_since_last", "if i >= lows[g]:", "if i > lows[g]:"),
    Fault("_since_last", "while i >= lows[g] and _is_hidden", "while False and _is_hidden"),
    Fault("_since_first", "if i < highs[g] else", "if i < highs[g] - 1 else"),
    Fault("_since_first", "while i < highs[g] and _is_hidden", "while False and _is_hidden"),
    Fault("_since_first", "i = lows[g]", "i = lows[g] + 1"),
    # Distinct values.
    Fault("_distinct", "while ends[0] < lo and", "while ends[0] < lo - 1 and"),
    Fault("_distinct", "while ends[1] < hi:", "while ends[1] < hi - 1:"),
    Fault("_distinct", "found += _tallied(tally, slot[hidden[h]], -1)", "found += 0"),
    Fault("_distinct", "            _tallied(tally, slot[hidden[h]], 1)", "            pass"),
    Fault("_tallied", "if before > 0", "if before > 1"),
    Fault("_tallied", "if s < 0:", "if s < -1:"),
    # Percentiles.
    Fault("_percentiles", "(percent * number + 99) // 100", "percent * number // 100"),
    Fault("_percentiles", "(percent * number + 99) // 100", "(percent * number + 100) // 100"),
    Fault("_percentiles", "number -= _count_row", "number += 0 * _count_row"),
    Fault("_percentiles", "while ends[1] < hi:", "while ends[1] < hi - 1:"),
    Fault("_percentiles", "while ends[0] < lo and", "while ends[0] < lo - 1 and"),
    Fault("_ranked", "tree[place + step] < rank", "tree[place + step] <= rank"),
    Fault("bucket_of", "while (magnitude >> shift) >= _EXACT", "while (magnitude >> shift) > _EXACT"),
    Fault("bucket_of", "if magnitude >= _EXACT:", "if magnitude > 2 * _EXACT:"),
    Fault("middle_of", "((1 << shift) >> 1)", "0"),
    Fault("window_values", "_count_row(tree[t], values, blocks, program[a, 1], base + i, -1)", "pass"),
    # Blocks.
    Fault("_last_time_of", "if b >= 0:", "if False:"),
    Fault("_first_of", "if b >= 0:", "if False:"),
    Fault("_sum_of", "if b >= 0:", "if b > 0:"),
    Fault("summarized", "high[c, j] += s_high + (uint64(1) if low[c, j] < s_low else uint64(0))", "high[c, j] += s_high"),
    Fault("summarized", "_least_of(values, blocks, c, i) < least[c, j]", "_least_of(values, blocks, c, i) > least[c, j]"),
    Fault("summarized", "if first[c, j] == NULL:", "if True:"),
    Fault("_histograms", "dense[bucket] = 0", "pass"),
]  # fmt: skip
