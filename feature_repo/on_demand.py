"""Transforms over the windows and the request, each written once.

A ratio with nothing to divide by is null. Distances are great-circle kilometres on a sphere; local time is the sun's, from
the customer's longitude, for want of a time zone.
"""

from collections.abc import Mapping

import numpy as np

from feature_repo.windows.transform import Reals, transform

SECONDS_PER_HOUR, SECONDS_PER_DAY = 3_600, 86_400
EARTH_RADIUS_KM = 6371.0088  # mean radius R1, IUGG 1980
_DAYS = ("1d", "3d", "7d", "14d")
_RATE_WINDOWS = ("3d", "7d", "14d", "21d", "28d")
_MEAN, _MAX = "customer_amount_usd_cents_mean_{}", "customer_amount_usd_cents_max_{}"
_USUAL_MEAN, _USUAL_STD, _USUAL_MAX = (
    f"customer_settled_amount_usd_cents_{f}_30d" for f in ("mean", "std", "max")
)
_FRAUDS, _SETTLED = "terminal_ordinary_fraud_chargebacks_count_{}", "terminal_settled_transactions_count_{}"


def ratio(over: Reals, under: Reals) -> Reals:
    """``over / under`` where ``under`` is positive, else null."""
    return np.divide(over, under, out=np.full_like(over, np.nan), where=under > 0)


def hour_of_day(seconds: Reals) -> Reals:
    """Whole hour, 0 to 23."""
    return np.floor(np.mod(seconds, SECONDS_PER_DAY) / SECONDS_PER_HOUR)


def weekday(seconds: Reals) -> Reals:
    """Monday is 0; 1970-01-01 was a Thursday."""
    day: Reals = np.mod(np.floor(seconds / SECONDS_PER_DAY) + 3, 7)
    return day


@transform(
    inputs=[
        "event_timestamp",
        "amount_usd_cents",
        "customer_latitude",
        "customer_longitude",
        "terminal_latitude",
        "terminal_longitude",
    ],
    outputs=["amount_log", "hour_utc", "weekday_utc", "hour_local", "weekday_local", "distance_km"],
)
def request_shape(c: Mapping[str, Reals]) -> Mapping[str, Reals]:
    """What the transaction says by itself."""
    utc = c["event_timestamp"]
    local = utc + np.rint(c["customer_longitude"] / 15) * SECONDS_PER_HOUR
    here, there = np.radians(c["customer_latitude"]), np.radians(c["terminal_latitude"])
    apart = np.radians(c["terminal_longitude"] - c["customer_longitude"])
    chord = np.sin((there - here) / 2) ** 2 + np.cos(here) * np.cos(there) * np.sin(apart / 2) ** 2
    return {
        "amount_log": np.log1p(c["amount_usd_cents"]),
        "hour_utc": hour_of_day(utc),
        "weekday_utc": weekday(utc),
        "hour_local": hour_of_day(local),
        "weekday_local": weekday(local),
        "distance_km": 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.minimum(chord, 1.0))),
    }


@transform(
    inputs=[
        "amount_usd_cents",
        _MEAN.format("7d"),
        _MEAN.format("30d"),
        *(_MAX.format(w) for w in _DAYS),
        "customer_amount_usd_cents_std_30d",
        _USUAL_MEAN,
        _USUAL_STD,
        _USUAL_MAX,
    ],
    outputs=[
        "amount_to_mean_7d",
        "amount_to_mean_30d",
        "amount_zscore_30d",
        "amount_to_usual_mean",
        "amount_to_usual_max",
        "amount_usual_zscore",
        *(f"max_{w}_to_usual_mean" for w in _DAYS),
    ],
)
def spending(c: Mapping[str, Reals]) -> Mapping[str, Reals]:
    """The amount, and what the customer spent lately, against what is usual for the customer."""
    amount, usual = c["amount_usd_cents"], c[_USUAL_MEAN]
    mean_7d, mean_30d = c[_MEAN.format("7d")], c[_MEAN.format("30d")]
    return {
        "amount_to_mean_7d": ratio(amount, mean_7d),
        "amount_to_mean_30d": ratio(amount, mean_30d),
        "amount_zscore_30d": ratio(amount - mean_30d, c["customer_amount_usd_cents_std_30d"]),
        "amount_to_usual_mean": ratio(amount, usual),
        "amount_to_usual_max": ratio(amount, c[_USUAL_MAX]),
        "amount_usual_zscore": ratio(amount - usual, c[_USUAL_STD]),
        **{f"max_{w}_to_usual_mean": ratio(c[_MAX.format(w)], usual) for w in _DAYS},
    }


@transform(
    inputs=[
        *(_FRAUDS.format(w) for w in _RATE_WINDOWS),
        *(_SETTLED.format(w) for w in _RATE_WINDOWS),
        "terminal_ordinary_fraud_chargebacks_seconds_since_last_30d",
        "terminal_settled_transactions_seconds_since_last_30d",
    ],
    outputs=[
        *(f"terminal_ordinary_fraud_rate_{w}" for w in _RATE_WINDOWS),
        "terminal_newest_settled_minus_fraud_s",
    ],
)
def terminal_risk(c: Mapping[str, Reals]) -> Mapping[str, Reals]:
    """Share of a terminal's settled transactions that were frauds, and whether its newest was one (then 0)."""
    last_fraud = c["terminal_ordinary_fraud_chargebacks_seconds_since_last_30d"]
    return {
        **{
            f"terminal_ordinary_fraud_rate_{w}": ratio(c[_FRAUDS.format(w)], c[_SETTLED.format(w)])
            for w in _RATE_WINDOWS
        },
        "terminal_newest_settled_minus_fraud_s": last_fraud
        - c["terminal_settled_transactions_seconds_since_last_30d"],
    }
