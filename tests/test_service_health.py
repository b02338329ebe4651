"""Whether a worker says rightly if it is ready, and how old its state is: by a real store that goes and comes back."""

import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from starlette.applications import Starlette
from starlette.datastructures import State

from bento.champion import Champion, Champions
from bento.health import Health
from bento.metrics import Metrics
from bento.online import online_client, open_serving_store
from bento.probes import Probes
from feature_repo.settings import settings
from feature_repo.windows import embedded
from feature_repo.windows.live_recorder import LiveRecorder
from feature_repo.windows.plan import OnlinePlan
from tests.asgi import Client
from tests.deployments import LOADED_UNTIL, SERVICE, deployed, events
from tests.exposition import shown


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    transactions, _ = events(count=20)
    with deployed(tmp_path_factory.mktemp("health"), transactions, []) as store:
        yield store


def champions(store, version):
    """Champions of which that of ``version`` is ready to serve; None: there is none."""
    ready = Champions(
        alias=lambda: version,
        load=lambda version: None,
        prepare=lambda bundle, version: Champion(bundle, version, OnlinePlan.compile(store, SERVICE)),
    )
    ready.refresh()
    return ready


@pytest.fixture
def health(deployment):
    embedded.ensure_running(settings().home)
    store = open_serving_store()
    return Health(champions(deployment, "7"), online_client(store), store.project, Metrics(), look_s=0.001)


def metrics_of(health):
    return shown(health._metrics.meters)


def probe(health, path, method="GET"):
    """Ask the middleware; what it lets pass is answered 404."""
    state = State({"serving": SimpleNamespace(health=health)})
    return Client(Probes(Starlette(), state)).request(method, path)


def test_a_worker_is_not_ready_before_it_has_looked(health):
    assert "was not asked yet" in health.not_ready()
    health.look()
    assert health.not_ready() is None


def test_a_worker_without_a_champion_says_what_to_do(deployment, health):
    lacking = Health(champions(deployment, None), health._client, deployment.project, Metrics())
    lacking.look()
    assert lacking.not_ready() == ("no champion serves: no version has the alias 'champion'; run fraud train")
    assert metrics_of(lacking)["fraud_ready_workers",] == 0


def test_a_store_that_goes_is_noticed_and_one_that_comes_back_too(health):
    health.look()
    embedded.stop(settings().home)
    health.look()
    assert health.not_ready() == "the online store does not answer: ConnectionError"
    shown_then = metrics_of(health)
    assert (shown_then["fraud_store_up",], shown_then["fraud_ready_workers",]) == (0, 0)
    embedded.ensure_running(settings().home)
    health.look()
    assert health.not_ready() is None
    assert metrics_of(health)["fraud_store_up",] == 1


def test_the_probes_say_so_as_a_problem(health):
    answer = probe(health, "/readyz")
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert answer.json()["detail"].startswith("the online store does not answer")
    assert answer.headers["retry-after"] == "1"
    health.look()
    assert probe(health, "/readyz").json() == {"ready": True}
    assert probe(health, "/readyz", "HEAD").status_code == 200


def test_a_worker_that_is_not_ready_is_alive_all_the_same(health):
    assert [probe(health, path).status_code for path in ("/livez", "/healthz")] == [200, 200]


@pytest.mark.parametrize(("method", "path"), [("POST", "/readyz"), ("GET", "/livez/"), ("GET", "/v1/model")])
def test_other_requests_pass_the_probes_by(health, method, path):
    assert probe(health, path, method).status_code == 404


def test_the_age_of_the_state_is_shown_by_source_and_view(health, deployment):
    recorder = LiveRecorder.open(deployment)
    at = datetime(2025, 5, 1, tzinfo=UTC)
    known = at + timedelta(seconds=3)
    chargeback = {
        "transaction_id": "t1",
        "event_timestamp": at,
        "customer_id": "c1",
        "terminal_id": "m1",
        "amount_usd_cents": 100,
        "reason_code": "10.4",
        "created_timestamp": known,
    }
    recorder.record("chargebacks", [chargeback])
    recorder.follow([])
    recorder.close()
    health.look()
    found = metrics_of(health)
    assert found["fraud_state_known_until_seconds", "chargebacks"] == known.timestamp()
    assert found["fraud_view_loaded_until_seconds", "customer_activity"] == LOADED_UNTIL.timestamp()


def test_what_cannot_be_shown_is_logged_and_does_not_end_the_looking(health, caplog):
    def broken():
        raise ValueError("no such file")

    looked = threading.Event()
    health.also(broken)
    health.also(looked.set)
    health.look()
    assert looked.is_set()
    assert "no such file" in caplog.text
    assert health.not_ready() is None


def test_it_looks_again_and_again_until_it_is_stopped(health):
    third, looks = threading.Event(), []

    def count():
        looks.append(1)
        if len(looks) == 3:
            third.set()

    health.also(count)
    health.start()
    assert third.wait(10)
    health.stop()
    assert not health.thread.runs
