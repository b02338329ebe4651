"""The demo, whole, on a small simulation: the same steps, the same document, the same promises."""

import json
import os

import pytest

from pipelines.demo import MARKER, DemoError, run_demo
from pipelines.demo import _judge as judge
from pipelines.demo_table import tables

STEPS = {
    "ingest",
    "apply",
    "train",
    "materialize",
    "serve",
    "replay",
    "parity",
    "monitor",
    "retrain",
    "total",
}

# Somebody's deployment, which a demo must not touch; nobody listens there.
ELSEWHERE = {"FRAUD_REDIS": "127.0.0.1:9", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    notes = []
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ELSEWHERE.items():
            patch.setenv(name, value)
        document = run_demo(folder, transactions=100_000, replayed=400, note=notes.append)
        assert {name: os.environ[name] for name in ELSEWHERE} == ELSEWHERE
    return folder, document, notes


def test_the_document_is_what_was_returned_and_has_every_key(run):
    folder, document, _ = run
    assert json.loads((folder / "demo.json").read_text()) == document
    assert document["rows"]["transactions"] == 100_000
    assert document["rows"]["chargebacks"] > 0
    assert document["features"]["count"] >= 45
    assert document["protocol"]["week"] is None
    for name in ("catboost", "logistic_regression_published_features"):
        assert document["models"][name]["week"] is None
        assert document["models"][name]["prequential"] is None
    assert set(document["seconds"]) == STEPS


def test_server_and_mlflow_are_its_own_whatever_the_environment_names(run):
    folder, _, _ = run
    assert (folder / "demo" / "mlflow.db").is_file()
    assert (folder / "demo" / "valkey").is_dir()


def test_every_replayed_transaction_is_scored_by_the_model_and_audited_to_the_bit(run):
    _, document, _ = run
    replay, parity = document["replay"], document["parity"]
    assert (replay["scored"], replay["errors"], replay["degraded"]) == (400, 0, {})
    assert 0 < replay["p50_ms"] <= replay["p99_ms"]
    assert parity["decisions"] == parity["scores_compared"] == 400
    assert parity["features"] == document["features"]["count"]
    assert parity["values_compared"] == 400 * parity["features"]
    assert parity["mismatches"] == parity["score_mismatches"] == 0


def test_every_model_is_judged_on_the_same_rows_and_the_served_one_is_far_from_chance(run):
    _, document, _ = run
    reached = {name: parts["holdout"] for name, parts in document["models"].items() if parts["holdout"]}
    assert set(reached) == {"catboost", "logistic_regression", "rules"}
    assert len({(figures["rows"], figures["frauds"]) for figures in reached.values()}) == 1
    catboost = reached["catboost"]
    assert catboost["average_precision"] > 10 * catboost["frauds"] / catboost["rows"]


def test_monitoring_gives_a_verdict_that_retraining_acted_on(run):
    _, document, _ = run
    assert document["monitor"]["verdict"] in ("ok", "watch", "retrain")
    assert document["monitor"]["reasons"]
    assert document["retrain"]["served"] in ("1", "2")
    assert (document["retrain"]["served"] == "2") == document["retrain"]["promoted"]


def test_the_tables_show_what_was_measured(run):
    from rich.console import Console

    _, document, notes = run
    console = Console(width=150, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        for table in tables(document):
            console.print(table)
    shown = console.export_text()
    assert "400 scored over HTTP, 0 errors" in shown
    assert f"{document['parity']['values_compared']:,} values of 400 decisions: 0 differ" in shown
    assert len(notes) >= 7


def test_a_parity_mismatch_or_an_unanswered_request_fails_the_demo(run):
    _, document, _ = run
    judge(document)
    with pytest.raises(DemoError, match="1 features and 0 scores differ"):
        judge({**document, "parity": {**document["parity"], "mismatches": 1}})
    with pytest.raises(DemoError, match="3 requests"):
        judge({**document, "replay": {**document["replay"], "errors": 3}})
    with pytest.raises(DemoError, match="without the model"):
        judge({**document, "replay": {**document["replay"], "degraded": {"no-model": 2}}})
    with pytest.raises(DemoError, match="399 decisions audited"):
        judge({**document, "parity": {**document["parity"], "decisions": 399}})


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "mine").write_text("kept")
    with pytest.raises(FileExistsError, match="was not made by a demo"):
        run_demo(tmp_path)
    assert (tmp_path / "demo" / "mine").read_text() == "kept"
    assert not (tmp_path / "demo" / MARKER).exists()
