"""``/livez`` and ``/readyz``, in place of BentoML's own: one truth, told as the service tells its other problems."""

from typing import TYPE_CHECKING

from starlette.datastructures import State
from starlette.types import ASGIApp, Receive, Scope, Send

from bento.exchange import JSON, refuse, send_answer
from bento.problem import Problem

if TYPE_CHECKING:
    # As in app: BentoML's supervisor needs nothing of it.
    from bento.serving import Serving

__all__ = ["Probes"]

_METHODS = ("GET", "HEAD")


class Probes:
    """Middleware: answers the probes, and passes on all else.

    ``/livez`` (and ``/healthz``, as older deployments ask): this process answers. ``/readyz``: it decides by its model, which
    takes a champion and a store; 503 says which of them lacks.

    Args:
        state: the app's; it has ``serving`` from the start of the service on.
    """

    def __init__(self, app: ASGIApp, state: State) -> None:
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" and scope["method"] in _METHODS else ""
        if path == "/readyz":
            await self._ready(send)
        elif path in ("/livez", "/healthz"):
            await send_answer(send, 200, JSON, b'{"alive":true}')
        else:
            await self._app(scope, receive, send)

    async def _ready(self, send: Send) -> None:
        serving: Serving = self._state.serving
        why = serving.health.not_ready()
        if why is None:
            await send_answer(send, 200, JSON, b'{"ready":true}')
        else:
            await refuse(
                send, Problem("unavailable", f"{why}; what is sent all the same is answered degraded")
            )
