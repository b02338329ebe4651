"""``POST /v1/score/batch``: many transactions, each decided, recorded and journalled as ``/v1/score`` would."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from starlette.types import Receive, Scope, Send

from bento.exchange import JSON, counted, failed, read_body, refuse
from bento.problem import problem
from bento.request import parse_json, type_name

if TYPE_CHECKING:
    from bento.serving import Serving

__all__ = ["FIELD", "MAX_BATCH", "MAX_BATCH_BYTES", "MOST_TOGETHER", "ScoreBatch", "elements"]

FIELD = "transactions"
MAX_BATCH = 500
"""Transactions in one batch: what is read and scored at once for a what-if well within the server's timeout of a second."""

MAX_BATCH_BYTES = 1024 * 1024

MOST_TOGETHER = 32
"""Transactions that are decided at once, of a batch or of whatever requests wait: some ten milliseconds of work."""


class ScoreBatch:
    """The route, as a bare ASGI app.

    The answer is a JSON list: for each transaction, in order, what ``/v1/score`` would answer, or the problem document that it
    would refuse it with. Some are decided at a time and sent at once, and other requests are served in between: a batch neither
    holds them up nor runs into the server's timeout; nor do many batches, which take turns. Sent again, it gets the first answers
    again.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        serving: Serving = scope["app"].state.serving
        send = counted(send, serving.metrics, "batch")
        try:
            given = elements(parse_json(await read_body(scope, receive, MAX_BATCH_BYTES)))
        except Exception as error:  # whatever it is, the sender gets an answer
            await refuse(send, failed(serving, scope["path"], error))
            return
        headers = [(b"content-type", JSON.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        before = b"["
        async for answer in self._answers(serving, scope["path"], given):
            await send({"type": "http.response.body", "body": before + answer, "more_body": True})
            before = b","
        await send({"type": "http.response.body", "body": b"]"})

    async def _answers(self, serving: "Serving", path: str, given: list[Any]) -> AsyncIterator[bytes]:
        for at in range(0, len(given), MOST_TOGETHER):
            asked = [_answer(serving, path, element) for element in given[at : at + MOST_TOGETHER]]
            async with self._turn:
                found = await asyncio.gather(*asked)
            for answered in found:
                yield answered


def elements(given: Any) -> list[Any]:
    """The elements of a batch's decoded body: a list, or an object with the list as ``transactions``.

    Raises:
        Problem: neither, or none, or too many of them.
    """
    if isinstance(given, dict):
        for name in given:
            if name != FIELD:
                raise problem("unknown-field", name[:128], f"it is not a field here; known is {FIELD}")
        if FIELD not in given:
            raise problem("missing-field", FIELD, "it is missing; send a list of transactions")
        given = given[FIELD]
        if not isinstance(given, list):
            raise problem("wrong-type", FIELD, f"it must be a list of transactions, not {type_name(given)}")
    if not isinstance(given, list):
        raise problem("invalid-json", None, f"it must be a list of transactions, not {type_name(given)}")
    if not 0 < len(given) <= MAX_BATCH:
        raise problem("invalid-value", FIELD, f"there are {len(given)}; send 1 to {MAX_BATCH}")
    return given


async def _answer(serving: "Serving", path: str, element: Any) -> bytes:
    try:
        answer, status = (await serving.scored(element, time.perf_counter_ns())).body, 200
    except Exception as error:  # as above; the others are decided all the same
        refused = failed(serving, path, error)
        answer, status = refused.body(), refused.status
    serving.metrics.answers.labels("element", str(status)).inc()
    return answer
