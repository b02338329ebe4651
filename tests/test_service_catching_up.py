"""A store that comes back is not trusted: what it may lack is recorded again from the journal, within one process."""

import os
from contextlib import closing
from datetime import UTC, datetime

import pytest

import bento.catching_up
import bento.recording
from bento.problem import Problem
from bento.replaying import Replaying, marks_key
from feature_repo.journal import Journal, read_events, writer_name
from feature_repo.store import open_store
from feature_repo.windows.live_recorder import LiveRecorder
from pipelines.backfill import backfill
from tests import deployments
from tests.deployments import after_load, events, live, opened, send, wait_for, with_bundle
from tests.exposition import shown
from tests.faults import forgotten, kill, pid_of, standing_still
from tests.homes import client_of
from tests.journals import all_counted

TRANSACTIONS, CHARGEBACKS = events(seed=4, count=300)
ROW = after_load(TRANSACTIONS)[0]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("catching-up")
    with with_bundle(folder, TRANSACTIONS, CHARGEBACKS):
        yield folder


@pytest.fixture
def serving(home):
    with closing(opened(home)) as one:
        yield one


def score(serving, customer):
    return deployments.score(serving, live(ROW, customer_id=customer))


def settled(serving, customer):
    """The first answer from the state as it was."""
    answers = []
    wait_for(lambda: answers.append(score(serving, customer)) or answers[-1]["degraded"] is None)
    return answers[-1]


def test_events_that_a_process_took_with_it_are_recorded_by_the_next_one(home):
    """They waited for the store in memory, which the process, as if it had been killed, never came to write."""
    with closing(opened(home)) as one:
        assert score(one, "taken along")["degraded"] is None
        with standing_still(pid_of(home)):
            for _ in range(3):
                assert score(one, "taken along")["degraded"] == "features-unavailable"
        one.recording._backlog.clear()
        one.recording._overflowed = True  # so that it does not say that all is recorded
    with closing(opened(home)) as another:
        assert shown(another.metrics)["fraud_events_recorded_again_total",] >= 3
        answer = score(another, "taken along")
        assert (answer["degraded"], all_counted(home, answer)) == (None, 4)


def test_what_is_marked_is_not_recorded_again(home):
    with closing(opened(home)) as one:
        score(one, "marked")
    with closing(opened(home)) as another:
        assert shown(another.metrics)["fraud_events_recorded_again_total",] == 0


def test_without_marks_the_journal_is_recorded_again_from_the_end_of_the_load_and_counts_once(home):
    with closing(opened(home)) as one:
        for _ in range(2):
            score(one, "unmarked")
    with client_of(home) as client:
        client.delete(marks_key("fraud"), *client.keys("*:journal"))
    with closing(opened(home)) as another:
        written = sum(1 for _ in read_events(home / "journal"))
        assert shown(another.metrics)["fraud_events_recorded_again_total",] == written
        answer = score(another, "unmarked")
        assert (answer["degraded"], all_counted(home, answer)) == (None, 2)


def test_more_events_than_memory_holds_are_recorded_from_the_journal(home, monkeypatch):
    monkeypatch.setattr(bento.recording, "BACKLOG_LIMIT", 3)
    with closing(opened(home)) as one:
        score(one, "many")
        with standing_still(pid_of(home)):
            for _ in range(8):
                score(one, "many")
        answer = settled(one, "many")
        assert all_counted(home, answer)


def test_a_server_that_was_killed_comes_back_with_its_file_and_nothing_is_missing(home, serving):
    assert score(serving, "outlives")["degraded"] is None
    kill(home)
    answer = settled(serving, "outlives")
    assert all_counted(home, answer)


def forgets_the_last_three(home, serving, customer, *, marked):
    """The store loses the events of its last moments, the rest is there; returns the first whole answer after it.

    Args:
        marked: these events had been marked as there, and the marks are lost with them.
    """
    score(serving, customer)
    serving.recording.catching_up.look()
    with forgotten(home):
        for _ in range(3):
            score(serving, customer)
        if marked:
            serving.recording.catching_up.look()
    serving.recording.catching_up.look()
    return settled(serving, customer)


def test_a_store_that_lost_its_last_moments_gets_them_from_the_journal(home, serving):
    assert all_counted(home, forgets_the_last_three(home, serving, "behind", marked=True)) >= 4


def test_a_store_that_lost_its_last_moments_is_not_marked_before_it_is_known_for_another(home, monkeypatch):
    """Nobody asks for anything between its return and the next look: what was recorded last must not be marked as there."""
    monkeypatch.setattr(bento.catching_up, "_POLL_S", 3600.0)
    with closing(opened(home)) as one:
        assert all_counted(home, forgets_the_last_three(home, one, "unasked", marked=False)) == 4


def test_what_is_let_go_of_is_suspected_before_nothing_waits(home, monkeypatch):
    """Else the thread that marks could take the state for whole in between: here it looks at just that moment."""
    monkeypatch.setattr(bento.catching_up, "_POLL_S", 3600.0)
    monkeypatch.setattr(bento.recording, "BACKLOG_LIMIT", 3)
    with closing(opened(home)) as one:
        catching_up = one.recording.catching_up
        suspect, moments = catching_up.suspect, []

        def looked_at(*why):
            moments.append(one.recording.idle)
            catching_up.look()
            suspect(*why)

        score(one, "let go of")
        with standing_still(pid_of(home)):
            for _ in range(8):
                score(one, "let go of")
        monkeypatch.setattr(catching_up, "suspect", looked_at)
        answer = settled(one, "let go of")
        assert moments == [False]
        assert all_counted(home, answer) >= 9


def test_files_of_another_machine_are_not_marked_though_its_process_has_the_same_number(home, tmp_path):
    with closing(Journal(tmp_path)) as journal:
        own = journal.event("transactions", {"transaction_id": "t", "created_timestamp": datetime.now(UTC)})
    (tmp_path / own.file.replace(writer_name(), f"elsewhere-{os.getpid()}")).write_text("{}\n")
    with client_of(home) as client, closing(LiveRecorder.open(open_store())) as recorder:
        assert Replaying(client, recorder, tmp_path).ends() == {own.file: own.length}


@pytest.mark.parametrize("how", ["flushed", "restarted"])
def test_an_empty_store_is_noticed_at_once_and_read_again_when_history_is_loaded(home, serving, how):
    customer = f"emptied {how}"
    for _ in range(2):
        assert score(serving, customer)["degraded"] is None
    if how == "flushed":
        with client_of(home) as client:
            client.flushall()
    else:
        kill(home, and_its_file=True)
    degraded = [score(serving, customer) for _ in range(3)]
    assert {answer["score"] for answer in degraded} == {None}
    assert {answer["degraded"] for answer in degraded} <= {"state-lost", "store-catching-up"}
    wait_for(lambda: score(serving, customer)["degraded"] == "state-lost")
    assert shown(serving.metrics)["fraud_store_whole",] == 0
    with pytest.raises(Problem) as raised:
        send(serving, "features", {"customer_id": customer, "terminal_id": "m1"})
    assert (raised.value.status, "state" in raised.value.detail) == (503, True)
    backfill()
    answer = settled(serving, customer)
    assert all_counted(home, answer)
    assert shown(serving.metrics)["fraud_store_whole",] == 1
