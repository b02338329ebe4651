"""From a training set to a version in a real registry, and from there to the one that serves."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pytest

from tests.homes import fraud_home, with_mlflow
from tests.training_events import DAY, START, learnable
from training import evaluation, registry
from training.bundle import BundleError
from training.fit import train
from training.promotion import judge, judge_bundles
from training.splits import Fold, Rows, split
from training.tracking import connect

FOLD = Fold(START, START + 20 * DAY, START + 27 * DAY, START + 35 * DAY)
SMALL = {"iterations": 60, "depth": 4}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A home with two versions of one model, the first of them trained in it."""
    home = tmp_path_factory.mktemp("home")
    with fraud_home(home):
        with_mlflow(home)
        steps = []
        result = train(
            learnable(),
            FOLD,
            parameters=SMALL,
            threads=1,
            profiler=lambda columns: {name: len(values) for name, values in columns.items()},
            progress=lambda *step: steps.append(step),
        )
        second = registry.register(result.bundle.folder, result.run_id)
        yield home, result, second, steps


def test_the_model_beats_both_baselines_on_the_same_test_rows(trained):
    _, result, *_ = trained
    precision = {name: report.evaluation.average_precision for name, report in result.reports.items()}
    assert set(precision) == {"catboost", "logistic_regression", "rules"}
    assert precision["catboost"] > precision["rules"] > result.test_frauds / result.test_rows
    assert len({report.evaluation.rows for report in result.reports.values()}) == 1


def test_the_reported_scores_are_those_of_the_registered_bundle(trained):
    _, result, *_ = trained
    dataset = learnable()
    rows = Rows.of(dataset)
    parts = split(rows, FOLD)
    scores = result.bundle.score(dataset.values()[parts.test])
    found = evaluation.average_precision(parts.test_labels, scores)
    assert found == result.reports["catboost"].evaluation.average_precision


def test_probabilities_are_calibrated_on_later_rows(trained):
    _, result, *_ = trained
    dataset = learnable()
    parts = split(Rows.of(dataset), FOLD)
    scores = result.bundle.score(dataset.values()[parts.test])
    assert scores.mean() == pytest.approx(parts.test_labels.mean(), rel=0.25)


def test_the_run_records_what_the_model_was_made_from(trained):
    _, result, *_ = trained
    run = connect().get_run(result.run_id)
    manifest = learnable().manifest
    assert run.info.status == "FINISHED"
    assert run.data.params["dataset.digest"] == manifest["digest"]
    assert run.data.params["dataset.feature_service"] == "fraud_v1"
    assert run.data.params["dataset.definitions_digest"] == manifest["definitions_digest"]
    assert run.data.params["delta_version.transactions"] == "0"
    assert run.data.params["catboost.depth"] == "4"
    measured = result.reports["catboost"].evaluation.average_precision
    assert run.data.metrics["catboost.average_precision"] == pytest.approx(measured)
    assert result.bundle.spec.training["dataset"] == manifest


def test_the_runs_artifacts_are_the_evaluation_and_charts_that_need_no_network(trained):
    _, result, *_ = trained
    names = {item.path for item in connect().list_artifacts(result.run_id)}
    assert {"evaluation.json", "charts.html", "dataset.json", "importance.json"} <= names
    page = Path(
        mlflow.artifacts.download_artifacts(run_id=result.run_id, artifact_path="charts.html")
    ).read_text()
    assert "Plotly.newPlot" in page
    assert 'src="http' not in page


def test_everything_lies_under_the_home(trained):
    home, result, *_ = trained
    assert home in result.bundle.folder.parents
    assert {"mlflow.db", "mlartifacts"} <= {item.name for item in home.iterdir()}


def test_the_drift_profile_lies_beside_the_bundle(trained):
    _, result, *_ = trained
    profile = json.loads((result.bundle.folder / "profile.json").read_text())
    assert profile["risk"] == result.train_rows
    assert profile["score"] == result.test_rows


def test_progress_tells_each_step_once(trained):
    steps = trained[3]
    assert [done for _, done, _ in steps] == list(range(7))
    assert {total for *_, total in steps} == {6}


def test_a_version_serves_only_by_its_alias(trained):
    _, result, second, _ = trained
    assert registry.alias_version("champion") is None
    with pytest.raises(LookupError, match=r"no version of model 'fraud' is the champion; train one"):
        registry.load_champion()
    registry.promote(result.version)
    registry.set_alias("challenger", second)
    assert registry.load_champion()[1] == result.version
    assert registry.alias_version("challenger") == second
    registry.promote(second)
    bundle, version = registry.load_champion()
    assert (version, registry.alias_version("challenger")) == (second, None)
    assert bundle.feature_names == ("risk", "noise", "rare", "amount")


def test_versions_are_loaded_by_name_and_an_unknown_one_is_said(trained):
    _, result, *_ = trained
    assert registry.load_version(result.version).spec == result.bundle.spec
    with pytest.raises(LookupError, match="no version '99'"):
        registry.load_version("99")


def test_a_broken_bundle_is_not_registered(trained, tmp_path):
    _, result, *_ = trained
    (tmp_path / "bundle.json").write_text("{}")
    before = len(connect().search_model_versions("name = 'fraud'"))
    with pytest.raises(BundleError, match="not of format"):
        registry.register(tmp_path, result.run_id)
    assert len(connect().search_model_versions("name = 'fraud'")) == before


def test_mlflow_itself_can_score_with_a_version(trained):
    _, result, *_ = trained
    connect()
    frame = learnable().to_pandas().head(50)
    loaded = mlflow.pyfunc.load_model(f"models:/fraud/{result.version}")
    values = frame[list(result.bundle.feature_names)].to_numpy(np.float64)
    assert np.array_equal(loaded.predict(frame), result.bundle.score(values))


def test_the_tracking_address_is_not_left_in_the_environment(trained, monkeypatch):
    import os

    connect()
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_a_result_too_good_to_be_honest_is_not_registered(trained, monkeypatch):
    monkeypatch.setitem(evaluation.LEAK_CEILING, FOLD, 0.05)
    before = len(connect().search_model_versions("name = 'fraud'"))
    with pytest.raises(evaluation.LeakError):
        train(learnable(), FOLD, parameters=SMALL, threads=1)
    assert len(connect().search_model_versions("name = 'fraud'")) == before


# --- promotion


def judged(champion, challenger, labels, **options):
    cards = np.arange(len(labels)) % 60
    zero = np.zeros(len(labels))
    return judge(labels, cards, champion, challenger, zero, options.get("challenger_cost", zero))


def ranking(noise, seed=0, rows=3000):
    random = np.random.default_rng(seed)
    labels = (random.random(rows) < 0.05).astype(np.int8)
    return labels, labels + noise * random.normal(size=rows)


def test_a_clearly_better_challenger_is_promoted():
    labels, champion = ranking(1.5)
    _, challenger = ranking(0.5)
    found = judged(champion, challenger, labels)
    assert found.promote
    assert found.challenger_average_precision > found.champion_average_precision
    assert found.average_precision_gain[0] > 0


def test_a_worse_challenger_stays_one():
    labels, champion = ranking(0.5)
    _, challenger = ranking(1.5)
    assert not judged(champion, challenger, labels).promote


def test_the_same_model_is_never_promoted_over_itself():
    labels, scores = ranking(1.0)
    found = judged(scores, scores, labels)
    assert not found.promote
    assert found.share_of_draws_better == 0


def test_a_better_ranking_that_costs_more_is_not_promoted():
    labels, champion = ranking(1.5)
    _, challenger = ranking(0.5)
    found = judged(champion, challenger, labels, challenger_cost=np.full(len(labels), 100.0))
    assert not found.promote
    assert "costs more" in found.reason


def test_the_judged_average_precision_is_that_of_the_evaluation():
    labels, champion = ranking(1.0)
    champion = np.round(champion, 1)  # many ties
    found = judged(champion, champion, labels)
    assert found.champion_average_precision == pytest.approx(evaluation.average_precision(labels, champion))


def test_judging_needs_both_classes():
    with pytest.raises(ValueError, match="one class only"):
        judged(np.zeros(5), np.zeros(5), np.zeros(5, np.int8))


def test_bundles_are_judged_on_the_same_rows_each_by_its_own_features(trained):
    _, result, *_ = trained
    dataset = learnable(seed=4)
    values = dataset.values()
    worse = values.copy()
    worse[:, 0] = 0.0
    found = judge_bundles(result.bundle, result.bundle, Rows.of(dataset), worse, values)
    assert found.promote
    assert found.champion_cost_usd != found.challenger_cost_usd
    assert json.dumps(found.as_dict())
