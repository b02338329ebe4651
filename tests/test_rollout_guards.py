"""Guard rails by injected traffic and clock: what trips, what does not, and that a handful proves nothing."""

import json

import numpy as np
import pytest

from bento.guards import CHECK_EVERY, Guard, Histogram, reference_scores
from monitoring.drift import build_profile
from tests.clocks import Clock
from training.rollout import Guards

FAST, SLOW = 1_000_000, 80_000_000


def scores(count, seed=0, shift=0.0):
    """Probabilities as a fraud model gives them: most very small."""
    rng = np.random.default_rng(seed)
    return (1 / (1 + np.exp(5 - rng.normal(shift, 1.5, count)))).tolist()


def run(guard, traffic):
    """The first guard that trips, and after how many transactions."""
    for number, each in enumerate(traffic, 1):
        guard.observe(*each)
        found = guard.check()
        if found is not None:
            return found, number
    return None, number


def alike(count, seed=1):
    """Both models say the same of each transaction, but for a little."""
    noise = np.random.default_rng(seed + 1).normal(0, 0.0005, count)
    return [
        ((score, "approve"), (min(1.0, max(1e-6, score + d)), "approve"), FAST)
        for score, d in zip(scores(count, seed), noise, strict=True)
    ]


def test_a_challenger_that_does_well_goes_on():
    guard = Guard(Guards(), Clock())
    assert run(guard, alike(30_000))[0] is None
    counts = guard.counts()
    assert counts["taken"] == counts["both"] == counts["agreed"]
    assert counts["score_psi"] < 0.05


def test_a_stall_of_many_that_share_their_time_is_one():
    slow = 10**12
    fine = [(*each[:2], FAST) for each in alike(3_000)]
    shared = [((0.1, "approve"), (0.1, "approve"), slow, 7)] * 32
    assert run(Guard(Guards(), Clock()), [*fine[:500], *shared, *fine[500:]])[0] is None
    alone = [((0.1, "approve"), (0.1, "approve"), slow)] * 32
    guard = Guard(Guards(), Clock())
    found, _ = run(guard, [*fine[:500], *alone, *fine[500:]])
    assert (found.guard, guard.tripped) == ("p99", found)


def test_a_challenger_that_always_fails_ends_after_five():
    found, after = run(Guard(Guards(), Clock()), [((0.1, "approve"), None, FAST)] * 100)
    assert (found.guard, after) == ("error rate", 5)
    assert "may be 0.01" in found.why


def test_a_few_failures_among_many_are_within_the_limit_and_many_are_not():
    def traffic(share, count=8000):
        bad = np.random.default_rng(3).random(count) < share
        return [
            (each[0], None if failed else each[1], FAST)
            for each, failed in zip(alike(count), bad, strict=True)
        ]

    assert run(Guard(Guards(), Clock()), traffic(0.005))[0] is None
    assert run(Guard(Guards(), Clock()), traffic(0.05))[0].guard == "error rate"


def test_where_the_models_are_not_to_blame_nothing_is_counted_against_them():
    guard = Guard(Guards(), Clock())
    assert run(guard, [(None, (0.1, "approve"), FAST)] * 500)[0] is None
    assert guard.counts()["both"] == 0


def test_a_slow_challenger_ends_when_its_p99_is_beyond_the_limit():
    def traffic(share, count=6000):
        late = np.random.default_rng(5).random(count) < share
        return [(*each[:2], SLOW if slow else FAST) for each, slow in zip(alike(count), late, strict=True)]

    assert run(Guard(Guards(), Clock()), traffic(0.008))[0] is None
    found, after = run(Guard(Guards(), Clock()), traffic(0.05))
    assert found.guard == "p99"
    assert "slower than 50 ms" in found.why
    assert after >= Guards().min_scored


def test_declines_beyond_twice_the_champion_s_end_it():
    def traffic(rate, count=6000):
        draws = np.random.default_rng(6).random((count, 2))
        return [
            (
                (score, "decline" if mine < 0.01 else "approve"),
                (score, "decline" if its < rate else "approve"),
                FAST,
            )
            for (score, _), (mine, its) in zip([(each[0][0], 0) for each in alike(count)], draws, strict=True)
        ]

    assert run(Guard(Guards(), Clock()), traffic(0.015))[0] is None
    assert run(Guard(Guards(), Clock()), traffic(0.06))[0].guard == "decline rate"
    assert run(Guard(Guards(max_decline_ratio=10), Clock()), traffic(0.06))[0] is None


def test_scores_that_part_from_the_champion_s_end_it():
    count = 2000
    pairs = zip(scores(count, 7), scores(count, 8, shift=2.0), strict=True)
    found, after = run(Guard(Guards(), Clock()), [((a, "approve"), (b, "approve"), FAST) for a, b in pairs])
    assert (found.guard, after) == ("score drift", 200)
    assert found.value > 0.25


def histogram(values):
    column = build_profile({"score": values})["columns"]["score"]
    return Histogram(tuple(column["edges"]), (*column["counts"], column["zero"], column["null"]))


def test_with_references_a_model_may_differ_from_the_champion_as_it_did_in_training():
    """The challenger's scores lie elsewhere, and did so on held-out rows: that is no drift."""
    count = 2000
    traffic = [
        ((a, "approve"), (b, "approve"), FAST)
        for a, b in zip(scores(count, 7), scores(count, 8, shift=2.0), strict=True)
    ]
    references = histogram(scores(5000, 9)), histogram(scores(5000, 10, shift=2.0))
    assert run(Guard(Guards(), Clock(), *references), traffic)[0] is None
    same = histogram(scores(5000, 9)), histogram(scores(5000, 10))
    assert run(Guard(Guards(), Clock(), *same), traffic)[0].guard == "score drift"


def test_what_has_changed_in_the_traffic_is_not_held_against_the_challenger():
    count = 2000
    moved = [
        ((a, "approve"), (b, "approve"), FAST)
        for a, b in zip(scores(count, 7, shift=1.5), scores(count, 8, shift=1.5), strict=True)
    ]
    references = histogram(scores(5000, 9)), histogram(scores(5000, 10))
    assert run(Guard(Guards(), Clock(), *references), moved)[0] is None


def test_what_goes_wrong_late_is_not_outvoted_by_what_went_well_before():
    clock = Clock()
    guard = Guard(Guards(), clock)
    run(guard, alike(19_000))
    clock.now = 3_600_000_000
    run(guard, alike(CHECK_EVERY))
    assert guard.counts()["taken"] == 0
    found, after = run(guard, [((0.01, "approve"), (0.01, "decline"), FAST)] * 1000)
    assert (found.guard, after) == ("decline rate", 200)


@pytest.mark.parametrize("text", [None, "{", "{}", '{"columns": {"score": {"edges": [1], "counts": []}}}'])
def test_a_bundle_that_does_not_say_how_its_scores_lay_has_no_reference(tmp_path, text):
    if text is not None:
        (tmp_path / "profile.json").write_text(text)
    assert reference_scores(tmp_path) is None


def test_the_reference_is_the_profile_s_score(tmp_path):
    values = scores(3000)
    (tmp_path / "profile.json").write_text(json.dumps(build_profile({"score": values})))
    assert reference_scores(tmp_path) == histogram(values)
