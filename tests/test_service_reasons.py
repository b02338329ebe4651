"""Reasons of decisions: from CatBoost's Shapley values by the table, from the rules where no model decided."""

import numpy as np
import pytest
from catboost import CatBoostClassifier, Pool

from bento.reasons import MOST_REASONS, codes_of, explain, explain_rules, reasons_of, reasons_of_record
from feature_repo.decision_reasons import REASONS, reason_of_feature
from feature_repo.definitions import fraud_v1
from feature_repo.store import service_features
from training.bundle import Bundle, BundleSpec, write_bundle
from training.calibration import Calibration
from training.policy import Policy
from training.rules import Rule, RuleList

NAMES = service_features(fraud_v1)
SMALL_CENTS = 100
RULES = RuleList(
    (Rule("amount_usd_cents", True, 40_000.0, 0.5), Rule("hour_utc", False, 3.0, 0.4)), otherwise=0.001
)


def drawn(seed, rows=400):
    random = np.random.default_rng(seed)
    values = random.normal(size=(rows, len(NAMES)))
    values[random.random(values.shape) < 0.1] = np.nan
    return values


@pytest.fixture(scope="module")
def classifier():
    values = drawn(0)
    labels = (np.nan_to_num(values[:, ::3]).sum(axis=1) > 2).astype(int)
    return CatBoostClassifier(
        iterations=40, depth=4, verbose=0, allow_writing_files=False, thread_count=1, random_seed=0
    ).fit(values, labels)


@pytest.fixture(scope="module")
def bundle(classifier, tmp_path_factory):
    spec = BundleSpec("fraud_v1", "d" * 64, NAMES, Calibration(0.5, -2.0), Policy(), RULES)
    return Bundle.load(write_bundle(tmp_path_factory.mktemp("reasons") / "bundle", classifier, spec))


def by_code(classifier, row, direction):
    """CatBoost's own values, added up by the table, on the scale of the calibrated score."""
    values = classifier.get_feature_importance(Pool(row[None]), type="ShapValues")[0, :-1]
    sums = {}
    for name, value in zip(NAMES, values, strict=True):
        code = reason_of_feature(name, direction).code
        sums[code] = sums.get(code, 0.0) + 0.5 * value
    return sums


@pytest.mark.parametrize(("decision", "direction"), [("decline", "raises"), ("approve", "lowers")])
def test_the_reasons_are_those_that_weigh_most_by_catboosts_shapley_values(
    bundle, classifier, decision, direction
):
    sign = 1 if direction == "raises" else -1
    for row in drawn(1, 30):
        expected = {code: sign * value for code, value in by_code(classifier, row, direction).items()}
        largest = sorted(expected, key=expected.get, reverse=True)
        found = explain(bundle, row, decision, SMALL_CENTS)
        assert codes_of(found) == largest[: len(found)]
        assert 0 < len(found) <= MOST_REASONS
        for reason in found:
            assert reason.direction == direction
            assert sign * reason.contribution == pytest.approx(expected[reason.code], abs=1e-9)
            assert reason.sentence == REASONS[reason.code].sentence
            assert {reason_of_feature(name, direction).code for name in reason.features} == {reason.code}


def test_where_the_amount_alone_is_enough_it_is_the_first_reason(bundle):
    row = drawn(2, 1)[0]
    small, large = (explain(bundle, row, "review", cents) for cents in (SMALL_CENTS, 10**7))
    assert "AMOUNT_AT_STAKE" not in codes_of(small)
    assert codes_of(large) == ["AMOUNT_AT_STAKE", *codes_of(small)][:MOST_REASONS]
    assert "AMOUNT_AT_STAKE" not in codes_of(explain(bundle, row, "approve", 10**7))


def test_reasons_come_again_from_the_journalled_features(bundle):
    row = drawn(3, 1)[0]
    features = {
        name: None if np.isnan(value) else float(value) for name, value in zip(NAMES, row, strict=True)
    }
    assert reasons_of(bundle, features, "decline", 500) == explain(bundle, row, "decline", 500)
    record = {
        "decision": "decline",
        "score": 0.9,
        "features": features,
        "request": {"amount_usd_cents": 500},
        "event_timestamp_us": 0,
    }
    assert reasons_of_record(bundle, record) == reasons_of(bundle, features, "decline", 500)
    del features[NAMES[0]]
    with pytest.raises(KeyError, match=NAMES[0]):
        reasons_of_record(bundle, record)


@pytest.mark.parametrize(
    ("cents", "hour", "decision", "codes"),
    [
        (50_000, 12, "review", ["RULE_AMOUNT"]),
        (10_000, 1, "review", ["RULE_TIME_OF_DAY"]),
        (10_000, 12, "review", ["RULE_NONE"]),
        (10_000, 12, "approve", []),
    ],
)
def test_without_a_score_the_rule_that_decided_is_the_reason(bundle, cents, hour, decision, codes):
    record = {
        "decision": decision,
        "score": None,
        "features": {},
        "request": {"amount_usd_cents": cents},
        "event_timestamp_us": hour * 3_600_000_000,
    }
    assert codes_of(reasons_of_record(bundle, record)) == codes


def test_without_any_model_that_is_the_reason():
    (reason,) = explain_rules(None, {}, "review")
    assert (reason.code, reason.direction, reason.contribution) == ("NO_MODEL", "rule", None)
    assert reason.as_dict()["sentence"] == REASONS["NO_MODEL"].sentence
