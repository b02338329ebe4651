"""The short way to the routes that decide and record: through the gate, and past BentoML's own layers.

Those make a context, a timer and a trace of each request, none of which these routes use, and take as much of the processor
as the windows do. The timer is worse than its cost: BentoML never cancels it, so each request would leave one behind for as
long as the time-out lasts, for the garbage collector to walk through.
"""

from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bento.gate import Gate

__all__ = ["ShortWay"]


class ShortWay:
    """Middleware that puts itself before all others as the server starts, whichever it was made behind.

    It takes the POST routes of ``routes`` that are bare ASGI apps, by their exact paths, and passes on all else, other methods
    of these paths included.

    Args:
        routes: our app; its ``state`` is the gate's.
    """

    def __init__(self, app: ASGIApp, routes: Starlette) -> None:
        self._app, self._routes = app, routes
        self._ours = _bare(routes)
        self._gate = Gate(self._routed, routes.state)
        self._behind: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" and self._behind is None:
            whole: Starlette = scope["app"]
            self._behind, whole.middleware_stack = whole.middleware_stack, self._first
        await self._app(scope, receive, send)

    async def _first(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._ours:
            await self._gate(scope, receive, send)
        elif self._behind is not None:
            await self._behind(scope, receive, send)

    async def _routed(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self._routes
        await self._ours[scope["path"]](scope, receive, send)


def _bare(routes: Starlette) -> Mapping[str, ASGIApp]:
    """The apps of POST routes without parameters that Starlette does not wrap, by path."""
    return {
        route.path: route.app
        for route in routes.routes
        if isinstance(route, Route)
        and "POST" in (route.methods or ())
        and route.app is route.endpoint
        and not route.param_convertors
    }
