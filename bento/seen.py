"""Which ids were answered before, with what content, and where the journal says what was answered.

The journal is the truth and this is its index: a SQLite file beside it, one row an id, so that a request that
is sent again, seconds or months later, before or after a restart, gets its first answer and is recorded once.
The file may be deleted at any time: it is made again from the journal at the next start.
"""

import hashlib
import json
import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bento.patient_journal import RETRY_S, PatientJournal, in_memory
from feature_repo.journal import Location, derived_of_event, read_lines, row_of_event

__all__ = ["DECISION", "Entry", "Seen", "content_digest", "derived_kind"]

DECISION = "decision"
"""What is indexed of an id: its decision, or the event recorded in the table of that name."""

# Outcome and known times may change from one delivery to the next; the rest is what an id stands for.
_NOT_CONTENT = ("status", "created_timestamp", "scored_timestamp")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS seen (
    id TEXT, kind TEXT, digest TEXT, file TEXT, offset INTEGER, length INTEGER, PRIMARY KEY (id, kind)
) WITHOUT ROWID
"""
# Of json.dumps, that makes one each time, half the cost.
_encode = json.JSONEncoder(default=str).encode
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of an id: the digest of its content, and the journal's line."""

    digest: str
    location: Location


def content_digest(row: Mapping[str, Any]) -> str:
    """Names a canonical row's content: equal for two deliveries of one event. 32 hex digits."""
    content = sorted((name, value) for name, value in row.items() if name not in _NOT_CONTENT)
    return hashlib.blake2b(_encode(content).encode(), digest_size=16).hexdigest()


def derived_kind(table: str) -> str:
    """What is indexed of an id whose event of ``table`` has derived columns."""
    return f"derived:{table}"


class Seen:
    """The index of the journal in ``folder``; opening it reads what the journal holds and the index does not.

    Several processes may share a folder. Not thread-safe. While its disk takes nothing, what is added stays in memory, as do
    entries of lines that wait for the disk themselves.

    Args:
        journal: whose lines may have to wait for the disk.
    """

    def __init__(self, folder: Path, journal: PatientJournal | None = None) -> None:
        self._folder, self._journal = folder, journal
        self._unsaved: dict[str, dict[str, Entry]] = {}
        self._save_at = float("-inf")
        self._db = _open(folder / "seen.db")
        self._catch_up()

    def find(self, key: str) -> dict[str, Entry]:
        """Everything known of an id, by kind; empty for an id never seen."""
        return self.find_all([key])[key]

    def find_all(self, keys: Sequence[str]) -> dict[str, dict[str, Entry]]:
        """Likewise of some ids, a few hundred at most."""
        if self._unsaved:
            self._save()
        found: dict[str, dict[str, Entry]] = {key: dict(self._unsaved.get(key, {})) for key in keys}
        try:
            rows = self._db.execute(
                f"SELECT id, kind, digest, file, offset, length FROM seen WHERE id IN ({_places(keys)})",
                keys,
            ).fetchall()
        except sqlite3.Error as error:
            # It is recorded again then, which counts once.
            _log.error("%s: an id cannot be looked up, and is taken for a new one: %s", self._folder, error)
            rows = []
        for key, kind, digest, *where in rows:
            found[key][kind] = Entry(digest, Location(*where))
        return found

    def add(self, key: str, kind: str, digest: str, location: Location) -> None:
        """Remember an id; what was remembered first stays."""
        self.add_all([(key, kind, Entry(digest, location))])

    def add_all(self, entries: Sequence[tuple[str, str, Entry]]) -> None:
        """Likewise some of (id, kind, entry), a few hundred at most, with one write."""
        # In the order of the journal: what is behind the last line in the file is what a start reads again.
        waits = self._unsaved or any(in_memory(entry.location) for _, _, entry in entries)
        if waits or not self._insert(entries):
            for key, kind, entry in entries:
                self._unsaved.setdefault(key, {}).setdefault(kind, entry)
        if waits:
            # Only now: once all is saved, nobody can ask any more where lines went that had to wait.
            self._save()

    def _insert(self, entries: Sequence[tuple[str, str, Entry]]) -> bool:
        """Write entries, all or none; False if the disk does not take them."""
        values: list[str | int] = []
        for key, kind, entry in entries:
            where = entry.location
            values += (key, kind, entry.digest, where.file, where.offset, where.length)
        rows = ", ".join(["(?, ?, ?, ?, ?, ?)"] * len(entries))
        try:
            self._db.execute(f"INSERT OR IGNORE INTO seen VALUES {rows}", values)
        except sqlite3.Error as error:
            if not self._unsaved:
                _log.error("%s: the index stays in memory: %s", self._folder, error)
            return False
        return True

    def _save(self) -> None:
        """Write what could not be written before; twice a second at most."""
        if time.monotonic() < self._save_at:
            return
        for key, kinds in list(self._unsaved.items()):
            for kind, entry in list(kinds.items()):
                where = self._place(entry.location)
                if where is not None:
                    kinds[kind] = Entry(entry.digest, where)
                if where is None or not self._insert([(key, kind, kinds[kind])]):
                    self._save_at = time.monotonic() + RETRY_S
                    return
                del kinds[kind]
            del self._unsaved[key]
        if self._journal is not None:
            self._journal.forget_moved()

    def _place(self, location: Location) -> Location | None:
        """Where a line stands in a file; None while it waits."""
        if not in_memory(location) or self._journal is None:
            return location
        return self._journal.moved(location)

    def close(self) -> None:
        """Write what could not be written before, if that is possible by now, and close the file."""
        self._save_at = float("-inf")
        self._save()
        self._db.close()

    def _catch_up(self) -> None:
        ends = dict(self._db.execute("SELECT file, max(offset + length) FROM seen GROUP BY file"))
        self._db.execute("BEGIN")
        for path in sorted(self._folder.glob("*.jsonl")):
            if path.stat().st_size > ends.get(path.name, 0):
                for key, kind, digest, location in _index(read_lines(path, ends.get(path.name, 0))):
                    self.add(key, kind, digest, location)
        self._db.execute("COMMIT")


def _places(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def _index(lines: Iterable[tuple[Location, bytes]]) -> Iterator[tuple[str, str, str, Location]]:
    for location, line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue  # half-written: whoever reads the journal reports it
        if "table" in record:
            table, row = row_of_event(record)
            digest = content_digest(row)
            yield row["transaction_id"], table, digest, location
            if derived_of_event(record):
                yield row["transaction_id"], derived_kind(table), digest, location
        else:
            yield record["transaction_id"], DECISION, record["content"], location


def _open(path: Path) -> sqlite3.Connection:
    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        # Nothing is synced to disk, so a power cut may break the file; the journal has everything in it.
        _log.warning("%s: %s; made again from the journal", path, error)
        for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            name.unlink(missing_ok=True)
    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        _log.error("%s: %s; the index is in memory, and made again at the next start", path, error)
        return _connect(":memory:")


def _connect(path: Path | str) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = OFF")
    check = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if check != "ok":
        db.close()
        raise sqlite3.DatabaseError(check)
    db.execute(_SCHEMA)
    return db
