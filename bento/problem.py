"""What is wrong with a request, as problem details (RFC 9457): JSON that names the field and the way out."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bento.redaction import redact

__all__ = ["KINDS", "MEDIA_TYPE", "PROBLEMS_PATH", "HistoryNeededError", "Kind", "Problem", "problem"]

MEDIA_TYPE = "application/problem+json"
PROBLEMS_PATH = "/problems"


@dataclass(frozen=True)
class Kind:
    """A kind of problem: its HTTP status and its title, the same at every occurrence."""

    status: int
    title: str


KINDS = {
    "body-too-large": Kind(413, "The body is too large"),
    "card-number": Kind(422, "A field holds a card number"),
    "conflict": Kind(409, "The id is taken by different content"),
    "deadline-passed": Kind(503, "The request came too late to its turn"),
    "forbidden": Kind(403, "The caller may not do this"),
    "history-dropped": Kind(422, "The state no longer reaches back so far"),
    "history-not-loaded": Kind(409, "What the service recorded is not history yet"),
    "in-the-future": Kind(422, "The time lies in the future"),
    "internal-error": Kind(500, "The service has failed"),
    "invalid-json": Kind(400, "The body is not a JSON object"),
    "invalid-value": Kind(422, "A field's value cannot be used"),
    "media-type": Kind(415, "The body is not declared as JSON"),
    "method-not-allowed": Kind(405, "The path takes another method"),
    "missing-field": Kind(422, "A required field is missing"),
    "not-found": Kind(404, "There is nothing at this path"),
    "overloaded": Kind(503, "Too many requests are being worked on"),
    "rate-limited": Kind(429, "The key has sent too many requests"),
    "unauthorized": Kind(401, "The caller is not known"),
    "unavailable": Kind(503, "A part that the service needs does not answer"),
    "unknown-decision": Kind(404, "No decision is known by this id"),
    "unknown-field": Kind(422, "A field is not known"),
    "unknown-transaction": Kind(422, "The transaction is not known here"),
    "wrong-type": Kind(422, "A field has the wrong type"),
}


class Problem(Exception):  # noqa: N818 - the name that RFC 9457 gives it
    """One request's problem, to be answered with ``status`` and ``body()``.

    Attributes:
        kind: a key of ``KINDS``.
        detail: what is wrong here and what to do about it.
        field: the offending field, a path such as ``transactions[3].amount``; None where there is none.
        headers: what the answer must have beside it, names in lower case.

    Neither detail nor field tells a secret or a card number, whatever they quote.
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        field: str | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        self.kind, self.detail, self.headers = kind, redact(detail), headers
        self.field = None if field is None else redact(field)
        super().__init__(self.detail)

    @property
    def status(self) -> int:
        """The HTTP status."""
        return KINDS[self.kind].status

    def document(self) -> dict[str, Any]:
        """The members of the problem document; ``field`` only where there is one."""
        kind = KINDS[self.kind]
        members: dict[str, Any] = {
            "type": f"{PROBLEMS_PATH}/{self.kind}",
            "title": kind.title,
            "status": kind.status,
            "detail": self.detail,
        }
        if self.field is not None:
            members["field"] = self.field
        return members

    def body(self) -> bytes:
        """The problem document as JSON."""
        return json.dumps(self.document()).encode()


class HistoryNeededError(Exception):
    """No problem yet: what a request needs must first be looked up in history, which takes longer than others should wait.

    Attributes:
        look_up: does so, in any thread; with what it returns the request is to be answered anew. It raises ``Problem``.
    """

    def __init__(self, look_up: Callable[[], Any]) -> None:
        super().__init__("look it up, then answer again")
        self.look_up = look_up


def problem(kind: str, field: str | None, why: str) -> Problem:
    """A problem whose detail begins with the field that it is about."""
    return Problem(kind, why if field is None else f"{field}: {why}", field)
