"""Requests to an ASGI app within this process, and what a refusal must look like."""

import asyncio
from types import SimpleNamespace

import httpx

from bento.access import Access
from bento.app import create_app
from bento.metrics import Metrics
from bento.problem import KINDS
from bento.trace_export import Sampling
from bento.tracing import Tracing

JSON = {"content-type": "application/json"}


class Client:
    """Sends requests to the app."""

    def __init__(self, app):
        self.transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    def request(self, method, path, **what):
        async def send():
            async with httpx.AsyncClient(transport=self.transport, base_url="http://service") as client:
                return await client.request(method, path, **what)

        return asyncio.run(send())

    def get(self, path):
        return self.request("GET", path)

    def post(self, path, **what):
        return self.request("POST", path, **what)


def app_over(serving):
    """The service's app over ``serving``."""
    app = create_app()
    app.state.serving = serving
    return app


def client_over(serving):
    """A client of that app."""
    return Client(app_over(serving))


def gate_state(limits, *clocks, tracing=None):
    """The state of an app behind the gate: these limits by these clocks, and of the service its metrics alone."""
    return SimpleNamespace(
        access=Access(limits, *clocks),
        tracing=tracing or Tracing(None, Sampling(0, True)),
        serving=SimpleNamespace(metrics=Metrics()),
    )


def problem_of(answer):
    """The kind and the document of a refusal."""
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == answer.status_code
    return kind_of(document), document


def kind_of(document):
    """The kind of a problem document, which must be whole."""
    kind = document["type"].removeprefix("/problems/")
    assert (document["title"], document["status"]) == (KINDS[kind].title, KINDS[kind].status)
    assert document["detail"]
    return kind
