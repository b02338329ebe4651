"""The routes' own rules, without a model: what is no request at all gets a problem document (RFC 9457)."""

import json
import threading
from urllib.parse import quote

import pytest

from bento.case import Reply
from bento.metrics import Metrics
from bento.problem import KINDS, HistoryNeededError, Problem
from bento.request import MAX_BODY_BYTES, parse_transaction
from tests.asgi import JSON, client_over, problem_of
from tests.exposition import shown


class Answers:
    """Stands where ``Serving`` stands: parses, and answers with the verb; ``fail`` is raised instead.

    With ``history`` it asks for what that looks up until it has it.
    """

    def __init__(self):
        self.metrics, self.fail, self.history = Metrics(), None, None

    def answer(self, verb, body, started_ns, *found):
        if self.history is not None:
            if found == ("all",):
                return Reply(b'"answered"')
            raise HistoryNeededError(lambda: self.history(*found))
        if self.fail is not None:
            raise self.fail
        parse_transaction(body, 0)
        raise Problem("conflict", verb)

    async def scored(self, body, started_ns, deadline=None):
        return self.answer("score", body, started_ns)

    def decision(self, transaction_id):
        if self.fail is not None:
            raise self.fail
        return {"transaction_id": transaction_id}

    def explained(self, record):
        return record

    def model(self):
        return {"name": "fraud"}


@pytest.fixture
def serving():
    return Answers()


@pytest.fixture
def client(serving):
    return client_over(serving)


async def in_chunks(body, size=1000):
    for at in range(0, len(body), size):
        yield body[at : at + size]


@pytest.mark.parametrize("media_type", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_must_be_declared_as_json(client, media_type):
    headers = {} if media_type is None else {"content-type": media_type}
    kind, document = problem_of(client.post("/v1/score", content=b"{}", headers=headers))
    assert kind == "media-type"
    assert "application/json" in document["detail"]


@pytest.mark.parametrize("media_type", ["application/json", "Application/JSON; charset=utf-8"])
def test_json_is_json_however_it_is_written(client, media_type):
    kind, document = problem_of(client.post("/v1/score", content=b"{}", headers={"content-type": media_type}))
    assert (kind, document["field"]) == ("missing-field", "transaction_id")


@pytest.mark.parametrize("path", ["/v1/score", "/v1/transactions", "/v1/chargebacks"])
def test_a_body_over_the_limit_is_refused_announced_or_not(client, path):
    body = b" " * (MAX_BODY_BYTES + 1)
    assert problem_of(client.post(path, content=body, headers=JSON))[0] == "body-too-large"
    answer = client.post(path, content=in_chunks(body), headers=JSON)
    assert problem_of(answer)[0] == "body-too-large"


def test_a_body_of_the_limit_is_read_whole_in_chunks(client):
    body = b"{" + b" " * (MAX_BODY_BYTES - 2) + b"}"
    answer = client.post("/v1/score", content=in_chunks(body), headers=JSON)
    assert problem_of(answer)[0] == "missing-field"


@pytest.mark.parametrize(
    ("method", "path", "right"),
    [
        ("GET", "/v1/score", "POST"),
        ("GET", "/v1/score/batch", "POST"),
        ("PUT", "/v1/features", "POST"),
        ("GET", "/v1/transactions", "POST"),
        ("DELETE", "/v1/chargebacks", "POST"),
        ("POST", "/v1/decisions/t1", "GET, HEAD"),
        ("POST", "/v1/model", "GET, HEAD"),
        ("POST", "/metrics", "GET, HEAD"),
        ("GET", "/v1/what_if", "POST"),
    ],
)
def test_another_method_is_told_the_right_one(client, method, path, right):
    answer = client.request(method, path)
    kind, document = problem_of(answer)
    assert (kind, answer.headers["allow"]) == ("method-not-allowed", right)
    assert right in document["detail"]


@pytest.mark.parametrize(
    "path", ["/v1/", "/v1/nothing", "/v1/score/1", "/v1/two%0Alines", "/v1/decisions", "/problems/nothing"]
)
def test_an_unknown_path_is_told_the_known_ones(client, path):
    kind, document = problem_of(client.get(path))
    assert kind == "not-found"
    assert "/v1/score" in document["detail"]
    if path.startswith("/v1/"):
        assert problem_of(client.post(path))[0] == "not-found"


def test_what_is_needed_of_history_is_looked_up_in_another_thread_until_it_is_there(client, serving):
    threads = []

    def history(*found):
        threads.append(threading.current_thread())
        return "all" if found else "some"

    serving.history = history
    assert client.post("/v1/chargebacks", content=b"{}", headers=JSON).json() == "answered"
    assert len(threads) == 2
    assert threading.main_thread() not in threads


def test_a_history_that_cannot_tell_is_a_problem(client, serving):
    def history():
        raise Problem("unavailable", "the lake cannot tell")

    serving.history = history
    answer = client.post("/v1/chargebacks", content=b"{}", headers=JSON)
    assert (answer.status_code, problem_of(answer)[0]) == (503, "unavailable")


@pytest.mark.parametrize("transaction_id", ["t1", "a/b", "a b", "ü", "?", "batch", "two\nlines", "end\n"])
def test_a_decision_is_asked_for_by_any_id(client, transaction_id):
    answer = client.get(f"/v1/decisions/{quote(transaction_id, safe='')}")
    assert answer.json() == {"transaction_id": transaction_id}


def test_a_decision_that_cannot_be_given_is_a_problem_too(client, serving):
    for kind in ("unknown-decision", "unavailable"):
        serving.fail = Problem(kind, "why")
        assert problem_of(client.get("/v1/decisions/t1"))[0] == kind
    serving.fail = RuntimeError("the secret")
    answer = client.get("/v1/decisions/t1")
    assert (answer.status_code, problem_of(answer)[0]) == (500, "internal-error")
    assert "the secret" not in answer.text


def test_a_length_that_is_none_is_no_failure(client):
    answer = client.post("/v1/score", content=b"{}", headers={**JSON, "content-length": "x"})
    assert problem_of(answer)[0] == "missing-field"


def test_every_problem_type_can_be_looked_up(client):
    for name, kind in KINDS.items():
        page = client.get(f"/problems/{name}").json()
        assert (page["status"], page["title"]) == (kind.status, kind.title)


def test_what_is_unavailable_may_be_tried_again(client, serving):
    serving.fail = Problem("unavailable", "not now")
    answer = client.post("/v1/score", json={})
    assert problem_of(answer)[0] == "unavailable"
    assert answer.headers["retry-after"] == "1"


def test_a_failure_inside_is_a_problem_that_tells_nothing_of_the_inside(client, serving, caplog):
    serving.fail = RuntimeError("the secret")
    answer = client.post("/v1/score", json={})
    assert problem_of(answer)[0] == "internal-error"
    assert "the secret" not in answer.text
    assert "the secret" in caplog.text


def test_a_failure_names_its_transaction_in_the_log(client, serving, caplog):
    serving.fail = RuntimeError("inside")
    client.post("/v1/score", json={"transaction_id": "t7"})
    assert [record.transaction_id for record in caplog.records] == ["t7"]


def test_the_page_of_the_model_shows_no_secret(client, serving):
    serving.model = lambda: {
        "refused": "no registry at http://ops:a-password@host",
        "features": ["a"],
        "ready": True,
    }
    page = client.get("/v1/model").json()
    assert page == {"refused": "no registry at http://[redacted]@host", "features": ["a"], "ready": True}


def test_the_model_and_the_metrics_have_pages(client):
    assert client.get("/v1/model").json() == {"name": "fraud"}
    assert client.get("/metrics").headers["content-type"].startswith("text/plain")


def test_problems_are_counted(client, serving):
    client.post("/v1/score", content=json.dumps({}).encode(), headers=JSON)
    assert 'fraud_problems_total{kind="missing-field"}' in client.get("/metrics").text


def test_an_unknown_path_counts_as_a_problem_and_not_among_the_answers(client, serving):
    client.get("/v1/nothing")
    client.post("/v1/model")
    found = shown(serving.metrics)
    for kind in ("not-found", "method-not-allowed"):
        assert found["fraud_problems_total", kind] == 1
    assert not any(count for name, count in found.items() if name[0] == "fraud_answers_total")


def test_answers_are_counted_by_verb_and_status(client, serving):
    client.post("/v1/score", content=b"{}", headers=JSON)
    serving.fail = Problem("conflict", "there is one")
    client.post("/v1/score/batch", content=b"[{}, {}]", headers=JSON)
    client.post("/v1/score/batch", content=b"{}", headers=JSON)
    client.get("/v1/decisions/t1")
    serving.fail = None
    client.get("/v1/decisions/t1")
    client.get("/v1/model")
    text = client.get("/metrics").text
    for verb, status, count in (
        ("score", 422, 1.0),
        ("batch", 200, 1.0),
        ("element", 409, 2.0),
        ("batch", 422, 1.0),
        ("decision", 409, 1.0),
        ("decision", 200, 1.0),
        ("model", 200, 1.0),
    ):
        assert f'fraud_answers_total{{status="{status}",verb="{verb}"}} {count}' in text
