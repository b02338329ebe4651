"""Events into the online state and the journal: each once, though the store fail or the sender repeat."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import redis

from bento.metrics import Metrics
from bento.patient_journal import PatientJournal, in_memory
from bento.problem import problem
from bento.seen import DECISION, Entry, Seen, content_digest, derived_kind
from bento.tracing import Trace, within
from feature_repo.journal import Location, derived_of_event
from feature_repo.windows.event_values import NOTHING, Taken, Values
from feature_repo.windows.live_recorder import LiveRecorder
from feature_repo.windows.recorder import Written

if TYPE_CHECKING:
    from bento.catching_up import CatchingUp
    from bento.replaying import Replayed

__all__ = [
    "BACKLOG_LIMIT",
    "CATCHING_UP",
    "PAUSE_S",
    "STATE_LOST",
    "STORE_FAILURES",
    "Recorded",
    "Recording",
    "Scored",
]

STORE_FAILURES = (redis.RedisError, OSError)
"""What the store raises when it does not answer; anything else is a fault of the event or of the code."""

BACKLOG_LIMIT = 100_000
"""Scored events kept for a store that does not answer, about 100 MB; if there are more, the journal is recorded again."""

CATCHING_UP, STATE_LOST = "store-catching-up", "state-lost"
"""Why features are not read: events are recorded first that waited; history has to be loaded first."""

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


class Scored(NamedTuple):
    """A scored transaction to be recorded: with the digest of its content, and the trace of its request."""

    event: Mapping[str, Any]
    digest: str
    trace: Trace | None = None


class _Line(NamedTuple):
    """An event of the journal: with the digest of its content, and what became of it in the state."""

    event: Mapping[str, Any]
    digest: str
    written: Written


class Recording:
    """Records events of one process, in the order in which they are given. Not thread-safe."""

    def __init__(
        self,
        recorder: LiveRecorder,
        journal: PatientJournal,
        seen: Seen,
        metrics: Metrics,
        clock_us: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.journal, self.seen = journal, seen
        self._recorder, self._metrics, self._clock_us = recorder, metrics, clock_us
        self._monotonic, self._ask_again_at = monotonic, 0.0
        self._backlog: deque[dict[str, Any]] = deque(maxlen=BACKLOG_LIMIT)
        self._overflowed = False
        # When what was recorded last became known, by the store's clock, and when that was by this process's.
        self._newest_us, self._newest_at = 0, 0.0
        self.catching_up: CatchingUp | None = None

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

    def decided(self, found: Mapping[str, Entry], digest: str) -> Entry | None:
        """The decision on a transaction, or None; ``found`` is what is known of its id.

        Raises:
            Problem: the id stands for other content.
        """
        return _of_content(found, digest, DECISION, "transactions").get(DECISION)

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
            RedisError, OSError: the store or the journal's disk does not answer; a retry is safe.
        """
        if not self.journal.settle():
            raise self._full_disk()
        key, digest = event["transaction_id"], content_digest(event)
        kinds = (table, DECISION) if table == "transactions" else (table,)
        for entry in _of_content(self.seen.find(key), digest, *kinds).values():
            return Recorded(self.journal.read(entry.location)["created_timestamp_us"], repeated=True)
        with self.store():
            (written,) = self._write(table, [event], [taken])
        if isinstance(written, Exception):
            raise written
        (location,) = self._journal(table, [_Line(event, digest, written)])
        if location is None or in_memory(location):
            raise self._full_disk()
        self.seen.add(key, table, digest, location)
        self._metrics.recorded.labels(table).inc()
        return Recorded(written.known_us, repeated=False)

    def record_scored(self, scored: Sequence[Scored]) -> list[int]:
        """Record scored transactions, now or as soon as the store answers again; returns their known times.

        An event that waits is known as of now, and in the state before any read.
        """
        events = [each.event for each in scored]
        try:
            with self.store():
                found = self._write("transactions", events)
        except STORE_FAILURES as error:
            found = [error] * len(events)
        written = [self._in_history(*each) for each in zip(scored, found, strict=True)]
        self._metrics.recorded.labels("transactions").inc(len(written))
        lines = [_Line(event, digest, each) for (event, digest, _), each in zip(scored, written, strict=True)]
        # The decision's line says so of one that is lost, and the payment is decided all the same.
        self._journal("transactions", lines)
        return [each.known_us for each in written]

    def _in_history(self, scored: Scored, written: Written | Exception) -> Written:
        """What history gets of a scored transaction, whatever became of it in the state."""
        if not isinstance(written, Exception):
            return written
        event, error = scored.event, written
        written = Written(self._known_us(event), {})
        with within(scored.trace):
            if isinstance(error, STORE_FAILURES):
                self._keep(_known(event, written.known_us), error)
            else:
                self._unfit(event, error)
        return written

    def _unfit(self, event: Mapping[str, Any], error: Exception) -> None:
        """No view can take an event. Decided it is, and in history; the audit will say what was missing in the state."""
        self._metrics.errors.labels("record").inc()
        _log.error(
            "no view can take an event",
            exc_info=error,
            extra={"transaction_id": event["transaction_id"], "error": repr(error)},
        )

    def keep_decisions(self, decided: Sequence[tuple[dict[str, Any], str]]) -> None:
        """Journal decisions; where the line of one must wait, or is lost, the record says so as ``degraded``.

        Args:
            decided: the records, each with the digest of its transaction's content.
        """
        places = self.journal.decisions([record for record, _ in decided])
        self._index(
            (record["transaction_id"], DECISION, digest, place)
            for (record, digest), place in zip(decided, places, strict=True)
        )

    def _index(self, lines: Iterable[tuple[str, str, str, Location | None]]) -> None:
        """Remember where the lines of (id, kind, digest, place) stand that have a place."""
        entries = [
            (key, kind, Entry(digest, place)) for key, kind, digest, place in lines if place is not None
        ]
        if entries:
            self.seen.add_all(entries)

    @property
    def idle(self) -> bool:
        """Whether no event waits for the store."""
        return not self._backlog and not self._overflowed

    def store_answers(self, answers: bool) -> None:
        """Told by whoever looks after the store beside the requests: while it does not answer, no request waits for it."""
        if answers:
            self._ask_again_at = 0.0
        elif self._ask_again_at:
            self._ask_again_at = self._monotonic() + PAUSE_S

    def why_not(self) -> str | None:
        """Why features must not be read, or None; to be asked before a read and after it.

        Raises:
            RedisError, OSError: the store does not answer.
        """
        if not self.caught_up():
            return CATCHING_UP
        return None if self.catching_up is None else self.catching_up.why_not()

    def state_lost(self) -> str:
        """A read has found the state gone; returns why features must not be read."""
        if self.catching_up is not None:
            self.catching_up.suspect(STATE_LOST)
        return STATE_LOST

    def caught_up(self) -> bool:
        """Whether the state holds every scored event; records some of those that waited for the store.

        To be asked before a read: one that misses an event would answer with features that never were.

        Raises:
            RedisError, OSError: the store still does not answer.
        """
        if self._overflowed:
            # The journal has those that were let go of, and the others. Nobody must take it for idle and whole in between.
            if self.catching_up is not None:
                self.catching_up.suspect()
            self._backlog.clear()
            self._overflowed = False
            return False
        if self.catching_up is not None and self.catching_up.found:
            self._journal_found(self.catching_up.found)
        if not self._backlog:
            return True
        waiting = list(islice(self._backlog, _DRAINED_AT_ONCE))
        written = self._recorder.write_each("transactions", waiting)
        for _ in waiting:
            self._backlog.popleft()
        self._metrics.backlog.set(len(self._backlog))
        lines = []
        for event, each in zip(waiting, written, strict=True):
            if isinstance(each, Exception):
                self._unfit(event, each)
            elif each.values:
                # Its line was written without them.
                lines.append(_Line(event, content_digest(event), each))
        self._journal("transactions", lines)
        return not self._backlog

    def _journal_found(self, found: "deque[Replayed]") -> None:
        """Journal what was computed of events as they were recorded again; their lines were written without it."""
        while found:
            some = [found.popleft() for _ in range(min(len(found), _DRAINED_AT_ONCE))]
            for table in dict.fromkeys(each.table for each in some):
                lines = [
                    _Line(each.event, content_digest(each.event), Written(each.known_us, each.values))
                    for each in some
                    if each.table == table
                ]
                self._journal(table, lines)

    def _full_disk(self) -> OSError:
        return OSError(f"{self.journal.folder}: the journal's disk takes nothing")

    def _write(
        self, table: str, events: Sequence[Mapping[str, Any]], taken: Sequence[Taken] = ()
    ) -> list[Written | Exception]:
        """Write events into the state, if there is one of their table; of each what became of it, or why it could not be."""
        times = [self._known_us(event) for event in events]
        if not events or self._recorder.passes_by(table, max(times)):
            return [Written(known_us, {}) for known_us in times]
        written = self._recorder.write_each(table, events, taken)
        for event, each in zip(events, written, strict=True):
            if event["created_timestamp"] is None and isinstance(each, Written):
                self._newest_us, self._newest_at = each.known_us, self._monotonic()
        return written

    def _journal(self, table: str, lines: Sequence[_Line]) -> list[Location | None]:
        """Write lines; returns where they stand, None of one that is lost, which is counted there."""
        places = self.journal.events(
            [
                self.journal.event_record(table, _known(event, written.known_us), written.values)
                for event, _, written in lines
            ]
        )
        kind = derived_kind(table)
        self._index(
            (event["transaction_id"], kind, digest, place if written.values else None)
            for (event, digest, written), place in zip(lines, places, strict=True)
        )
        return places

    def _known_us(self, event: Mapping[str, Any]) -> int:
        """The known time that the event comes with, else now; microseconds."""
        created: datetime | None = event["created_timestamp"]
        if created is not None:
            return (created - _EPOCH) // timedelta(microseconds=1)
        return self._store_now_us() or self._clock_us()

    def now_us(self) -> int:
        """This moment, microseconds since 1970 UTC: by this process's clock or the store's, whichever is ahead.

        A clock that was set back must not make transactions that happen now seem to lie in the future.
        """
        return max(self._clock_us(), self._store_now_us())

    def _store_now_us(self) -> int:
        """This moment by the store's clock, from what it said last; 0 if it has said nothing yet.

        What is read counts events by that clock. So an event that has to wait is known by it too, whatever this process's clock
        does meanwhile: after all that was read before, and before all that is read later.
        """
        if not self._newest_us:
            return 0
        return self._newest_us + 1 + int((self._monotonic() - self._newest_at) * 1e6)

    def _keep(self, event: dict[str, Any], error: Exception) -> None:
        self._overflowed = self._overflowed or len(self._backlog) == BACKLOG_LIMIT
        self._backlog.append(event)
        self._metrics.backlog.set(len(self._backlog))
        self._metrics.errors.labels("record").inc()
        _log.error(
            "the store does not answer; the event waits",
            extra={"transaction_id": event["transaction_id"], "error": repr(error)},
        )


def _of_content(found: Mapping[str, Entry], digest: str, *kinds: str) -> dict[str, Entry]:
    """What was found of an id, of any of ``kinds``.

    Raises:
        Problem: it stands for other content.
    """
    wanted = {kind: entry for kind, entry in found.items() if kind in kinds}
    for entry in wanted.values():
        if entry.digest != digest:
            way_out = "what was reported first stands" if "chargebacks" in kinds else "use a new id"
            raise problem("conflict", "transaction_id", f"it was sent before with other content; {way_out}")
    return wanted


def _known(event: Mapping[str, Any], known_us: int) -> dict[str, Any]:
    return {**event, "created_timestamp": _EPOCH + timedelta(microseconds=known_us)}
