"""Against itself and against the lake: repeated ids, ids that are there already, chargebacks and their
transactions.

The same id with the same content is dropped and counted; with other content it is an error, for one of the
two is wrong and history is not rewritten by a load.
"""

import duckdb

from feature_repo.lake import SCHEMAS
from pipelines.problems import IngestError

__all__ = ["drop_known", "drop_repeated", "resolve_chargebacks"]

_SHOWN = 3
_PLACES = {"file_no", "row_no"}


def drop_repeated(con: duckdb.DuckDBPyConnection, table: str, files: tuple[str, ...]) -> int:
    """Keep the first of identical rows of an id within the load; returns how many were dropped.

    Raises:
        IngestError: rows of one id that differ.
    """
    con.execute(
        f"""CREATE OR REPLACE TEMP TABLE repeated AS SELECT transaction_id, arg_min(rowid, (file_no, row_no)) AS first
        FROM {table} GROUP BY transaction_id HAVING count(*) > 1"""
    )
    columns = _content(con, table)
    differs = " OR ".join(f"later.{name} IS DISTINCT FROM first.{name}" for name in columns)
    pairs = f"""FROM repeated JOIN {table} AS first ON first.rowid = repeated.first
        JOIN {table} AS later ON later.transaction_id = first.transaction_id
        WHERE later.rowid <> first.rowid"""
    rows = con.sql(
        f"""SELECT later.file_no, later.row_no + 1, later.transaction_id, {
            _differences(columns, "first", "later")
        }, first.file_no, first.row_no + 1, count(*) OVER ()
        {pairs} AND ({differs}) ORDER BY later.file_no, later.row_no LIMIT {_SHOWN}"""
    ).fetchall()
    if rows:
        shown = "; ".join(
            f"{files[file]}: row {row} {identifier!r} has other {names} than row {other} of {files[its_file]}"
            for file, row, identifier, names, its_file, other, _ in rows
        )
        raise IngestError(
            f"{shown} ({rows[0][-1]:,} rows): duplicate id of {table} with different content; "
            "keep one row an id, or give each event an id of its own"
        )
    before = _count(con, table)
    con.execute(
        f"""DELETE FROM {table} WHERE transaction_id IN (SELECT transaction_id FROM repeated)
        AND rowid NOT IN (SELECT first FROM repeated)"""
    )
    return before - _count(con, table)


def drop_known(
    con: duckdb.DuckDBPyConnection, table: str, files: tuple[str, ...], derived: tuple[str, ...]
) -> int:
    """Drop rows whose id the lake has with the same content, ``derived`` columns aside; returns how many.

    Raises:
        IngestError: an id that the lake has with other content.
    """
    # Ids first: most loads are new, and then no other column of the lake is read.
    con.execute(
        f"""CREATE OR REPLACE TEMP TABLE known AS SELECT transaction_id FROM lake_{table}
        WHERE transaction_id IN (SELECT transaction_id FROM {table})"""
    )
    if not _count(con, "known"):
        return 0
    columns = [name for name in _content(con, table) if name not in derived]
    differs = " OR ".join(f"new.{name} IS DISTINCT FROM old.{name}" for name in columns)
    rows = con.sql(
        f"""SELECT new.file_no, new.row_no + 1, new.transaction_id, {_differences(columns, "old", "new")},
        count(*) OVER () FROM {table} AS new JOIN lake_{table} AS old USING (transaction_id)
        WHERE {differs} ORDER BY new.file_no, new.row_no LIMIT {_SHOWN}"""
    ).fetchall()
    if rows:
        shown = "; ".join(
            f"{files[file]}: row {row} {identifier!r} has other {columns}"
            for file, row, identifier, columns, _ in rows
        )
        raise IngestError(
            f"{shown} ({rows[0][-1]:,} rows): duplicate id of {table} with different content in the lake; "
            "correct the file, or give new events ids of their own"
        )
    before = _count(con, table)
    con.execute(f"DELETE FROM {table} WHERE transaction_id IN (SELECT transaction_id FROM known)")
    return before - _count(con, table)


def resolve_chargebacks(con: duckdb.DuckDBPyConnection, files: tuple[str, ...]) -> None:
    """Give each staged chargeback what it takes from its transaction, of the load or of the lake.

    Raises:
        IngestError: a chargeback without its transaction, or reported before it.
    """
    taken = [name for name in SCHEMAS["chargebacks"].names if name in _FROM_TRANSACTION]
    con.execute(
        f"""CREATE OR REPLACE TABLE resolved AS SELECT c.*, {", ".join(f"t.{name}" for name in taken)}
        FROM chargebacks AS c LEFT JOIN transactions AS t USING (transaction_id)"""
    )
    if con.sql("SELECT count(*) FROM resolved WHERE event_timestamp IS NULL").fetchall()[0][0]:
        con.execute(
            f"""UPDATE resolved SET {", ".join(f"{name} = t.{name}" for name in taken)} FROM lake_transactions
            AS t
            WHERE resolved.event_timestamp IS NULL AND t.transaction_id = resolved.transaction_id"""
        )
    con.execute("DROP TABLE chargebacks")
    con.execute("ALTER TABLE resolved RENAME TO chargebacks")
    _refuse(
        con,
        files,
        "event_timestamp IS NULL",
        "no transaction of this id, in the load or in the lake",
        "load it first",
    )
    _refuse(
        con,
        files,
        "created_timestamp < event_timestamp",
        "a chargeback reported before its transaction",
        "check the zones of both times",
    )


_FROM_TRANSACTION = {"event_timestamp", "customer_id", "terminal_id", "amount_usd_cents"}


def _refuse(
    con: duckdb.DuckDBPyConnection, files: tuple[str, ...], breach: str, why: str, way_out: str
) -> None:
    rows = con.sql(
        f"""SELECT file_no, row_no + 1, transaction_id, CAST(created_timestamp AS VARCHAR),
        CAST(event_timestamp AS VARCHAR), count(*) OVER ()
        FROM chargebacks WHERE {breach} ORDER BY file_no, row_no LIMIT {_SHOWN}"""
    ).fetchall()
    if rows:
        shown = "; ".join(
            f"{files[file]}: row {row}: transaction_id {identifier!r} reported {reported}"
            + (f", transaction {happened}" if happened else "")
            for file, row, identifier, reported, happened, _ in rows
        )
        raise IngestError(f"{shown} ({rows[0][-1]:,} rows): {why}; {way_out}")


def _content(con: duckdb.DuckDBPyConnection, table: str) -> list[str]:
    """The columns that two rows of one id are compared by."""
    staged = [row[0] for row in con.sql(f"DESCRIBE {table}").fetchall()]
    return [name for name in staged if name not in _PLACES and name != "transaction_id"]


def _differences(columns: list[str], old: str, new: str) -> str:
    """SQL: the names of the columns that differ."""
    cases = ", ".join(
        f"CASE WHEN {new}.{name} IS DISTINCT FROM {old}.{name} THEN '{name}' END" for name in columns
    )
    return f"concat_ws(', ', {cases})"


def _count(con: duckdb.DuckDBPyConnection, table: str) -> int:
    return int(con.sql(f"SELECT count(*) FROM {table}").fetchall()[0][0])
