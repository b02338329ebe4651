"""Whether this worker can do its work, and how old what it works with is: looked at once a second, beside the requests.

Probes may come as often as they like: they are answered from the last look and cost the store nothing.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bento.champion import Champions
from bento.metrics import Metrics
from bento.recording import STORE_FAILURES
from bento.repeating import Repeating
from feature_repo.windows.keys import loaded_key
from feature_repo.windows.live import read_live
from feature_repo.windows.spec import ViewSpec

__all__ = ["LOOK_S", "Health"]

LOOK_S = 1.0
"""How old what a probe is told may be, and half a second more at most: the store may take its time to answer."""

# The times of the state move slowly, and need two round trips.
_LOOKS_PER_STATE = 5
_STATM = Path("/proc/self/statm")
_log = logging.getLogger(__name__)


class Health:
    """Looks, tells, and shows it in the metrics.

    Args:
        client: of the online store; it must not wait long.
        project: whose state is read.
    """

    def __init__(
        self,
        champions: Champions,
        client: Any,
        project: str,
        metrics: Metrics,
        look_s: float = LOOK_S,
    ) -> None:
        self._champions, self._client, self._project, self._metrics = champions, client, project, metrics
        self._more: list[Callable[[], None]] = []
        self._store_failure: str | None = "it was not asked yet"
        self._looks = 0
        self.thread = Repeating("health", self.look, look_s)

    def not_ready(self) -> str | None:
        """Why this worker is not ready to decide by its model, or None: its champion serves and the store answers.

        One that is not ready still answers, by the next best means.
        """
        if self._champions.current is None:
            return f"no champion serves: {self._champions.refused or 'none was looked for yet'}"
        if self._store_failure is not None:
            return f"the online store does not answer: {self._store_failure}"
        return None

    def also(self, show: Callable[[], None]) -> None:
        """At each look from now on, show this too; what it raises is logged."""
        self._more.append(show)

    def start(self) -> None:
        """Look, and go on looking in a thread until ``stop``."""
        self.look()
        self.thread.start()

    def stop(self) -> None:
        """End the thread; returns when it has ended."""
        self.thread.stop()

    def look(self) -> None:
        """Look once."""
        self._store_failure = self._ask()
        up = self._store_failure is None
        self._metrics.store_up.set(up)
        self._metrics.ready.set(self.not_ready() is None)
        self._metrics.resident_bytes.set(_resident_bytes())
        if up and self._looks % _LOOKS_PER_STATE == 0:
            self._shown(self._state)
        for each in self._more:
            self._shown(each)
        self._looks += 1

    def _ask(self) -> str | None:
        """Why the store does not answer, or None if it does."""
        try:
            self._client.ping()
        except STORE_FAILURES as error:
            return type(error).__name__
        return None

    def _shown(self, show: Callable[[], None]) -> None:
        try:
            show()
        except Exception as error:  # what is only shown must not end the looking
            _log.warning("a part of the metrics cannot be shown: %r", error)

    def _state(self) -> None:
        for source, known_us in read_live(self._client, self._project).known.items():
            self._metrics.known_until.labels(source).set(known_us / 1e6)
        self._show_loads(self._champions.reads)

    def _show_loads(self, views: tuple[ViewSpec, ...]) -> None:
        loaded = self._client.mget([loaded_key(self._project, spec) for spec in views]) if views else []
        for spec, end_us in zip(views, loaded, strict=True):
            self._metrics.loaded_until.labels(spec.view).set(int(end_us or 0) / 1e6)


def _resident_bytes() -> float:
    """What this process holds in memory; 0 where the kernel does not say."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0.0
