"""The verdict as a function of measurements: what it asks for, and what holds retraining back."""

from dataclasses import replace

import pytest

from monitoring.drift import Band, Drift
from monitoring.ranking import Interval
from monitoring.verdict import Measurements, judge


def drift(name: str, band: Band, psi: float = 0.0) -> Drift:
    return Drift(name, 1000, psi, 0.01, 0.02, band, 0.0, 0.0, 0.0, 0.0)


QUIET = Measurements(
    decisions=10_000,
    degraded_share=0.0,
    features=tuple(drift(f"f{i}", "none") for i in range(10)),
    score=drift("score", "none"),
    frauds=200,
    average_precision=Interval(0.70, 0.65, 0.75),
    early=None,
    reference=0.71,
    mismatches=0,
)


def drifted(count: int, band: Band = "large") -> tuple[Drift, ...]:
    """Ten features of which ``count`` are in ``band``."""
    return tuple(drift(f"f{i}", band if i < count else "none", 1.0 + i) for i in range(10))


def test_when_nothing_is_wrong_the_verdict_is_ok_and_says_why() -> None:
    verdict = judge(QUIET)
    assert verdict.level == "ok"
    assert "average precision on matured labels (200 frauds) 0.700 (0.650 to 0.750), 0.710" in " ".join(
        verdict.reasons
    )


def test_no_decisions_are_to_be_watched() -> None:
    assert judge(replace(QUIET, decisions=0)).level == "watch"


def test_a_drop_beyond_material_and_beyond_chance_asks_for_retraining() -> None:
    verdict = judge(replace(QUIET, average_precision=Interval(0.60, 0.55, 0.65)))
    assert verdict.level == "retrain"
    assert verdict.reasons[0].startswith("average precision on matured labels")


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (Interval(0.60, 0.50, 0.72), "watch"),  # material, perhaps by chance
        (Interval(0.66, 0.65, 0.67), "ok"),  # certain, not material
        (Interval(0.638, 0.55, 0.709), "retrain"),  # 0.71 less more than a tenth
        (Interval(0.638, 0.55, 0.710), "watch"),
    ],
)
def test_both_size_and_certainty_of_a_drop_count(found: Interval, level: str) -> None:
    assert judge(replace(QUIET, average_precision=found)).level == level


def test_a_drop_on_few_frauds_accuses_nobody() -> None:
    verdict = judge(replace(QUIET, frauds=29, average_precision=Interval(0.1, 0.05, 0.15)))
    assert verdict.level == "ok"
    assert "performance is not known yet: 29 matured frauds" in verdict.reasons


def test_without_a_reference_performance_accuses_nobody() -> None:
    assert judge(replace(QUIET, reference=None, average_precision=Interval(0.1, 0.05, 0.15))).level == "ok"


def test_a_low_early_estimate_is_to_be_watched_but_retrains_nothing() -> None:
    assert judge(replace(QUIET, early=Interval(0.3, 0.25, 0.35))).level == "watch"


def test_one_drifted_feature_is_to_be_watched_and_named() -> None:
    verdict = judge(replace(QUIET, features=drifted(1)))
    assert verdict.level == "watch"
    assert verdict.reasons[0] == "1 of 10 features drifted by PSI: f0 1.00"


def test_moderate_drift_of_features_alone_is_ok() -> None:
    assert judge(replace(QUIET, features=drifted(10, "some"))).level == "ok"


def test_drift_of_score_and_many_features_retrains_only_while_labels_cannot_say() -> None:
    moved = replace(QUIET, features=drifted(2), score=drift("score", "large", 0.4))
    assert judge(moved).level == "watch"
    assert judge(replace(moved, frauds=0, average_precision=None)).level == "retrain"


def test_drift_of_the_score_with_few_features_is_to_be_watched() -> None:
    moved = replace(QUIET, features=drifted(1), score=drift("score", "large", 0.4))
    assert judge(replace(moved, frauds=0, average_precision=None)).level == "watch"


def test_an_outage_of_the_model_is_to_be_watched() -> None:
    assert judge(replace(QUIET, degraded_share=0.011)).level == "watch"
    assert judge(replace(QUIET, degraded_share=0.010)).level == "ok"


def test_broken_parity_is_to_be_watched_and_holds_retraining_back() -> None:
    assert judge(replace(QUIET, mismatches=1)).level == "watch"
    verdict = judge(replace(QUIET, mismatches=1, average_precision=Interval(0.3, 0.2, 0.4)))
    assert verdict.level == "watch"
    assert "retraining waits until parity holds" in verdict.reasons[-1]


def test_parity_never_audited_is_said() -> None:
    assert "parity was not audited" in judge(replace(QUIET, mismatches=None)).reasons
