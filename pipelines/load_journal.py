"""What the service recorded becomes history, at once and as a whole: all journalled events are merged into the lake.

Each is there exactly once, also if this is run again, after a kill, or while the service goes on writing and loading by itself
(``feature_repo.journal_loader``). Unlike that, it compares every journalled event with the lake's account of it.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from feature_repo.journal import read_events, row_of_event
from feature_repo.journal_rows import events_table
from feature_repo.lake import SCHEMAS
from feature_repo.lake_merge import merge
from feature_repo.lake_writer import lake_lock
from pipelines.progress import Progress, quiet

__all__ = ["JournalLoad", "count_lines", "load_journal"]

BATCH = 50_000
_log = logging.getLogger(__name__)

Row = dict[str, Any]


@dataclass
class JournalLoad:
    """What a load did, by table (``transactions``, ``chargebacks``).

    Attributes:
        read: journalled events, repetitions included.
        added: events new to the lake.
        differing: ids that come with other content than the lake (or an earlier line) has; that one stays.
        damaged: journal lines that could not be read.
    """

    read: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SCHEMAS, 0))
    added: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SCHEMAS, 0))
    differing: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SCHEMAS, 0))
    damaged: int = 0


def load_journal(journal: Path, lake: Path, *, progress: Progress = quiet, batch: int = BATCH) -> JournalLoad:
    """Append what ``journal`` recorded and the Delta tables under ``lake`` lack; tables are made if need be.

    An absent or empty journal is no error: nothing is added.

    Raises:
        ValueError: a journalled event does not fit the table's schema; nothing of its batch is written.
    """
    report = JournalLoad()
    events = read_events(journal, on_damage=lambda path, line, what: _damage(report, path, line, what))
    done, total = 0, count_lines(journal, "events")
    for rows in _batches(map(row_of_event, events), batch):
        tables = {name: events_table(name, [row for table, row in rows if table == name]) for name in SCHEMAS}
        with lake_lock(lake):
            for name, table in tables.items():
                merged = merge(lake, name, table)
                report.read[name] += table.num_rows
                report.added[name] += merged.added
                report.differing[name] += merged.differing
        done += len(rows)
        progress("load journal", done, total)
    return report


def count_lines(journal: Path, kind: str) -> int:
    """Lines of the journal's files of a kind (``decisions``, ``events``): the total that progress counts to."""
    count = 0
    for path in journal.glob(f"{kind}-*.jsonl"):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                count += block.count(b"\n")
    return count


def _damage(report: JournalLoad, path: Path, line: int, what: str) -> None:
    report.damaged += 1
    _log.warning("%s: line %d: %s", path, line, what)


def _batches(events: Iterable[tuple[str, Row]], size: int) -> Iterator[list[tuple[str, Row]]]:
    iterator = iter(events)
    while chunk := list(islice(iterator, size)):
        yield chunk
