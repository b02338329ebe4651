"""What the service recorded becomes history: journalled events are merged into the lake, each exactly once.

The journal says «at least once», the lake holds every ``transaction_id`` once a table. An event that the lake
already has is left as it is there, whatever the journal says of it (a replay records what the lake gave it);
where the two differ in content it is counted, for the parity audit then compares different events. Running it
again, after a kill or while the service goes on writing, adds what is new and nothing else.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from feature_repo.journal import read_events, row_of_event
from feature_repo.lake import SCHEMAS, read_sql, snapshot

__all__ = ["JournalLoad", "load_journal"]

BATCH = 50_000
# What a second account of one event must agree on to be the same event.
CONTENT = ("event_timestamp", "customer_id", "terminal_id", "amount_usd_cents")
_log = logging.getLogger(__name__)

Progress = Callable[[str, int], None]
"""Called with (what is done, events done so far)."""


@dataclass
class JournalLoad:
    """What a load did, by table (``transactions``, ``chargebacks``).

    Attributes:
        read: journalled events, repetitions included.
        added: events new to the lake.
        differing: events that the lake (or an earlier line) has under the same id with other content; left
        out. damaged: journal lines that could not be read.
    """

    read: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SCHEMAS, 0))
    added: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SCHEMAS, 0))
    differing: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SCHEMAS, 0))
    damaged: int = 0


def load_journal(
    journal: Path, lake: Path, *, progress: Progress | None = None, batch: int = BATCH
) -> JournalLoad:
    """Merge the events recorded in ``journal`` into the Delta tables under ``lake``, making those that do not
    exist.

    An absent or empty journal is no error: nothing is added.

    Raises:
        ValueError: a journalled event does not fit the table's schema; nothing of its batch is written.
    """
    report = JournalLoad()
    events = read_events(journal, on_damage=lambda path, line, what: _damage(report, path, line, what))
    done = 0
    for rows in _batches(map(row_of_event, events), batch):
        for table in SCHEMAS:
            _load(report, table, [row for name, row in rows if name == table], lake / table)
        done += len(rows)
        if progress is not None:
            progress("journalled events", done)
    return report


def _damage(report: JournalLoad, path: Path, line: int, what: str) -> None:
    report.damaged += 1
    _log.warning("%s: line %d: %s", path, line, what)


def _batches(
    events: Iterable[tuple[str, dict[str, Any]]], size: int
) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    iterator = iter(events)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _load(report: JournalLoad, table: str, rows: list[dict[str, Any]], path: Path) -> None:
    if not rows:
        return
    report.read[table] += len(rows)
    fresh, differing = _new(_to_arrow(table, rows), path)
    report.differing[table] += differing
    report.added[table] += fresh.num_rows
    if fresh.num_rows:
        _append(fresh, path)


def _to_arrow(table: str, rows: list[dict[str, Any]]) -> pa.Table:
    """Canonical rows as the table's schema says; the day is derived, the amount exact."""
    schema = SCHEMAS[table]
    for row in rows:
        row["event_day"] = row["event_timestamp"].astimezone(UTC).date()
        if row.get("amount") is not None:
            row["amount"] = Decimal(row["amount"])
    unknown = sorted(set().union(*rows) - set(schema.names))
    if unknown:
        raise ValueError(
            f"journal: event of {table} has columns {unknown}, which the table lacks: {schema.names}"
        )
    try:
        found = pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"journal: events of {table} do not fit its schema: {error}") from error
    for required in (column for column in schema if not column.nullable):
        if found[required.name].null_count:
            row = next(row for row in rows if row.get(required.name) is None)
            raise ValueError(
                f"journal: event of {table} {row['transaction_id']}: {required.name} is null; "
                "repair or remove its line, then load again"
            )
    return found


def _new(rows: pa.Table, path: Path) -> tuple[pa.Table, int]:
    """Rows whose id the table at ``path`` lacks, one an id; and how many ids come with contents that
    differ."""
    content = ", ".join(CONTENT)
    files = snapshot(path).files if DeltaTable.is_deltatable(str(path)) else ()
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("journalled", rows.append_column("line", pa.array(range(rows.num_rows))))
        lake = read_sql(files) if files else "(SELECT * FROM journalled WHERE false)"
        connection.execute(
            f"CREATE TEMP TABLE present AS SELECT transaction_id, {content} FROM {lake} "
            "WHERE transaction_id IN (SELECT transaction_id FROM journalled)"
        )
        accounts = " UNION ".join(
            f"SELECT transaction_id, {content} FROM {name}" for name in ("journalled", "present")
        )
        (differing,) = connection.sql(
            f"SELECT count(*) FROM (SELECT 1 FROM ({accounts}) GROUP BY transaction_id HAVING count(*) > 1)"
        ).fetchall()
        fresh = connection.sql(
            "SELECT * EXCLUDE (line) FROM journalled "
            "WHERE transaction_id NOT IN (SELECT transaction_id FROM present) "
            "QUALIFY row_number() OVER (PARTITION BY transaction_id ORDER BY line) = 1 "
            "ORDER BY event_timestamp, transaction_id"
        ).to_arrow_table()
    return fresh.cast(rows.schema), differing[0]


def _append(rows: pa.Table, path: Path) -> None:
    """Insert rows by id: a merge, so that of two loads at one time one wins and the other finds nothing to
    add."""
    if not DeltaTable.is_deltatable(str(path)):
        write_deltalake(str(path), rows, mode="error", partition_by=["event_day"])
        return
    first, last = min(rows["event_day"].to_pylist()), max(rows["event_day"].to_pylist())
    days = f"lake.event_day >= '{first}' AND lake.event_day <= '{last}'"
    (
        DeltaTable(str(path))
        .merge(
            rows,
            predicate=f"{days} AND lake.transaction_id = new.transaction_id",
            source_alias="new",
            target_alias="lake",
        )
        .when_not_matched_insert_all()
        .execute()
    )
