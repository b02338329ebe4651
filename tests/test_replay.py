"""Replay and audit through a real service process: BentoML, Valkey, MLflow, HTTP."""

import json
from collections import Counter
from datetime import datetime, timedelta

import duckdb
import pytest

from feature_repo.journal import read_decisions, read_events
from feature_repo.settings import settings
from feature_repo.store import open_store
from monitoring.parity import audit
from pipelines.load_journal import load_journal
from pipelines.replay import ReplayReport, replay, run_replay
from pipelines.replay import _open_events as open_events
from pipelines.replay import _requests as requests
from pipelines.serve import running_service
from tests.deployments import END, LOADED_UNTIL, START, deployed, events, fill_lake, registered
from training.registry import load_version, promote

TRANSACTIONS, CHARGEBACKS = events(seed=3)
IN_STRETCH = [row for row in TRANSACTIONS if LOADED_UNTIL <= row["event_timestamp"] < END]
# What is scored late is decided on what became known until then.
KNOWN_LAST = max(END - timedelta(microseconds=1), *(row["created_timestamp"] for row in IN_STRETCH))
KNOWN_IN_STRETCH = [
    row
    for row in TRANSACTIONS
    if row["event_timestamp"] < LOADED_UNTIL <= row["created_timestamp"] <= KNOWN_LAST
]
REPORTED = [row for row in CHARGEBACKS if LOADED_UNTIL <= row["created_timestamp"] <= KNOWN_LAST]


def test_the_stretch_has_late_events_ties_and_chargebacks():
    assert any(row["created_timestamp"] > row["event_timestamp"] for row in IN_STRETCH)
    assert max(Counter(row["event_timestamp"] for row in IN_STRETCH).values()) > 1
    assert REPORTED


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    """A home with a lake, forty days of state, and a registered champion."""
    home = tmp_path_factory.mktemp("replay")
    with deployed(home, TRANSACTIONS, CHARGEBACKS) as store:
        promote(registered(home / "bundle", store))
        yield home


@pytest.fixture(scope="module")
def replayed(deployment):
    """The stretch replayed in part, then whole: both reports, and the progress of the first."""
    steps = []
    stretch = (settings().lake, LOADED_UNTIL, END)
    with running_service(deployment) as url:
        half = replay(url, *stretch, limit=100, progress=lambda *step: steps.append(step))
        whole = replay(url, *stretch)
    return half, whole, steps


def test_every_transaction_of_the_stretch_is_scored_by_the_model(replayed):
    half, whole, _ = replayed
    assert (half.scored, half.errors, half.repeated) == (100, 0, 0)
    assert (whole.scored, whole.errors) == (len(IN_STRETCH), 0), whole.examples
    assert whole.degraded == Counter()
    assert sum(whole.decisions.values()) == whole.scored
    assert 0 < whole.p50_ms <= whole.p99_ms


def test_what_was_answered_before_is_answered_again(replayed):
    assert replayed[1].repeated == 100


def test_chargebacks_and_earlier_transactions_that_became_known_are_recorded(replayed):
    assert replayed[1].chargebacks == len(REPORTED)
    assert replayed[1].recorded == len(KNOWN_IN_STRETCH)


def test_progress_ends_at_the_limit(replayed):
    assert replayed[2][-1] == ("replay", 100, 100)


def test_each_transaction_is_journalled_once_and_as_the_lake_has_it(replayed, deployment):
    lines = list(read_decisions(deployment / "journal"))
    assert Counter(line["transaction_id"] for line in lines) == Counter(
        row["transaction_id"] for row in IN_STRETCH
    )
    recorded = {
        e["transaction_id"]: e for e in read_events(deployment / "journal") if e["table"] == "transactions"
    }
    for row in IN_STRETCH:
        event = recorded[row["transaction_id"]]
        for name in (
            "customer_id",
            "terminal_id",
            "amount_usd_cents",
            "status",
            "channel",
            "terminal_latitude",
        ):
            assert event[name] == row[name]
        for name in ("event_timestamp", "created_timestamp"):
            assert event[f"{name}_us"] == round(row[name].timestamp() * 10**6)


def test_events_are_sent_in_the_order_in_which_they_became_known(replayed, deployment):
    lines = list(read_decisions(deployment / "journal"))
    assert [line["known_as_of_us"] for line in lines] == sorted(line["known_as_of_us"] for line in lines)


def test_the_audit_finds_no_difference_in_any_feature_or_score(replayed, deployment):
    load = load_journal(deployment / "journal", settings().lake)
    assert sum(load.added.values()) == sum(load.differing.values()) == 0
    report = audit(
        open_store(), deployment / "journal", bundle_loader=lambda name, version: load_version(version)
    )
    assert report.decisions == report.scores_compared == len(IN_STRETCH)
    assert (report.mismatches, report.score_mismatches) == (0, 0), report.examples
    assert report.values_compared == report.decisions * report.features


def test_what_becomes_known_until_the_last_is_scored_is_sent_before_it_even_after_the_end(tmp_path):
    """
    ----[start =========== end)--------------------------> known time
      early    in-time          late  report  scored-late  too-late
    """
    end = START + timedelta(days=1)
    row, hour = TRANSACTIONS[0], timedelta(hours=1)

    def event(name, at, known):
        return {**row, "transaction_id": name, "event_timestamp": at, "created_timestamp": known}

    rows = [
        event("early", START - hour, START - hour),
        event("late", START - hour, end + hour),
        event("too-late", START - hour, end + 4 * hour),
        event("in-time", START + hour, START + hour),
        event("scored-late", START + 2 * hour, end + 3 * hour),
    ]
    columns = (
        "transaction_id",
        "event_timestamp",
        "customer_id",
        "terminal_id",
        "amount_usd_cents",
        "event_day",
    )
    reported = {"reason_code": "10.4", "created_timestamp": end + 2 * hour}
    fill_lake(tmp_path, rows, [{name: rows[0][name] for name in columns} | reported])
    with duckdb.connect() as database:
        assert open_events(database, tmp_path, START, end) == 2
        sent = [(kind, json.loads(body)["transaction_id"]) for kind, body in requests(database)]
    assert sent == [
        ("score", "in-time"),
        ("record", "late"),
        ("chargeback", "early"),
        ("score", "scored-late"),
    ]


@pytest.mark.parametrize(
    ("start", "end"),
    [(END, START), (START, START), (datetime(2025, 3, 1), END)],
)
def test_a_stretch_needs_two_zoned_times_in_order(tmp_path, start, end):
    with pytest.raises(ValueError, match="two times with their zones"):
        replay("http://127.0.0.1:9", tmp_path, start, end)


@pytest.mark.parametrize("text", ["2025-03-01T10:00:00", "tomorrow", ""])
def test_times_on_the_command_line_are_days_or_zoned_instants(text):
    with pytest.raises(ValueError, match=r"time '.*': .*; (give|add)"):
        run_replay(text, "2025-03-02", "http://127.0.0.1:9")


def test_a_report_sums_up_what_happened(replayed):
    text = replayed[1].summary()
    assert text.startswith(f"{len(IN_STRETCH):,} transactions scored in ")
    assert "answered before: 100" in text
    assert "errors" not in text


def test_an_absent_lake_says_how_to_fill_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="fraud ingest"):
        replay("http://127.0.0.1:9", tmp_path, START, END)


def test_an_absent_service_is_a_connection_error(deployment):
    with pytest.raises(
        ConnectionError, match=r"service http://127\.0\.0\.1:9: does not answer: .*fraud serve"
    ):
        replay("http://127.0.0.1:9", settings().lake, LOADED_UNTIL, END)


@pytest.mark.parametrize(
    ("report", "code"),
    [
        (ReplayReport(scored=2), 0),
        (ReplayReport(scored=2, errors=1), 1),
        (ReplayReport(scored=2, degraded=Counter({"no-model": 1})), 1),
    ],
)
def test_a_replay_without_answers_or_without_the_model_does_not_pass(report: ReplayReport, code: int) -> None:
    assert report.exit_code == code
