"""Whether the store holds all that was recorded, and bringing it what it lacks, from the journal.

A store that comes back may be another one: empty, restored from an older file, or a replica that was behind. And a service that
is killed while events wait for the store forgets that they wait. In each case the journal has them. So the store itself holds a
mark for each file of the journal: what stands before it was recorded. Marks are written through the same connection as events,
and after them, so a store that has lost its last moments has lost the marks of these moments too.

From the marks on the journal is recorded again, which counts once. That is done in a thread of its own, when the service starts,
when the store turns out to be another server than before, when the mark beside the state of a plan is gone, and when more events
waited than there was room for. Until it is done no features are read: they would be wrong. An embedded server that has died is
started again.
"""

import logging
import subprocess
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import redis

from bento.metrics import Metrics
from bento.online import connections_made, revive
from bento.processor import place_store
from bento.recording import CATCHING_UP, STATE_LOST, STORE_FAILURES, Recording
from bento.repeating import Repeating
from bento.replaying import Replayed, Replaying
from feature_repo.windows.plan import OnlinePlan

__all__ = ["CatchingUp"]

_POLL_S = 0.5
_log = logging.getLogger(__name__)


class CatchingUp:
    """Looks after the state. ``why_not`` is asked in the thread that scores; the rest runs in a thread of its own.

    Args:
        client: of the online store; it must not wait long.
        replaying: records the journal again.
        plans: the plans that are read here, the champion's first: without it nothing is read.
        came_back: called when the store answers after it did not.
        recording: asked whether events wait for the store in this process, and told whether the store answers.
        lost: called at each look that finds the store lacking state. The recorder has to say again what it writes: whoever loads
            history waits for the recorders that the store names, and an emptied store names none.

    Attributes:
        found: derived columns that were computed of events as they were recorded again; to be journalled.
    """

    def __init__(
        self,
        client: Any,
        replaying: Replaying,
        plans: Callable[[], Iterable[OnlinePlan]],
        recording: Recording,
        metrics: Metrics,
        came_back: Callable[[], None] = lambda: None,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._client, self._replaying, self._plans = client, replaying, plans
        self._recording, self._metrics = recording, metrics
        self.found: deque[Replayed] = deque()
        self._why: str | None = CATCHING_UP
        self._said, self._came_back, self._answers = "", came_back, True
        self._lost = lost
        self._server = ""
        self._connections = -1
        self.thread = Repeating("catching-up", self._look_and_revive, _POLL_S)

    def why_not(self) -> str | None:
        """Why the state must not be read, or None. Costs nothing unless a connection was made since it was asked last.

        To be asked before a read and after it: the connection may be made anew within.

        Raises:
            redis.RedisError, OSError: no answer.
        """
        if self._why is None and connections_made() != self._connections:
            made = connections_made()
            if self._server_now() == self._server:
                self._connections = made
            else:
                _log.warning(
                    "the online store is another server than before; the journal's last events are recorded again"
                )
                self.suspect()
        return self._why

    def suspect(self, why: str = CATCHING_UP) -> None:
        """Say that the store may lack something; it is read no more until it has been seen to."""
        self._why = self._why or why
        self._metrics.store_whole.set(0)
        self.thread.wake()

    def start(self) -> None:
        """See to the store once, then go on in a thread until ``stop``."""
        self.look()
        self.thread.start()

    def stop(self) -> None:
        """Write the marks once more, and end the thread; returns when it has ended."""
        self.thread.stop()
        self.look()
        with suppress(*STORE_FAILURES):
            place_store(self._client, released=True)

    def look(self) -> None:
        """See to the store once; what goes wrong is logged, and tried again at the next look."""
        try:
            self._look()
        except STORE_FAILURES as error:
            self._answers = False
            self._recording.store_answers(False)
            self._say(f"the online store cannot be seen to: {type(error).__name__}")
        except (
            Exception
        ) as error:  # journals and registries may be damaged in any way; the answers stay degraded
            self._say(f"the online store cannot be brought up to date: {error!r}")

    def _look(self) -> None:
        self._client.ping()
        self._recording.store_answers(True)
        if not self._answers:
            self._answers = True
            self._came_back()
        # A challenger that has lost its own state fails by itself: the champion's is read on.
        marks = [mark for plan in list(self._plans())[:1] for mark in plan.marks]
        if marks and self._why is None and None in self._client.mget(marks):
            self.suspect(STATE_LOST)
        if self.why_not() is not None:
            self._catch_up()
        else:
            # The ends first: what is journalled from now on may have to wait. And what is let go of is suspected first.
            ends = self._replaying.ends()
            if self._recording.idle and self.why_not() is None:
                self._replaying.mark(ends)
        self._metrics.store_whole.set(self._why is None)

    def _catch_up(self) -> None:
        """Record again what the store may lack, unless history has to be loaded first."""
        server, made = self._server_now(), connections_made()
        place_store(self._client)
        plans = list(self._plans())
        lacking = plans[0].missing_state() if plans else []
        if lacking:
            self._lost()
            self._why = STATE_LOST
            self._say(f"the online store has lost the state of {', '.join(lacking)}; run fraud backfill")
            return
        if not self._recording.idle:
            return
        count = self._replaying.replay(self.found.append)
        for plan in plans:
            if not plan.missing_state():
                plan.watch()
        if self._server_now() != server:
            return
        self._server, self._connections = server, made
        self._why, self._said = None, ""
        self._metrics.replayed.inc(count)
        _log.info("the online store holds all that was recorded", extra={"recorded_again": count})

    def _server_now(self) -> str:
        """Which server answers: its run's id, another one after each start; empty where it does not say."""
        try:
            about: Mapping[str, Any] = self._client.info("server")
        except redis.ResponseError:
            return ""
        return str(about.get("run_id", ""))

    def _say(self, what: str) -> None:
        """Log it once, until it is something else."""
        if what != self._said:
            _log.error(what)
        self._said = what

    def _look_and_revive(self) -> None:
        self.look()
        if self._answers or self.thread.stopped:
            return
        try:
            revive()
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            self._say(f"the embedded store cannot be started again: {error!r}")
