"""Paths with a line's end in them: BentoML's routing does not see them, and would answer in a form of its own."""

from starlette.types import ASGIApp, Receive, Scope, Send

from bento.exchange import refuse
from bento.problem import Problem

__all__ = ["LineEnds"]


class LineEnds:
    """Middleware: there is nothing at such a path, for no id has what does not print; passes on all else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "\n" in scope["path"]:
            await refuse(send, Problem("not-found", "the path has a line's end in it; see /docs.json"))
        else:
            await self._app(scope, receive, send)
