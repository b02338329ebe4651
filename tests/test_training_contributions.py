"""What each feature adds to a score: CatBoost's own Shapley values, at a price that a decision can bear."""

import math

import numpy as np
import pytest
from catboost import CatBoostClassifier, Pool

from training.contributions import MAX_DEPTH, Contributions, contributions_of
from training.onnx_export import trees_of

WIDTH = 8


def drawn(rows=1500, seed=0):
    """Rows with nulls and few distinct values in some columns, and labels that hang on several features together."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(rows, WIDTH)) * 10.0 ** np.arange(WIDTH)
    values[:, 2] = np.round(values[:, 2] / 100)
    values[random.random(values.shape) < 0.1] = np.nan
    z = np.nan_to_num(values / 10.0 ** np.arange(WIDTH))
    labels = (z[:, 0] * z[:, 1] + z[:, 3] + random.normal(size=rows) > 1).astype(int)
    return values, labels


def fitted(**parameters):
    model = CatBoostClassifier(
        verbose=False, allow_writing_files=False, thread_count=1, random_seed=3, **parameters
    )
    return model.fit(*drawn())


def rows_of_every_kind():
    """Rows like those of the training, rows far outside, and rows of nulls: some end in leaves that no training row reached."""
    random = np.random.default_rng(9)
    usual, _ = drawn(300, seed=1)
    odd = random.normal(size=(300, WIDTH)) * 10.0 ** random.permutation(WIDTH)
    return np.vstack([usual, odd, np.full((1, WIDTH), math.nan), np.full((1, WIDTH), 3e300)])


@pytest.mark.parametrize("depth", [1, 2, 4, 6])
def test_contributions_are_catboosts_shapley_values(depth, tmp_path):
    model = fitted(iterations=60, depth=depth, learning_rate=0.2)
    made = contributions_of(trees_of(model))
    made.save(tmp_path / "contributions.npz")
    found = Contributions.load(tmp_path / "contributions.npz")
    rows = rows_of_every_kind()
    expected = model.get_feature_importance(Pool(rows), type="ShapValues")
    np.testing.assert_allclose([found.of_row(row) for row in rows], expected[:, :-1], rtol=0, atol=1e-9)
    assert found.base == pytest.approx(expected[0, -1], abs=1e-9)


def test_the_rows_tried_end_in_leaves_without_training_rows_and_repeat_features_in_a_tree():
    trees = trees_of(fitted(iterations=60, depth=6, learning_rate=0.2))["oblivious_trees"]
    rows = rows_of_every_kind()
    with np.errstate(over="ignore"):
        rows = rows.astype(np.float32)
    empty = 0
    for tree in trees:
        above = [rows[:, s["float_feature_index"]] > np.float32(s["border"]) for s in tree["splits"]]
        leaves = sum(each.astype(int) << i for i, each in enumerate(above))
        empty += int((np.array(tree["leaf_weights"])[leaves] == 0).sum())
    assert empty > 100
    assert any(len({s["float_feature_index"] for s in t["splits"]}) < len(t["splits"]) for t in trees)


def test_trees_of_several_depths_and_lone_leaves_are_taken_together():
    model = fitted(iterations=80, depth=4, rsm=0.15, learning_rate=0.3)
    trees = trees_of(model)
    trees["oblivious_trees"].append({"splits": None, "leaf_values": [0.25], "leaf_weights": [1500]})
    found = contributions_of(trees)
    rows = rows_of_every_kind()
    expected = model.get_feature_importance(Pool(rows), type="ShapValues")
    np.testing.assert_allclose([found.of_row(row) for row in rows], expected[:, :-1], rtol=0, atol=1e-9)
    assert found.base == pytest.approx(expected[0, -1] + 0.25, abs=1e-9)


def test_contributions_and_base_make_up_the_margin_of_rows_like_those_trained_on():
    model = fitted(iterations=60, depth=3)
    found = contributions_of(trees_of(model))
    rows, _ = drawn()
    margin = model.predict(rows, prediction_type="RawFormulaVal")
    sums = [found.base + found.of_row(row).sum() for row in rows]
    np.testing.assert_allclose(sums, margin, rtol=0, atol=1e-9)


def test_trees_too_deep_for_reasons_are_refused():
    trees = trees_of(fitted(iterations=2, depth=2))
    trees["oblivious_trees"][0]["splits"] *= MAX_DEPTH
    with pytest.raises(ValueError, match=f"reasons are given of up to {MAX_DEPTH}"):
        contributions_of(trees)
