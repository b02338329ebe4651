"""The HTTP routes of the service, as an ASGI app: bodies in, answers or problems out."""

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from bento.problem import KINDS, MEDIA_TYPE, PROBLEMS_PATH, HistoryNeededError, Problem
from bento.request import MAX_BODY_BYTES

if TYPE_CHECKING:
    # BentoML imports this in its supervisor too, which needs none of the seconds that Feast takes to import.
    from bento.scoring import Reply
    from bento.serving import Serving

__all__ = ["create_app", "read_body", "refuse"]

_log = logging.getLogger(__name__)


def create_app() -> Starlette:
    """The app; ``app.state.serving`` must be set before its first request."""
    return Starlette(
        routes=[
            Route("/v1/score", _Post("score"), methods=["POST"]),
            Route("/v1/transactions", _Post("transaction"), methods=["POST"]),
            Route("/v1/chargebacks", _Post("chargeback"), methods=["POST"]),
            Route("/v1/model", _model, methods=["GET"]),
            Route("/v1/{path:path}", _no_such),
            Route(PROBLEMS_PATH + "/{kind}", _problem_kind, methods=["GET"]),
            Route("/metrics", _metrics, methods=["GET"]),
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
        try:
            body = await read_body(scope, receive)
            reply = await _answered(serving, self._verb, body, started_ns)
        except Problem as error:
            serving.metrics.problems.labels(error.kind).inc()
            await refuse(send, error)
        except Exception as error:  # the last stand: the sender gets an answer, the log gets the rest
            serving.metrics.errors.labels("internal").inc()
            _log.error("request failed", exc_info=error, extra={"path": scope["path"]})
            await refuse(send, Problem("internal-error", "nothing was decided; the service's log says why"))
        else:
            again = ((b"idempotent-replayed", b"true"),) if reply.repeated else ()
            await _send(send, 200, "application/json", reply.body, *again)


async def _answered(serving: "Serving", verb: str, body: bytes, started_ns: int) -> "Reply":
    """Answer, with what must be looked up in history before; others are answered meanwhile."""
    known: tuple[Any, ...] = ()
    while True:
        try:
            return serving.answer(verb, body, started_ns, *known)
        except HistoryNeededError as needed:
            known = (await asyncio.to_thread(needed.look_up),)


async def read_body(scope: Scope, receive: Receive, limit: int = MAX_BODY_BYTES) -> bytes:
    """The whole body, of at most ``limit`` bytes.

    Raises:
        Problem: not declared as JSON, or over the limit; what is over is not read.
    """
    headers = dict(scope["headers"])
    media_type = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if media_type != b"application/json":
        shown = media_type.decode("latin-1")
        raise Problem("media-type", f"the content type is {shown!r}; send 'content-type: application/json'")
    if int(headers.get(b"content-length", b"0")) > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message: Message = await receive()
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
        more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(limit: int) -> Problem:
    way_out = "send one transaction a request" if limit == MAX_BODY_BYTES else "send fewer transactions"
    return Problem("body-too-large", f"more than {limit} bytes; {way_out}")


async def refuse(send: Send, error: Problem) -> None:
    """Answer with the problem's document."""
    again = ((b"retry-after", b"1"),) if error.status == 503 else ()
    await _send(send, error.status, MEDIA_TYPE, error.body(), *again)


async def _send(send: Send, status: int, media_type: str, body: bytes, *more: tuple[bytes, bytes]) -> None:
    headers = [
        (b"content-type", media_type.encode()),
        (b"content-length", str(len(body)).encode()),
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _model(request: Request) -> Response:
    return JSONResponse(request.app.state.serving.model())


async def _metrics(request: Request) -> Response:
    body, media_type = request.app.state.serving.metrics.exposition()
    return Response(body, headers={"content-type": media_type})


async def _problem_kind(request: Request) -> Response:
    name = request.path_params["kind"]
    if name not in KINDS:
        raise HTTPException(404)
    kind = KINDS[name]
    return JSONResponse({"type": f"{PROBLEMS_PATH}/{name}", "title": kind.title, "status": kind.status})


async def _no_such(request: Request) -> Response:
    # This route takes every path, so those that are there with another method end here too.
    for route in request.app.routes:
        if isinstance(route, Route) and route.path == request.url.path and route.methods is not None:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(route.methods))})
    raise HTTPException(404)


async def _http_problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    method, path, headers = request.method, request.url.path, dict(error.headers or {})
    if error.status_code == 405:
        found = Problem("method-not-allowed", f"{method} {path}: use {headers.get('Allow')}")
    else:
        found = Problem("not-found", f"{method} {path}: see /v1/score, /v1/transactions, /v1/chargebacks")
    return Response(found.body(), found.status, headers, MEDIA_TYPE)
