"""The 15 features of the published baseline, formed from windowed features and the request.

The published windows include the scored transaction, (t - w, t]; ours end before it, [t - w, t). So a
customer's count is ours and one, and the mean amount is (sum + amount) / (count + 1). The terminal's windows
lie 7 days back on both sides. ``night`` is an hour up to 6 and ``weekend`` Saturday or Sunday, in UTC. A
terminal's risk without transactions is 0.

Source: Fraud Detection Handbook, chapter 3.4 (baseline feature transformation).
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["NEEDED", "PUBLISHED", "published_features"]

FloatArray = npt.NDArray[np.float64]

_DAYS: Final = (1, 7, 30)
_HOUR_US: Final = 3_600_000_000

NEEDED: Final = tuple(
    f"{name}_{days}d"
    for name in (
        "customer_transactions_count",
        "customer_amount_usd_cents_sum",
        "terminal_settled_transactions_count",
        "terminal_fraud_chargebacks_count",
    )
    for days in _DAYS
)
"""The windowed features that they are formed from (the terminal's at a delay of 7 days)."""

PUBLISHED: Final = (
    "amount",
    "weekend",
    "night",
    *(f"customer_count_{days}d" for days in _DAYS),
    *(f"customer_mean_amount_{days}d" for days in _DAYS),
    *(f"terminal_count_{days}d" for days in _DAYS),
    *(f"terminal_risk_{days}d" for days in _DAYS),
)
"""Their names, in the order of the columns that ``published_features`` returns."""


def published_features(
    column: Callable[[str], FloatArray],
    amount_usd_cents: npt.NDArray[np.int64],
    event_us: npt.NDArray[np.int64],
) -> FloatArray:
    """float64[rows, 15] in the order of ``PUBLISHED``; amounts in dollars.

    ``column`` returns one of ``NEEDED`` by its name; a null (NaN) counts as no events.
    """
    amount = amount_usd_cents / 100.0
    day, hour = event_us // (24 * _HOUR_US), event_us // _HOUR_US % 24
    # 1970-01-01 was a Thursday; Monday is 0.
    weekend, night = (day + 3) % 7 >= 5, hour <= 6
    needed = {name: np.nan_to_num(column(name)) for name in NEEDED}
    columns = [amount, weekend, night]
    counts = [needed[f"customer_transactions_count_{days}d"] + 1 for days in _DAYS]
    sums = [needed[f"customer_amount_usd_cents_sum_{days}d"] / 100.0 + amount for days in _DAYS]
    columns += counts
    columns += [total / count for total, count in zip(sums, counts, strict=True)]
    terminal = [needed[f"terminal_settled_transactions_count_{days}d"] for days in _DAYS]
    frauds = [needed[f"terminal_fraud_chargebacks_count_{days}d"] for days in _DAYS]
    columns += terminal
    columns += [fraud / np.maximum(count, 1) for fraud, count in zip(frauds, terminal, strict=True)]
    return np.column_stack(columns).astype(np.float64)
