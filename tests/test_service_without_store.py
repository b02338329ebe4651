"""A service that starts while its store does not answer: it answers, and is as ever when the store does."""

from contextlib import closing
from datetime import timedelta

import pytest
import redis

from feature_repo.settings import settings
from feature_repo.store import apply_definitions, open_store
from tests import deployments
from tests.deployments import (
    LOADED_UNTIL,
    START,
    after_load,
    events,
    fill_lake,
    live,
    make_bundle,
    opened,
    wait_for,
)
from tests.faults import server_pid, standing_still
from tests.journals import all_counted
from tests.redis_servers import server

TRANSACTIONS, CHARGEBACKS = events(seed=8, count=200)
ROW = after_load(TRANSACTIONS)[0]


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
    return deployments.score(serving, live(ROW, customer_id="early"))


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
        assert all_counted(home, score(serving)) > 3
        wait_for(lambda: serving.ready)
