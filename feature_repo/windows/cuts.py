"""Where to cut a span of time so that about as much lies between two cuts as may be handled at once."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Histogram = Callable[[int, int, int], tuple[int, Integers]]
"""``histogram(lo, hi, buckets)``: the width of a bucket in microseconds, and how many lie in each, from ``lo`` on."""
_BUCKETS = 4096


def cuts(histogram: Histogram, lo: int, hi: int, most: int) -> list[int]:
    """Instants in (lo, hi), ascending, with at most ``most`` between two of them, as far as instants can part them."""
    found, held = [], 0
    width, counts = histogram(lo, hi, _BUCKETS)
    for bucket in np.flatnonzero(counts).tolist():
        start, count = lo + bucket * width, int(counts[bucket])
        if held and held + count > most:
            found.append(start)
            held = 0
        if count > most and width > 1:
            # Most of the span may be all but empty: look closer where it is not.
            end = min(start + width, hi)
            found += [*cuts(histogram, start, end, most), end]
            held = 0
        else:
            held += count
    return [cut for cut in found if cut < hi]


def histogram_sql(time: str, table: str, condition: str, lo: int, width: int) -> str:
    """How many rows there are in each bucket of ``width`` microseconds from ``lo`` on; ``time`` is a TIMESTAMPTZ."""
    return (
        f"SELECT (epoch_us({time}) - {lo}) // {width} AS bucket, count(*) AS number FROM {table} "
        # By its place: a name could be one of the table's columns.
        f"WHERE {condition} GROUP BY 1"
    )


def counted(found: dict[str, NDArray[np.int64]], buckets: int) -> Integers:
    """The answer of ``histogram_sql``, from DuckDB's ``fetchnumpy``, as int64[buckets]."""
    counts = np.zeros(buckets, dtype=np.int64)
    counts[np.asarray(found["bucket"], dtype=np.int64)] = found["number"]
    return counts


def between_sql(time: str, lo: int, hi: int) -> str:
    """The condition that ``time``, a TIMESTAMPTZ, lies in [lo, hi) microseconds."""
    return f"{time} >= make_timestamptz({lo}) AND {time} < make_timestamptz({hi})"
