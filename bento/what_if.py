"""What must hold of the body of ``POST /v1/what_if`` before BentoML reads it.

BentoML answers others in a form of its own, and logs a traceback of each.
"""

from typing import TYPE_CHECKING, Any

from pydantic_core import from_json
from starlette.datastructures import State
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bento.exchange import counted, failed, read_body, refuse
from bento.problem import Problem, problem
from bento.request import type_name
from bento.score_batch import FIELD, MAX_BATCH_BYTES, elements

if TYPE_CHECKING:
    from bento.serving import Serving

__all__ = ["WHAT_IF_PATH", "WhatIfBodies"]

WHAT_IF_PATH = "/v1/what_if"


class WhatIfBodies:
    """Middleware: refuses a batch that is not ``{"transactions": [{...}, ...]}``, and passes on all else; counts the answers.

    ``state.serving`` is set when the service has started, which is before the first request.
    """

    def __init__(self, app: ASGIApp, state: State) -> None:
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != WHAT_IF_PATH or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        serving: Serving = self._state.serving
        send = counted(send, serving.metrics, "what_if")
        try:
            body = await read_body(scope, receive, MAX_BATCH_BYTES)
            _check(body)
        except Problem as error:
            await refuse(send, failed(serving, WHAT_IF_PATH, error))
        else:
            await self._app(scope, _once(body, receive), send)


def _check(body: bytes) -> None:
    try:
        # With the parser that BentoML uses: what it cannot read ends here.
        given = from_json(body)
    except ValueError as error:
        raise Problem("invalid-json", f"{error} of the body; send one JSON object") from None
    _check_object(given, None)
    for index, each in enumerate(elements(given)):
        _check_object(each, f"{FIELD}[{index}]")


def _check_object(value: Any, path: str | None) -> None:
    if not isinstance(value, dict):
        raise problem("invalid-json", path, f"it must be a JSON object, not {type_name(value)}")


def _once(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the body that was read already, then whatever else comes."""
    left = [body]

    async def again() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return again
