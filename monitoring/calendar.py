"""Features that are the calendar in disguise, told from data: an hour, a weekday, whether it is night in UTC.

Over less than a week their distribution differs from training's whatever the world does, so they are reported
and not judged then.
"""

import numpy as np
import numpy.typing as npt

from monitoring.decisions import Decisions

__all__ = ["WEEK_US", "calendar_features", "span_us"]

WEEK_US = 7 * 86_400_000_000
_HOUR_US = 3_600_000_000
# With fewer rows an hour a feature could be constant within each hour by accident.
ROWS_AN_HOUR = 5


def span_us(decisions: Decisions) -> int:
    """How much event time the decisions cover."""
    return int(np.ptp(decisions.event_timestamp_us)) if len(decisions) else 0


def calendar_features(decisions: Decisions) -> frozenset[str]:
    """Features with one value within every hour of the week, and more than one in all."""
    hour = decisions.event_timestamp_us % WEEK_US // _HOUR_US
    hours, code = np.unique(hour, return_inverse=True)
    if len(decisions) < ROWS_AN_HOUR * max(len(hours), 1):
        return frozenset()
    return frozenset(
        name
        for i, name in enumerate(decisions.feature_names)
        if _is_function_of(code, len(hours), decisions.features[:, i])
    )


def _is_function_of(code: npt.NDArray[np.int64], codes: int, values: npt.NDArray[np.float64]) -> bool:
    low, high = np.full(codes, np.inf), np.full(codes, -np.inf)
    if np.isnan(values).any():
        return False
    np.minimum.at(low, code, values)
    np.maximum.at(high, code, values)
    return bool((low == high).all() and low.min() < high.max())
