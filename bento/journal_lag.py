"""How far the lake is behind the journal, in bytes and in time, whether or not what loads it still runs."""

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from bento.metrics import Metrics

__all__ = ["JournalLag"]

# A lake that stands still for days must not fill the memory: then every second mark is enough.
_MOST_MARKS = 4096


class JournalLag:
    """Shows the lag in the metrics, from what the loader reports now and then, and from how the journal has grown since.

    What is journalled later is loaded later, near enough. So the oldest byte that is not loaded was journalled at the latest
    when the journal had first grown beyond what is loaded now; of what is older than this process that is its start.

    Args:
        folder: the journal's.
    """

    def __init__(
        self, folder: Path, metrics: Metrics, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder, self._metrics, self._monotonic = folder, metrics, monotonic
        self._loaded: int | None = None
        # When the journal was first seen to have so many bytes; both ascend.
        self._marks: deque[tuple[float, int]] = deque()
        # Between the thread that is reported to and the one that looks.
        self._lock = threading.Lock()

    def report(self, behind: int) -> None:
        """The loader says that so many bytes of the journal are not in the lake; shows it.

        Raises:
            OSError: the journal cannot be looked at.
        """
        with self._lock:
            self._loaded = self._size() - behind
            self._show()

    def show(self) -> None:
        """Look how far the journal has grown, and show what follows; nothing before the first report.

        Raises:
            OSError: the journal cannot be looked at.
        """
        with self._lock:
            self._show()

    def _show(self) -> None:
        if self._loaded is None:
            return
        now, size = self._monotonic(), self._size()
        if not self._marks or size > self._marks[-1][1]:
            self._marks.append((now, size))
        while self._marks and self._marks[0][1] <= self._loaded:
            self._marks.popleft()
        if len(self._marks) > _MOST_MARKS:
            self._marks = deque(list(self._marks)[::2])
        self._metrics.journal_lag_bytes.set(max(size - self._loaded, 0))
        self._metrics.journal_lag_seconds.set(now - self._marks[0][0] if self._marks else 0.0)

    def _size(self) -> int:
        return sum(path.stat().st_size for path in self._folder.glob("*.jsonl"))
