"""Rows of the journal into a table of the lake, each ``transaction_id`` once.

The journal says «at least once», the lake holds every id once a table. A row that the lake already has is left as it is
there, whatever the journal says of it (a replay records what the lake gave it); where the two differ in content it is counted,
for the parity audit then compares different events.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from feature_repo.lake_writer import append, lake_rows_sql, version_of

__all__ = ["Merged", "merge"]

# What a second account of one row must agree on to be the same.
_EVENT = ("event_timestamp", "customer_id", "terminal_id", "amount_usd_cents")
_CONTENT = {
    "transactions": _EVENT,
    "chargebacks": _EVENT,
    "decisions": ("event_timestamp", "customer_id", "terminal_id", "decision", "score"),
}


@dataclass(frozen=True)
class Merged:
    """What one merge did.

    Attributes:
        added: rows new to the lake.
        differing: ids that come with other content than the lake (or an earlier row) has; that one stays.
    """

    added: int = 0
    differing: int = 0


def merge(lake: Path, table: str, rows: pa.Table, positions: Mapping[str, int] | None = None) -> Merged:
    """Append the rows that the table lacks, of one id the first, in one commit; the table is made if need be.

    Call it under ``lake_lock``.

    Args:
        rows: of the table's schema.
        positions: committed with them (see ``append``), and without them if none is new; a table that is not there yet is not
            made for positions alone.

    Raises:
        OSError: the commit failed; the table is as before.
    """
    if not rows.num_rows and not positions:
        return Merged()
    columns = ", ".join(("transaction_id", *_CONTENT[table]))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("journalled", rows.append_column("line", pa.array(range(rows.num_rows))))
        connection.execute(
            f"CREATE TEMP TABLE present AS SELECT {columns} FROM {lake_rows_sql(lake, table)} "
            "WHERE transaction_id IN (SELECT transaction_id FROM journalled)"
        )
        connection.execute(
            "CREATE TEMP TABLE fresh AS SELECT * EXCLUDE (line) FROM journalled "
            "WHERE transaction_id NOT IN (SELECT transaction_id FROM present) "
            "QUALIFY row_number() OVER (PARTITION BY transaction_id ORDER BY line) = 1"
        )
        accounts = f"SELECT {columns} FROM journalled UNION SELECT {columns} FROM present"
        differing = _count(
            connection, f"SELECT 1 FROM ({accounts}) GROUP BY transaction_id HAVING count(*) > 1"
        )
        added = _count(connection, "SELECT 1 FROM fresh")
        if added or (positions and version_of(lake, table) is not None):
            append(connection, lake, table, "SELECT * FROM fresh", positions=positions)
    return Merged(added, differing)


def _count(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    return int(connection.sql(f"SELECT count(*) FROM ({query})").fetchall()[0][0])
