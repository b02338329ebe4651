"""``fraud monitor``: how the served model is doing, as a report and a verdict in ``FRAUD_HOME/monitor``."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from feature_repo.journal import read_decisions
from feature_repo.settings import Settings, settings
from monitoring.decisions import collect
from monitoring.drift import as_profile
from monitoring.report import MonitorReport, write
from monitoring.run import Model
from monitoring.run import monitor as measure
from pipelines import parity
from pipelines.load_journal import load_journal
from pipelines.model_runs import origin
from pipelines.outcomes import latest, stamp
from pipelines.progress import Progress, quiet
from pipelines.train import known_until
from training.bundle import Bundle
from training.registry import MODEL_NAME, load_champion

__all__ = ["FOLDER", "MonitorRun", "monitor"]

FOLDER = "monitor"
PROFILE = "profile.json"


@dataclass(frozen=True)
class MonitorRun:
    """A report and the two files that hold it."""

    report: MonitorReport
    json: Path
    html: Path

    def summary(self) -> str:
        """The verdict with its reasons, in a few lines."""
        verdict = self.report.verdict
        return "\n".join(
            [verdict.level, *(f"  {reason}" for reason in verdict.reasons), f"written to {self.html}"]
        )


def monitor(
    *,
    as_of: datetime | None = None,
    maturity: timedelta | None = None,
    progress: Progress = quiet,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> MonitorRun:
    """Measure the champion on this deployment's journal and lake, judge, and write the report.

    The service's recorded events are loaded into the lake first, so that their chargebacks count.

    Args:
        as_of: labels and chargebacks count as known then (default: the moment after the last event that the
        lake
            knows, so that a replay of the past is judged as of its own time).
        maturity: age at which silence means genuine (default: that of the champion's training set).
        clock: names the report.

    Raises:
        LookupError: there is no champion.
        FileNotFoundError: there is no lake, or the champion has no profile.
    """
    here = settings()
    now = clock()
    load_journal(here.journal, here.lake, progress=progress)
    bundle, version = load_champion()
    made = origin(bundle, version)
    progress("monitor", 1, 3)
    decisions = collect(read_decisions(here.journal))
    progress("monitor", 2, 3)
    report = measure(
        decisions,
        Model(MODEL_NAME, version, as_profile(_profile(bundle, version)), made.average_precision),
        here.lake,
        as_of=as_of or known_until(here.lake),
        maturity=maturity or made.maturity,
        mismatches=_mismatches(here),
    )
    data, page = write(report, here.home / FOLDER, stamp(now))
    progress("monitor", 3, 3)
    return MonitorRun(report, data, page)


def _profile(bundle: Bundle, version: str) -> Any:
    path = bundle.folder / PROFILE
    if not path.is_file():
        raise FileNotFoundError(
            f"model {MODEL_NAME} version {version}: its bundle has no {PROFILE}, so drift has nothing to be "
            "compared with; train it again (fraud train)"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def _mismatches(here: Settings) -> int | None:
    """Values and scores that differed in the last parity audit."""
    found = latest(here.home / parity.FOLDER)
    if found is None:
        return None
    reports = [found[1], found[1].get("beside") or {}]
    return sum(int(each.get(name, 0)) for each in reports for name in ("mismatches", "score_mismatches"))
