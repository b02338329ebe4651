"""How good the served scores were, on labels that have matured, and an early estimate before the rest have.

A matured decision is older than the maturity period, and its label is what ``training.labels`` says.
Intervals are bootstrap percentiles (95%) over customers, not rows: a customer's frauds come together, and
rows drawn one by one would make the interval too narrow.

The early estimate uses the chargebacks already reported for decisions that have not matured. Only a share
F(a) of the frauds of age a has been reported; F is the distribution of reporting delays of matured frauds.
Each reported fraud stands for 1 / F(a) of its kind (inverse-probability weighting, Horvitz and Thompson 1952;
over reporting delays it is the chain ladder of claims reserving), against the plain count of decisions ranked
as high. Decisions so young that less than ``MIN_REPORTED`` of their frauds can be known are left out. It
assumes that frauds are reported as fast as they were; a change of that shows as a wrong early estimate, which
the matured one then corrects.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.lake import Snapshot
from feature_repo.reason_codes import FRAUD_REASON_CODES
from monitoring import ranking
from monitoring.decisions import Decisions
from monitoring.ranking import Interval, Ranked
from training.instants import duration_us, instant_us
from training.labels import run

__all__ = ["Early", "Matured", "Performance", "Point", "measure", "reporting_delays"]

SEED = 20_180_401
# At a fifth reported each fraud stands for five: below that the estimate is a handful of early reports.
MIN_REPORTED = 0.2
# Fewer known delays than this do not make a distribution.
MIN_DELAYS = 30
# A point of the chart needs a few frauds to mean anything.
MIN_POINT_FRAUDS = 5
# Days that are drawn one by one; more than these are drawn by week.
DAILY_POINTS = 35
_DAY_US = 86_400_000_000

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Matured:
    """Decisions with matured labels; a metric that cannot be formed (one class only) is None."""

    rows: int
    frauds: int
    average_precision: Interval | None
    auc_roc: Interval | None
    recall_first_decile: Interval | None
    card_precision_100: Interval | None


@dataclass(frozen=True)
class Early:
    """Decisions old enough to estimate from, not matured: ``reported`` frauds, which stand for ``expected``.

    ``why`` says why there is no estimate, where there is none.
    """

    rows: int
    reported: int
    expected: float
    average_precision: Interval | None
    why: str | None


@dataclass(frozen=True)
class Point:
    """A stretch of event time on the chart, [start, end) in µs UTC; frauds are those reported."""

    start_us: int
    end_us: int
    rows: int
    frauds: int
    matured: Interval | None
    early: Interval | None


@dataclass(frozen=True)
class Performance:
    """All of it, as known at ``as_of_us``.

    Attributes:
        unscored: decisions without a score.
        unknown: scored, but not among the transactions of the lake.
        excluded: scored and old enough, without a label all the same: declined, so that silence acquits
        nobody.
    """

    as_of_us: int
    maturity_us: int
    matured: Matured
    early: Early
    points: tuple[Point, ...]
    unscored: int
    unknown: int
    excluded: int


@dataclass(frozen=True)
class _Rows:
    """Scored decisions; ``fraud`` as in ``Ranked``."""

    score: Floats
    fraud: Floats
    customer: Ints
    event_us: Ints

    def between(self, start_us: int, end_us: int) -> "_Rows":
        keep = (self.event_us >= start_us) & (self.event_us < end_us)
        return _Rows(self.score[keep], self.fraud[keep], self.customer[keep], self.event_us[keep])

    @property
    def frauds(self) -> int:
        """Frauds reported, each once."""
        return int(np.count_nonzero(self.fraud))

    def ranked(self) -> Ranked:
        return ranking.rank(self.score, self.fraud, self.customer, self.event_us // _DAY_US)


def reporting_delays(chargebacks: Snapshot, *, as_of: datetime, maturity: timedelta) -> Ints:
    """Delays (µs, ascending) from transaction to first fraud report, of transactions matured at ``as_of``.

    Reports that came after the maturity period are left out: the label of their transaction did not wait for
    them.
    """
    as_of_us, maturity_us = instant_us("as_of", as_of), duration_us("maturity", maturity)
    codes = ", ".join(f"'{code}'" for code in FRAUD_REASON_CODES)
    table = run(
        "SELECT min(epoch_us(created_timestamp) - epoch_us(event_timestamp)) AS delay_us "
        f"FROM {chargebacks.sql} WHERE reason_code IN ({codes}) "
        f"AND epoch_us(event_timestamp) + {maturity_us} < {as_of_us} "
        f"AND epoch_us(created_timestamp) - epoch_us(event_timestamp) <= {maturity_us} "
        "GROUP BY transaction_id ORDER BY 1"
    )
    return cast(Ints, table["delay_us"].to_numpy().astype(np.int64))


def measure(
    decisions: Decisions,
    labels: pa.Table,
    delays_us: Ints,
    *,
    as_of: datetime,
    maturity: timedelta,
    seed: int = SEED,
) -> Performance:
    """Measure ``decisions`` against ``labels`` as known at ``as_of``.

    Args:
        labels: as ``training.labels.labels`` returns them for the decisions' range of event time.
        delays_us: as ``reporting_delays`` returns them.
        seed: of the bootstrap; the same seed gives the same intervals.
    """
    as_of_us, maturity_us = instant_us("as_of", as_of), duration_us("maturity", maturity)
    known, label = _labels_of(decisions, labels)
    age = as_of_us - decisions.event_timestamp_us
    scored, ripe = ~np.isnan(decisions.score), age > maturity_us
    share = _share_reported(age, delays_us)
    old = _rows(decisions, label, scored & known & ripe & ~np.isnan(label))
    visible = share >= MIN_REPORTED if len(delays_us) >= MIN_DELAYS else np.zeros(len(share), dtype=np.bool_)
    stands_for = np.divide(label == 1, share, out=np.zeros(len(share)), where=visible)
    young = _rows(decisions, stands_for, scored & known & ~ripe & visible)
    return Performance(
        as_of_us=as_of_us,
        maturity_us=maturity_us,
        matured=_matured(old, seed),
        early=_early(young, len(delays_us), seed),
        points=_points(old, young, seed),
        unscored=int((~scored).sum()),
        unknown=int((scored & ~known).sum()),
        excluded=int((scored & known & ripe & np.isnan(label)).sum()),
    )


def _labels_of(decisions: Decisions, labels: pa.Table) -> tuple[Bools, Floats]:
    """For each decision: whether its transaction is among ``labels``, and its label (NaN: none yet)."""
    at = {name: i for i, name in enumerate(labels["transaction_id"].to_pylist())}
    index = np.array([at.get(name, -1) for name in decisions.transaction_id], dtype=np.int64)
    known = index >= 0
    label = np.full(len(index), np.nan)
    label[known] = labels["label"].cast(pa.float64()).to_numpy()[index[known]]
    return known, label


def _share_reported(age_us: Ints, delays_us: Ints) -> Floats:
    """Share of the frauds of each age that have been reported; a report counts strictly after its instant."""
    return np.searchsorted(delays_us, age_us, side="left") / max(len(delays_us), 1)


def _rows(decisions: Decisions, fraud: Floats, keep: Bools) -> _Rows:
    customers = np.unique(np.array(decisions.customer_id, dtype=np.str_), return_inverse=True)[1].astype(
        np.int64
    )
    return _Rows(decisions.score[keep], fraud[keep], customers[keep], decisions.event_timestamp_us[keep])


def _matured(rows: _Rows, seed: int) -> Matured:
    ranked = rows.ranked()
    return Matured(
        rows=len(ranked),
        frauds=rows.frauds,
        average_precision=ranking.bootstrap(ranked, ranking.average_precision, seed=seed),
        auc_roc=ranking.bootstrap(ranked, ranking.auc_roc, seed=seed),
        recall_first_decile=ranking.bootstrap(ranked, ranking.recall_first_decile, seed=seed),
        card_precision_100=ranking.bootstrap(ranked, ranking.card_precision, seed=seed)
        if rows.frauds
        else None,
    )


def _early(rows: _Rows, delays: int, seed: int) -> Early:
    ranked = rows.ranked()
    why = None
    if delays < MIN_DELAYS:
        why = f"the reporting delays of only {delays} matured frauds are known; {MIN_DELAYS} are needed"
    elif not len(ranked):
        why = (
            f"there are none, or less than {MIN_REPORTED:.0%} of the frauds of their age are reported by now"
        )
    elif not rows.frauds:
        why = "no fraud is reported yet"
    estimate = None if why else ranking.bootstrap(ranked, ranking.average_precision, seed=seed)
    return Early(len(ranked), rows.frauds, float(rows.fraud.sum()), estimate, why)


def _points(old: _Rows, young: _Rows, seed: int) -> tuple[Point, ...]:
    """Average precision by day, or by week where days would be too many."""
    days = np.concatenate([old.event_us, young.event_us]) // _DAY_US
    if not days.size:
        return ()
    first, last = int(days.min()), int(days.max())
    width = 1 if last - first < DAILY_POINTS else 7
    starts = range(first, last + 1, width)
    return tuple(_point(old, young, day * _DAY_US, (day + width) * _DAY_US, seed) for day in starts)


def _point(old: _Rows, young: _Rows, start_us: int, end_us: int, seed: int) -> Point:
    matured, early = old.between(start_us, end_us), young.between(start_us, end_us)
    return Point(
        start_us=start_us,
        end_us=end_us,
        rows=len(matured.score) + len(early.score),
        frauds=matured.frauds + early.frauds,
        matured=_estimate(matured, seed),
        early=_estimate(early, seed),
    )


def _estimate(rows: _Rows, seed: int) -> Interval | None:
    if rows.frauds < MIN_POINT_FRAUDS:
        return None
    return ranking.bootstrap(rows.ranked(), ranking.average_precision, seed=seed)
