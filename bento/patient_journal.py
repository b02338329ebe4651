"""A journal that goes on while its disk takes nothing: lines wait in memory, a bounded many, and are counted when they are lost.

A payment must be decided also while the disk is full. What the journal cannot write waits in the order in which it came, and is
written, in that order, as soon as the disk takes it again. ``trouble`` says what an answer given meanwhile must say: its line
stands in memory alone (a kill would lose it), or nowhere.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from feature_repo.journal import Journal, Location, now_us

__all__ = ["IN_MEMORY", "LOST", "MEMORY_BYTES", "RETRY_S", "LineLostError", "PatientJournal", "in_memory"]

MEMORY_BYTES = 64 * 1024 * 1024
"""Lines that may wait: some 20,000 decisions with 66 features each, and the events beside them."""

RETRY_S = 0.5
"""A disk that took nothing is tried again after this; each try costs a request that waits for it a system call or two."""

IN_MEMORY, LOST = "journal-in-memory", "journal-lost"
_MEMORY = ""
_log = logging.getLogger(__name__)


class LineLostError(OSError):
    """A line that neither the disk nor the memory set apart for it could take."""


class _Waiting(NamedTuple):
    kind: str
    line: bytes
    number: int


class PatientJournal(Journal):
    """As ``Journal``, but a line that the disk does not take waits in memory.

    Lines are appended by one thread; ``settle`` may be called by another.

    Attributes:
        lost: lines lost since the start.

    Args:
        limit: bytes that may wait.
        on_change: called when lines wait, wait no more, or are lost: how many wait, and how many more are lost.
    """

    def __init__(
        self,
        folder: Path,
        clock_us: Callable[[], int] = now_us,
        *,
        limit: int = MEMORY_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
        on_change: Callable[[int, int], None] = lambda waiting, lost: None,
    ) -> None:
        super().__init__(folder, clock_us)
        self.lost = 0
        self._limit, self._monotonic, self._on_change = limit, monotonic, on_change
        self._waiting: deque[_Waiting] = deque()
        self._lines: dict[int, bytes] = {}
        self._moved: dict[int, Location] = {}
        self._bytes = self._number = 0
        self._try_at = float("-inf")
        self._full = False
        self._lock = threading.RLock()

    @property
    def trouble(self) -> str | None:
        """What became of the last line: ``LOST``, ``IN_MEMORY``, or None if it is in its file."""
        if self._full:
            return LOST
        return IN_MEMORY if self._waiting else None

    def decision(self, record: Mapping[str, Any]) -> Location:
        """Append one decision; where it must wait, it says so itself as ``degraded``, unless it has another reason to.

        Args:
            record: a dict, which is changed in that case.

        Raises:
            LineLostError: the line is lost; the record says so.
        """
        with self._lock:
            written = self._written("decisions", [record])
            if written:
                return written[0]
            own: dict[str, Any] = record if isinstance(record, dict) else dict(record)
            degraded = own.get("degraded")
            own["degraded"] = degraded or IN_MEMORY
            try:
                return self._keep("decisions", self.line(own))
            except LineLostError:
                own["degraded"] = degraded or LOST
                raise

    def decisions(self, records: Sequence[Mapping[str, Any]]) -> list[Location | None]:
        """As ``decision`` of each, but None for one whose line is lost, and with one system call if the disk takes them."""
        return self._whole_or_each("decisions", records, self.decision)

    def events(self, records: Sequence[Mapping[str, Any]]) -> list[Location | None]:
        """Likewise, of events as ``event_record`` makes them."""
        return self._whole_or_each("events", records, lambda record: self._append("events", [record])[0])

    def _whole_or_each(
        self,
        kind: str,
        records: Sequence[Mapping[str, Any]],
        append: Callable[[Mapping[str, Any]], Location],
    ) -> list[Location | None]:
        with self._lock:
            found: list[Location | None] = [*self._written(kind, records)]
            for record in records[len(found) :]:
                try:
                    found.append(append(record))
                except LineLostError:
                    found.append(None)
            return found

    def settle(self, *, now: bool = False) -> bool:
        """Write what waits, if the disk takes it; returns whether nothing waits any more.

        Args:
            now: try though the last try was a moment ago.
        """
        with self._lock:
            if not self._waiting:
                return True
            if not now and self._monotonic() < self._try_at:
                return False
            before = len(self._waiting)
            try:
                while self._waiting:
                    kind, line, number = self._waiting[0]
                    (self._moved[number],) = self._file(kind).append([line])
                    self._waiting.popleft()
                    self._bytes -= len(line)
                    del self._lines[number]
            except OSError as error:
                self._failed(error)
                return False
            finally:
                if len(self._waiting) != before:
                    self._on_change(len(self._waiting), 0)
            _log.warning(
                "the journal's disk takes lines again: %d had waited, %d are lost", before, self.lost
            )
            return True

    def read(self, location: Location) -> dict[str, Any]:
        """The line at ``location``, in memory or in its file."""
        with self._lock:
            if location.file != _MEMORY:
                return super().read(location)
            if location.offset in self._lines:
                return self.parse(self._lines[location.offset])
            return super().read(self._moved[location.offset])

    def moved(self, location: Location) -> Location | None:
        """Where a line stands that had to wait; None while it waits."""
        with self._lock:
            return self._moved.get(location.offset)

    def forget_moved(self) -> None:
        """Nobody asks any more for lines that had to wait by where they were."""
        with self._lock:
            self._moved.clear()

    def close(self) -> None:
        """Sync and close the files; what still waits is lost, which is logged."""
        with self._lock:
            if not self.settle(now=True):
                self.lost += len(self._waiting)
                _log.critical("the journal ends without %d lines: its disk does not take them", self.lost)
                self._waiting.clear()
            super().close()

    def _append(self, kind: str, records: Sequence[Mapping[str, Any]]) -> list[Location]:
        with self._lock:
            places = self._written(kind, records)
            waiting = records[len(places) :]
            return [*places, *(self._keep(kind, self.line(record)) for record in waiting)]

    def _written(self, kind: str, records: Sequence[Mapping[str, Any]]) -> list[Location]:
        """Where those lines stand in their file that the disk took; none where others wait before them."""
        if not self.settle():
            return []
        try:
            places = super()._append(kind, records)
        except OSError as error:
            self._failed(error)
            return []
        self._full = False
        return places

    def _keep(self, kind: str, line: bytes) -> Location:
        if self._bytes + len(line) > self._limit:
            self._full, self.lost = True, self.lost + 1
            self._on_change(len(self._waiting), 1)
            raise LineLostError(
                f"{self.folder}: the disk takes nothing, and {self._limit} bytes wait in memory"
            )
        self._full = False
        self._number += 1
        self._waiting.append(_Waiting(kind, line, self._number))
        self._lines[self._number] = line
        self._bytes += len(line)
        self._on_change(len(self._waiting), 0)
        return Location(_MEMORY, self._number, len(line))

    def _failed(self, error: OSError) -> None:
        if self.trouble is None and self._monotonic() >= self._try_at:
            _log.critical("the journal's disk takes nothing, lines wait in memory: %s", error)
        self._try_at = self._monotonic() + RETRY_S


def in_memory(location: Location) -> bool:
    """Whether the line stands in memory, or did when it was appended."""
    return location.file == _MEMORY
