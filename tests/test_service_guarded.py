"""A real service that listens to everybody: who is let in without keys and with them, what it exports, what it never tells.

Its store is a server with a password, its registry an address with one, which does not answer.
"""

import json
import socket
from datetime import UTC, datetime
from types import SimpleNamespace

import httpx
import pytest

from bento.api_keys import create_key, revoke_key
from bento.metrics import STAGES
from feature_repo.store import apply_definitions, open_store
from pipelines import serve
from tests.asgi import problem_of
from tests.collector import collecting
from tests.deployments import wait_for
from tests.redis_servers import server

PASSWORDS = {each: f"planted-password-of-{each}" for each in ("store", "registry", "collector")}
CARD = "4111 1111 1111 1111"
PATHS = (
    "/",
    "/docs.json",
    "/schema.json",
    "/static_content/swagger-ui.css",
    "/metrics",
    "/v1/model",
    "/v1/decisions/t",
)
PATIENCE_S = 20


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """The service, reached from its own machine (``url``) and from outside (``outside``), and what stands around it."""
    home, command = tmp_path_factory.mktemp("guarded"), serve._command
    (home / "store").mkdir()
    with (
        pytest.MonkeyPatch.context() as patch,
        server(home / "store", requirepass=PASSWORDS["store"]) as port,
        collecting() as collector,
    ):
        patch.setenv("FRAUD_HOME", str(home))
        patch.setenv("FRAUD_REDIS", f"127.0.0.1:{port},password={PASSWORDS['store']}")
        apply_definitions(open_store())
        patch.setenv("MLFLOW_TRACKING_URI", f"http://ops:{PASSWORDS['registry']}@127.0.0.1:9")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"api-key={PASSWORDS['collector']}")
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        patch.setattr(serve, "_command", lambda host, port: command("0.0.0.0", port))  # noqa: S104
        with serve.running_service(home, without_champion=True) as url:
            outside = url.replace("127.0.0.1", own_address())
            yield SimpleNamespace(url=url, outside=outside, home=home, collector=collector, key=None)


def own_address():
    """This machine's address as others see it; its loopback one if it has no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return probe.getsockname()[0]


def transaction(number, **changes):
    return {
        "transaction_id": f"t{number}",
        "customer_id": "c1",
        "terminal_id": "m1",
        "event_timestamp": datetime.now(UTC).isoformat(),
        "amount": "12.50",
        **changes,
    }


def log(home):
    return (home / "service.log").read_text()


def authorized(running):
    """The header with a key that is good for everything; the first one makes it, and waits until it counts."""
    if running.key is None:
        scopes = frozenset({"score", "record", "read", "metrics", "admin"})
        running.key = create_key(running.home / "api-keys.json", "shop", scopes, datetime.now(UTC))
        wait_for(lambda: httpx.get(f"{running.url}/v1/model").status_code == 401)
    return {"authorization": f"Bearer {running.key}"}


def test_without_keys_its_own_machine_is_answered_and_says_so(running):
    answer = httpx.post(f"{running.url}/v1/score", json=transaction(1))
    assert (answer.status_code, answer.json()["decision"]) == (200, "review")
    assert httpx.get(f"{running.url}/docs.json").status_code == 200
    assert "no API key is configured: requests from this machine only are answered" in log(running.home)


def test_without_keys_nobody_else_is_answered_though_it_listens(running):
    if running.outside == running.url:
        pytest.skip("this machine has no address but its loopback one")
    for path in PATHS:
        kind, document = problem_of(httpx.get(running.outside + path))
        assert (kind, document["status"]) == ("forbidden", 403)
    answer = httpx.post(f"{running.outside}/v1/score", json=transaction(2))
    assert "run: fraud keys create NAME --scope score" in problem_of(answer)[1]["detail"]
    batch = httpx.post(f"{running.outside}/v1/what_if", json={"transactions": [transaction(2)]})
    assert batch.status_code == 403
    assert httpx.get(f"{running.outside}/livez").status_code == 200


@pytest.mark.parametrize("claimed", ["127.0.0.1", "203.0.113.7"])
def test_without_keys_a_proxy_s_word_for_the_caller_counts_for_nothing(running, claimed):
    for url in (running.url, running.outside):
        answer = httpx.get(f"{url}/v1/model", headers={"x-forwarded-for": claimed})
        assert problem_of(answer)[0] == "forbidden"


def test_a_key_made_while_it_runs_is_asked_for_within_seconds_on_every_path(running):
    headers = authorized(running)
    for path in PATHS:
        assert problem_of(httpx.get(running.url + path))[0] == "unauthorized", path
        answered = httpx.get(running.outside + path, headers=headers)
        assert answered.status_code == (404 if "decisions" in path else 200), path
    for verb, body in (("score", transaction(3)), ("what_if", {"transactions": [transaction(3)]})):
        assert httpx.post(f"{running.url}/v1/{verb}", json=body).status_code == 401
        assert httpx.post(f"{running.outside}/v1/{verb}", json=body, headers=headers).status_code in (
            200,
            503,
        )
    assert httpx.get(f"{running.outside}/livez").status_code == 200
    assert httpx.get(f"{running.outside}/readyz").status_code == 503


def test_a_key_of_one_scope_opens_no_other(running):
    authorized(running)
    key = create_key(running.home / "api-keys.json", "scraper", frozenset({"metrics"}), datetime.now(UTC))
    headers = {"authorization": f"Bearer {key}"}
    wait_for(lambda: httpx.get(f"{running.url}/metrics", headers=headers).status_code == 200)
    for path in ("/v1/score", "/v1/what_if", "/v1/transactions"):
        answer = httpx.post(running.url + path, json=transaction(4), headers=headers)
        assert problem_of(answer)[0] == "forbidden"
        assert "the API key scraper lacks the scope" in answer.json()["detail"]


def test_a_sampled_request_is_followed_through_its_stages(running):
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {**authorized(running), "traceparent": f"00-{trace}-{span}-01"}
    answer = httpx.post(f"{running.url}/v1/score", json=transaction(5), headers=headers)
    assert answer.headers["traceresponse"].startswith(f"00-{trace}-")

    def of_it():
        return [each for _, each in running.collector.spans if each.trace_id.hex() == trace]

    wait_for(lambda: any(each.name == "POST /v1/score" for each in of_it()))
    assert {each.name for each in of_it()} == {"POST /v1/score", *STAGES} - {"total"}
    lines = [json.loads(line) for line in log(running.home).splitlines() if line.startswith("{")]
    (decided,) = [line for line in lines if line["message"] == "decided"]
    assert (decided["transaction_id"], decided["trace_id"]) == ("t5", trace)


def test_a_card_number_is_neither_recorded_nor_told(running):
    for field in ("transaction_id", "customer_id", "category"):
        answer = httpx.post(
            f"{running.url}/v1/score", json=transaction(6, **{field: CARD}), headers=authorized(running)
        )
        kind, document = problem_of(answer)
        assert (kind, document["status"], document["field"]) == ("card-number", 422, field)
        assert "1111" not in answer.text


def test_a_body_that_never_comes_is_given_up(running):
    key = authorized(running)["authorization"]
    head = f"POST /v1/score HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(
        httpx.URL(running.url).netloc.decode().split(":"), timeout=PATIENCE_S
    ) as sender:
        sender.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        answer = sender.recv(65_536).decode()
    assert answer.startswith("HTTP/1.1 503 ")
    assert "retry-after: 1" in answer
    assert httpx.get(f"{running.url}/livez").status_code == 200


def test_nothing_that_it_writes_or_answers_tells_a_secret(running):
    """After refusals of every kind, a registry that does not answer, and a store that lets nobody in any more."""
    headers = authorized(running)
    secrets = [*PASSWORDS.values(), running.key, CARD, CARD.replace(" ", "")]
    answers = [
        httpx.post(f"{running.url}/v1/score", json={running.key: PASSWORDS["store"]}, headers=headers),
        httpx.post(f"{running.url}/v1/score", json=transaction(7, amount=running.key), headers=headers),
        httpx.post(f"{running.url}/v1/score", json=transaction(7, currency=running.key), headers=headers),
        httpx.post(f"{running.url}/v1/{CARD}", headers=headers),
        httpx.get(f"{running.url}/v1/decisions/{CARD}", headers=headers),
        httpx.get(f"{running.url}/v1/decisions/{running.key}", headers=headers),
        httpx.post(
            f"{running.url}/v1/score", content=running.key, headers={**headers, "content-type": running.key}
        ),
        httpx.get(f"{running.url}/v1/model", headers={"authorization": f"Bearer {running.key}x"}),
        httpx.get(f"{running.url}/v1/model", headers={"authorization": f"Basic {running.key}"}),
    ]
    assert {answer.status_code for answer in answers} <= {401, 404, 405, 415, 422}
    with open_store_client() as client:
        client.config_set("requirepass", "another-now")
        client.client_kill_filter(skipme=False)
    late = httpx.post(f"{running.url}/v1/transactions", json=transaction(8), headers=headers)
    answers += [late, httpx.post(f"{running.url}/v1/score", json=transaction(9), headers=headers)]
    answers += [httpx.get(running.url + path, headers=headers) for path in PATHS]
    wait_for(lambda: "does not answer" in log(running.home))
    journal = "".join(path.read_text() for path in (running.home / "journal").glob("*.jsonl"))
    assert '"t5"' in journal
    refused = httpx.get(f"{running.url}/v1/model", headers=headers).json()["refused"]
    assert "the model registry does not answer" in refused
    everything = [log(running.home), journal, *(answer.text + str(answer.headers) for answer in answers)]
    for secret in secrets:
        assert not any(secret in text for text in everything), secret
    for line in log(running.home).splitlines():
        assert not line.startswith("{") or json.loads(line)["level"]


def open_store_client():
    from feature_repo.settings import settings
    from feature_repo.windows.redis_address import connect

    return connect(settings().redis)


def test_a_revoked_key_is_refused_within_seconds_and_the_last_one_leaves_the_door_shut(running):
    headers = authorized(running)
    for name in ("shop", "scraper"):
        revoke_key(running.home / "api-keys.json", name)
    wait_for(lambda: httpx.get(f"{running.url}/v1/model", headers=headers).status_code == 401)
    assert problem_of(httpx.get(f"{running.url}/v1/model"))[0] == "unauthorized"
