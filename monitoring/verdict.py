"""The verdict: ``ok``, ``watch`` or ``retrain``, with reasons; a pure function of what was measured.

``watch`` asks for a person, ``retrain`` for a challenger. Retraining is advised for what it can mend: a model
whose matured performance has really dropped or, before labels can say, a score and many features that have
left the training distribution. What it cannot mend holds it back: while served features differ from the
recomputed ones, drift and performance describe a fault of the pipeline, and a model fitted now would learn
around it.
"""

from dataclasses import dataclass
from typing import Literal

from monitoring.drift import Drift
from monitoring.ranking import Interval

__all__ = ["Level", "Measurements", "Verdict", "judge"]

Level = Literal["ok", "watch", "retrain"]

# With 30 frauds the 95% interval of an average precision of .79 is about .3 wide, with 120 .17, with 600 .08
# (measured on the Handbook's data): below 30 it neither accuses nor acquits.
MIN_FRAUDS = 30
# One model's average precision over four successive weeks of the same data was .772 to .802: a tenth less is
# a change.
MATERIAL_DROP = 0.10
# One drifted feature is a broken feed or a fashion; a fifth of them at once is another population.
DRIFTED_SHARE = 0.20
# One decision in a hundred without the model is an outage of the model, no longer a restart.
DEGRADED_SHARE = 0.01
NAMED = 5


@dataclass(frozen=True)
class Measurements:
    """What the verdict is made from.

    Attributes:
        features: drift of the judged features; ``score``: that of the score, None if no decision has one.
        frauds: matured frauds behind ``average_precision``, which is None where it cannot be formed.
        early: average precision estimated from chargebacks reported before maturity.
        reference: the champion's average precision on its test rows; None if it recorded none.
        mismatches: values of the last parity audit that differ; None without an audit.
    """

    decisions: int
    degraded_share: float
    features: tuple[Drift, ...]
    score: Drift | None
    frauds: int
    average_precision: Interval | None
    early: Interval | None
    reference: float | None
    mismatches: int | None


@dataclass(frozen=True)
class Verdict:
    """The level, and why: at least one reason, the weightiest first."""

    level: Level
    reasons: tuple[str, ...]


Finding = tuple[Level, str]


def judge(measured: Measurements) -> Verdict:
    """The highest level that any finding asks for; ``retrain`` becomes ``watch`` while parity is broken."""
    if not measured.decisions:
        return Verdict("watch", ("no decisions were journalled: there is nothing to judge",))
    findings = [*_parity(measured), *_service(measured), *_performance(measured), *_drift(measured)]
    rank: dict[Level, int] = {"retrain": 0, "watch": 1, "ok": 2}
    findings.sort(key=lambda finding: rank[finding[0]])
    level = findings[0][0]
    reasons = tuple(text for _, text in findings)
    if level == "retrain" and measured.mismatches:
        return Verdict(
            "watch", (*reasons, "retraining waits until parity holds: it would learn from wrong values")
        )
    return Verdict(level, reasons)


def _parity(measured: Measurements) -> list[Finding]:
    if measured.mismatches is None:
        return [("ok", "parity was not audited")]
    if measured.mismatches:
        return [
            ("watch", f"parity: {measured.mismatches:,} journalled values differ from the recomputed ones")
        ]
    return [("ok", "parity holds")]


def _service(measured: Measurements) -> list[Finding]:
    share = f"{measured.degraded_share:.2%} of {measured.decisions:,} decisions were taken without the model"
    return [("watch" if measured.degraded_share > DEGRADED_SHARE else "ok", share)]


def _performance(measured: Measurements) -> list[Finding]:
    findings: list[Finding] = []
    matured = _measurable(measured)
    if matured is None:
        findings.append(("ok", f"performance is not known yet: {measured.frauds:,} matured frauds"))
    else:
        what = f"average precision on matured labels ({measured.frauds:,} frauds)"
        findings.append(_compared(what, matured, measured.reference, "retrain"))
    if measured.early is not None:
        what = "early estimate of average precision"
        findings.append(_compared(what, measured.early, measured.reference, "watch"))
    return findings


def _measurable(measured: Measurements) -> Interval | None:
    return measured.average_precision if measured.frauds >= MIN_FRAUDS else None


def _compared(what: str, found: Interval, reference: float | None, sure: Level) -> Finding:
    """``sure`` if the drop is material and beyond the interval, watch if only material."""
    text = f"{what} {found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
    if reference is None:
        return "ok", f"{text}; the model recorded no reference"
    text = f"{text}, {reference:.3f} when it was trained"
    if found.value >= reference * (1 - MATERIAL_DROP):
        return "ok", text
    return (sure, text) if found.high < reference else ("watch", f"{text}: lower, perhaps by chance")


def _drift(measured: Measurements) -> list[Finding]:
    large = sorted((d for d in measured.features if d.band == "large"), key=lambda d: -d.psi)
    share = len(large) / len(measured.features) if measured.features else 0.0
    named = ", ".join(f"{d.name} {d.psi:.2f}" for d in large[:NAMED]) + (
        ", ..." if len(large) > NAMED else ""
    )
    features = f"{len(large)} of {len(measured.features)} features drifted by PSI" + (
        f": {named}" if large else ""
    )
    findings: list[Finding] = [("watch" if large else "ok", features)]
    if measured.score is not None:
        text = f"PSI of the score is {measured.score.psi:.3f}"
        findings.append(("ok" if measured.score.band == "none" else "watch", text))
        if measured.score.band == "large" and share >= DRIFTED_SHARE and _measurable(measured) is None:
            why = "score and many features left the training distribution, and no matured label acquits them"
            findings.append(("retrain", why))
    return findings
