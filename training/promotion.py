"""Champion or challenger: both judged on the same rows, and replaced only by what is better beyond chance.

The difference of average precision and of cost is bootstrapped over cards (all rows of a card are drawn
together, since they are not independent), the same draws for both models.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from training.bundle import Bundle
from training.policy import costs_cents
from training.splits import Rows

__all__ = ["Judgement", "judge", "judge_bundles"]

FloatArray = npt.NDArray[np.float64]
LabelArray = npt.NDArray[np.int8]

CONFIDENCE: Final = 0.9
"""Share of the draws in which the challenger must rank better: a wrong swap costs a rollout, a missed one a
week.
"""

_DRAWS: Final = 400


@dataclass(frozen=True)
class Judgement:
    """Whether to promote, why, and what it rests on; costs in dollars, intervals from the 5th to the 95th per
    cent.
    """

    promote: bool
    reason: str
    rows: int
    frauds: int
    champion_average_precision: float
    challenger_average_precision: float
    average_precision_gain: tuple[float, float]
    share_of_draws_better: float
    champion_cost_usd: float
    challenger_cost_usd: float
    cost_saving_usd: tuple[float, float]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)


def judge_bundles(
    champion: Bundle,
    challenger: Bundle,
    rows: Rows,
    champion_values: FloatArray,
    challenger_values: FloatArray,
    *,
    seed: int = 7,
) -> Judgement:
    """Score the same labelled rows with both bundles, each on its own features, and ``judge``.

    Each decides by its own policy; what a decision cost is counted by the champion's, so that both are
    measured alike.
    """
    scores = champion.score(champion_values), challenger.score(challenger_values)
    amounts = rows.amounts_usd_cents
    costs = tuple(
        costs_cents(
            champion.spec.policy, bundle.spec.policy.decide_many(score, amounts), rows.labels, amounts
        )
        for bundle, score in zip((champion, challenger), scores, strict=True)
    )
    return judge(rows.labels, rows.customers, scores[0], scores[1], costs[0], costs[1], seed=seed)


def judge(
    labels: LabelArray,
    customers: npt.NDArray[np.int64],
    champion: FloatArray,
    challenger: FloatArray,
    champion_cost_cents: FloatArray,
    challenger_cost_cents: FloatArray,
    *,
    seed: int = 7,
) -> Judgement:
    """Promote if the challenger ranks better in at least 90% of the draws and is not clearly dearer.

    «Clearly dearer» is a 95th per cent of the saving below zero.

    Args:
        labels: 1 or 0, of rows that neither model has learned from.
        customers: card codes.
        champion: the champion's scores; ``challenger`` likewise.
        champion_cost_cents: what the champion's decision on each row cost; ``challenger_cost_cents`` likewise.

    Raises:
        ValueError: no fraud, or no genuine row, among them.
    """
    if len(np.unique(labels)) != 2:
        raise ValueError(
            f"promotion: {len(labels)} rows of one class only; judge on rows with matured labels of both"
        )
    ones = np.ones(len(labels))
    ranking, other = _Ranking(labels, champion), _Ranking(labels, challenger)
    before, after = ranking.average_precision(ones), other.average_precision(ones)
    saving = champion_cost_cents - challenger_cost_cents
    gains, savings = [], []
    random = np.random.default_rng(seed)
    cards = int(customers.max()) + 1
    for _ in range(_DRAWS):
        weight = np.bincount(random.integers(0, cards, cards), minlength=cards)[customers].astype(np.float64)
        if (weight * labels).sum() == 0:
            continue
        gains.append(other.average_precision(weight) - ranking.average_precision(weight))
        savings.append(float(weight @ saving) / 100)
    better = float(np.mean(np.array(gains) > 0)) if gains else 0.0
    gain, saved = _interval(gains), _interval(savings)
    promote, reason = _verdict(after - before, better, saved)
    return Judgement(
        promote=promote,
        reason=reason,
        rows=len(labels),
        frauds=int(labels.sum()),
        champion_average_precision=before,
        challenger_average_precision=after,
        average_precision_gain=gain,
        share_of_draws_better=better,
        champion_cost_usd=float(champion_cost_cents.sum()) / 100,
        challenger_cost_usd=float(challenger_cost_cents.sum()) / 100,
        cost_saving_usd=saved,
    )


class _Ranking:
    """Rows sorted by one model's scores once, so that average precision under many weightings is cheap."""

    def __init__(self, labels: LabelArray, scores: FloatArray) -> None:
        self._order = np.argsort(-scores, kind="stable")
        ranked = scores[self._order]
        # Equal scores are one step of the curve: only a step's last row is a point of it.
        self._ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
        self._labels = labels[self._order].astype(np.float64)

    def average_precision(self, weight: FloatArray) -> float:
        """Average precision with each row counted ``weight`` times."""
        ranked = weight[self._order]
        found = np.cumsum(ranked * self._labels)[self._ends]
        seen = np.maximum(np.cumsum(ranked)[self._ends], 1e-300)
        return float(np.sum(np.diff(found, prepend=0.0) * found / seen) / found[-1])


def _interval(values: list[float]) -> tuple[float, float]:
    if not values:
        return (0.0, 0.0)
    low, high = np.quantile(values, [0.05, 0.95])
    return float(low), float(high)


def _verdict(gain: float, better: float, saved: tuple[float, float]) -> tuple[bool, str]:
    shown = f"average precision {gain:+.4f}, better in {better:.0%} of the draws"
    if better < CONFIDENCE:
        return False, f"the challenger is not better beyond chance: {shown}; {CONFIDENCE:.0%} are needed"
    if saved[1] < 0:
        return (
            False,
            f"the challenger ranks better but costs more: {shown}; it costs {-saved[1]:,.2f} USD more at least",
        )
    return True, f"the challenger is better: {shown}"
