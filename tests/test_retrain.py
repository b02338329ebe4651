"""The verbs that close the loop, on a simulated lake and a real registry: parity, monitor, retrain."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_repo.journal import Journal
from feature_repo.store import apply_definitions, open_store
from monitoring.drift import build_profile
from pipelines.ingest import ingest
from pipelines.monitor import monitor
from pipelines.outcomes import save
from pipelines.parity import parity
from pipelines.retrain import Retraining, retrain
from pipelines.simulate import simulate
from pipelines.train import labelled_fold
from tests.homes import fraud_home, with_mlflow
from training.dataset import Dataset, build_dataset
from training.fit import train
from training.registry import alias_version, load_champion, promote

START = datetime(2025, 1, 1, tzinfo=UTC)
MATURITY = timedelta(days=7)
DAYS = 50
# What the first champion was trained on ends here; retraining sees all.
THEN = START + timedelta(days=36)
SERVED = (START + timedelta(days=36), START + timedelta(days=37))


def dataset(start: datetime, end: datetime, as_of: datetime) -> Dataset:
    return build_dataset(
        open_store(), "fraud_v1", start, end, as_of=as_of, maturity=MATURITY, keep_unlabelled=True
    )


def make_champion(home: Path) -> None:
    """A champion that one tree of one split makes: any other is better."""
    fold = labelled_fold(home / "lake", THEN, MATURITY, train_days=14, test_days=7)
    weak = {"iterations": 1, "depth": 1}
    result = train(
        dataset(fold.train_start, fold.test_end, THEN),
        fold,
        profiler=build_profile,
        parameters=weak,
        threads=1,
    )
    promote(result.version)


def serve(journal: Path) -> None:
    """Journal a day's decisions of the champion, from features as the service would have seen them."""
    bundle, version = load_champion()
    served = dataset(*SERVED, as_of=START + timedelta(days=400))
    values = served.values()
    scores, rows = bundle.score(values), served.table.to_pylist()
    writer = Journal(journal, clock_us=lambda: 0)
    for row, features, score in zip(rows, values.tolist(), scores.tolist(), strict=True):
        known = request_of(row["transaction_id"])
        writer.decision(
            {
                "transaction_id": row["transaction_id"],
                "customer_id": row["customer_id"],
                "terminal_id": row["terminal_id"],
                "features": {
                    name: None if value != value else value
                    for name, value in zip(served.feature_names, features, strict=True)
                },
                "score": score,
                "decision": bundle.decide(score, row["amount_usd_cents"]),
                "model_name": "fraud",
                "model_version": version,
                "definitions_digest": bundle.definitions_digest,
                "feature_service": bundle.feature_service,
                "state_seen": {},
                "degraded": None,
                "latency_us": 700,
                **known,
            }
        )
    writer.close()


REQUESTS: dict[str, dict[str, Any]] = {}


def request_of(transaction_id: str) -> dict[str, Any]:
    """What a decision's record says of request and times."""
    return REQUESTS[transaction_id]


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with a simulated lake, a weak champion, and a day of its decisions in the journal."""
    home = tmp_path_factory.mktemp("loop")
    with fraud_home(home):
        with_mlflow(home)
        transactions, chargebacks = simulate(15_000, days=DAYS, seed=3, start=date(2025, 1, 1))
        ingest(transactions, "canonical", home / "lake", chargebacks)
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        for row in transactions.to_pylist():
            at, known = (
                (row[name] - epoch) // timedelta(microseconds=1)
                for name in ("event_timestamp", "created_timestamp")
            )
            columns = (
                "amount_usd_cents",
                "customer_latitude",
                "customer_longitude",
                "terminal_latitude",
                "terminal_longitude",
            )
            REQUESTS[row["transaction_id"]] = {
                "request": {name: row[name] for name in columns},
                "event_timestamp_us": at,
                "known_as_of_us": max(at, known),
                "decided_at_us": max(at, known),
            }
        apply_definitions(open_store())
        make_champion(home)
        serve(home / "journal")
        yield home


@pytest.fixture
def untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FRAUD_HOME", str(tmp_path))
    return tmp_path


def say(home: Path, level: str, at: datetime = START) -> None:
    """Leave a verdict where ``fraud monitor`` leaves it."""
    save(home / "monitor", at, {"verdict": {"level": level, "reasons": ["as told"]}})


def outcome(done: Retraining) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(done.path.read_text())
    return document


def test_without_a_verdict_nothing_is_done(untouched: Path) -> None:
    done = retrain()
    assert (done.promoted, done.challenger) == (False, None)
    assert "there is no verdict yet" in done.why
    assert outcome(done)["why"] == done.why


@pytest.mark.parametrize("level", ["ok", "watch"])
def test_a_verdict_that_does_not_ask_for_it_retrains_nothing(untouched: Path, level: str) -> None:
    say(untouched, level)
    assert retrain().why == f"nothing done: the last verdict is {level}"


def test_only_the_last_verdict_counts(untouched: Path) -> None:
    say(untouched, "retrain", START)
    say(untouched, "ok", START + timedelta(seconds=1))
    assert retrain().why == "nothing done: the last verdict is ok"


def test_a_damaged_verdict_is_named(untouched: Path) -> None:
    say(untouched, "retrain")
    (path,) = (untouched / "monitor").iterdir()
    path.write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        retrain()


def test_parity_of_journalled_decisions_holds_and_is_written_down(loop: Path) -> None:
    done = parity()
    assert (done.exit_code, done.report.mismatches, done.report.score_mismatches) == (0, 0, 0)
    assert done.report.decisions > 200
    assert done.report.scores_compared == done.report.decisions
    assert json.loads(done.path.read_text())["holds"] is True


def test_a_service_that_is_defined_no_more_can_be_audited_while_the_journal_has_it(loop: Path) -> None:
    (path,) = (loop / "journal").glob("decisions-*.jsonl")
    whole = path.read_text()
    path.write_text(whole.replace('"feature_service":"fraud_v1"', '"feature_service":"fraud_v0"'))
    try:
        done = parity(feature_service="fraud_v0")
        assert set(done.report.attributed) == {"other_definitions"}
    finally:
        path.write_text(whole)


def test_an_audit_of_nothing_does_not_pass(loop: Path) -> None:
    assert parity(feature_service="published_v1").exit_code == 1


def test_a_difference_is_the_exit_code_of_parity_and_holds_the_verdict_back(loop: Path) -> None:
    (path,) = (loop / "journal").glob("decisions-*.jsonl")
    whole = path.read_text()
    first, rest = whole.split("\n", 1)
    record = json.loads(first)
    name = next(name for name, value in record["features"].items() if value)
    record["features"][name] = float(np.nextafter(record["features"][name], np.inf))
    path.write_text(json.dumps(record) + "\n" + rest)
    try:
        assert parity().exit_code == 1
        run = monitor()
        assert run.report.mismatches == 1
        assert run.report.verdict.level == "watch"
    finally:
        path.write_text(whole)
    assert parity().exit_code == 0


def test_monitor_measures_the_champion_and_leaves_a_verdict(loop: Path) -> None:
    run = monitor()
    _, version = load_champion()
    document = json.loads(run.json.read_text())
    assert (run.report.model_version, document["verdict"]["level"]) == (version, run.report.verdict.level)
    assert run.report.reference is not None
    assert {drift.name for drift in run.report.drift} >= {"score", "customer_transactions_count_7d"}
    assert (
        run.report.performance.matured.rows + run.report.performance.excluded == run.report.health.decisions
    )
    assert run.html.read_text().startswith("<!doctype html>")


def test_at_an_earlier_instant_fewer_labels_are_known(loop: Path) -> None:
    assert monitor(as_of=SERVED[1]).report.performance.matured.rows == 0


def test_retraining_replaces_a_weak_champion_once_and_an_equal_one_never(loop: Path) -> None:
    weak = alias_version("champion")
    say(loop, "retrain", datetime.now(UTC) + timedelta(days=1))
    done = retrain()
    assert done.judgement is not None
    assert (done.champion, done.promoted, done.judgement.promote) == (weak, True, True), done.why
    assert alias_version("champion") == done.challenger != weak
    assert alias_version("challenger") is None
    assert outcome(done)["judgement"]["share_of_draws_better"] >= 0.9

    for _ in range(2):
        again = retrain()
        assert "was acted on before" in again.why
        assert again.challenger is None

    forced = retrain(force=True)
    assert forced.champion == done.challenger
    assert (forced.promoted, alias_version("champion")) == (False, done.challenger), forced.why
    assert alias_version("challenger") == forced.challenger

    with pytest.raises(ValueError, match="after the rows to judge on begin"):
        retrain(force=True, as_of=THEN)
