"""How far the lake is behind the journal: in bytes, and in time."""

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from bento.metrics import Metrics

__all__ = ["JournalLag"]

# A lake that stands still for days must not fill the memory: then every second mark is enough.
_MOST_MARKS = 4096


class JournalLag:
    """Shows the lag in the metrics, each time that it is called.

    What is journalled later is loaded later, near enough. So the oldest byte that is not loaded was journalled at the latest
    when the journal had first grown beyond what is loaded now; of what is older than this process that is its start.

    Args:
        folder: the journal's.
        behind: bytes in it that are not in the lake.
    """

    def __init__(
        self,
        folder: Path,
        behind: Callable[[], int],
        metrics: Metrics,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._behind, self._metrics, self._monotonic = folder, behind, metrics, monotonic
        # When the journal was first seen to have so many bytes; both ascend.
        self._marks: deque[tuple[float, int]] = deque()

    def __call__(self) -> None:
        """Look, and show.

        Raises:
            OSError: the journal cannot be looked at.
        """
        now, behind = self._monotonic(), self._behind()
        size = sum(path.stat().st_size for path in self._folder.glob("*.jsonl"))
        if not self._marks or size > self._marks[-1][1]:
            self._marks.append((now, size))
        while self._marks and self._marks[0][1] <= size - behind:
            self._marks.popleft()
        if len(self._marks) > _MOST_MARKS:
            self._marks = deque(list(self._marks)[::2])
        self._metrics.journal_lag_bytes.set(behind)
        self._metrics.journal_lag_seconds.set(now - self._marks[0][0] if self._marks else 0.0)
