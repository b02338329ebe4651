"""Rules a person can read: an ordered list, of which the first that holds gives the fraud rate.

They are the baseline that a model has to beat, and, learned from the request's columns alone, what decides
when the model or its features cannot answer. A list is data: it is saved as JSON with the model.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["REQUEST_COLUMNS", "Rule", "RuleList", "fit_rules", "request_columns"]

FloatArray = npt.NDArray[np.float64]
LabelArray = npt.NDArray[np.int8]

REQUEST_COLUMNS: Final = ("amount_usd_cents", "hour_utc")
"""What rules without features may look at."""

_MAX_RULES: Final = 8
_MIN_ROWS: Final = 25
_MIN_FRAUDS: Final = 5
# More thresholds find no better rules on the data tried, and fewer miss the rare extremes that fraud lives
# in.
_QUANTILES: Final = np.array([0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999])


@dataclass(frozen=True)
class Rule:
    """``feature >= threshold`` (or ``<`` where ``above`` is false) means fraud at this rate; a null holds in
    neither.
    """

    feature: str
    above: bool
    threshold: float
    rate: float

    def holds(self, column: FloatArray) -> npt.NDArray[np.bool_]:
        """Where the rule holds."""
        return column >= self.threshold if self.above else column < self.threshold

    def __str__(self) -> str:
        return f"{self.feature} {'>=' if self.above else '<'} {self.threshold:g}: {self.rate:.1%}"


@dataclass(frozen=True)
class RuleList:
    """Rules in their order, and the fraud rate where none holds."""

    rules: tuple[Rule, ...]
    otherwise: float

    def rate(self, columns: Mapping[str, FloatArray]) -> FloatArray:
        """The fraud rate of the first rule that holds, for each row; at least one column must be given."""
        rows = len(next(iter(columns.values())))
        result, open_rows = np.full(rows, self.otherwise), np.ones(rows, np.bool_)
        for rule in self.rules:
            hit = open_rows & rule.holds(columns[rule.feature])
            result[hit] = rule.rate
            open_rows &= ~hit
        return result

    def first(self, columns: Mapping[str, FloatArray]) -> Rule | None:
        """The first rule that holds for the only row of ``columns``."""
        return next((rule for rule in self.rules if rule.holds(columns[rule.feature])[0]), None)

    def as_dict(self) -> dict[str, Any]:
        """The list as JSON-ready data."""
        return {"rules": [asdict(rule) for rule in self.rules], "otherwise": self.otherwise}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "RuleList":
        """The inverse of ``as_dict``."""
        return cls(tuple(Rule(**rule) for rule in data["rules"]), float(data["otherwise"]))


def request_columns(amount_usd_cents: npt.NDArray[np.int64], event_us: npt.NDArray[np.int64]) -> FloatArray:
    """float64[rows, 2] in the order of ``REQUEST_COLUMNS``."""
    return np.column_stack([amount_usd_cents, event_us // 3_600_000_000 % 24]).astype(np.float64)


def fit_rules(values: FloatArray, labels: LabelArray, names: tuple[str, ...]) -> RuleList:
    """Learn a list: rule by rule, the one that explains most (in log loss) of the rows not covered yet.

    Only rules for a higher fraud rate than that of the open rows are taken, with at least 25 rows and 5
    frauds. Thresholds are quantiles, taken over all rows. Rates are smoothed by one fraud among two rows.
    """
    thresholds = [_thresholds(values[:, i]) for i in range(len(names))]
    bins = [_bins(values[:, i], thresholds[i]) for i in range(len(names))]
    rules: list[Rule] = []
    open_rows = np.ones(len(labels), np.bool_)
    while len(rules) < _MAX_RULES:
        rule = _best_rule(bins, thresholds, labels, open_rows, names)
        if rule is None:
            break
        rules.append(rule)
        open_rows &= ~rule.holds(values[:, names.index(rule.feature)])
    return RuleList(tuple(rules), _rate(float(labels[open_rows].sum()), float(open_rows.sum())))


def _thresholds(column: FloatArray) -> FloatArray:
    present = column[~np.isnan(column)]
    return np.unique(np.quantile(present, _QUANTILES)) if len(present) else np.empty(0)


def _bins(column: FloatArray, thresholds: FloatArray) -> npt.NDArray[np.int64]:
    """How many thresholds lie at or below each value; one bin more for nulls."""
    bins = np.searchsorted(thresholds, column, side="right")
    return np.where(np.isnan(column), len(thresholds) + 1, bins)


def _rate(frauds: float, rows: float) -> float:
    return (frauds + 1.0) / (rows + 2.0)


def _best_rule(
    bins: list[npt.NDArray[np.int64]],
    thresholds: list[FloatArray],
    labels: LabelArray,
    open_rows: npt.NDArray[np.bool_],
    names: tuple[str, ...],
) -> Rule | None:
    best: tuple[float, Rule] | None = None
    total, frauds = float(open_rows.sum()), float(labels[open_rows].sum())
    for name, codes, edges in zip(names, bins, thresholds, strict=True):
        size = len(edges) + 2
        counted = codes[open_rows]
        rows = np.bincount(counted, minlength=size)[:-1]
        bad = np.bincount(counted, weights=labels[open_rows], minlength=size)[:-1]
        for above in (True, False):
            # Values at or above edge i lie in bins i+1 and up; those below it in bins 0 to i.
            hit_rows = rows[::-1].cumsum()[::-1][1:] if above else rows.cumsum()[:-1]
            hit_bad = bad[::-1].cumsum()[::-1][1:] if above else bad.cumsum()[:-1]
            gain = _gain(hit_rows, hit_bad, total, frauds)
            if len(gain) and gain.max() > (best[0] if best else 0.0):
                i = int(gain.argmax())
                rate = _rate(float(hit_bad[i]), float(hit_rows[i]))
                best = (float(gain[i]), Rule(name, above, float(edges[i]), rate))
    return best[1] if best else None


def _gain(rows: npt.NDArray[Any], frauds: npt.NDArray[Any], total: float, all_frauds: float) -> FloatArray:
    """Log loss that splitting off these rows saves; 0 where the split is not allowed."""
    allowed = (rows >= _MIN_ROWS) & (frauds >= _MIN_FRAUDS) & (frauds * total > all_frauds * rows)
    saved = _loss(all_frauds, total) - _loss(frauds, rows) - _loss(all_frauds - frauds, total - rows)
    result: FloatArray = np.where(allowed, saved, 0.0)
    return result


def _loss(frauds: Any, rows: Any) -> Any:
    rate = np.clip(frauds / np.maximum(rows, 1), 1e-12, 1 - 1e-12)
    return -(frauds * np.log(rate) + (rows - frauds) * np.log1p(-rate))
