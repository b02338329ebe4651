"""A real BentoML process: its endpoints, a champion swapped and refused under way, a kill in the middle of work."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import httpx
import pytest
import schemathesis

from bento.openapi import BENTOML, document
from feature_repo.journal import read_decisions, read_events
from feature_repo.lake_writer import version_of
from feature_repo.store import open_store
from pipelines.serve import running_service
from tests import deployments
from tests.asgi import problem_of
from tests.deployments import after_load, deployed, events, ready, registered, wait_for, worker_pid
from tests.exposition import samples
from tests.fuzzing import FUZZING, SEMANTIC
from tests.journals import ids
from tests.ports import free_port
from training.registry import promote

TRANSACTIONS, CHARGEBACKS = events(seed=5, count=400)
LATER = after_load(TRANSACTIONS)
OF_BENTOML = schemathesis.openapi.from_dict(document()).include(tag=BENTOML)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with a lake, definitions and state; no champion yet."""
    folder = tmp_path_factory.mktemp("process")
    with deployed(folder, TRANSACTIONS, CHARGEBACKS):
        yield folder


@pytest.fixture(scope="module")
def url(home):
    """A service that started without a champion and then was given version 1."""
    with running_service(home, without_champion=True) as base:
        assert httpx.get(f"{base}/readyz").status_code == 503
        answer = httpx.post(f"{base}/v1/score", json=fresh()).json()
        assert (answer["decision"], answer["degraded"], answer["model"]) == ("review", "no-model", None)
        promote(registered(home / "first", open_store()))
        wait_for(lambda: ready(base))
        yield base


def fresh(**changes):
    return deployments.fresh(LATER[0], **changes)


def test_who_ends_fraud_serve_ends_the_service(home, url):
    port = free_port()
    command = [sys.executable, "-m", "pipelines.cli", "serve", "--port", str(port)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_for(lambda: ready(f"http://127.0.0.1:{port}"))
        process.terminate()
        process.wait(60)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/livez")
    finally:
        with suppress(ProcessLookupError):  # as it should be: nothing is left of it
            os.killpg(process.pid, signal.SIGKILL)


@OF_BENTOML.parametrize()
@FUZZING
def test_what_passes_bentoml_s_own_layers_is_answered_as_described_and_leaves_no_trace(case, home, url):
    before = list(read_decisions(home / "journal"))
    case.call_and_validate(base_url=url, excluded_checks=SEMANTIC)
    assert list(read_decisions(home / "journal")) == before


@contextmanager
def asking(url, *, until_killed=False):
    """Requests, one after the other all the while: each with its answer, in their order."""
    asked, over = [], threading.Event()

    def ask():
        with httpx.Client(base_url=url) as client:
            while not over.is_set():
                request = fresh()
                try:
                    asked.append((request, client.post("/v1/score", json=request)))
                except httpx.TransportError:
                    if until_killed:
                        return
                    raise

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield asked
    finally:
        over.set()
        thread.join()


def test_a_transaction_is_scored_by_the_champion(url):
    answer = httpx.post(f"{url}/v1/score", json=fresh())
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    scored = answer.json()
    assert scored["decision"] in ("approve", "review", "decline")
    assert 0 <= scored["score"] <= 1
    assert scored["model"] == {"name": "fraud", "version": "1"}
    assert scored["degraded"] is None


def test_a_second_delivery_gets_the_first_answer(url):
    request = fresh()
    first, second = (httpx.post(f"{url}/v1/score", json=request) for _ in range(2))
    assert first.content == second.content
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    conflict = httpx.post(f"{url}/v1/score", json={**request, "amount": "1"})
    assert (conflict.status_code, conflict.json()["field"]) == (409, "transaction_id")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"amount": -1}, "amount"),
        ({"amount": None}, "amount"),
        ({"currency": "QQQ"}, "currency"),
        ({"event_timestamp": "2025-04-10T10:00:00"}, "event_timestamp"),
        ({"event_timestamp": "2125-04-10T10:00:00Z"}, "event_timestamp"),
        ({"customer_id": ""}, "customer_id"),
        ({"amout": 1}, "amout"),
    ],
)
def test_a_malformed_request_gets_a_problem_that_names_the_field(url, change, field):
    answer = httpx.post(f"{url}/v1/score", json={**fresh(), **change})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["field"] == field


def test_transactions_and_chargebacks_are_recorded(url, home):
    request = fresh()
    assert httpx.post(f"{url}/v1/transactions", json=request).status_code == 200
    chargeback = {"transaction_id": request["transaction_id"], "reason_code": "10.4"}
    assert httpx.post(f"{url}/v1/chargebacks", json=chargeback).status_code == 200
    found = [
        e["table"] for e in read_events(home / "journal") if e["transaction_id"] == request["transaction_id"]
    ]
    assert found == ["transactions", "chargebacks"]


def test_a_connection_outlives_a_refused_body(url):
    with httpx.Client() as client:
        large = client.post(
            f"{url}/v1/score", content=b" " * 10**6, headers={"content-type": "application/json"}
        )
        assert large.status_code == 413
        assert client.post(f"{url}/v1/score", json=fresh()).status_code == 200


def test_a_batch_is_scored_for_people_within_the_timeout(url):
    asked = [fresh(customer_id=row["customer_id"]) for row in LATER[:20]] * 25
    before = samples(httpx.get(f"{url}/metrics").text)
    answer = httpx.post(f"{url}/v1/what_if", json={"transactions": asked}, timeout=30)
    assert answer.status_code == 200
    assert [row["transaction_id"] for row in answer.json()] == [row["transaction_id"] for row in asked]
    wrong = httpx.post(f"{url}/v1/what_if", json={"transactions": [{**fresh(), "amount": -1}]})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "transactions[0].amount")
    now = samples(httpx.get(f"{url}/metrics").text)
    for status in ("200", "422"):
        name = ("fraud_answers_total", status, "what_if")
        assert now[name] == before.get(name, 0) + 1
    kind = ("fraud_problems_total", "invalid-value")
    assert now[kind] == before.get(kind, 0) + 1


@pytest.mark.parametrize(
    ("body", "kind", "field"),
    [
        (b"{bad", "invalid-json", None),
        (b"", "invalid-json", None),
        (b"[]", "invalid-json", None),
        (b'{"transactions": "\\ud800"}', "invalid-json", None),
        (b'{"transactions": ' + b"[" * 300, "invalid-json", None),
        (b"{}", "missing-field", "transactions"),
        (b'{"x": 1, "transactions": []}', "unknown-field", "x"),
        (b'{"transactions": null}', "wrong-type", "transactions"),
        (b'{"transactions": [{}, 1.5]}', "invalid-json", "transactions[1]"),
        (b'{"transactions": []}', "invalid-value", "transactions"),
        (b'{"transactions": [{}]}', "missing-field", "transactions[0].transaction_id"),
        (b" " * (1024 * 1024 + 1), "body-too-large", None),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)
def test_a_malformed_batch_gets_a_problem_and_no_traceback(url, home, body, kind, field):
    logged = (home / "service.log").stat().st_size
    answer = httpx.post(f"{url}/v1/what_if", content=body, headers={"content-type": "application/json"})
    found, document = problem_of(answer)
    assert (found, document.get("field")) == (kind, field)
    assert "Traceback" not in (home / "service.log").read_text()[logged:]


def test_a_batch_must_be_declared_as_json(url):
    answer = httpx.post(f"{url}/v1/what_if", content=b'{"transactions": [{}]}')
    assert (answer.status_code, answer.json()["type"]) == (415, "/problems/media-type")


def test_the_pages_for_operators_answer(url):
    assert httpx.get(f"{url}/livez").status_code == 200
    assert httpx.get(f"{url}/v1/model").json()["version"] == "1"
    metrics = httpx.get(f"{url}/metrics").text
    assert 'fraud_model_info{name="fraud",version="1"} 1.0' in metrics
    assert "fraud_stage_seconds_bucket" in metrics


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/decisions/two%0Alines", 404),
        ("POST", "/v1/no%0Asuch", 404),
        ("GET", "/v1/decisions/none", 404),
        ("GET", "/v1/what_if", 405),
        ("DELETE", "/v1/score", 405),
    ],
)
def test_what_no_route_takes_is_told_in_the_service_s_own_form(url, method, path, status):
    answer = httpx.request(method, f"{url}{path}")
    assert (answer.status_code, problem_of(answer)[1]["status"]) == (status, status)


def test_bentoml_s_page_shows_every_route(url):
    """The page is a script that reads the description beside it."""
    page = httpx.get(f"{url}/")
    assert page.headers["content-type"].startswith("text/html")
    scripts = re.findall(r'src="\./(static_content/[^"]+\.js)"', page.text)
    assert any('"./docs.json"' in httpx.get(f"{url}/{script}").text for script in scripts)
    assert httpx.get(f"{url}/docs.json").json() == document()


def test_a_new_champion_takes_over_between_two_requests(url, home):
    """Requests go on all the while: every one is answered, by the one version or by the other."""
    with asking(url) as asked:
        promote(registered(home / "second", open_store(), seed=1))
        wait_for(lambda: httpx.get(f"{url}/v1/model").json()["version"] == "2")
        time.sleep(0.2)
    answers = [answer for _, answer in asked]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["degraded"] for answer in answers} == {None}
    versions = [answer.json()["model"]["version"] for answer in answers]
    assert versions == sorted(versions)
    assert set(versions) == {"1", "2"}


def test_a_champion_of_other_definitions_is_refused_and_logged(url, home):
    promote(registered(home / "strange", open_store(), digest="e" * 64))
    wait_for(lambda: httpx.get(f"{url}/v1/model").json()["refused"] is not None)
    page = httpx.get(f"{url}/v1/model").json()
    assert (page["version"], page["ready"]) == ("2", True)
    assert "trained on definitions eeeeeeeeeeee" in page["refused"]
    assert httpx.post(f"{url}/v1/score", json=fresh()).json()["model"]["version"] == "2"
    lines = (home / "service.log").read_text().splitlines()
    (logged,) = [json.loads(line) for line in lines if line.startswith("{") and "eeeeeeeeeeee" in line]
    assert (logged["level"], logged["version"]) == ("ERROR", "3")


def test_a_killed_worker_forgets_nothing_that_it_answered(url, home):
    worker = worker_pid(home)
    with asking(url, until_killed=True) as asked:
        wait_for(lambda: len(asked) > 50)
        os.kill(worker, signal.SIGKILL)
    journalled = {line["transaction_id"] for line in read_decisions(home / "journal")}
    assert {request["transaction_id"] for request, _ in asked} <= journalled
    # BentoML's supervisor starts another worker: it answers again what the killed one has answered, and as the
    # alias still names a version that cannot serve, the one that served before goes on.
    wait_for(lambda: ready(url), patience_s=120)
    request, first = asked[-1]
    again = httpx.post(f"{url}/v1/score", json=request)
    assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
    assert httpx.post(f"{url}/v1/score", json=fresh()).json()["model"]["version"] == "2"


def test_what_was_journalled_is_in_the_lake_once_though_its_worker_was_killed(url, home):
    lake = home / "lake"
    decided = sorted(line["transaction_id"] for line in read_decisions(home / "journal"))
    recorded = {line["transaction_id"] for line in read_events(home / "journal")}
    wait_for(lambda: version_of(lake, "decisions") is not None and ids(lake, "decisions") == decided)
    every = sorted({row["transaction_id"] for row in TRANSACTIONS} | recorded)
    # One that was recorded when the worker was killed, and not decided, comes with the next load.
    wait_for(lambda: len(ids(lake, "transactions")) >= len(every))
    assert ids(lake, "transactions") == every
