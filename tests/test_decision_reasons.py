"""The table of reasons: every feature that a model may read has a code of its own kind, in both directions."""

import pytest

from feature_repo import definitions
from feature_repo.decision_reasons import DIRECTIONS, REASONS, _load, reason_of_feature
from feature_repo.store import service_features
from training.rules import REQUEST_COLUMNS

SERVICES = [definitions.fraud_v1, definitions.published_v1]
FEATURES = sorted({name for service in SERVICES for name in service_features(service)})


def test_every_defined_service_is_looked_at():
    from feast import FeatureService

    defined = [each for each in vars(definitions).values() if isinstance(each, FeatureService)]
    assert len(defined) == len(SERVICES)


@pytest.mark.parametrize("feature", FEATURES)
def test_a_feature_of_a_service_has_one_reason_in_each_direction_and_not_the_one_for_all_others(feature):
    raises, lowers = (reason_of_feature(feature, direction) for direction in ("raises", "lowers"))
    assert (raises.code, lowers.code) != ("OTHER", "OTHER_ORDINARY")
    assert raises.features == lowers.features
    from fnmatch import fnmatchcase

    named = {
        reason.code
        for reason in REASONS.values()
        if reason.direction == "raises" and any(fnmatchcase(feature, name) for name in reason.features)
    }
    assert named == {raises.code, "OTHER"}


@pytest.mark.parametrize("column", REQUEST_COLUMNS)
def test_what_rules_look_at_has_a_reason(column):
    assert reason_of_feature(column, "rule").code not in ("RULE_NONE", "NO_MODEL", "AMOUNT_AT_STAKE")


def test_a_feature_that_nobody_gave_a_line_is_explained_all_the_same():
    assert reason_of_feature("moon_phase", "raises").code == "OTHER"


def test_a_windowed_feature_that_is_added_as_the_readme_says_has_a_reason():
    assert reason_of_feature("customer_amount_usd_cents_min_60d", "raises").code == "CUSTOMER_SPENDING"


def test_codes_are_words_for_machines_and_sentences_are_for_people():
    for reason in REASONS.values():
        assert reason.code == reason.code.upper()
        assert reason.code.replace("_", "").isalpha()
        assert reason.sentence[0].isupper()
        assert not reason.sentence.endswith(".")
    assert {reason.direction for reason in REASONS.values()} == set(DIRECTIONS)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("AMOUNT,raises,x,Again", "'AMOUNT': it stands twice"),
        ("ODD,sideways,x,What", "direction is 'sideways'; write raises, lowers, rule"),
        ("ODD,raises,x,", "'ODD': it has no sentence"),
    ],
)
def test_a_wrong_line_is_named(line, why):
    with pytest.raises(ValueError, match=why):
        _load(["code,direction,features,sentence", "AMOUNT,raises,amount_log,The amount", line])
