"""The journal: what the service decided and recorded, as JSON Lines that outlive the process.

Two kinds of file lie in one folder, each named by the UTC day of writing, the writer's machine and
its process id, so no two processes ever write to one file, and no two files of a deployment have one name::

    decisions-2026-11-21-host-4711.jsonl   one scored transaction a line: features seen, score, decision
    events-2026-11-21-host-4711.jsonl      one recorded event a line: {"table": "transactions", ...row...}

What is promised
    A line is handed to the kernel in one ``write()`` before the caller is answered: a killed *process*
    loses nothing that was answered. Lines are not synced one by one, which costs milliseconds each: a
    *machine* that loses power may lose the last seconds, those that its kernel had not written out.
    Files are synced when the day turns and on close.

Derived columns
    An event's line ends with ``derived``: what was computed of it as it was recorded, by the keys of the columns. Events
    that come later, such as its chargeback, take it over from here. Without such columns there is no ``derived``.

Values
    Floats are written as the shortest text that reads back to the same bits; NaN (a null) is ``null``;
    timestamps are integer microseconds since 1970 UTC, in columns that end in ``_us``; decimals are
    strings.

A process killed inside ``write()`` leaves a half-written last line. Readers skip it and report it; a
writer that finds one at the end of its own file (a process id given out again) ends it with a newline
first, so that it spoils nothing after it.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic_core import to_json

from feature_repo.settings import make_private

__all__ = [
    "Journal",
    "Location",
    "derived_of_event",
    "now_us",
    "read_decisions",
    "read_events",
    "read_lines",
    "row_of_event",
    "writer_name",
]

_DERIVED = "derived"
_NONE: Mapping[str, Decimal | None] = MappingProxyType({})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_US = 86_400_000_000
_MICROSECOND = timedelta(microseconds=1)
_log = logging.getLogger(__name__)


def now_us() -> int:
    """The machine's clock, in microseconds since 1970 UTC."""
    return time.time_ns() // 1000


Damage = Callable[[Path, int, str], None]
"""Called with (file, line number from 1, what is wrong) for every line that cannot be read."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a line stands: the file's name, its first byte, and its length with the newline."""

    file: str
    offset: int
    length: int


class Journal:
    """Appends to the journal in ``folder`` (made if absent), in files that only their owner reads.

    Not thread-safe: one writer a process.

    Args:
        folder: where the files lie.
        clock_us: microseconds since 1970 UTC; names the day of a line.
    """

    def __init__(self, folder: Path, clock_us: Callable[[], int] = now_us) -> None:
        self.folder = make_private(folder)
        self._clock_us = clock_us
        self._files: dict[str, _AppendOnly] = {}

    def decision(self, record: Mapping[str, Any]) -> Location:
        """Append one decision; the caller has put None for NaN.

        Raises:
            OSError: the line could not be written whole; nothing of it is left in the file.
        """
        (location,) = self._append("decisions", [record])
        return location

    def event(
        self, table: str, row: Mapping[str, Any], derived: Mapping[str, Decimal | None] = _NONE
    ) -> Location:
        """Append one recorded event: a canonical row of ``table``, datetimes aware, decimals as they are.

        Args:
            derived: what was computed of it, by key of the column.

        Raises:
            OSError: the line could not be written whole; nothing of it is left in the file.
        """
        (location,) = self._append("events", [self.event_record(table, row, derived)])
        return location

    @staticmethod
    def event_record(
        table: str, row: Mapping[str, Any], derived: Mapping[str, Decimal | None] = _NONE
    ) -> dict[str, Any]:
        """A recorded event as it is journalled; arguments as of ``event``."""
        more = {_DERIVED: _plain(derived)} if derived else {}
        return {"table": table, **_plain(row), **more}

    def read(self, location: Location) -> dict[str, Any]:
        """The line at ``location``, as an earlier :meth:`decision` or :meth:`event` returned it."""
        with (self.folder / location.file).open("rb") as file:
            file.seek(location.offset)
            return self.parse(file.read(location.length))

    @staticmethod
    def line(record: Mapping[str, Any]) -> bytes:
        """A record as it stands in a file."""
        # What json.dumps would write, in a quarter of the time.
        return to_json(record) + b"\n"

    @staticmethod
    def parse(line: bytes) -> dict[str, Any]:
        """The inverse of ``line``."""
        record: dict[str, Any] = json.loads(line)
        return record

    def close(self) -> None:
        """Sync and close the files."""
        while self._files:
            self._files.popitem()[1].close()

    def _append(self, kind: str, records: Sequence[Mapping[str, Any]]) -> list[Location]:
        """Append with one ``write()``; returns where those stand that the disk took, the first so many, one at least.

        Raises:
            OSError: it took none.
        """
        return self._file(kind).append([self.line(record) for record in records])

    def _file(self, kind: str) -> "_AppendOnly":
        day = self._clock_us() // _DAY_US
        file = self._files.get(kind)
        if file is None or file.day != day:
            if file is not None:
                # Whatever comes of the next one, this one is not written or closed again: its number may be another file's.
                del self._files[kind]
                file.close()
            name = f"{kind}-{_EPOCH + timedelta(days=day):%Y-%m-%d}-{writer_name()}.jsonl"
            file = self._files[kind] = _AppendOnly(self.folder / name, day)
        return file


def writer_name() -> str:
    """What the names of this process's files end in: in containers, processes of two machines often have the same number."""
    return f"{os.uname().nodename}-{os.getpid()}"


class _AppendOnly:
    """One open file; ``size`` is kept by count, since nobody else writes to it."""

    def __init__(self, path: Path, day: int) -> None:
        self.path, self.day = path, day
        # Whether a part of a line stands at the end, which the next one must not become part of.
        self._torn = False
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            self._size = os.fstat(self._fd).st_size
            if self._size and os.pread(self._fd, 1, self._size - 1) != b"\n":
                self._append([b"\n"])
        except OSError:
            os.close(self._fd)
            raise

    def append(self, lines: Sequence[bytes]) -> list[Location]:
        """Where those stand that were written whole, the first of them; raises OSError if none of some was."""
        if not lines:
            return []
        if self._torn:
            self._append([b"\n"])
            self._torn = False
        return self._append(lines)

    def _append(self, lines: Sequence[bytes]) -> list[Location]:
        whole = b"".join(lines)
        try:
            written = os.write(self._fd, whole)
        except OSError as error:
            why = f"cannot append to the journal: {error.strerror}"
            raise OSError(error.errno, why, str(self.path)) from error
        places, end = [], self._size + written
        for line in lines:
            if self._size + len(line) > end:
                break
            places.append(Location(self.path.name, self._size, len(line)))
            self._size += len(line)
        if written != len(whole):
            # Whole lines stay: whoever loads the journal may have seen them already.
            try:
                os.ftruncate(self._fd, self._size)
            except OSError:
                self._size, self._torn = end, True
        if not places:
            raise OSError(f"{self.path}: only {written} of {len(whole)} bytes written: is the disk full?")
        return places

    def close(self) -> None:
        try:
            os.fsync(self._fd)
        finally:
            os.close(self._fd)


def read_decisions(folder: Path, *, on_damage: Damage | None = None) -> Iterator[dict[str, Any]]:
    """The journalled decisions, file by file in order of (day, process), each in order of writing.

    An empty or absent folder has none. A line that cannot be read is skipped, and reported to ``on_damage``
    (None: a warning in the log).
    """
    return _read(folder, "decisions", on_damage)


def read_events(folder: Path, *, on_damage: Damage | None = None) -> Iterator[dict[str, Any]]:
    """The recorded events, read likewise: each at least once, so an id may come twice."""
    return _read(folder, "events", on_damage)


def read_lines(path: Path, offset: int = 0) -> Iterator[tuple[Location, bytes]]:
    """The lines of one file from byte ``offset`` on, the last one maybe without its newline."""
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            yield Location(path.name, offset, len(line)), line
            offset += len(line)


def row_of_event(event: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A journalled event as (table, canonical row), datetimes aware again; ``amount`` stays a string."""
    row: dict[str, Any] = {}
    for name, value in event.items():
        if name.endswith("_timestamp_us"):
            row[name.removesuffix("_us")] = None if value is None else _EPOCH + timedelta(microseconds=value)
        elif name not in ("table", _DERIVED):
            row[name] = value
    return event["table"], row


def derived_of_event(event: Mapping[str, Any]) -> dict[str, Decimal | None]:
    """The derived columns of a journalled event, exact, by their keys; none where none were computed."""
    given = event.get(_DERIVED, {})
    return {key: None if value is None else Decimal(value) for key, value in given.items()}


def _read(folder: Path, kind: str, on_damage: Damage | None) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob(f"{kind}-*.jsonl")):
        for number, (_, line) in enumerate(read_lines(path), start=1):
            try:
                record = json.loads(line)
            except ValueError:
                _report(on_damage, path, number, line)
                continue
            yield record


def _report(on_damage: Damage | None, path: Path, number: int, line: bytes) -> None:
    if line == b"\n":
        return
    cut = "half-written" if not line.endswith(b"\n") else "not JSON"
    what = f"{cut}, begins {line[:60]!r}; skipped"
    if on_damage is not None:
        on_damage(path, number, what)
    else:
        _log.warning("%s: line %d: %s", path, number, what)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name, value in row.items():
        if name.endswith("_timestamp"):
            plain[f"{name}_us"] = None if value is None else (value - _EPOCH) // _MICROSECOND
        else:
            plain[name] = value if value is None or isinstance(value, int | float | str) else str(value)
    return plain
