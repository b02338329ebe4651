"""The journal into the lake, bit by bit while it is written: each event and each decision exactly once.

How far a file of the journal is loaded stands in the lake itself, in the commit that brought its last rows: a Delta application
transaction named as the file, whose version is the byte behind the last loaded line. Data and position cannot disagree,
whenever the loader is killed and whatever becomes of the lake (one that is removed is loaded again from the start). Rows are
merged by id besides, since the journal may say a thing twice. Positions of files of events are kept by the transactions, which
are committed last.

A half-written last line waits for its rest; a damaged line is skipped and reported.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from feature_repo.journal import row_of_event
from feature_repo.journal_rows import decisions_table, events_table
from feature_repo.lake_merge import merge
from feature_repo.lake_writer import lake_lock, position, tidy

__all__ = ["BATCH_BYTES", "JournalLoader", "Loaded"]

BATCH_BYTES = 16 * 1024 * 1024
"""Journal in one commit, about: some 5,000 decisions with their 66 features."""

# Where positions of a kind of file are kept, and what is committed before it.
_KEEPS = {"events": "transactions", "decisions": "decisions"}
_BEFORE = {"events": ("chargebacks",), "decisions": ()}
_log = logging.getLogger(__name__)


@dataclass
class Loaded:
    """What one pass did, by table; ``damaged``: lines that could not be read."""

    added: dict[str, int] = field(default_factory=dict)
    differing: dict[str, int] = field(default_factory=dict)
    damaged: int = 0


@dataclass
class _Batch:
    """Lines of some files, and the position in each behind its last."""

    records: list[dict[str, Any]] = field(default_factory=list)
    positions: dict[str, int] = field(default_factory=dict)
    size: int = 0


class JournalLoader:
    """Loads what the journal has and the lake lacks. Not thread-safe; any number of processes may load at once.

    Args:
        journal, lake: folders; the journal's may be absent, the lake's is made.
        batch_bytes: read at once, about.
    """

    def __init__(self, journal: Path, lake: Path, batch_bytes: int = BATCH_BYTES) -> None:
        self._journal, self._lake, self._batch_bytes = journal, lake, batch_bytes
        # Bytes of each file that were looked at, what is half-written included: spares asking for files that nobody writes.
        self._seen: dict[str, int] = {}

    def behind(self) -> int:
        """Bytes of the journal that this loader has not looked at; before its first pass, all."""
        return sum(
            max(path.stat().st_size - self._seen.get(path.name, 0), 0)
            for kind in _KEEPS
            for path in self._files(kind)
        )

    def load(self) -> Loaded:
        """Load all complete lines that are there now.

        Raises:
            ValueError: a line does not fit its table; nothing of its batch is loaded, nor what comes after it of its kind.
            OSError: the lake or the journal cannot be written or read; what is committed stays.
        """
        report, misfit = Loaded(), None
        seen_before = dict(self._seen)
        try:
            for kind in _KEEPS:
                try:
                    for batch in self._batches(kind, report):
                        self._commit(kind, batch, report)
                except ValueError as error:  # one kind does not keep the other from being loaded
                    misfit = misfit or error
            for table in report.added:
                with lake_lock(self._lake):
                    tidy(self._lake, table)
            if misfit is not None:
                raise misfit
        except BaseException:
            self._seen = seen_before
            raise
        return report

    def _commit(self, kind: str, batch: _Batch, report: Loaded) -> None:
        tables = {}
        if kind == "events":
            rows = [row_of_event(record) for record in batch.records]
            for table in (*_BEFORE[kind], _KEEPS[kind]):
                tables[table] = events_table(table, [row for of, row in rows if of == table])
        else:
            tables[_KEEPS[kind]] = decisions_table(batch.records)
        with lake_lock(self._lake):
            for table, found in tables.items():
                keeps = batch.positions if table == _KEEPS[kind] else None
                merged = merge(self._lake, table, found, keeps)
                if merged.added:
                    report.added[table] = report.added.get(table, 0) + merged.added
                if merged.differing:
                    report.differing[table] = report.differing.get(table, 0) + merged.differing
                    _log.warning(
                        "the lake has other content of the same ids",
                        extra={"table": table, "ids": merged.differing},
                    )

    def _batches(self, kind: str, report: Loaded) -> Iterator[_Batch]:
        batch = _Batch()
        for path in self._files(kind):
            at = self._start(kind, path)
            while True:
                lines, end, looked_at = _lines(path, at, self._batch_bytes)
                self._seen[path.name] = looked_at
                if end == at:
                    break
                batch.records += self._read(path, lines, report)
                batch.positions[path.name] = end
                batch.size, at = batch.size + end - at, end
                if batch.size >= self._batch_bytes:
                    yield batch
                    batch = _Batch()
        if batch.positions:
            yield batch

    def _files(self, kind: str) -> list[Path]:
        return sorted(self._journal.glob(f"{kind}-*.jsonl"))

    def _start(self, kind: str, path: Path) -> int:
        """Where to go on in a file; from its first byte where it is not the file that the position is of."""
        size = path.stat().st_size
        if self._seen.get(path.name) == size:
            return size
        at = position(self._lake, _KEEPS[kind], path.name) or 0
        if at and not _ends_line(path, at):
            _log.warning(
                "the file is not the one that was loaded; it is loaded anew", extra={"file": path.name}
            )
            at = 0
        return at

    def _read(self, path: Path, lines: list[bytes], report: Loaded) -> Iterator[dict[str, Any]]:
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError:
                report.damaged += 1
                _log.warning(
                    "a line of the journal is damaged", extra={"file": path.name, "begins": repr(line[:60])}
                )


def _lines(path: Path, at: int, size: int) -> tuple[list[bytes], int, int]:
    """Whole lines from byte ``at`` on, of about ``size`` bytes, the byte behind the last, and that behind all that was read."""
    with path.open("rb") as file:
        file.seek(at)
        data = file.read(size)
        end = data.rfind(b"\n") + 1
        if not end and len(data) == size:  # one long line
            data += file.readline()
            end = data.rfind(b"\n") + 1
    rest = data[end:]
    if rest and len(data) < size and _is_whole(rest):
        # Killed between the line and its newline: an object that is closed lacks nothing.
        end = len(data)
    return [line for line in data[:end].split(b"\n") if line], at + end, at + len(data)


def _is_whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _ends_line(path: Path, at: int) -> bool:
    """Whether a line ends at byte ``at``, with its newline or before it."""
    with path.open("rb") as file:
        file.seek(at - 1)
        around = file.read(2)
    return around[:1] == b"\n" or around[1:] == b"\n" or (len(around) == 1 and around == b"}")
