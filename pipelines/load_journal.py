"""What the service recorded becomes history: journalled events are merged into the lake, each exactly once.

The journal says «at least once», the lake holds every ``transaction_id`` once a table. An event that the lake
already has is left as it is there, whatever the journal says of it (a replay records what the lake gave it);
where the two differ in content it is counted, for the parity audit then compares different events. Running it
again, after a kill or while the service goes on writing, adds what is new and nothing else.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from feature_repo.journal import read_events, row_of_event
from feature_repo.lake import SCHEMAS
from feature_repo.lake_writer import append, lake_lock, lake_rows_sql
from pipelines.progress import Progress, quiet

__all__ = ["JournalLoad", "count_lines", "load_journal"]

BATCH = 50_000
# What a second account of one event must agree on to be the same event.
CONTENT = ("event_timestamp", "customer_id", "terminal_id", "amount_usd_cents")
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
        tables = {name: _to_arrow(name, [row for table, row in rows if table == name]) for name in SCHEMAS}
        with lake_lock(lake):
            for name, table in tables.items():
                _load(report, lake, name, table)
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


def _to_arrow(table: str, rows: list[Row]) -> pa.Table:
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
    for required in (column.name for column in schema if not column.nullable):
        if found[required].null_count:
            row = next(row for row in rows if row.get(required) is None)
            raise ValueError(
                f"journal: event of {table} {row['transaction_id']}: {required} is null; "
                "repair or remove its line, then load again"
            )
    return found


def _load(report: JournalLoad, lake: Path, table: str, rows: pa.Table) -> None:
    if not rows.num_rows:
        return
    report.read[table] += rows.num_rows
    content = ", ".join(("transaction_id", *CONTENT))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("journalled", rows.append_column("line", pa.array(range(rows.num_rows))))
        connection.execute(
            f"CREATE TEMP TABLE present AS SELECT {content} FROM {lake_rows_sql(lake, table)} "
            "WHERE transaction_id IN (SELECT transaction_id FROM journalled)"
        )
        connection.execute(
            "CREATE TEMP TABLE fresh AS SELECT * EXCLUDE (line) FROM journalled "
            "WHERE transaction_id NOT IN (SELECT transaction_id FROM present) "
            "QUALIFY row_number() OVER (PARTITION BY transaction_id ORDER BY line) = 1"
        )
        accounts = f"SELECT {content} FROM journalled UNION SELECT {content} FROM present"
        report.differing[table] += _count(
            connection, f"SELECT 1 FROM ({accounts}) GROUP BY transaction_id HAVING count(*) > 1"
        )
        added = _count(connection, "SELECT 1 FROM fresh")
        if added:
            append(connection, lake, table, "SELECT * FROM fresh")
        report.added[table] += added


def _count(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    return int(connection.sql(f"SELECT count(*) FROM ({query})").fetchall()[0][0])
