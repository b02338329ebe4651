"""Everything that is served is one folder, which is read whole and sound or not at all."""

import json
from dataclasses import replace

import numpy as np
import pytest

from training.bundle import Bundle, BundleError, BundleSpec, write_bundle
from training.calibration import Calibration
from training.models import CatBoostModel
from training.policy import Policy
from training.rules import Rule, RuleList

NAMES = ("a", "b", "c")
FALLBACK = RuleList((Rule("amount_usd_cents", True, 20_000.0, 0.9),), 0.001)


def spec(names=NAMES):
    return BundleSpec("fraud_v1", "d" * 64, names, Calibration(1.2, -0.3), Policy(), FALLBACK, {"note": "é"})


@pytest.fixture(scope="module")
def values():
    random = np.random.default_rng(0)
    values = random.normal(size=(3000, 3))
    values[random.random(values.shape) < 0.1] = np.nan
    return values


@pytest.fixture(scope="module")
def model(values):
    labels = (np.nan_to_num(values[:, 0]) + np.nan_to_num(values[:, 1]) > 1.5).astype(np.int8)
    return CatBoostModel({"iterations": 60, "depth": 4}, threads=1).fit(values, labels)


@pytest.fixture
def folder(model, tmp_path):
    return write_bundle(tmp_path / "bundle", model.classifier, spec())


def test_a_bundle_comes_back_as_it_was_written(folder, model, values):
    bundle = Bundle.load(folder)
    assert bundle.spec == spec()
    assert (bundle.feature_names, bundle.feature_service, bundle.definitions_digest) == (
        NAMES,
        "fraud_v1",
        "d" * 64,
    )
    assert np.array_equal(bundle.score(values), Calibration(1.2, -0.3).probability(model.margin(values)))


def test_the_folder_holds_no_pickle(folder):
    names = sorted(file.name for file in folder.iterdir())
    assert names == ["bundle.json", "contributions.npz", "model.cbm", "model.onnx"]
    assert len(np.load(folder / "contributions.npz", allow_pickle=False)) > 0


def test_a_row_has_the_same_bits_alone_and_in_a_batch_of_any_size(folder, values):
    bundle = Bundle.load(folder)
    together = bundle.score(values)
    alone = np.array([bundle.score(values[i : i + 1])[0] for i in range(len(values))])
    assert np.array_equal(alone, together)
    for size in (2, 7, 31, 64, 129, 1000):
        parts = [bundle.score(values[i : i + size]) for i in range(0, len(values), size)]
        assert np.array_equal(np.concatenate(parts), together)


def test_no_rows_have_no_scores(folder):
    assert Bundle.load(folder).score(np.empty((0, 3))).shape == (0,)


def test_a_row_of_another_width_is_refused(folder):
    with pytest.raises(ValueError, match=r"give \[rows, 3\]"):
        Bundle.load(folder).score(np.zeros((2, 4)))


def test_without_a_model_the_rules_approve_or_ask_for_a_review(folder):
    bundle = Bundle.load(folder)
    row = {"amount_usd_cents": 500, "event_timestamp_us": 0}
    assert bundle.decide_without_model(row) == "approve"
    assert bundle.decide_without_model({**row, "amount_usd_cents": 30_000}) == "review"
    assert bundle.decide_without_model({}) == "review"
    strict = Bundle(replace(bundle.spec, policy=Policy(default="decline")), None, folder)
    assert strict.decide_without_model({}) == "decline"


def test_the_bundles_policy_decides(folder):
    assert Bundle.load(folder).decide(0.5, 10_000) == "review"


def test_more_names_than_features_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="the model has 3 features and 2 are named"):
        write_bundle(tmp_path / "b", model.classifier, spec(("a", "b")))


@pytest.mark.parametrize("name", ["bundle.json", "model.cbm", "model.onnx", "contributions.npz"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        Bundle.load(folder)


@pytest.mark.parametrize("name", ["model.cbm", "model.onnx", "contributions.npz"])
def test_a_changed_or_shortened_file_is_named(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name}: its digest is"):
        Bundle.load(folder)
    (folder / name).write_bytes(content[:100])
    with pytest.raises(BundleError, match=f"{name}: its digest is"):
        Bundle.load(folder)


def edit(folder, change):
    file = folder / "bundle.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_a_half_written_description_is_refused(folder):
    file = folder / "bundle.json"
    file.write_text(file.read_text()[:200])
    with pytest.raises(BundleError, match="it is no JSON"):
        Bundle.load(folder)


def test_another_format_is_refused(folder):
    edit(folder, lambda content: content.update(format=99))
    with pytest.raises(BundleError, match="not of format 1"):
        Bundle.load(folder)


@pytest.mark.parametrize("field", ["calibration", "policy", "feature_names", "fallback"])
def test_a_missing_field_is_named(folder, field):
    edit(folder, lambda content: content.pop(field))
    with pytest.raises(BundleError, match=field):
        Bundle.load(folder)


def test_a_description_of_other_features_than_the_graph_is_refused(folder):
    edit(folder, lambda content: content.update(feature_names=["a", "b"]))
    with pytest.raises(BundleError, match="the graph has 3 features"):
        Bundle.load(folder)


def test_a_graph_that_onnxruntime_cannot_read_is_refused(folder):
    import hashlib

    (folder / "model.onnx").write_bytes(b"no graph")
    digest = f"sha256:{hashlib.sha256(b'no graph').hexdigest()}"
    edit(folder, lambda content: content["files"].update({"model.onnx": digest}))
    with pytest.raises(BundleError, match="onnxruntime cannot read it"):
        Bundle.load(folder)


def test_contributions_of_a_folder_from_before_they_were_written_come_from_the_model(folder, values):
    row = values[0]
    kept = Bundle.load(folder).contributions.of_row(row)
    (folder / "contributions.npz").unlink()
    edit(folder, lambda content: content["files"].pop("contributions.npz"))
    assert np.array_equal(Bundle.load(folder).contributions.of_row(row), kept)
