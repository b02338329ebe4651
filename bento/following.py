"""The recorder follows the definitions: a thread beside the requests looks every few seconds at what is live."""

import logging
import threading
from collections.abc import Callable, Iterable

from bento.recording import STORE_FAILURES
from bento.repeating import Repeating
from feature_repo.windows.live_recorder import LiveRecorder
from feature_repo.windows.spec import ViewSpec

__all__ = ["POLL_S", "Following"]

POLL_S = 2.0
"""How soon after ``feast apply`` events go to a changed view's new state."""

_log = logging.getLogger(__name__)


class Following:
    """Keeps ``recorder`` to what is registered and to what ``reads`` says is read here.

    Args:
        on_change: called, in the thread, when the recorder writes by other definitions than before.
    """

    def __init__(
        self,
        recorder: LiveRecorder,
        reads: Callable[[], Iterable[ViewSpec]],
        on_change: Callable[[], None],
        poll_s: float = POLL_S,
    ) -> None:
        self._recorder, self._reads = recorder, reads
        self._on_change = on_change
        self._said = ""
        self._looking = threading.Lock()
        self.thread = Repeating("definitions", self.look, poll_s)

    def start(self) -> None:
        """Follow in a thread until ``stop``."""
        self.thread.start()

    def stop(self) -> None:
        """End the thread, and say to the store that this recorder has ended; returns when it has."""
        self.thread.stop()
        try:
            self._recorder.close()
        except STORE_FAILURES as error:
            _log.warning("the store does not know that this recorder has ended: %r", error)

    def look(self) -> None:
        """Follow once; what goes wrong is logged, once, and the recorder goes on as it was."""
        with self._looking:
            self._look()

    def _look(self) -> None:
        try:
            changed = self._recorder.follow(self._reads())
        except Exception as error:  # the registry may be anywhere and raises anything; events must go on
            if repr(error) != self._said:
                _log.error("the definitions cannot be followed: %r", error)
            self._said = repr(error)
            return
        self._said = ""
        if changed:
            written = sorted(f"{spec.view}:{spec.state_digest}" for spec in self._recorder.specs)
            self._on_change()
            _log.info("events go to other definitions", extra={"definitions": written})
