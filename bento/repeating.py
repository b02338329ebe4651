"""Work that is done again and again beside the requests, in a thread of its own, until it is stopped."""

import threading
import time
from collections.abc import Callable

__all__ = ["Repeating"]


class Repeating:
    """Does ``work``, which must not raise, each ``every_s`` seconds from start to start; what takes longer is not made up for."""

    def __init__(self, name: str, work: Callable[[], object], every_s: float) -> None:
        self._work, self._every_s = work, every_s
        self._ended, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def runs(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def stopped(self) -> bool:
        """Whether it is to end: for work that has several steps."""
        return self._ended.is_set()

    def start(self) -> None:
        """Begin; the first work is done after the first pause."""
        self._thread.start()

    def wake(self) -> None:
        """Do the work now, then go on at the same pace."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread, also one that was never started; returns when it has ended."""
        self._ended.set()
        self._wake.set()
        if self.runs:
            self._thread.join()

    def _run(self) -> None:
        due = time.monotonic() + self._every_s
        while not self.stopped:
            self._wake.wait(max(0.0, due - time.monotonic()))
            self._wake.clear()
            if not self.stopped:
                self._work()
                now = time.monotonic()
                # Woken before its time, it is due at that time all the same.
                if now >= due:
                    due = max(due, now - self._every_s) + self._every_s
