"""Champion and challenger on the same transactions: what is compared, whoever decided, counted by hand."""

import pytest

from monitoring.comparison import compare, pairs

NUMBERS = iter(range(10**6))


def line(mine, its, *, acted="champion", arm=None, mode="shadow", **more):
    """A journalled decision; ``mine`` and ``its`` are (score, decision) of champion and challenger, None where not asked."""
    own, other = (mine, its) if acted == "champion" else (its, mine)
    versions = {"champion": "1", "challenger": "2"}
    role = "challenger" if acted == "champion" else "champion"
    beside = {"role": role, "model_version": versions[role]}
    if other is not None:
        beside |= {"score": other[0], "decision": other[1]}
    return {
        "transaction_id": f"t{next(NUMBERS)}",
        "customer_id": "c",
        "event_timestamp_us": 5,
        "request": {"amount_usd_cents": 100},
        "latency_us": 1000,
        "model_version": versions[acted],
        "score": own[0],
        "decision": own[1],
        "rollout": {"id": "r", "mode": mode, "arm": arm or acted, "share": 0.5},
        **({} if other is None else {"beside": beside}),
        **more,
    }


def found(*lines):
    return compare(pairs(lines, "1", "2"), "1", "2")


def test_both_models_are_compared_whoever_decided():
    shown = found(
        line((0.1, "approve"), (0.2, "approve")),
        line((0.8, "decline"), (0.3, "review")),
        line((0.7, "decline"), (0.9, "decline"), acted="challenger", mode="ab"),
        line((0.1, "approve"), None, mode="ab"),
    )
    assert (shown.asked, shown.failed, shown.scored) == (3, 0, 3)
    assert shown.agreement == pytest.approx(2 / 3)
    assert (shown.champion_decline_rate, shown.challenger_decline_rate) == pytest.approx((2 / 3, 1 / 3))
    assert (shown.champion_review_rate, shown.challenger_review_rate) == pytest.approx((0, 1 / 3))
    assert shown.champion_mean_score == pytest.approx(1.6 / 3)
    assert {name: arm.decisions for name, arm in shown.arms.items()} == {"champion": 3, "challenger": 1}
    assert shown.arms["challenger"].declined == 1
    assert shown.p99_ms == 1


def test_a_decline_that_was_let_through_counts_as_what_the_model_said():
    explored = {"exploration": {"decision": "decline", "draw": 0.0, "probability": 0.1, "approved": True}}
    shown = found(line((0.9, "approve"), (0.9, "decline"), **explored))
    assert (shown.agreement, shown.champion_decline_rate, shown.explored) == (1, 1, 1)


def test_where_the_challenger_did_not_answer_it_has_failed():
    shown = found(
        line((0.1, "approve"), (None, None), mode="canary", arm="challenger"),
        line((0.1, "approve"), (0.1, "approve")),
    )
    assert (shown.asked, shown.failed, shown.scored, shown.score_psi) == (2, 1, 1, 0)


def test_other_versions_and_decisions_of_no_rollout_are_left_out():
    other = line((0.1, "approve"), (0.2, "approve"))
    other["beside"]["model_version"] = "3"
    alone = line((0.1, "approve"), None)
    del alone["rollout"]
    shown = found(other, alone)
    assert (shown.asked, shown.scored, shown.agreement, shown.score_psi, shown.p99_ms) == (
        0,
        0,
        None,
        None,
        None,
    )


def test_scores_that_lie_elsewhere_are_drift_and_equal_ones_are_none():
    scores = [i / 1000 for i in range(1, 901)]
    same = found(*(line((score, "approve"), (score, "approve")) for score in scores))
    apart = found(*(line((score, "approve"), (score / 2, "approve")) for score in scores))
    assert (same.score_psi, same.band) == (0, "none")
    assert (apart.score_psi > 0.25, apart.band) == (True, "large")
