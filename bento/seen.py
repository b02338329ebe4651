"""Which ids were answered before, with what content, and where the journal says what was answered.

The journal is the truth and this is its index: a SQLite file beside it, one row an id, so that a request that
is sent again, seconds or months later, before or after a restart, gets its first answer and is recorded once.
The file may be deleted at any time: it is made again from the journal at the next start.
"""

import hashlib
import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of an id: the digest of its content, and the journal's line."""

    digest: str
    location: Location


def content_digest(row: Mapping[str, Any]) -> str:
    """Names a canonical row's content: equal for two deliveries of one event. 32 hex digits."""
    content = sorted((name, value) for name, value in row.items() if name not in _NOT_CONTENT)
    return hashlib.blake2b(json.dumps(content, default=str).encode(), digest_size=16).hexdigest()


def derived_kind(table: str) -> str:
    """What is indexed of an id whose event of ``table`` has derived columns."""
    return f"derived:{table}"


class Seen:
    """The index of the journal in ``folder``; opening it reads what the journal holds and the index does not.

    Several processes may share a folder. Not thread-safe.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._db = _open(folder / "seen.db")
        self._catch_up()

    def find(self, key: str) -> dict[str, Entry]:
        """Everything known of an id, by kind; empty for an id never seen."""
        rows = self._db.execute("SELECT kind, digest, file, offset, length FROM seen WHERE id = ?", (key,))
        return {kind: Entry(digest, Location(*where)) for kind, digest, *where in rows}

    def add(self, key: str, kind: str, digest: str, location: Location) -> None:
        """Remember an id; what was remembered first stays."""
        row = (key, kind, digest, location.file, location.offset, location.length)
        self._db.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?, ?, ?, ?)", row)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _catch_up(self) -> None:
        ends = dict(self._db.execute("SELECT file, max(offset + length) FROM seen GROUP BY file"))
        self._db.execute("BEGIN")
        for path in sorted(self._folder.glob("*.jsonl")):
            if path.stat().st_size > ends.get(path.name, 0):
                for key, kind, digest, location in _index(read_lines(path, ends.get(path.name, 0))):
                    self.add(key, kind, digest, location)
        self._db.execute("COMMIT")


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
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = OFF")
    check = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if check != "ok":
        db.close()
        raise sqlite3.DatabaseError(check)
    db.execute(_SCHEMA)
    return db
