"""The index of distinct values beside a hot state: each value of a column among its sealed events, by the last event time.

It costs some 75 bytes a value and spares reading every sealed event of a window, so a state gets one only once those would be too
many to read. It reaches as far back as windows that end after the last sealed event do; for others it does not tell.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from feature_repo.windows.evaluate import Integers
from feature_repo.windows.functions import COUNT_DISTINCT
from feature_repo.windows.kernel import NULL
from feature_repo.windows.spec import ViewSpec

Sealed = Sequence[tuple[Integers, Integers]]
"""Times int64[n] and values int64[c, n] of events."""


def distinct_columns(spec: ViewSpec) -> list[int]:
    """The stored columns of which an index of distinct values may be kept beside a hot state.

    None for a view with a delay: its windows end among the sealed events, where the index does not tell.
    """
    if spec.delay_us or spec.corrected:
        return []
    return sorted({int(c) for function, c, _ in spec.program if function == COUNT_DISTINCT})


def distinct_reach_us(spec: ViewSpec) -> int:
    """The longest window over which values are counted; 0 if there is none."""
    return max((a.window_us for a in spec.aggregates if a.row.code == COUNT_DISTINCT), default=0)


def index_entries(spec: ViewSpec, sealed: Sealed, oldest: int) -> Iterator[bytes | int]:
    """What ``commit.lua`` is told of each index: from when on it reaches, how many entries are new, each one's time and value."""
    for column in distinct_columns(spec):
        found = _newest_of_each(sealed, column, oldest)
        yield from (oldest, len(found))
        for value, time in found.items():
            yield from (time, value.to_bytes(7, "little"))


def _newest_of_each(sealed: Sealed, column: int, oldest: int) -> dict[int, int]:
    """The last event time of each value of a column, nulls left out."""
    times = np.concatenate([times for times, _ in sealed]) if sealed else np.empty(0, dtype=np.int64)
    every = np.concatenate([values[column] for _, values in sealed]) if sealed else times
    there = (every != NULL) & (times >= oldest)
    order = np.argsort(times[there], kind="stable")
    # Of one value the last in order of time is what a dict keeps.
    return dict(zip(every[there][order].tolist(), times[there][order].tolist(), strict=True))
