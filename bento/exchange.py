"""Bodies in, answers and refusals out, on bare ASGI: what every route of ours shares."""

import logging
from typing import TYPE_CHECKING

from starlette.types import Message, Receive, Scope, Send

from bento.logs import transaction_id_in
from bento.patience import Within
from bento.problem import MEDIA_TYPE, Problem
from bento.request import MAX_BODY_BYTES

if TYPE_CHECKING:
    from bento.metrics import Metrics
    from bento.serving import Serving

__all__ = ["BODY_S", "JSON", "counted", "failed", "read_body", "refuse", "send_answer"]

JSON = "application/json"
BODY_S = 0.9
"""How long a body may take to come; a sender that never ends must not keep a place that others wait for."""

_log = logging.getLogger(__name__)


async def read_body(scope: Scope, receive: Receive, limit: int = MAX_BODY_BYTES) -> bytes:
    """The whole body, of at most ``limit`` bytes.

    Raises:
        Problem: not declared as JSON, over the limit, or not there in time; what is over is not read.
    """
    headers = dict(scope["headers"])
    media_type = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if media_type != b"application/json":
        shown = media_type.decode("latin-1")
        raise Problem("media-type", f"the content type is {shown!r}; send 'content-type: application/json'")
    announced = headers.get(b"content-length", b"0")
    # A length that is none is the server's to refuse; what comes is counted anyway.
    if announced.isdigit() and int(announced) > limit:
        raise _too_large(limit)
    try:
        return await Within(_read(receive, limit), BODY_S)
    except TimeoutError:
        why = f"nothing was done: the body was not there within {BODY_S} s; send it again, in one piece"
        raise Problem("deadline-passed", why) from None


async def _read(receive: Receive, limit: int) -> bytes:
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


async def send_answer(
    send: Send, status: int, media_type: str, body: bytes, *more: tuple[bytes, bytes]
) -> None:
    """Send a whole answer; ``more`` are further headers."""
    headers = [
        (b"content-type", media_type.encode()),
        (b"content-length", str(len(body)).encode()),
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, error: Problem) -> None:
    """Answer with the problem's document."""
    again = ((b"retry-after", b"1"),) if error.status == 503 else ()
    await send_answer(send, error.status, MEDIA_TYPE, error.body(), *again, *error.headers)


def counted(send: Send, metrics: "Metrics", verb: str) -> Send:
    """``send``, and the answer that begins by it is counted."""

    async def counting(message: Message) -> None:
        if message["type"] == "http.response.start":
            metrics.answers.labels(verb, str(message["status"])).inc()
        await send(message)

    return counting


def failed(serving: "Serving", path: str, error: Exception, body: bytes = b"") -> Problem:
    """What to answer for an error, which is counted; one that is no problem is a fault of ours, and is logged.

    Args:
        body: the request's, if there is one; the log names its transaction.
    """
    if isinstance(error, Problem):
        serving.metrics.problems.labels(error.kind).inc()
        return error
    # The last stand: the sender gets an answer, the log gets the rest.
    serving.metrics.errors.labels("internal").inc()
    about = {"path": path, "transaction_id": transaction_id_in(body)}
    _log.error("request failed", exc_info=error, extra=about)
    return Problem("internal-error", "nothing was decided; the service's log says why")
