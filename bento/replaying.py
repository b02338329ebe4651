"""Recording the journal again into the online state, from where the store says that it holds all."""

import json
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from decimal import Decimal
from itertools import groupby, islice, takewhile
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from feature_repo.journal import Location, derived_of_event, read_lines, row_of_event, writer_name
from feature_repo.windows.event_values import NOTHING, LackingValueError, Taken, Values
from feature_repo.windows.keys import loaded_key, project_prefix
from feature_repo.windows.live_recorder import LiveRecorder
from feature_repo.windows.recorder import Written

__all__ = ["Replayed", "Replaying", "marks_key"]

# Recorded in one go while requests wait: some milliseconds.
_TOGETHER = 50
_EVENTS = "events-*.jsonl"
_log = logging.getLogger(__name__)

Row = dict[str, Any]


class Replayed(NamedTuple):
    """What was computed of an event as it was recorded again."""

    table: str
    event: Mapping[str, Any]
    known_us: int
    values: Values


def marks_key(project: str) -> bytes:
    """The hash of marks: for each journal and file, up to which byte its events are in the state."""
    return project_prefix(project) + b":journal"


class Replaying:
    """The journal's events in ``folder``, those of all processes that have written there, and their marks in the store."""

    def __init__(self, client: Any, recorder: LiveRecorder, folder: Path) -> None:
        self._client, self._recorder, self._folder = client, recorder, folder
        self._key = marks_key(recorder.project)
        try:
            self._name = _name_of(folder)
        except OSError as error:
            _log.warning(
                "%s: the journal has no name, so the next service records all of it again: %s", folder, error
            )
            self._name = uuid4().hex
        self._marked: dict[str, int] = {}

    def ends(self) -> dict[str, int]:
        """How long this process's files are: up to where to ``mark`` them if no event waits after this was asked."""
        return {path.name: path.stat().st_size for path in self._folder.glob(_own_files())}

    def mark(self, ends: Mapping[str, int]) -> None:
        """Say to the store that it holds what this process has journalled up to these ends.

        Raises:
            redis.RedisError, OSError: no answer.
        """
        self._mark(ends)

    def replay(self, found: Callable[[Replayed], None]) -> int:
        """Record again what stands behind the marks, and mark it; returns how many events.

        Without any mark it begins with what became known when the load of history ended.

        Args:
            found: called with derived columns that the journal does not have of an event.

        Raises:
            redis.RedisError, OSError: no answer.
        """
        marks = self._marks()
        since = None if marks else self._loaded_until()
        self._marked, count = dict(marks), 0
        gone = [name for name in marks if not (self._folder / name).exists()]
        if gone:
            self._client.hdel(self._key, *(f"{self._name}/{name}" for name in gone))
        for path in sorted(self._folder.glob(_EVENTS)):
            end = marks.get(path.name, 0)
            # A line without its end is being written, or was when its process died.
            lines = takewhile(lambda each: each[1].endswith(b"\n"), read_lines(path, end))
            while some := list(islice(lines, _TOGETHER)):
                count += self._record(_events(some, since), found)
                end = some[-1][0].offset + some[-1][0].length
            self._mark({path.name: end})
        return count

    def _record(self, events: Iterable["_Event"], found: Callable[[Replayed], None]) -> int:
        count = 0
        for table, group in groupby(events, key=itemgetter(0)):
            some = list(group)
            if self._recorder.passes_by(table, max(event.known_us for event in some)):
                continue
            for event, written in zip(some, self._written(table, some), strict=True):
                count += written is not None
                if written is not None and written.values and not event.derived:
                    found(Replayed(table, event.row, written.known_us, written.values))
        return count

    def _written(self, table: str, events: Sequence["_Event"]) -> list[Written | None]:
        """What became of each event; None of one that cannot be recorded, which is logged."""
        try:
            return list(self._recorder.write(table, [event.row for event in events]))
        except LackingValueError:
            return [self._written_with(table, event) for event in events]
        except (LookupError, TypeError, ValueError) as error:
            if len(events) > 1:
                return [written for event in events for written in self._written(table, [event])]
            _refused(table, events[0], error)
            return [None]

    def _written_with(self, table: str, event: "_Event") -> Written | None:
        """What became of an event that takes over columns from its transaction."""
        try:
            return self._recorder.write(table, [event.row], [self._taken(event.row)])[0]
        except (LookupError, TypeError, ValueError, sqlite3.Error) as error:
            _refused(table, event, error)
            return None

    def _taken(self, row: Row) -> Taken:
        """What an event took over from its transaction, as the journal has it."""
        index = self._folder / "seen.db"
        with closing(sqlite3.connect(f"{index.as_uri()}?mode=ro", uri=True)) as db:
            found = db.execute(
                "SELECT file, offset, length FROM seen WHERE id = ? AND kind = 'derived:transactions'",
                (row["transaction_id"],),
            ).fetchone()
        if found is None:
            return NOTHING
        where = Location(*found)
        with (self._folder / where.file).open("rb") as file:
            file.seek(where.offset)
            return {"transactions": derived_of_event(json.loads(file.read(where.length)))}

    def _marks(self) -> dict[str, int]:
        start = f"{self._name}/"
        fields = {name.decode(): int(value) for name, value in self._client.hgetall(self._key).items()}
        return {name.removeprefix(start): end for name, end in fields.items() if name.startswith(start)}

    def _mark(self, ends: Mapping[str, int]) -> None:
        fresh = {name: end for name, end in ends.items() if end > self._marked.get(name, -1)}
        if fresh:
            self._client.hset(self._key, mapping={f"{self._name}/{name}": end for name, end in fresh.items()})
            self._marked.update(fresh)

    def _loaded_until(self) -> int | None:
        """The end of the earliest load, microseconds; None if nothing was loaded."""
        keys = [loaded_key(self._recorder.project, spec) for spec in self._recorder.specs]
        ends = [int(end) for end in self._client.mget(keys) if end is not None] if keys else []
        return min(ends, default=None)


class _Event(NamedTuple):
    """An event of the journal, and the derived columns that it has there."""

    table: str
    row: Row
    known_us: int
    derived: Values


def _events(lines: Iterable[tuple[Location, bytes]], since: int | None) -> Iterator[_Event]:
    """The events that became known from ``since`` on."""
    for _, line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue  # half-written: whoever reads the journal reports it
        if since is None or record["created_timestamp_us"] >= since:
            table, row = row_of_event(record)
            if row.get("amount") is not None:
                row["amount"] = Decimal(row["amount"])
            yield _Event(table, row, record["created_timestamp_us"], derived_of_event(record))


def _refused(table: str, event: _Event, error: Exception) -> None:
    _log.error(
        "an event of the journal cannot be recorded again: %s",
        error,
        extra={"transaction_id": event.row["transaction_id"], "table": table},
    )


def _own_files() -> str:
    return f"events-????-??-??-{writer_name()}.jsonl"


def _name_of(folder: Path) -> str:
    """The journal's own name, the same for every process that writes to it, made with the first of them."""
    path = folder / "name"
    fresh = path.with_name(f"name-{uuid4().hex}")
    if not path.exists():
        fresh.write_text(uuid4().hex)
        try:
            os.link(fresh, path)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_text()
