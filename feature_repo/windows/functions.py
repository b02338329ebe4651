"""The aggregation functions, one row each.

A row says what a function needs of the events and what it returns; how it is computed stands once, in ``kernel.py``.
"""

from dataclasses import dataclass
from typing import Literal

from feast.types import Float64, Int64, PrimitiveFeastType

Needs = Literal["events", "number", "code"]


@dataclass(frozen=True)
class Function:
    """One aggregation function.

    Attributes:
        code: its number in the kernel.
        needs: ``events`` (no column at all), ``number`` (an integer column) or ``code`` (any column, compared for equality).
        returns: Feast type of the result; an empty window gives 0 or null, as DESIGN's table says.
        ordered: the result depends on the order of events at the same instant, so it is settled by event id.
    """

    code: int
    needs: Needs
    returns: PrimitiveFeastType
    ordered: bool = False


COUNT, SUM, MEAN, MIN, MAX, LAST, FIRST, STD, COUNT_DISTINCT, SINCE_LAST, SINCE_FIRST = range(11)
P50, P75, P90, P95, P99 = range(11, 16)
PERCENTILES = ("p50", "p75", "p90", "p95", "p99")

FUNCTIONS: dict[str, Function] = {
    "count": Function(COUNT, "events", Int64),
    "sum": Function(SUM, "number", Int64),
    "mean": Function(MEAN, "number", Float64),
    "min": Function(MIN, "number", Int64),
    "max": Function(MAX, "number", Int64),
    "last": Function(LAST, "number", Int64, ordered=True),
    "first": Function(FIRST, "number", Int64, ordered=True),
    "std": Function(STD, "number", Float64),
    "count_distinct": Function(COUNT_DISTINCT, "code", Int64),
    "seconds_since_last": Function(SINCE_LAST, "events", Float64),
    "seconds_since_first": Function(SINCE_FIRST, "events", Float64),
    # Percentiles by nearest rank, each the middle of its bucket of a fixed logarithmic histogram: exact below 64, else within
    # 1/64 of the true value. Histograms add up, so both sides agree to the bit.
    "p50": Function(P50, "number", Int64),
    "p75": Function(P75, "number", Int64),
    "p90": Function(P90, "number", Int64),
    "p95": Function(P95, "number", Int64),
    "p99": Function(P99, "number", Int64),
}
