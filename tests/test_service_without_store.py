"""A service that starts while its store does not answer: it answers, and is as ever when the store does."""

from contextlib import closing

import pytest
import redis

from tests import deployments
from tests.deployments import after_load, events, live, opened, wait_for, with_bundle
from tests.faults import server_pid, standing_still
from tests.journals import all_counted
from tests.redis_servers import server

TRANSACTIONS, CHARGEBACKS = events(seed=8, count=200)
ROW = after_load(TRANSACTIONS)[0]


@pytest.fixture
def port(tmp_path):
    """A deployment on a server of its own, at this port of the local machine."""
    with (
        server(tmp_path) as one,
        with_bundle(tmp_path, TRANSACTIONS, CHARGEBACKS, redis_at=f"127.0.0.1:{one}"),
    ):
        yield one


def score(serving):
    return deployments.score(serving, live(ROW, customer_id="early"))


def test_it_answers_by_the_default_and_recovers_by_itself(tmp_path, port):
    with redis.Redis(port=port) as client:
        pid = server_pid(client)
    with standing_still(pid):
        serving = opened(tmp_path)
        answers = [score(serving) for _ in range(3)]
        assert {(each["decision"], each["degraded"]) for each in answers} == {("review", "no-model")}
        assert {tuple(each["reasons"]) for each in answers} == {("NO_MODEL",)}
        assert not serving.ready
    with closing(serving):
        wait_for(lambda: score(serving)["degraded"] is None)
        assert all_counted(tmp_path, score(serving)) > 3
        wait_for(lambda: serving.ready)
