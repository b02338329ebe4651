"""Metrics of ranked scores with a weight a row, and their bootstrap intervals.

With all weights 1 each is the metric of the same name in ``training.evaluation``; weights let a bootstrap
draw customers without copying rows, and let one reported fraud stand for several that are not reported yet.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "Interval",
    "Ranked",
    "auc_roc",
    "average_precision",
    "bootstrap",
    "card_precision",
    "rank",
    "recall_first_decile",
]

DRAWS = 200
TOP = 100

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Weighted = Callable[[Floats], float]
"""A metric of fixed rows: from float64 weights, one a row, to its value (NaN where it cannot be formed)."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Ranked:
    """Rows from the highest score to the lowest; equal scores by customer.

    Attributes:
        fraud: how many frauds a row stands for: 0, 1, or more where others of its kind are not reported yet.
        customer: codes from 0. ``day``: day numbers.
    """

    score: Floats
    fraud: Floats
    customer: Ints
    day: Ints

    def __len__(self) -> int:
        return len(self.score)


def rank(score: Floats, fraud: Floats, customer: Ints, day: Ints) -> Ranked:
    """Put rows in order; customers become codes from 0 in the order of their numbers."""
    order = np.lexsort((customer, -score))
    codes = np.unique(customer, return_inverse=True)[1].astype(np.int64)
    return Ranked(score[order], fraud[order], codes[order], day[order])


def average_precision(rows: Ranked) -> Weighted:
    """Average precision, equal scores as one step."""
    cumulate = _cumulate(rows)

    def metric(weight: Floats) -> float:
        frauds, decisions = cumulate(weight)
        if not frauds[-1]:
            return float("nan")
        # A fraud that stands for several may outweigh the few rows above it.
        precision = np.minimum(
            1, np.divide(frauds, decisions, out=np.zeros_like(frauds), where=decisions > 0)
        )
        return float(np.sum(np.diff(frauds, prepend=0) * precision) / frauds[-1])

    return metric


def auc_roc(rows: Ranked) -> Weighted:
    """Chance that a fraud scores above a genuine row, ties counting half."""
    cumulate = _cumulate(rows)

    def metric(weight: Floats) -> float:
        frauds, decisions = cumulate(weight)
        genuine = decisions - frauds
        if not frauds[-1] or not genuine[-1]:
            return float("nan")
        higher = np.concatenate([[0.0], frauds[:-1]])
        return float(np.sum(np.diff(genuine, prepend=0) * (frauds + higher) / 2) / (frauds[-1] * genuine[-1]))

    return metric


def recall_first_decile(rows: Ranked) -> Weighted:
    """Share of the frauds in the tenth of the rows (rounded up) that score highest, ties by their mean."""
    cumulate = _cumulate(rows)

    def metric(weight: Floats) -> float:
        frauds, decisions = cumulate(weight)
        if not frauds[-1]:
            return float("nan")
        top = np.ceil(decisions[-1] / 10)
        return float(np.interp(top, np.append(0, decisions), np.append(0, frauds)) / frauds[-1])

    return metric


def card_precision(rows: Ranked, top: int = TOP) -> Weighted:
    """Precision of a day's ``top`` highest customers, less those found on earlier days; mean over days."""
    customers = int(rows.customer.max()) + 1
    days = [_cards(rows, np.flatnonzero(rows.day == day)) for day in np.unique(rows.day)]

    def metric(weight: Floats) -> float:
        found = np.zeros(customers, dtype=np.bool_)
        precisions = []
        for first, fraud in days:
            kept = ~found[rows.customer[first]]
            cards, times = first[kept], weight[first[kept]]
            taken = np.clip(top - (np.cumsum(times) - times), 0, times)
            detected = fraud[kept] & (taken > 0)
            found[rows.customer[cards[detected]]] = True
            precisions.append(taken[detected].sum() / top)
        return float(np.mean(precisions))

    return metric


def bootstrap(rows: Ranked, metric: Callable[[Ranked], Weighted], *, seed: int) -> Interval | None:
    """The metric and its percentiles over draws of customers with replacement; None without a value."""
    if not len(rows):
        return None
    weighted = metric(rows)
    value = weighted(np.ones(len(rows)))
    if np.isnan(value):
        return None
    rng = np.random.default_rng(seed)
    customers = int(rows.customer.max()) + 1
    draws = (np.bincount(rng.integers(0, customers, customers), minlength=customers) for _ in range(DRAWS))
    drawn = np.array([weighted(times[rows.customer].astype(np.float64)) for times in draws])
    formed = drawn[~np.isnan(drawn)]
    low, high = np.quantile(formed, [0.025, 0.975]) if formed.size else (value, value)
    return Interval(value, float(low), float(high))


def _cumulate(rows: Ranked) -> Callable[[Floats], tuple[Floats, Floats]]:
    """Weighted frauds and rows at or above each distinct score, from the highest."""
    last = np.append(rows.score[1:] != rows.score[:-1], True)
    return lambda weight: (np.cumsum(weight * rows.fraud)[last], np.cumsum(weight)[last])


def _cards(rows: Ranked, of_day: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Each customer's first row of a day in order of rank, and whether any of its rows that day is fraud."""
    cards, first, code = np.unique(rows.customer[of_day], return_index=True, return_inverse=True)
    fraud = np.zeros(len(cards), dtype=np.bool_)
    np.logical_or.at(fraud, code, rows.fraud[of_day] > 0)
    order = np.argsort(first)
    return of_day[first[order]], fraud[order]
