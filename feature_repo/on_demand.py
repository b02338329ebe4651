"""Transforms over the windows and the request, each written once."""

from collections.abc import Mapping

import numpy as np

from feature_repo.windows.transform import Reals, transform


@transform(
    inputs=["event_timestamp", "amount_usd_cents", "customer_amount_usd_cents_mean_30d", "customer_amount_usd_cents_std_30d"],
    outputs=["amount_log", "hour_utc", "weekday_utc", "amount_zscore_30d"],
)
def request_shape(c: Mapping[str, Reals]) -> Mapping[str, Reals]:
    """The request by itself, and against the customer's own mean and deviation."""
    seconds = c["event_timestamp"]
    days = np.floor(seconds / 86_400)
    return {
        "amount_log": np.log1p(c["amount_usd_cents"]),
        "hour_utc": np.floor((seconds - days * 86_400) / 3_600),
        "weekday_utc": np.mod(days + 3, 7),
        "amount_zscore_30d": (c["amount_usd_cents"] - c["customer_amount_usd_cents_mean_30d"])
        / c["customer_amount_usd_cents_std_30d"],
    }
