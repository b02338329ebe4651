"""Running a published protocol: fit on each fold's training rows, judge on its test rows, take the mean."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.evaluation import Evaluation, evaluate, guard_against_leak, mean_evaluation
from training.models import Model, probability
from training.splits import PROTOCOLS, Fold, Rows, days_of, split

__all__ = ["ProtocolResult", "run_fold", "run_protocol"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ProtocolResult:
    """The measures of each fold and their mean; ``counts`` are (train rows, train frauds, test rows, test
    frauds).
    """

    mean: Evaluation
    folds: tuple[Evaluation, ...]
    counts: tuple[tuple[int, int, int, int], ...]


def run_protocol(
    rows: Rows,
    values: FloatArray,
    protocol: str,
    make_model: Callable[[], Model],
    progress: Callable[[str, int, int], None] | None = None,
) -> ProtocolResult:
    """Fit and judge one kind of model under a protocol of ``training.splits.PROTOCOLS``.

    Args:
        rows: of the whole range of the protocol, labelled.
        values: the same rows' features, float64[rows, features].
        make_model: a fresh model for each fold.
        progress: called with (what, folds done, folds).

    Raises:
        ValueError: the protocol is not known, or a fold has no rows in ``rows``.
        LeakError: a result too good to be honest.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol: {protocol!r} is not known; use one of {', '.join(PROTOCOLS)}")
    folds, evaluations, counts = PROTOCOLS[protocol], [], []
    for done, fold in enumerate(folds):
        model = make_model()
        evaluation, count = run_fold(rows, values, fold, model)
        evaluations.append(evaluation)
        counts.append(count)
        if progress is not None:
            progress(f"{model.name}, protocol {protocol}", done + 1, len(folds))
    return ProtocolResult(mean_evaluation(evaluations), tuple(evaluations), tuple(counts))


def run_fold(
    rows: Rows, values: FloatArray, fold: Fold, model: Model
) -> tuple[Evaluation, tuple[int, int, int, int]]:
    """Fit ``model`` on a fold and judge it: its measures, and the counts as in ``ProtocolResult``.

    Raises:
        LeakError: the result is too good to be honest.
    """
    parts = split(rows, fold)
    model.fit(values[parts.train], parts.train_labels)
    evaluation = evaluate(
        parts.test_labels,
        probability(model.margin(values[parts.test])),
        customers=rows.customers[parts.test],
        days=days_of(rows.event_us[parts.test]),
    )
    guard_against_leak(fold, evaluation)
    train, test = parts.train_labels, parts.test_labels
    return evaluation, (len(train), int(train.sum()), len(test), int(test.sum()))
