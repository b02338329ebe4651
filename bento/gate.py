"""The one way in: every request to the service, BentoML's own pages included, passes this middleware.

Scoring is synchronous in the event loop, so a request waits while others are scored. The gate therefore yields once before
it lets a request go on: all that have arrived by then are seen and counted, those beyond the limit are refused at once, and
those whose time is up when their turn comes are refused before any work (those to be scored are asked again when they have
waited for one another, see ``together``). Requests wait in the kernel too, where nobody sees them; that time is bounded by the
same limit, for the loop never has more than so many to work on before it looks there.
"""

import asyncio
import logging

from starlette.datastructures import State
from starlette.types import ASGIApp, Receive, Scope, Send

from bento.access import Access
from bento.deadline import DEADLINE, Deadline
from bento.exchange import counted, refuse
from bento.problem import Problem
from bento.scopes import OPEN, scope_of
from bento.tracing import Tracing

__all__ = ["Gate"]

_WHO = (401, 403)
_SAY_EVERY_S = 1.0
_log = logging.getLogger(__name__)


class Gate:
    """Middleware: lets requests in by ``state.access``, and follows them by ``state.tracing``.

    Both, and ``state.serving``, are set when the service has started, which is before the first request.
    """

    def __init__(self, app: ASGIApp, state: State) -> None:
        self._app, self._state = app, state
        self._said_at = float("-inf")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # there is none here
            await send({"type": "websocket.close", "code": 1008})
            return
        needed = scope_of(scope["path"]) if scope["type"] == "http" else OPEN
        if needed is OPEN:
            await self._app(scope, receive, send)
            return
        access: Access = self._state.access
        headers = dict(scope["headers"])
        arrived = access.monotonic()
        try:
            access.admit(needed, scope["path"], headers, scope.get("client"))
        except Problem as error:
            self._say(error, arrived, scope)
            await self._refuse(send, error)
            return
        tracing: Tracing = self._state.tracing
        access.in_flight[needed] += 1
        try:
            trace = tracing.begin(headers.get(b"traceparent"), scope)
            if trace is None:
                await self._in_turn(arrived, scope, receive, send)
            else:
                with trace:
                    await self._in_turn(arrived, scope, receive, trace.answering(send))
        finally:
            access.in_flight[needed] -= 1

    async def _in_turn(self, arrived: float, scope: Scope, receive: Receive, send: Send) -> None:
        access: Access = self._state.access
        await asyncio.sleep(0)
        deadline = scope[DEADLINE] = Deadline(arrived, access.deadline_s, access.monotonic)
        late = deadline.passed()
        if late is None:
            await self._app(scope, receive, send)
        else:
            await self._refuse(send, late)

    def _say(self, error: Problem, now: float, scope: Scope) -> None:
        """Log who is refused, once a second at most: whoever tries keys must not fill the disk."""
        if error.status in _WHO and now - self._said_at >= _SAY_EVERY_S:
            self._said_at = now
            client = scope.get("client")
            about = {"path": scope["path"], "client": None if client is None else client[0]}
            _log.warning("refused: %s", error.detail, extra=about)

    async def _refuse(self, send: Send, error: Problem) -> None:
        metrics = self._state.serving.metrics
        metrics.problems.labels(error.kind).inc()
        await refuse(counted(send, metrics, "gate"), error)
