"""The routes that decide are reached through the gate alone, all others through everything that stands before them."""

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.datastructures import State
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from bento.exchange import send_answer
from bento.service_settings import ServiceSettings
from bento.short_way import ShortWay
from tests.asgi import gate_state


class Decides:
    """A bare route that answers what its app's state holds."""

    async def __call__(self, scope, receive, send):
        await send_answer(send, 200, "text/plain", scope["app"].state.word.encode())


async def _page(request):
    return PlainTextResponse(request.app.state.word)


class Layer:
    """Stands where BentoML's layers stand, and notes what passes."""

    passed: list[tuple[str, str]]

    def __init__(self, app, passed):
        self.app, self.passed = app, passed

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            self.passed.append((scope["method"], scope["path"]))
        await self.app(scope, receive, send)


@pytest.fixture
def ours(tmp_path):
    app = Starlette(
        routes=[
            Route("/v1/score", Decides(), methods=["POST"]),
            Route("/v1/decisions/{transaction_id}", Decides(), methods=["POST"]),
            Route("/v1/page", _page, methods=["POST"]),
        ]
    )
    app.state = State({"word": "ours", **vars(gate_state(ServiceSettings(tmp_path / "api-keys.json")))})
    return app


def answers(ours, passed, *asked, started=True, client=("127.0.0.1", 5)):
    """What (method, path) each get from a server that has started, its layers noting what ``passed``."""
    whole = Starlette(
        routes=[Mount("/", ours)],
        middleware=[Middleware(Layer, passed=passed), Middleware(ShortWay, routes=ours)],
    )

    async def asking():
        transport = httpx.ASGITransport(whole, client=client)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
            return [await http.request(*each) for each in asked]

    async def running():
        if not started:
            return await asking()
        inbox, outbox = asyncio.Queue(), asyncio.Queue()
        serving = asyncio.create_task(whole({"type": "lifespan", "state": {}}, inbox.get, outbox.put))
        await inbox.put({"type": "lifespan.startup"})
        assert (await outbox.get())["type"] == "lifespan.startup.complete"
        found = await asking()
        await inbox.put({"type": "lifespan.shutdown"})
        await serving
        return found

    return asyncio.run(running())


def test_a_decision_passes_no_layer(ours):
    passed = []
    (answer,) = answers(ours, passed, ("POST", "/v1/score"))
    assert (answer.status_code, answer.text) == (200, "ours")
    assert passed == []


def test_all_else_passes_every_layer(ours):
    passed = []
    asked = [
        ("GET", "/v1/score"),
        ("POST", "/v1/score/"),
        ("POST", "/v1/page"),
        ("POST", "/v1/decisions/t1"),
        ("GET", "/livez"),
    ]
    found = answers(ours, passed, *asked)
    assert passed == asked
    assert [answer.status_code for answer in found] == [405, 307, 200, 200, 404]


def test_the_gate_stands_on_the_short_way_too(ours):
    ours.state.access.in_flight["score"] = 10**6
    (answer,) = answers(ours, [], ("POST", "/v1/score"))
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


def test_a_server_that_tells_nobody_of_its_start_takes_the_long_way(ours):
    passed = []
    (answer,) = answers(ours, passed, ("POST", "/v1/score"), started=False)
    assert (answer.text, passed) == ("ours", [("POST", "/v1/score")])
