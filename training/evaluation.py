"""How good scores are: average precision first, since fraud is rare and accuracy means nothing.

===================== =============================================================================================
average_precision     area under precision over recall, as sklearn's (no interpolation); ties count as one step
auc_roc               chance that a fraud scores above a genuine transaction
card_precision_100    each test day every card has its highest score (and is fraudulent if any of its transactions of
                      the day is); the precision of the 100 highest cards; cards found on earlier days are
                      removed; mean over the days. As the Fraud Detection Handbook, chapter 4.5
recall_first_decile   share of the frauds among the tenth of the transactions with the highest scores
brier, log_loss       of the scores as probabilities
===================== =============================================================================================
"""

from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score

from training.splits import PROTOCOLS, Fold

__all__ = [
    "LEAK_CEILING",
    "Evaluation",
    "LeakError",
    "average_precision",
    "card_precision",
    "evaluate",
    "guard_against_leak",
    "mean_evaluation",
    "recall_first_decile",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
LabelArray = npt.NDArray[np.int8]

LEAK_CEILING: Final[dict[Fold, float]] = {PROTOCOLS["week"][0]: 0.79}
"""Average precision that no honest model passes: the Handbook simulator's own rules, known fully, give .777
there.
"""


class LeakError(ValueError):
    """A result too good to be honest: some feature knows the label."""


@dataclass(frozen=True)
class Evaluation:
    """The measures of the module's table; ``rows`` and ``frauds`` are counts (means over folds may be
    fractions).
    """

    rows: float
    frauds: float
    auc_roc: float
    average_precision: float
    card_precision_100: float
    recall_first_decile: float
    brier: float
    log_loss: float

    def as_dict(self) -> dict[str, float]:
        """The measures by name."""
        return asdict(self)


def evaluate(labels: LabelArray, scores: FloatArray, *, customers: IntArray, days: IntArray) -> Evaluation:
    """Measure scores (probabilities) against labels (1, 0).

    Args:
        labels: 1 or 0.
        scores: higher is more suspicious.
        customers: codes of the cards; ties of scores go to the smaller code.
        days: day numbers.

    Raises:
        ValueError: there is no fraud or no genuine row, or a score is not a number.
    """
    if not np.isfinite(scores).all():
        raise ValueError(
            f"evaluate: {int((~np.isfinite(scores)).sum())} scores are not finite; the model is broken"
        )
    if len(np.unique(labels)) != 2:
        raise ValueError(
            f"evaluate: {len(labels)} rows of one class only; both fraud and genuine rows are needed"
        )
    clipped = np.clip(scores, 1e-15, 1 - 1e-15)
    return Evaluation(
        rows=len(labels),
        frauds=int(labels.sum()),
        auc_roc=float(roc_auc_score(labels, scores)),
        average_precision=average_precision(labels, scores),
        card_precision_100=card_precision(labels, scores, customers=customers, days=days),
        recall_first_decile=recall_first_decile(labels, scores),
        brier=float(np.mean((scores - labels) ** 2)),
        log_loss=float(-np.mean(np.where(labels == 1, np.log(clipped), np.log1p(-clipped)))),
    )


def average_precision(labels: LabelArray, scores: FloatArray) -> float:
    """Average precision; equal scores count as one step, so the order of rows does not matter."""
    return float(average_precision_score(labels, scores))


def recall_first_decile(labels: LabelArray, scores: FloatArray) -> float:
    """Share of the frauds among the tenth (rounded up) of the rows with the highest scores.

    Rows tied at the boundary count by their mean, so the order of rows does not matter.
    """
    top = -(-len(scores) // 10)
    boundary = np.partition(scores, len(scores) - top)[len(scores) - top]
    above, tied = scores > boundary, scores == boundary
    found = labels[above].sum() + labels[tied].mean() * (top - above.sum())
    return float(found / labels.sum())


def card_precision(
    labels: LabelArray, scores: FloatArray, *, customers: IntArray, days: IntArray, top: int = 100
) -> float:
    """Card precision at ``top``, as the module's table says; the precision is over ``top`` even on days of
    fewer cards.
    """
    found = np.zeros(int(customers.max()) + 1, np.bool_)
    precisions = []
    for day in np.unique(days):
        rows = (days == day) & ~found[customers]
        cards, codes = np.unique(customers[rows], return_inverse=True)
        score = np.full(len(cards), -np.inf)
        fraud = np.zeros(len(cards), np.int8)
        np.maximum.at(score, codes, scores[rows])
        np.maximum.at(fraud, codes, labels[rows])
        highest = np.lexsort((cards, -score))[:top]
        detected = cards[highest[fraud[highest] == 1]]
        found[detected] = True
        precisions.append(len(detected) / top)
    return float(np.mean(precisions))


def mean_evaluation(evaluations: list[Evaluation]) -> Evaluation:
    """The plain mean of each measure over folds."""
    names = evaluations[0].as_dict()
    return Evaluation(**{name: float(np.mean([getattr(e, name) for e in evaluations])) for name in names})


def guard_against_leak(fold: Fold, evaluation: Evaluation) -> None:
    """Refuse a result above the ceiling of the fold's test rows, if one is known.

    Raises:
        LeakError: the average precision is above ``LEAK_CEILING[fold]``.
    """
    ceiling = LEAK_CEILING.get(fold)
    if ceiling is not None and evaluation.average_precision > ceiling:
        raise LeakError(
            f"test from {fold.test_start:%Y-%m-%d}: average precision {evaluation.average_precision:.4f} is above "
            f"{ceiling}, which no honest model can reach on these data: a feature knows the label. Check that "
            "chargebacks count only from their report on, and that no window holds the scored transaction"
        )
