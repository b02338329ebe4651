"""The HTTP routes of the service, as an ASGI app: bodies in, answers or problems out."""

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from bento.deadline import DEADLINE
from bento.exchange import JSON, counted, failed, read_body, refuse, send_answer
from bento.openapi import document
from bento.problem import KINDS, MEDIA_TYPE, PROBLEMS_PATH, HistoryNeededError, Problem
from bento.processor import beside
from bento.redaction import redacted
from bento.score_batch import ScoreBatch
from bento.what_if import WHAT_IF_PATH

if TYPE_CHECKING:
    # BentoML imports this in its supervisor too, which needs none of the seconds that Feast takes to import.
    from bento.case import Reply
    from bento.serving import Serving

__all__ = ["create_app"]


class _Any(Convertor[str]):
    """Any rest of a path: Starlette's own stops at a line's end, and what it does not take BentoML answers in its own way."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("any", _Any())


def create_app() -> Starlette:
    """The app; ``app.state.serving`` must be set before its first request."""
    return Starlette(
        routes=[
            Route("/v1/score", _Post("score"), methods=["POST"]),
            Route("/v1/score/batch", ScoreBatch(), methods=["POST"]),
            Route("/v1/features", _Post("features"), methods=["POST"]),
            Route("/v1/transactions", _Post("transaction"), methods=["POST"]),
            Route("/v1/chargebacks", _Post("chargeback"), methods=["POST"]),
            Route("/v1/decisions/{transaction_id:any}", _Get("decision", _decision), methods=["GET"]),
            Route("/v1/model", _Get("model", _model), methods=["GET"]),
            Route("/v1/{path:any}", _NoSuch()),
            Route(PROBLEMS_PATH + "/{kind}", _problem_kind, methods=["GET"]),
            Route("/metrics", _metrics, methods=["GET"]),
            # Before BentoML's own, so that its page at / shows all routes.
            Route("/docs.json", _description, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _http_problem},
    )


class _Post:
    """One POST route as a bare ASGI app: a decision is spared the making of request and response objects."""

    def __init__(self, verb: str) -> None:
        self._verb = verb

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_ns = time.perf_counter_ns()
        serving: Serving = scope["app"].state.serving
        send = counted(send, serving.metrics, self._verb)
        body = b""
        try:
            body = await read_body(scope, receive)
            if self._verb == "score":
                reply = await serving.scored(body, started_ns, scope.get(DEADLINE))
            else:
                reply = await _answered(serving, self._verb, body, started_ns)
        except Exception as error:  # whatever it is, the sender gets an answer
            await refuse(send, failed(serving, scope["path"], error, body))
        else:
            again = ((b"idempotent-replayed", b"true"),) if reply.repeated else ()
            await send_answer(send, 200, JSON, reply.body, *again)


class _Get:
    """One GET route, in terms of request and response objects."""

    def __init__(self, verb: str, answer: Callable[[Request], Awaitable[Response]]) -> None:
        self._verb, self._answer = verb, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._answer(Request(scope, receive))
        serving: Serving = scope["app"].state.serving
        await response(scope, receive, counted(send, serving.metrics, self._verb))


async def _answered(serving: "Serving", verb: str, body: bytes, started_ns: int) -> "Reply":
    """Answer, with what must be looked up in history before; others are answered meanwhile."""
    known: tuple[Any, ...] = ()
    while True:
        try:
            return serving.answer(verb, body, started_ns, *known)
        except HistoryNeededError as needed:
            known = (await beside(needed.look_up),)


async def _decision(request: Request) -> Response:
    serving: Serving = request.app.state.serving
    try:
        record = serving.decision(request.path_params["transaction_id"])
        return JSONResponse(await beside(serving.explained, record))
    except Exception as error:  # as above
        found = failed(serving, request.url.path, error)
        return Response(found.body(), found.status, media_type=MEDIA_TYPE)


async def _description(request: Request) -> Response:
    return JSONResponse(document())


async def _model(request: Request) -> Response:
    # It says why a version was refused, in the words of whatever refused it.
    return JSONResponse(redacted(request.app.state.serving.model()))


async def _metrics(request: Request) -> Response:
    body, media_type = request.app.state.serving.metrics.exposition()
    return Response(body, headers={"content-type": media_type})


async def _problem_kind(request: Request) -> Response:
    name = request.path_params["kind"]
    if name not in KINDS:
        raise HTTPException(404)
    kind = KINDS[name]
    return JSONResponse({"type": f"{PROBLEMS_PATH}/{name}", "title": kind.title, "status": kind.status})


class _NoSuch:
    """Takes every path and method, so those that are there with another method end here too."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == WHAT_IF_PATH:  # BentoML's, which takes the one method that is not seen here
            raise HTTPException(405, headers={"Allow": "POST"})
        for route in scope["app"].routes:
            if route.matches(scope)[0] is Match.PARTIAL:
                raise HTTPException(405, headers={"Allow": ", ".join(sorted(route.methods))})
        raise HTTPException(404)


async def _http_problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    method, path, headers = request.method, request.url.path, dict(error.headers or {})
    if error.status_code == 405:
        # Starlette keeps them as a set, so their order is another in every process.
        headers["Allow"] = ", ".join(sorted(headers["Allow"].split(", ")))
        found = Problem("method-not-allowed", f"{method} {path}: use {headers['Allow']}")
    else:
        found = Problem("not-found", f"{method} {path}: see /v1/score and the others in /docs.json")
    # Among the answers, whoever looks for what there may be would hide the share that fails.
    failed(request.app.state.serving, path, found)
    return Response(found.body(), found.status, headers, MEDIA_TYPE)
