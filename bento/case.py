"""One transaction on its way to a decision, what is answered of it, and what the journal keeps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from pydantic_core import to_json

from bento.champion import MODEL_NAME, Champion
from bento.request import Transaction
from bento.tracing import Trace
from bento.turn import Seen, Turn
from feature_repo.windows.scalars import from_microseconds

__all__ = ["STATUS_OF_DECISION", "Case", "Key", "Reply", "answer"]

STATUS_OF_DECISION = {"approve": "approved", "review": "pending", "decline": "declined"}
"""The status under which a decided transaction is recorded."""


Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered: JSON, and whether it is an earlier answer given again."""

    body: bytes
    repeated: bool = False


@dataclass(slots=True)
class Case:
    """A transaction, and what is known of it so far.

    Attributes:
        started_ns: when it began to be worked on, by ``time.perf_counter_ns``; while it waits that moves on.
        trace: that of its request, if it has one.
        digest: of its content. turn: its part in what is rolled out, if anything is.
        model: what decides, None without one; then what it has ``seen``, its ``score`` and ``decision``.
        more: what the journal keeps beside. known_us: when it was recorded, microseconds since 1970 UTC.
        reply, error: what came of it, one of the two once it is decided.
    """

    transaction: Transaction
    started_ns: int
    trace: Trace | None = None
    digest: str = ""
    turn: Turn | None = None
    model: Champion | None = None
    seen: Seen = field(default_factory=lambda: Seen(None, 0, {}))
    score: float | None = None
    decision: str = ""
    more: dict[str, Any] = field(default_factory=dict)
    known_us: int = 0
    record: dict[str, Any] = field(default_factory=dict)
    reply: Reply | None = None
    error: Exception | None = None

    @property
    def keys(self) -> set[Key]:
        """What no other may share that is decided at the same time: whatever is decided of the one, the other must see."""
        about = self.transaction
        return {
            ("customer", about.customer_id),
            ("terminal", about.terminal_id),
            ("transaction", about.transaction_id),
        }

    @property
    def historic(self) -> bool:
        """Whether it comes with its own known time: history that is replayed."""
        return self.transaction.created_timestamp is not None

    def answered(self) -> Reply:
        """What came of it.

        Raises:
            Whatever its ``error`` is; RuntimeError: it was not decided.
        """
        if self.error is not None:
            raise self.error
        if self.reply is None:
            raise RuntimeError(f"transaction_id {self.transaction.transaction_id!r}: it was not decided")
        return self.reply

    def event(self) -> dict[str, Any]:
        """The decided transaction as it is recorded, with the moment as of which it was scored.

        That is kept so that what is derived from its features then can be again. It is None where no features were read, and
        of history replayed: there derived columns are as of the event time, as they are in the lake that it came from.
        """
        scored: datetime | None = None
        if self.seen.values is not None and not self.historic:
            scored = from_microseconds(self.seen.known_as_of_us)
        return {**self.transaction.event(STATUS_OF_DECISION[self.decision]), "scored_timestamp": scored}

    def recorded(self, latency_us: int, decided_at_us: int) -> dict[str, Any]:
        """Make ``record``, the decision as it is journalled, and return it."""
        transaction, model, seen = self.transaction, self.model, self.seen
        bundle = None if model is None else model.bundle
        self.record = {
            "transaction_id": transaction.transaction_id,
            "content": self.digest,
            "event_timestamp_us": transaction.event_timestamp_us,
            "known_as_of_us": seen.known_as_of_us,
            "customer_id": transaction.customer_id,
            "terminal_id": transaction.terminal_id,
            "request": transaction.request_columns(),
            "features": {} if model is None or seen.values is None else _features(model, seen.values[0]),
            "score": self.score,
            "decision": self.decision,
            "model_name": None if model is None else MODEL_NAME,
            "model_version": None if model is None else model.version,
            # A frozen dataclass: its own dict, which nobody changes.
            "policy": None if bundle is None else vars(bundle.spec.policy),
            "definitions_digest": None if bundle is None else bundle.definitions_digest,
            "feature_service": None if bundle is None else bundle.feature_service,
            "state_seen": seen.state_seen,
            "degraded": seen.degraded,
            **self.more,
            "created_timestamp_us": self.known_us,
            "latency_us": latency_us,
            "decided_at_us": decided_at_us,
        }
        return self.record


def answer(record: Mapping[str, Any]) -> bytes:
    """The answer that a journalled decision gave, the same bytes every time."""
    name, version = record["model_name"], record["model_version"]
    return to_json(
        {
            "transaction_id": record["transaction_id"],
            "decision": record["decision"],
            "score": record["score"],
            # None in decisions from before they were given.
            "reasons": record.get("reasons"),
            "model": None if name is None else {"name": name, "version": version},
            "feature_service": record["feature_service"],
            "degraded": record["degraded"],
            "latency_us": record["latency_us"],
        }
    )


def _features(model: Champion, values: np.ndarray) -> dict[str, float | None]:
    names = model.plan.feature_names
    return {
        name: None if value != value else value for name, value in zip(names, values.tolist(), strict=True)
    }
