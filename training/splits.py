"""Splits by time, with the maturity gap between training and test; the published protocols as data.

        train_start          train_end          test_start          test_end
             |---- training ----|---- label delay ----|------ test ------|

Training rows carry the labels known strictly before ``test_start``; test rows their final ones. Both ends on
the left are closed, those on the right open.

The protocols ``week`` and ``prequential`` are those of the Fraud Detection Handbook (Le Borgne, Siblini,
Lebichot, Bontempi: Reproducible Machine Learning for Credit Card Fraud Detection, 2022, chapters 3.5 and
5.3). They remove the test rows of cards known to be defrauded: those with a fraud since ``train_start`` that
was known before the test day began. At the Handbook's delay of seven days that is the published rule: a fraud
in the training week, or, for test day k, on a day up to ``train_start + 7 + k - 1``.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from training.instants import from_us, instant_us
from training.labels import UNLABELLED, as_known_at

if TYPE_CHECKING:
    from training.dataset import Dataset

__all__ = ["DAY_US", "PROTOCOLS", "Fold", "Rows", "Split", "days_of", "split", "time_fold"]

DAY_US: Final = 86_400_000_000
_WEEK: Final = timedelta(days=7)


@dataclass(frozen=True)
class Fold:
    """Where training and test begin and end; ``remove_known_cards`` as the module says."""

    train_start: datetime
    train_end: datetime
    test_start: datetime
    test_end: datetime
    remove_known_cards: bool = False

    def __post_init__(self) -> None:
        instants = {
            name: getattr(self, name) for name in ("train_start", "train_end", "test_start", "test_end")
        }
        us = [instant_us(f"fold: {name}", instant) for name, instant in instants.items()]
        if not (us[0] < us[1] <= us[2] < us[3]):
            shown = ", ".join(f"{name} {instant.isoformat()}" for name, instant in instants.items())
            raise ValueError(
                f"fold: {shown}: they must follow each other; training ends before the test starts"
            )


def _published(start: str) -> Fold:
    begin = datetime.fromisoformat(start).replace(tzinfo=UTC)
    return Fold(begin, begin + _WEEK, begin + 2 * _WEEK, begin + 3 * _WEEK, remove_known_cards=True)


PROTOCOLS: Final[dict[str, tuple[Fold, ...]]] = {
    "week": (_published("2018-07-25"),),
    "prequential": tuple(map(_published, ("2018-08-15", "2018-08-08", "2018-08-01", "2018-07-25"))),
}
"""The Handbook's protocols: 7 days of training, 7 of delay, 7 of test."""


@dataclass(frozen=True)
class Rows:
    """What splitting and judging need of a data set, as arrays of one length.

    ``labels`` holds ``UNLABELLED`` where there is none; ``label_known_us`` is not read there. ``customers``
    are codes.
    """

    event_us: npt.NDArray[np.int64]
    customers: npt.NDArray[np.int64]
    amounts_usd_cents: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int8]
    label_known_us: npt.NDArray[np.int64]
    maturity_us: int

    @classmethod
    def of(cls, dataset: "Dataset") -> "Rows":
        """The rows of a data set, in its order."""
        return cls(
            event_us=dataset.integers("event_timestamp"),
            customers=dataset.codes("customer_id"),
            amounts_usd_cents=dataset.integers("amount_usd_cents"),
            labels=dataset.labels(),
            label_known_us=dataset.integers("label_known_timestamp"),
            maturity_us=dataset.maturity_us,
        )


@dataclass(frozen=True)
class Split:
    """Positions of the training and the test rows, each in time order of the set, and their labels (1 or 0)."""

    train: npt.NDArray[np.int64]
    train_labels: npt.NDArray[np.int8]
    test: npt.NDArray[np.int64]
    test_labels: npt.NDArray[np.int8]


def days_of(event_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """UTC days since 1970."""
    return event_us // DAY_US


def split(rows: Rows, fold: Fold) -> Split:
    """The fold's training and test rows.

    Raises:
        ValueError: a part has no rows or only one class.
    """
    start, end, test_start, test_end = (
        instant_us("fold", instant)
        for instant in (fold.train_start, fold.train_end, fold.test_start, fold.test_end)
    )
    known = as_known_at(
        rows.labels, rows.label_known_us, rows.event_us, at_us=test_start, maturity_us=rows.maturity_us
    )
    train = _within(rows.event_us, start, end) & (known != UNLABELLED)
    test = _within(rows.event_us, test_start, test_end) & (rows.labels != UNLABELLED)
    if fold.remove_known_cards:
        test &= ~_of_known_cards(rows, start)
    result = Split(
        train=np.flatnonzero(train),
        train_labels=known[train],
        test=np.flatnonzero(test),
        test_labels=rows.labels[test],
    )
    _check("training", result.train_labels, fold.train_start, fold.train_end)
    _check("test", result.test_labels, fold.test_start, fold.test_end)
    return result


def time_fold(
    first: datetime,
    last: datetime,
    *,
    test_days: int = 14,
    delay: timedelta = _WEEK,
    train_days: int | None = None,
) -> Fold:
    """The last ``test_days`` whole UTC days before ``last`` as test, the rest less ``delay`` as training.

    ``first`` and ``last`` bound the rows with labels, [first, last). ``train_days`` limits training to its
    last days.

    Raises:
        ValueError: the range is too short to leave training rows.
    """
    test_end = from_us(-(-instant_us("last", last) // DAY_US) * DAY_US)
    test_start = test_end - timedelta(days=test_days)
    train_end = test_start - delay
    train_start = first if train_days is None else max(first, train_end - timedelta(days=train_days))
    if train_start >= train_end:
        raise ValueError(
            f"time_fold: {first.isoformat()} to {last.isoformat()} is too short for {test_days} days of test after "
            f"a delay of {delay}; give a longer range or fewer test days"
        )
    return Fold(train_start, train_end, test_start, test_end)


def _within(event_us: npt.NDArray[np.int64], start: int, end: int) -> npt.NDArray[np.bool_]:
    return (event_us >= start) & (event_us < end)


def _of_known_cards(rows: Rows, since_us: int) -> npt.NDArray[np.bool_]:
    """Rows on whose day's beginning a fraud of the same card since ``since_us`` was already known."""
    fraud = (rows.labels == 1) & (rows.event_us >= since_us)
    known_since = np.full(int(rows.customers.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(known_since, rows.customers[fraud], rows.label_known_us[fraud])
    return known_since[rows.customers] < days_of(rows.event_us) * DAY_US


def _check(part: str, labels: npt.NDArray[np.int8], start: datetime, end: datetime) -> None:
    frauds = int(labels.sum())
    if frauds in (0, len(labels)):
        raise ValueError(
            f"split: the {part} part {start.isoformat()} to {end.isoformat()} has {len(labels)} labelled rows with "
            f"{frauds} frauds; both classes are needed: choose other dates, or check that chargebacks are loaded"
        )
