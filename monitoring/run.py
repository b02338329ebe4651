"""One run of monitoring: from journalled decisions, a model and the lake to a judged report."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from feature_repo.lake import snapshot
from monitoring import health, performance
from monitoring.calendar import WEEK_US, calendar_features, span_us
from monitoring.decisions import Decisions
from monitoring.drift import Drift, Profile, psi
from monitoring.report import MonitorReport
from monitoring.verdict import Measurements, judge
from training.instants import duration_us, from_us, instant_us
from training.labels import labels

__all__ = ["RECENT", "SCORE", "Model", "monitor"]

RECENT = timedelta(days=28)
"""How much event time before the newest decision drift and health look at: whole weeks, enough for rare values."""

# Seven days of traffic begin a little after midnight and end a little before.
_WHOLE_WEEK_US = WEEK_US - 3_600_000_000

SCORE = "score"
"""The score's name among the columns of a profile."""


@dataclass(frozen=True)
class Model:
    """What monitoring knows of a model version.

    Attributes:
        profile: of its training features and of its scores on held-out rows (column ``score``).
        reference: its average precision on its test rows, None if unknown.
    """

    name: str
    version: str
    profile: Profile
    reference: float | None


def monitor(
    decisions: Decisions,
    model: Model,
    lake: Path,
    *,
    as_of: datetime,
    maturity: timedelta,
    mismatches: int | None,
) -> MonitorReport:
    """Measure and judge.

    Drift and performance are those of ``model``'s own decisions, health that of all.

    Args:
        decisions: all that were journalled; their events are in the lake.
        as_of: labels and chargebacks are taken as known then.
        maturity: age at which a transaction without a chargeback counts as genuine.
        mismatches: of the last parity audit, None without one.
    """
    recent = _recent(decisions)
    own = decisions.take(_of(decisions, model))
    drifts, unjudged = _drift(_recent(own), model.profile)
    measured = _performance(own, lake, as_of, maturity)
    service = health.measure(recent)
    verdict = judge(
        Measurements(
            decisions=service.decisions,
            degraded_share=service.degraded_share,
            features=tuple(d for d in drifts if d.name != SCORE and d.name not in unjudged),
            score=next((d for d in drifts if d.name == SCORE), None),
            frauds=measured.matured.frauds,
            average_precision=measured.matured.average_precision,
            early=measured.early.average_precision,
            reference=model.reference,
            mismatches=mismatches,
        )
    )
    return MonitorReport(
        as_of_us=instant_us("as_of", as_of),
        model_version=model.version if len(own) else None,
        verdict=verdict,
        health=service,
        drift=tuple(drifts),
        unjudged=unjudged,
        performance=measured,
        reference=model.reference,
        mismatches=mismatches,
    )


def _of(decisions: Decisions, model: Model) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    own = (model.name, model.version)
    return np.array([each == own for each in decisions.model], dtype=np.bool_)


def _recent(decisions: Decisions) -> Decisions:
    if not len(decisions):
        return decisions
    since = int(decisions.event_timestamp_us.max()) - duration_us("recent", RECENT)
    return decisions.take(decisions.event_timestamp_us > since)


def _drift(decisions: Decisions, profile: Profile) -> tuple[list[Drift], Mapping[str, str]]:
    """Drifts, the largest first and the score last; and what is not to be judged, with the reason."""
    whole = decisions.take(decisions.has_features & ~np.isnan(decisions.score))
    names = [name for name in whole.feature_names if name in profile["columns"]]
    live = dict(zip(names, whole.columns(names).T, strict=True)) | {SCORE: whole.score}
    known = {name: values for name, values in live.items() if name in profile["columns"]}
    found = sorted(psi(profile, known), key=lambda drift: (drift.name == SCORE, -drift.psi))
    if span_us(whole) >= _WHOLE_WEEK_US:
        return found, {}
    why = "follows the calendar; the decisions cover less than a week"
    return found, dict.fromkeys(sorted(calendar_features(whole) & set(names)), why)


def _performance(
    decisions: Decisions, lake: Path, as_of: datetime, maturity: timedelta
) -> performance.Performance:
    chargebacks = snapshot(lake / "chargebacks")
    times = decisions.event_timestamp_us
    first, last = (int(times.min()), int(times.max())) if len(decisions) else (0, 0)
    known = labels(
        snapshot(lake / "transactions"),
        chargebacks,
        from_us(first),
        from_us(last + 1),
        as_of=as_of,
        maturity=maturity,
    )
    delays = performance.reporting_delays(chargebacks, as_of=as_of, maturity=maturity)
    return performance.measure(decisions, known, delays, as_of=as_of, maturity=maturity)
