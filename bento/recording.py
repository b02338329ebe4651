"""Events into the online state and the journal: each once, though the store fail or the sender repeat."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import redis

from bento.metrics import Metrics
from bento.problem import problem
from bento.seen import DECISION, Entry, Seen, content_digest, derived_kind
from feature_repo.journal import Journal, Location, derived_of_event
from feature_repo.windows.event_values import NOTHING, Taken, Values
from feature_repo.windows.live_recorder import LiveRecorder
from feature_repo.windows.recorder import Written

__all__ = ["BACKLOG_LIMIT", "PAUSE_S", "STORE_FAILURES", "Recorded", "Recording"]

STORE_FAILURES = (redis.RedisError, OSError)
"""What the store raises when it does not answer; anything else is a fault of the event or of the code."""

BACKLOG_LIMIT = 100_000
"""Scored events kept for a store that does not answer, about 100 MB; older ones reach the lake only."""

PAUSE_S = 1.0
"""For how long a store that did not answer is not asked again: each try holds up every request behind it."""

# What one request may catch up on: some 20 ms of work.
_DRAINED_AT_ONCE = 200

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recorded event: when it became known (microseconds since 1970 UTC), and if it was there before."""

    known_us: int
    repeated: bool


class Recording:
    """Records events of one process, in the order in which they are given. Not thread-safe."""

    def __init__(
        self,
        recorder: LiveRecorder,
        journal: Journal,
        seen: Seen,
        metrics: Metrics,
        clock_us: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.journal, self.seen = journal, seen
        self._recorder, self._metrics, self._clock_us = recorder, metrics, clock_us
        self._monotonic, self._ask_again_at = monotonic, 0.0
        self._backlog: deque[dict[str, Any]] = deque(maxlen=BACKLOG_LIMIT)

    @contextmanager
    def store(self) -> Iterator[None]:
        """Wherever the store is asked: for a second after it did not answer, it is not asked.

        Raises:
            ConnectionError: it is not asked.
        """
        if self._monotonic() < self._ask_again_at:
            raise ConnectionError(
                "the online store did not answer a moment ago; it is not asked for a second"
            )
        try:
            yield
        except STORE_FAILURES:
            self._ask_again_at = self._monotonic() + PAUSE_S
            raise

    def find(self, key: str, digest: str, *kinds: str) -> dict[str, Entry]:
        """What is known of an id, of any of ``kinds``.

        Raises:
            Problem: it stands for other content.
        """
        found = {kind: entry for kind, entry in self.seen.find(key).items() if kind in kinds}
        for entry in found.values():
            if entry.digest != digest:
                raise problem(
                    "conflict", "transaction_id", "it was sent before with other content; use a new id"
                )
        return found

    def derived(self, table: str, key: str) -> Values:
        """What was computed of an event when it was recorded; empty where nothing was, or there is no such event."""
        entry = self.seen.find(key).get(derived_kind(table))
        return derived_of_event(self.journal.read(entry.location)) if entry else {}

    def record(self, table: str, event: Mapping[str, Any], taken: Taken = NOTHING) -> Recorded:
        """Record an event that must reach the state now.

        Args:
            taken: what it takes over from events of its id in other tables.

        Raises:
            Problem: the id stands for other content.
            LackingValueError: it takes over more; nothing is recorded.
            RedisError, OSError: the store or the journal does not answer; a retry is safe.
        """
        key, digest = event["transaction_id"], content_digest(event)
        kinds = (table, DECISION) if table == "transactions" else (table,)
        for entry in self.find(key, digest, *kinds).values():
            return Recorded(self.journal.read(entry.location)["created_timestamp_us"], repeated=True)
        with self.store():
            written = self._write(table, event, taken)
        location = self._journal(table, event, digest, written)
        self.seen.add(key, table, digest, location)
        self._metrics.recorded.labels(table).inc()
        return Recorded(written.known_us, repeated=False)

    def record_scored(self, event: Mapping[str, Any], digest: str) -> int:
        """Record a scored transaction, now or as soon as the store answers again; returns its known time.

        An event that waits is known as of now by this process's clock, and in the state before any read.

        Args:
            digest: of its content.
        """
        try:
            with self.store():
                written = self._write("transactions", event)
        except STORE_FAILURES as error:
            written = Written(self._known_us(event), {})
            self._keep(_known(event, written.known_us), error)
        self._metrics.recorded.labels("transactions").inc()
        self._journal("transactions", event, digest, written)
        return written.known_us

    def caught_up(self) -> bool:
        """Whether the state holds every scored event; records some of those that waited for the store.

        To be asked before a read: one that misses an event would answer with features that never were.

        Raises:
            RedisError, OSError: the store still does not answer.
        """
        if not self._backlog:
            return True
        waiting = list(islice(self._backlog, _DRAINED_AT_ONCE))
        written = self._recorder.write("transactions", waiting)
        for _ in waiting:
            self._backlog.popleft()
        self._metrics.backlog.set(len(self._backlog))
        for event, each in zip(waiting, written, strict=True):
            if each.values:
                # Its line was written without them.
                self._journal("transactions", event, content_digest(event), each)
        return not self._backlog

    def _write(self, table: str, event: Mapping[str, Any], taken: Taken = NOTHING) -> Written:
        """Write the event into the state, if there is one of its table."""
        known_us = self._known_us(event)
        if self._recorder.passes_by(table, known_us):
            return Written(known_us, {})
        return self._recorder.write(table, [event], [taken])[0]

    def _journal(self, table: str, event: Mapping[str, Any], digest: str, written: Written) -> Location:
        location = self.journal.event(table, _known(event, written.known_us), written.values)
        if written.values:
            self.seen.add(event["transaction_id"], derived_kind(table), digest, location)
        return location

    def _known_us(self, event: Mapping[str, Any]) -> int:
        """The known time that the event comes with, else now by this process's clock; microseconds."""
        created = event["created_timestamp"]
        return self._clock_us() if created is None else (created - _EPOCH) // timedelta(microseconds=1)

    def _keep(self, event: dict[str, Any], error: Exception) -> None:
        self._backlog.append(event)
        self._metrics.backlog.set(len(self._backlog))
        self._metrics.errors.labels("record").inc()
        _log.error(
            "the store does not answer; the event waits",
            extra={"transaction_id": event["transaction_id"], "error": repr(error)},
        )


def _known(event: Mapping[str, Any], known_us: int) -> dict[str, Any]:
    return {**event, "created_timestamp": _EPOCH + timedelta(microseconds=known_us)}
