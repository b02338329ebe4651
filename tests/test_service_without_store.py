"""A service that starts while its store does not answer: it answers, and is as ever when the store does."""

import json
import time
from contextlib import closing
from datetime import timedelta

import pytest
import redis

from feature_repo.journal import read_decisions
from feature_repo.settings import settings
from feature_repo.store import apply_definitions, open_store
from tests.deployments import LOADED_UNTIL, START, events, fill_lake, live, make_bundle, opened, wait_for
from tests.faults import server_pid, standing_still
from tests.redis_servers import server

TRANSACTIONS, CHARGEBACKS = events(seed=8, count=200)
ROW = next(row for row in TRANSACTIONS if row["event_timestamp"] >= LOADED_UNTIL)


@pytest.fixture
def port(home, monkeypatch):
    """A deployment on a server of its own, at this port of the local machine."""
    with server(home) as one:
        monkeypatch.setenv("FRAUD_REDIS", f"127.0.0.1:{one}")
        store = open_store()
        fill_lake(settings().lake, TRANSACTIONS, CHARGEBACKS)
        apply_definitions(store)
        store.materialize(START - timedelta(days=1), LOADED_UNTIL)
        make_bundle(home / "bundle", store)
        yield one


def score(serving):
    body = json.dumps(live(ROW, customer_id="early")).encode()
    return json.loads(serving.answer("score", body, time.perf_counter_ns()).body)


def test_it_answers_by_the_default_and_recovers_by_itself(home, port):
    with redis.Redis(port=port) as client:
        pid = server_pid(client)
    with standing_still(pid):
        serving = opened(home)
        answers = [score(serving) for _ in range(3)]
        assert {(each["decision"], each["degraded"]) for each in answers} == {("review", "no-model")}
        assert {tuple(each["reasons"]) for each in answers} == {("NO_MODEL",)}
        assert not serving.ready
    with closing(serving):
        wait_for(lambda: score(serving)["degraded"] is None)
        last = score(serving)
        lines = list(read_decisions(home / "journal"))
        (line,) = [each for each in lines if each["transaction_id"] == last["transaction_id"]]
        assert line["features"]["customer_transactions_count_7d"] == len(lines) - 1
        wait_for(lambda: serving.ready)
