"""Who is let in, and how much: the gate before all routes, driven within this process."""

import asyncio
import json
import subprocess
import sys

import httpx
import pytest

from bento.access import is_loopback
from bento.api_keys import SCOPES, create_key
from bento.app import create_app
from bento.gate import Gate
from bento.problem import KINDS
from bento.scopes import ANY, OPEN, route_of, scope_of
from bento.service_settings import ServiceSettings, service_settings
from tests.asgi import gate_state, problem_of
from tests.bodies import NOW
from tests.clocks import Clock
from tests.exposition import shown

LOCAL, REMOTE = ("127.0.0.1", 5), ("203.0.113.7", 5)
PATHS = {"/v1/score": "score", "/v1/transactions": "record", "/v1/model": "read", "/metrics": "metrics"}
BUILT = """
import json
from bento.service import FraudScorer
app = FraudScorer.to_asgi(is_main=True)
routes = [route.path for route in app.routes if getattr(route, "methods", None)]
print(json.dumps({"routes": routes, "middlewares": [each.__name__ for each, _ in FraudScorer.middlewares]}))
"""


class Service:
    """The gate before an app that says which path it was asked, at a clock of its own."""

    def __init__(self, path, **limits):
        self.clock, self.asked, self.work = Clock(NOW.timestamp()), [], None
        self.limits = ServiceSettings(path, **limits)
        self.state = gate_state(self.limits, self.clock, self.clock)
        self.gate = Gate(self._app, self.state)

    async def _app(self, scope, receive, send):
        self.asked.append(scope["path"])
        if self.work is not None:
            await self.work()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    def send(self, path, *headers, client=LOCAL, times=1):
        """The answers to so many requests that arrive at once."""

        async def sending():
            transport = httpx.ASGITransport(self.gate, client=client)
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
                asked = [http.post(path, headers=list(headers)) for _ in range(times)]
                return await asyncio.gather(*asked)

        answers = asyncio.run(sending())
        return answers[0] if times == 1 else answers

    def key(self, *scopes, name="shop", **how):
        key = create_key(self.limits.api_keys, name, frozenset(scopes), NOW, **how)
        self.clock.now += 1
        return "authorization", f"Bearer {key}"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "api-keys.json"


def refusal(answer):
    """Its kind and why."""
    kind, document = problem_of(answer)
    return kind, document["detail"]


def test_without_a_key_configured_this_machine_is_answered_and_nobody_else(path, caplog):
    service = Service(path)
    assert "no API key is configured: requests from this machine only are answered" in caplog.text
    for host in ("127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"):
        assert service.send("/v1/score", client=(host, 5)).status_code == 200
    for client in (REMOTE, ("::ffff:203.0.113.7", 5), ("10.0.0.1", 5), ("0.0.0.0", 5), ("", 5), None):  # noqa: S104
        answer = service.send("/v1/score", client=client)
        kind, detail = refusal(answer)
        assert (answer.status_code, kind) == (403, "forbidden")
        assert "run: fraud keys create NAME --scope score" in detail
    assert len(service.asked) == 4


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
def test_what_came_through_a_proxy_is_not_from_this_machine_whatever_it_says(path, header):
    kind, detail = refusal(Service(path).send("/v1/score", (header, "127.0.0.1")))
    assert kind == "forbidden"
    assert f"came through a proxy ({header.lower()})" in detail


@pytest.mark.parametrize(("asked", "scope"), PATHS.items())
def test_a_key_opens_what_its_scope_names_and_nothing_else(path, asked, scope):
    service = Service(path)
    good = service.key(scope)
    poor = service.key(*(set(SCOPES) - {scope}), name="other")
    assert service.send(asked, good, client=REMOTE).status_code == 200
    answer = service.send(asked, poor)
    kind, detail = refusal(answer)
    assert (answer.status_code, kind) == (403, "forbidden")
    assert f"the API key other lacks the scope {scope}" in detail
    assert answer.headers["www-authenticate"].endswith(f'error="insufficient_scope", scope="{scope}"')
    assert service.asked == [asked]


def test_with_a_key_configured_this_machine_needs_one_too(path):
    service = Service(path)
    service.key("score")
    answer = service.send("/v1/score")
    assert (answer.status_code, refusal(answer)[0]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == 'Bearer realm="fraud"'
    assert service.asked == []


def test_probes_ask_for_no_key(path):
    service = Service(path)
    service.key("score")
    for asked in ("/livez", "/readyz", "/healthz"):
        assert service.send(asked, client=REMOTE).status_code == 200


def test_a_path_that_is_not_in_the_table_needs_the_scope_for_administration(path):
    service = Service(path)
    every, admin = service.key(*(set(SCOPES) - {"admin"})), service.key("admin", name="admin")
    for asked in ("/v1/new", "/V1/score", "//v1/score", "/v1/score/", "/livez/x"):
        assert service.send(asked, every).status_code == 403
        assert service.send(asked, admin).status_code == 200


@pytest.fixture(scope="module")
def built():
    """What BentoML makes of the service: its routes, and the service's middlewares from the outermost on."""
    done = subprocess.run([sys.executable, "-c", BUILT], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_every_route_is_in_the_table_of_scopes(built):
    """Those of the app and those that BentoML adds; what takes any path is no route of its own."""
    own = [route.path for route in create_app().routes if route.path != "/v1/{path:any}"]
    paths = {*own, *built["routes"]}
    assert {"/v1/score", "/metrics", "/v1/what_if", "/", "/docs.json", "/schema.json", "/livez"} <= paths
    assert [each for each in paths if scope_of(each) == "admin"] == []
    assert {each for each in paths if scope_of(each) is OPEN} == {"/livez", "/readyz", "/healthz"}
    assert scope_of("/static_content/page.js") == ANY
    assert {scope_of(each) for each in paths} - {OPEN, ANY} == {"score", "record", "read", "metrics"}


def test_the_gate_is_the_outermost_of_our_middlewares(built):
    assert built["middlewares"][0] == "Gate"


def test_a_route_s_name_has_no_ids():
    assert route_of("/v1/decisions/t1") == "/v1/decisions/*"
    assert (route_of("/v1/score"), route_of("/anything")) == ("/v1/score", "other")


def test_a_key_s_rate_holds_in_bursts_of_a_second_s_worth_and_says_when_to_come_again(path):
    service = Service(path)
    key = service.key("score", rate=4.0)
    answers = service.send("/v1/score", key, times=6)
    assert [each.status_code for each in answers].count(200) == 4
    kind, detail = refusal(answers[-1])
    assert (answers[-1].status_code, kind, answers[-1].headers["retry-after"]) == (429, "rate-limited", "1")
    assert "shop may send 4 requests a second" in detail
    service.clock.now += 0.5
    assert [each.status_code for each in service.send("/v1/score", key, times=3)] == [200, 200, 429]
    service.clock.now += 60
    assert [each.status_code for each in service.send("/v1/score", key, times=5)] == [200] * 4 + [429]


def test_a_slow_rate_says_how_long_to_wait(path):
    service = Service(path)
    key = service.key("score", rate=0.1)
    first, second = service.send("/v1/score", key, times=2)
    assert (first.status_code, second.status_code, second.headers["retry-after"]) == (200, 429, "10")


def test_the_deployment_s_rate_holds_for_each_key_without_one_of_its_own(path):
    service = Service(path, rate_per_key=1.0)
    one, two, fast = (
        service.key("score"),
        service.key("score", name="two"),
        service.key("score", name="three", rate=9.0),
    )
    for key, answered in ((one, 1), (two, 1), (fast, 9)):
        answers = service.send("/v1/score", key, times=10)
        assert [each.status_code for each in answers].count(200) == answered


def test_requests_beyond_those_in_flight_are_refused_before_any_work(path):
    service = Service(path, max_in_flight=3)
    answers = service.send("/v1/score", times=5)
    assert [each.status_code for each in answers] == [200, 200, 200, 503, 503]
    assert refusal(answers[-1])[0] == "overloaded"
    assert answers[-1].headers["retry-after"] == "1"
    assert len(service.asked) == 3
    assert set(service.state.access.in_flight.values()) == {0}


def test_requests_that_wait_for_something_else_take_no_place_from_decisions(path):
    service = Service(path, max_in_flight=2)

    async def both():
        lake = asyncio.Event()
        service.work = lake.wait
        transport = httpx.ASGITransport(service.gate, client=LOCAL)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
            waiting = [asyncio.create_task(http.post("/v1/chargebacks")) for _ in range(3)]
            while len(service.asked) < 2:
                await asyncio.sleep(0)
            service.work = None
            decided = await http.post("/v1/score")
            lake.set()
            return decided, await asyncio.gather(*waiting)

    decided, recorded = asyncio.run(both())
    assert decided.status_code == 200
    assert sorted(each.status_code for each in recorded) == [200, 200, 503]


def test_a_request_whose_time_is_up_when_its_turn_comes_is_not_begun(path):
    service = Service(path, deadline_s=0.5)

    async def slow():
        service.clock.now += 0.2

    service.work = slow
    answers = service.send("/v1/score", times=5)
    assert [each.status_code for each in answers] == [200, 200, 200, 503, 503]
    kind, detail = refusal(answers[-1])
    assert kind == "deadline-passed"
    assert "it waited 600 ms, and 500 ms are allowed" in detail
    assert answers[-1].headers["retry-after"] == "1"
    assert len(service.asked) == 3


def test_a_failure_inside_leaves_room_for_the_next(path):
    service = Service(path, max_in_flight=1)

    async def broken():
        raise RuntimeError("broken")

    service.work = broken
    with pytest.raises(RuntimeError, match="broken"):
        service.send("/v1/score")
    service.work = None
    assert service.send("/v1/score").status_code == 200


def test_who_is_refused_is_logged_once_a_second_at_most(path, caplog):
    service = Service(path)
    caplog.clear()
    for _ in range(3):
        service.send("/v1/score", client=REMOTE)
    assert [record.client for record in caplog.records] == ["203.0.113.7"]
    service.clock.now += 1
    service.send("/v1/model", client=REMOTE)
    assert [record.path for record in caplog.records] == ["/v1/score", "/v1/model"]


def test_refusals_are_counted_by_their_kind(path):
    service = Service(path)
    service.send("/v1/score", client=REMOTE)
    found = shown(service.state.serving.metrics)
    assert found["fraud_problems_total", "forbidden"] == 1
    assert found["fraud_answers_total", "403", "gate"] == 1


def test_nothing_but_http_is_answered(path):
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(Service(path).gate({"type": "websocket", "path": "/v1/score"}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_the_kinds_of_refusal_have_the_statuses_that_http_names():
    statuses = {
        "unauthorized": 401,
        "forbidden": 403,
        "rate-limited": 429,
        "overloaded": 503,
        "deadline-passed": 503,
    }
    assert {kind: KINDS[kind].status for kind in statuses} == statuses


def test_only_addresses_of_this_machine_are_its_own():
    assert [is_loopback(host) for host in ("localhost", "localhost.example", "128.0.0.1", "::", "x")] == [
        True,
        False,
        False,
        False,
        False,
    ]


def test_limits_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAUD_HOME", str(tmp_path))
    assert service_settings() == ServiceSettings(tmp_path / "api-keys.json")
    given = {"API_KEYS": "/etc/keys.json", "RATE_PER_KEY": "2.5", "MAX_IN_FLIGHT": "9", "DEADLINE_MS": "50"}
    for name, value in given.items():
        monkeypatch.setenv(f"FRAUD_{name}", value)
    read = service_settings()
    assert (str(read.api_keys), read.rate_per_key, read.max_in_flight, read.deadline_s) == (
        "/etc/keys.json",
        2.5,
        9,
        0.05,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FRAUD_RATE_PER_KEY", "0"),
        ("FRAUD_RATE_PER_KEY", "nan"),
        ("FRAUD_MAX_IN_FLIGHT", "many"),
        ("FRAUD_MAX_IN_FLIGHT", "0"),
        ("FRAUD_DEADLINE_MS", "1001"),
        ("FRAUD_DEADLINE_MS", "-1"),
    ],
)
def test_a_limit_that_is_none_is_refused_by_its_name(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name}: {value!r}: "):
        service_settings()


def test_a_body_is_not_read_of_a_request_that_is_refused(path):
    service = Service(path)

    async def receive():
        raise AssertionError("the body was read")

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/score", "headers": [], "client": REMOTE}
    asyncio.run(service.gate(scope, receive, send))
    assert sent[0]["status"] == 403
    assert json.loads(sent[1]["body"])["status"] == 403
