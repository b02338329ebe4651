"""A FeatureService resolved is the same after a journey as JSON, and says when the code behind it is not."""

import json
from dataclasses import replace

import pytest

from feature_repo.store import apply_definitions, definitions_digest, open_store, service_features
from feature_repo.windows.plain_data import from_data, to_data
from feature_repo.windows.resolve import Resolved, resolve_service, view_from_data, with_bases
from feature_repo.windows.spec import Derived, ViewSpec


@pytest.fixture(scope="module")
def resolved(module_home):
    store = open_store()
    apply_definitions(store)
    found = resolve_service(store, "fraud_v1")
    assert found.digest == definitions_digest(store, "fraud_v1")
    assert found.feature_names == service_features(store.get_feature_service("fraud_v1"))
    return found


def test_definitions_are_the_same_after_a_journey_as_json(resolved):
    again = Resolved.from_data(json.loads(json.dumps(resolved.as_data())))
    assert again == resolved
    assert [spec.state_digest for spec in again.views] == [spec.state_digest for spec in resolved.views]
    assert [spec.digest for spec in again.views] == [spec.digest for spec in resolved.views]


def test_what_data_of_an_earlier_version_lacks_takes_its_default(resolved):
    data = to_data(resolved.views[0])
    del data["scales"]
    assert from_data(ViewSpec, data) == resolved.views[0]


def test_a_transform_whose_code_has_changed_is_refused(resolved):
    data = resolved.as_data()
    data["transforms"][0]["digest"] = "0" * 64
    with pytest.raises(ValueError, match="its code is not that of the model"):
        Resolved.from_data(data)


def test_a_transform_that_is_gone_is_refused(resolved):
    data = resolved.as_data()
    data["transforms"][0]["path"] = "feature_repo.on_demand:no_such_transform"
    with pytest.raises(ValueError, match="not there any more"):
        Resolved.from_data(data)


@pytest.mark.parametrize("change", [{"view": 3}, {"aggregates": None}, {"no_such_part": 1}])
def test_data_of_another_engine_is_refused(resolved, change):
    data = resolved.as_data()
    data["views"][0] |= change
    with pytest.raises(ValueError, match="train it anew"):
        Resolved.from_data(data)


def derived_from(base, digest):
    """A view of a column that a transform makes of ``base``."""
    column = Derived(
        "ratio",
        "amount_to_mean_7d",
        4,
        (base,),
        (base.aggregates[0].name,),
        ("feature_repo.on_demand:spending", digest),
    )
    return replace(base, view="of_ratio", derived=(column,))


def test_views_bring_along_those_that_their_derived_columns_are_made_of_once(resolved):
    base = resolved.views[0]
    view = derived_from(base, "")
    assert with_bases([view, base, view]) == (view, base)


def test_a_view_whose_derived_column_is_made_by_other_code_is_refused(resolved):
    spending = next(each for each in resolved.transforms if each.path.endswith(":spending"))
    same = derived_from(resolved.views[0], spending.digest)
    assert view_from_data(json.loads(json.dumps(to_data(same)))) == same
    with pytest.raises(ValueError, match="its code is not that of the model"):
        view_from_data(to_data(derived_from(resolved.views[0], "0" * 64)))
