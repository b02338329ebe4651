"""Models, their export, calibration, rules and the decision policy."""

import json
import math
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from catboost import CatBoostClassifier
from hypothesis import given, settings
from hypothesis import strategies as st

from training.calibration import Calibration, fit_calibration
from training.evaluation import average_precision
from training.models import CatBoostModel, LogisticModel, RulesModel, probability
from training.onnx_export import _graph, export_onnx, onnx_model
from training.policy import DECISIONS, Policy, cost_report
from training.rules import REQUEST_COLUMNS, RuleList, fit_rules, request_columns

SMALL = {"iterations": 40, "depth": 4}


def drawn(rows=4000, seed=1):
    """Values with nulls, infinities near ties and huge numbers; labels that depend on the first two columns."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(rows, 6))
    values[:, 2] = np.round(values[:, 2], 1)
    values[:, 3] *= 1e9
    values[random.random(values.shape) < 0.1] = np.nan
    odds = 2 * np.nan_to_num(values[:, 0]) + np.nan_to_num(values[:, 1], nan=1.5) - 3
    return values, (random.random(rows) < probability(odds)).astype(np.int8)


@pytest.fixture(scope="module")
def fitted():
    return CatBoostModel(SMALL, threads=1).fit(*drawn())


def graph_margin(path, values):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # two threads add the trees up in another order
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"features": values.astype(np.float32).astype(np.float64)})[0][:, 0]


def model_json(model):
    with tempfile.TemporaryDirectory() as folder:
        model.classifier.save_model(f"{folder}/m.json", format="json")
        return json.loads(Path(folder, "m.json").read_text())


def test_the_onnx_graph_answers_catboosts_own_margin_to_the_bit(fitted, tmp_path):
    export_onnx(fitted.classifier, tmp_path / "m.onnx")
    values, _ = drawn(seed=2)
    assert np.array_equal(graph_margin(tmp_path / "m.onnx", values), fitted.margin(values))


def test_values_on_a_border_and_nulls_fall_to_the_same_side_in_the_graph(fitted, tmp_path):
    export_onnx(fitted.classifier, tmp_path / "m.onnx")
    floats = model_json(fitted)["features_info"]["float_features"]
    borders = [f["borders"] or [0.0] for f in floats]
    rows = [[b[i % len(b)] for b in borders] for i in range(max(map(len, borders)))]
    values = np.array([*rows, [math.nan] * 6, [3e38] * 6, [-3e38] * 6, [0.0] * 6, [-0.0] * 6])
    assert np.array_equal(graph_margin(tmp_path / "m.onnx", values), fitted.margin(values))


def test_a_model_with_categories_is_refused_for_export():
    values = np.array([["a", 1.0], ["b", 2.0]] * 50, dtype=object)
    model = CatBoostClassifier(
        iterations=2, cat_features=[0], verbose=False, allow_writing_files=False, thread_count=1
    ).fit(values, [0, 1] * 50)
    with pytest.raises(ValueError, match="train on numbers only"):
        onnx_model(model)


def test_trees_that_are_a_lone_leaf_keep_their_place_in_the_sum(tmp_path):
    model = CatBoostModel({**SMALL, "iterations": 100, "rsm": 0.2}, threads=1).fit(*drawn())
    assert any(not tree["splits"] for tree in model_json(model)["oblivious_trees"])
    export_onnx(model.classifier, tmp_path / "m.onnx")
    values, _ = drawn(seed=2)
    assert np.array_equal(graph_margin(tmp_path / "m.onnx", values), model.margin(values))


def test_a_tree_without_splits_adds_its_only_leaf(fitted, tmp_path):
    trees = model_json(fitted)
    trees["oblivious_trees"].append({"splits": None, "leaf_values": [0.25]})
    onnx.save(_graph(trees, 6), str(tmp_path / "m.onnx"))
    values, _ = drawn(500, seed=2)
    assert graph_margin(tmp_path / "m.onnx", values) == pytest.approx(fitted.margin(values) + 0.25, abs=1e-12)


def test_a_model_that_found_no_split_is_refused_for_export():
    model = CatBoostModel({"iterations": 1, "depth": 1}, threads=1)
    model.classifier.fit(np.column_stack([np.arange(50.0), np.zeros(50)]), [0, 1] * 25)
    trees = model_json(model)
    trees["oblivious_trees"] = [{"splits": [], "leaf_values": [0.3]}]
    with pytest.raises(ValueError, match="no split at all"):
        _graph(trees, 2)


def test_the_same_rows_and_seed_give_the_same_trees():
    values, labels = drawn()
    first, second = (CatBoostModel(SMALL, threads=2).fit(values, labels).margin(values) for _ in range(2))
    assert np.array_equal(first, second)


def test_every_model_learns_through_the_same_interface():
    values, labels = drawn()
    later, later_labels = drawn(seed=9)
    for model in (CatBoostModel(SMALL, threads=1), LogisticModel(), RulesModel(tuple("abcdef"))):
        margin = model.fit(values, labels).margin(later)
        assert margin.shape == (len(later),)
        assert average_precision(later_labels, margin) > 2 * later_labels.mean()


def test_logistic_regression_takes_a_column_that_is_null_everywhere():
    values, labels = drawn()
    values[:, 5] = np.nan
    assert np.isfinite(LogisticModel().fit(values, labels).margin(values)).all()


# --- calibration


def test_calibration_finds_the_slope_and_intercept_that_made_the_labels():
    random = np.random.default_rng(5)
    margin = random.normal(-3, 2, 200_000)
    labels = (random.random(len(margin)) < probability(0.6 * margin - 0.5)).astype(np.int8)
    found = fit_calibration(margin, labels)
    assert found.slope == pytest.approx(0.6, abs=0.02)
    assert found.intercept == pytest.approx(-0.5, abs=0.05)


def test_calibration_never_turns_the_ranking_round():
    margin, labels = np.linspace(-5, 5, 1000), (np.linspace(-5, 5, 1000) < -3).astype(np.int8)
    assert fit_calibration(margin, labels).slope > 0


def test_calibration_of_one_class_is_refused():
    with pytest.raises(ValueError, match="3 rows with 0 frauds"):
        fit_calibration(np.zeros(3), np.zeros(3, np.int8))


def test_a_slope_that_would_turn_the_ranking_round_is_refused():
    with pytest.raises(ValueError, match="slope must be positive"):
        Calibration(slope=-1.0)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_a_probability_has_the_same_bits_alone_and_among_others(margins):
    calibration = Calibration(1.3, -0.7)
    together = calibration.probability(np.array(margins))
    assert all(calibration.probability(np.array([m]))[0] == p for m, p in zip(margins, together, strict=True))
    assert ((together >= 0) & (together <= 1)).all()


# --- rules


def test_rules_find_the_threshold_that_separates():
    random = np.random.default_rng(4)
    values = np.column_stack([random.uniform(0, 100, 20_000), random.normal(size=20_000)])
    labels = ((values[:, 0] > 98) & (random.random(20_000) < 0.8)).astype(np.int8)
    rules = fit_rules(values, labels, ("amount", "noise"))
    first = rules.rules[0]
    assert (first.feature, first.above) == ("amount", True)
    assert first.threshold == pytest.approx(98, abs=0.3)
    assert first.rate == pytest.approx(0.8, abs=0.12)
    assert rules.otherwise < 0.002


def test_the_first_rule_that_holds_decides_and_a_null_holds_in_none():
    rules = RuleList.from_dict(
        {
            "rules": [
                {"feature": "a", "above": True, "threshold": 10.0, "rate": 0.9},
                {"feature": "a", "above": False, "threshold": 50.0, "rate": 0.2},
            ],
            "otherwise": 0.01,
        }
    )
    assert rules.rate({"a": np.array([10.0, 9.9, np.nan])}).tolist() == [0.9, 0.2, 0.01]
    assert RuleList.from_dict(json.loads(json.dumps(rules.as_dict()))) == rules


def test_the_rate_of_a_rule_is_that_of_the_rows_that_no_earlier_rule_covers():
    values, labels = drawn(20_000)
    rules = fit_rules(values, labels, tuple("abcdef"))
    open_rows = np.ones(len(labels), bool)
    for rule in rules.rules:
        hit = open_rows & rule.holds(values[:, "abcdef".index(rule.feature)])
        assert rule.rate == pytest.approx((labels[hit].sum() + 1) / (hit.sum() + 2))
        open_rows &= ~hit
    assert rules.otherwise == pytest.approx((labels[open_rows].sum() + 1) / (open_rows.sum() + 2))


def test_request_columns_are_cents_and_the_hour_in_utc():
    columns = request_columns(np.array([1234]), np.array([(25 * 3600 + 60) * 1_000_000]))
    assert dict(zip(REQUEST_COLUMNS, columns[0].tolist(), strict=True)) == {
        "amount_usd_cents": 1234,
        "hour_utc": 1,
    }


# --- policy


def test_a_transaction_is_reviewed_from_the_amount_at_risk_that_a_review_costs():
    policy = Policy(review_cost_cents=300)
    assert policy.decide(0.1, 2999) == "approve"
    assert policy.decide(0.1, 3000) == "review"


def test_a_transaction_is_declined_where_fraud_is_near_certain():
    assert Policy().decide(0.99, 30_000) == "decline"
    assert Policy().decide(0.5, 30_000) == "review"


def test_a_score_that_is_no_probability_is_refused():
    for score in (1.01, -0.1, float("nan")):
        with pytest.raises(ValueError, match="no probability"):
            Policy().decide(score, 100)


def test_a_negative_cost_is_refused():
    with pytest.raises(ValueError, match="review_cost_cents is -1"):
        Policy(review_cost_cents=-1)


def test_nothing_passes_for_want_of_a_look():
    assert Policy().default == "review"
    assert Policy.from_dict({"review_cost_cents": 300.0}).default == "review"
    assert Policy.from_dict(Policy(default="decline").as_dict()).default == "decline"
    with pytest.raises(ValueError, match=r"default is 'approve': .* give review or decline"):
        Policy(default="approve")


PROBABILITIES = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
AMOUNTS = st.integers(0, 10**9)


@settings(max_examples=300)
@given(PROBABILITIES, AMOUNTS)
def test_no_other_decision_is_expected_to_cost_less(score, amount):
    policy = Policy()
    cost = {
        "approve": score * amount,
        "review": policy.review_cost_cents,
        "decline": (1 - score) * (policy.false_decline_cents + policy.false_decline_share * amount),
    }
    assert cost[policy.decide(score, amount)] == min(cost.values())


@given(st.lists(st.tuples(PROBABILITIES, AMOUNTS), min_size=1, max_size=30))
def test_deciding_many_is_deciding_each(rows):
    policy = Policy()
    scores, amounts = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    assert [DECISIONS[i] for i in policy.decide_many(scores, amounts)] == [
        policy.decide(*row) for row in rows
    ]


def test_costs_count_lost_frauds_reviews_and_declined_customers():
    policy = Policy(review_cost_cents=300, false_decline_cents=2000, false_decline_share=0.1)
    scores = np.array([0.0, 0.5, 0.999, 0.999])
    found = cost_report(
        policy, scores, np.array([1, 1, 1, 0], np.int8), np.array([1000, 5000, 20_000, 10_000])
    )
    # A fraud of $10 approved, a review for $3, a fraud declined for nothing, a customer declined for $20 and $10.
    assert (found.approve, found.review, found.decline) == (1, 1, 2)
    assert (found.frauds_approved, found.genuine_declined) == (1, 1)
    assert found.total_usd == pytest.approx(10 + 3 + 0 + 30)
    assert found.none_usd == pytest.approx(260)
    assert found.saved_share == pytest.approx(1 - 43 / 260)
