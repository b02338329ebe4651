"""One transaction in, one decision out: read the features, score, decide, record, journal."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np

from bento.champion import MODEL_NAME, Champion, Champions
from bento.metrics import STAGES, Metrics
from bento.read_ahead import PlanOf, ReadAhead
from bento.reasons import codes_of, explain, explain_rules
from bento.recording import Recording
from bento.request import Transaction
from bento.rollout import Rollouts
from bento.seen import DECISION, content_digest
from bento.tracing import current_trace
from bento.turn import Seen, Turn
from feature_repo.windows.reading import StateLostError
from training.policy import Policy

__all__ = ["STATUS_OF_DECISION", "Reply", "Scorer", "answer"]

STATUS_OF_DECISION = {"approve": "approved", "review": "pending", "decline": "declined"}
"""The status under which a decided transaction is recorded."""

_WITHOUT_A_MODEL = Policy().default
# What is done where a part has failed.
_NEXT_BEST = {
    "features": "the rules decide",
    "model": "the rules decide",
    "rules": "the policy's default decides",
    "reasons": "the decision stands",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered: JSON, and whether it is an earlier answer given again."""

    body: bytes
    repeated: bool = False


class Scorer:
    """Decides on transactions, one at a time, in one thread.

    When features or model cannot answer, rules on the request alone decide, and ``degraded`` says why.
    With no model at all there are no rules either: then the policy's default decides, which is never to approve.
    """

    def __init__(
        self,
        champions: Champions,
        rollouts: Rollouts,
        recording: Recording,
        metrics: Metrics,
        clock_us: Callable[[], int],
    ) -> None:
        self.champions, self.rollouts = champions, rollouts
        self._recording, self._metrics, self._clock_us = recording, metrics, clock_us
        self.ahead = ReadAhead()
        self._traceback_at = float("-inf")

    def score(self, transaction: Transaction, started_ns: int) -> Reply:
        """Decide, record and journal; a transaction that was decided before gets its first answer again.

        Args:
            transaction: as parsed.
            started_ns: when the request arrived, by ``time.perf_counter_ns``.

        Raises:
            Problem: the id was sent before with other content.
        """
        ends = [started_ns, time.perf_counter_ns()]
        digest = content_digest(transaction.event(""))
        recording = self._recording
        found = recording.find(transaction.transaction_id, digest, DECISION, "transactions")
        if DECISION in found:
            self._metrics.repeats.inc()
            return Reply(answer(recording.journal.read(found[DECISION].location)), repeated=True)
        champion = self.champions.current
        arrangement = self.rollouts.current
        turn = None if arrangement is None else arrangement.turn(champion, transaction)
        reading: list[int] = []
        seen = self._read(champion, transaction, turn, reading)
        now = time.perf_counter_ns()
        # Of two tries the second counts; what was not come to took no time.
        ends += [*reading[-2:], now, now, now][:3]
        score = self._score(champion, transaction, seen)
        ends.append(time.perf_counter_ns())
        score, decision = self._decide(champion, transaction, seen, score)
        more: dict[str, Any] = {}
        if turn is not None:
            acted = turn.settle(champion, seen, score, decision, transaction, started_ns)
            champion, seen, score, decision = acted.model, acted.seen, acted.score, acted.decision
            more = acted.journal
        more["reasons"] = self._reasons(champion, transaction, seen, score, decision)
        ends.append(time.perf_counter_ns())
        event = transaction.event(STATUS_OF_DECISION[decision])
        known_us = recording.record_scored({**event, "scored_timestamp": _scored(transaction, seen)}, digest)
        ends.append(time.perf_counter_ns())
        record = _record(transaction, digest, champion, seen, score, decision)
        record |= more
        record["created_timestamp_us"] = known_us
        record["latency_us"] = (time.perf_counter_ns() - started_ns) // 1000
        record["decided_at_us"] = self._clock_us()
        recording.keep_decision(record, digest)
        ends.append(time.perf_counter_ns())
        self._metrics.stages(ends)
        trace = current_trace()
        if trace is not None:
            trace.stages(STAGES, ends)
            trace.decided(transaction.transaction_id, decision, record["degraded"])
        self._metrics.decisions.labels(decision, record["degraded"] or "no").inc()
        if score is not None:
            self._metrics.scores.observe(score)
        return Reply(answer(record))

    def _read(
        self, champion: Champion | None, transaction: Transaction, turn: Turn | None, ends_ns: list[int]
    ) -> Seen:
        known_us = transaction.created_timestamp_us or self._clock_us()
        if champion is None:
            return Seen(None, known_us, {}, "no-model")
        try:
            with self._recording.store():
                why_not = self._recording.why_not()
                if why_not is not None:
                    return Seen(None, known_us, {}, why_not)
                rows = [transaction.entity_row()]
                by = partial(self.ahead.read, transaction, self._plan_of(champion))
                read = (
                    by(champion.plan, rows, ends_ns)
                    if turn is None
                    else turn.read(champion, rows, ends_ns, by)
                )
                # The store may have become another one in between.
                why_not = self._recording.why_not()
                if why_not is not None:
                    return Seen(None, known_us, {}, why_not)
        except StateLostError as error:
            self._failed("features", transaction, error)
            return Seen(None, known_us, {}, self._recording.state_lost())
        except Exception as error:  # whatever it is, the payment must be decided: by the rules
            self._failed("features", transaction, error)
            # The plan says so of an instant whose windows reach back to events that the state has dropped.
            dropped = type(error) is LookupError
            return Seen(None, known_us, {}, "history-dropped" if dropped else "features-unavailable")
        state_seen = {view: int(count[0]) for view, count in read.state_seen.items()}
        return Seen(read.values, int(read.known_as_of_us[0]), state_seen)

    def _plan_of(self, champion: Champion) -> PlanOf:
        arrangement = self.rollouts.current
        if arrangement is None:
            return lambda transaction: champion.plan
        return lambda transaction: arrangement.turn(champion, transaction).plan(champion)

    def _score(self, champion: Champion | None, transaction: Transaction, seen: Seen) -> float | None:
        if champion is None or seen.values is None:
            return None
        try:
            return float(champion.bundle.score(seen.values)[0])
        except Exception as error:  # as above
            self._failed("model", transaction, error)
            seen.degraded = "model-failed"
            return None

    def _decide(
        self, champion: Champion | None, transaction: Transaction, seen: Seen, score: float | None
    ) -> tuple[float | None, str]:
        if champion is None:
            return None, _WITHOUT_A_MODEL
        if score is not None:
            try:
                return score, champion.bundle.decide(score, transaction.amount_usd_cents)
            except Exception as error:  # as above
                self._failed("model", transaction, error)
                seen.degraded = "model-failed"
        try:
            return None, champion.bundle.decide_without_model(transaction.entity_row())
        except Exception as error:  # as above
            self._failed("rules", transaction, error)
            seen.degraded = "rules-failed"
            return None, champion.bundle.spec.policy.default

    def _reasons(
        self,
        champion: Champion | None,
        transaction: Transaction,
        seen: Seen,
        score: float | None,
        decision: str,
    ) -> list[str]:
        """Codes of why it was not approved, the weightiest first; an approval is not held up to say why."""
        if decision == "approve":
            return []
        bundle = None if champion is None else champion.bundle
        try:
            if bundle is None or score is None:
                return codes_of(explain_rules(bundle, transaction.entity_row(), decision))
            return codes_of(explain(bundle, seen.values[0], decision, transaction.amount_usd_cents))
        except Exception as error:  # the decision stands, and may be explained later
            self._failed("reasons", transaction, error)
            return []

    def _failed(self, part: str, transaction: Transaction, error: Exception) -> None:
        """Log a line each time, and the traceback once a second at most."""
        self._metrics.errors.labels(part).inc()
        now = time.monotonic()
        whole = now - self._traceback_at > 1.0
        self._traceback_at = now if whole else self._traceback_at
        _log.error(
            "%s failed; %s",
            part,
            _NEXT_BEST[part],
            exc_info=error if whole else None,
            extra={"transaction_id": transaction.transaction_id, "error": repr(error)},
        )


def _scored(transaction: Transaction, seen: Seen) -> datetime | None:
    """As of when the transaction was scored, kept with it so that what is derived from its features then can be again.

    None where no features were read, and of a transaction that comes with its own known time: that is history replayed, and
    derived columns of history are as of the event time, as they are in the lake that it came from.
    """
    if seen.values is None or transaction.created_timestamp is not None:
        return None
    return _EPOCH + timedelta(microseconds=seen.known_as_of_us)


def answer(record: Mapping[str, Any]) -> bytes:
    """The answer that a journalled decision gave, the same bytes every time."""
    name, version = record["model_name"], record["model_version"]
    return _encode(
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
    ).encode()


def _record(
    transaction: Transaction,
    digest: str,
    champion: Champion | None,
    seen: Seen,
    score: float | None,
    decision: str,
) -> dict[str, Any]:
    return {
        "transaction_id": transaction.transaction_id,
        "content": digest,
        "event_timestamp_us": transaction.event_timestamp_us,
        "known_as_of_us": seen.known_as_of_us,
        "customer_id": transaction.customer_id,
        "terminal_id": transaction.terminal_id,
        "request": transaction.request_columns(),
        "features": {} if champion is None or seen.values is None else _features(champion, seen.values[0]),
        "score": score,
        "decision": decision,
        "model_name": None if champion is None else MODEL_NAME,
        "model_version": None if champion is None else champion.version,
        # A frozen dataclass: its own dict, which nobody changes.
        "policy": None if champion is None else vars(champion.bundle.spec.policy),
        "definitions_digest": None if champion is None else champion.bundle.definitions_digest,
        "feature_service": None if champion is None else champion.bundle.feature_service,
        "state_seen": seen.state_seen,
        "degraded": seen.degraded,
    }


def _features(champion: Champion, values: np.ndarray) -> dict[str, float | None]:
    names = champion.plan.feature_names
    return {
        name: None if value != value else value for name, value in zip(names, values.tolist(), strict=True)
    }
