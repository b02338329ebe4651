"""``fraud ingest``: read, map, convert, check and load events into the lake.

Everything is checked before anything is written. A load then appends its chargebacks and after them its
transactions, each in one Delta commit: a reader never sees transactions without the chargebacks that belong
to them, and a load killed between the two is completed by running it again, since what is there already is
left alone.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa

from feature_repo.lake_writer import append, lake_lock, lake_rows_sql, version_of
from pipelines.mapping import Mapping, load_mapping
from pipelines.problems import IngestError
from pipelines.progress import Progress, quiet
from pipelines.reconcile import drop_known, drop_repeated, resolve_chargebacks
from pipelines.source_files import Source, find_sources
from pipelines.staging import stage_chargebacks, stage_transactions, staging_area

__all__ = ["IngestError", "IngestReport", "ingest"]


@dataclass(frozen=True)
class IngestReport:
    """What a load did: rows read, events added, and ``duplicates``, events there already or repeated.

    The versions are those of the Delta tables after the load.
    """

    transactions_read: int
    transactions_added: int
    chargebacks_read: int
    chargebacks_added: int
    duplicates: int
    transactions_version: int
    chargebacks_version: int

    def summary(self) -> str:
        """The report in two lines for a person."""
        return (
            f"read {self.transactions_read:,} transactions and {self.chargebacks_read:,} chargebacks, "
            f"{self.duplicates:,} of them there already\n"
            f"added {self.transactions_added:,} transactions (version {self.transactions_version}) "
            f"and {self.chargebacks_added:,} chargebacks (version {self.chargebacks_version})"
        )


def ingest(
    path: str | Path | pa.Table | None,
    mapping: Mapping | str | Path,
    lake: Path,
    chargebacks: str | Path | pa.Table | None = None,
    progress: Progress | None = None,
) -> IngestReport:
    """Load transactions, and chargebacks from their label column or from a source of their own, into the
    lake.

    Only ids that the lake does not have are appended; loading the same again changes nothing, not even a
    version.

    Args:
        path: a Parquet or CSV file, a folder of them, a glob, a Delta table or an Arrow table; None: none,
            for chargebacks of transactions that the lake has.
        mapping: a mapping, its built-in name or its file.
        lake: folder of the Delta tables, made if missing.
        chargebacks: the same as ``path``, of chargebacks.
        progress: called with step, files or tables done, and their total.

    Raises:
        IngestError: input that cannot be used, each problem named; the lake is as before.
        ValueError: a mapping that cannot be used.
    """
    show = progress or quiet
    mapping = mapping if isinstance(mapping, Mapping) else load_mapping(mapping)
    if chargebacks is not None and not mapping.chargebacks:
        raise IngestError(
            f"mapping {mapping.name!r}: it has no [chargebacks]; add the columns of the chargebacks' file"
        )
    if path is None and chargebacks is None:
        raise IngestError("nothing to load: name a path of transactions, or chargebacks, or both")
    with lake_lock(lake), staging_area(lake) as con:
        counts = _stage(con, path, mapping, chargebacks, show)
        return _load(con, lake, counts, show)


def _wrote(show: Progress, table: str, total: int, done: int) -> None:
    show(f"write {table}", done, total)


@dataclass(frozen=True)
class _Staged:
    """Rows read, whether the source itself says US cents, and the sources' names by file number."""

    transactions: int
    chargebacks: int
    settled: bool
    names: tuple[str, ...]


def _stage(
    con: duckdb.DuckDBPyConnection,
    path: str | Path | pa.Table | None,
    mapping: Mapping,
    chargebacks: str | Path | pa.Table | None,
    show: Progress,
) -> _Staged:
    events: list[Source] = [] if path is None else find_sources(con, path, "given_transactions")
    disputes: list[Source] = (
        [] if chargebacks is None else find_sources(con, chargebacks, "given_chargebacks")
    )
    total = len(events) + len(disputes)
    read = reported = 0
    for number, source in enumerate([*events, *disputes]):
        show("read", number, total)
        if number < len(events):
            read += stage_transactions(con, source, number, mapping)
        else:
            reported += stage_chargebacks(con, source, number, mapping.chargebacks)
    show("read", total, total)
    if not disputes:
        reported = int(con.sql("SELECT count(*) FROM chargebacks").fetchall()[0][0])
    settled = any(field.name == "amount_usd_cents" for field in mapping.transactions)
    return _Staged(read, reported, settled, tuple(source.name for source in (*events, *disputes)))


def _load(con: duckdb.DuckDBPyConnection, lake: Path, staged: _Staged, show: Progress) -> IngestReport:
    show("check", 0, 2)
    for table in ("transactions", "chargebacks"):
        con.execute(f"CREATE OR REPLACE TEMP VIEW lake_{table} AS SELECT * FROM {lake_rows_sql(lake, table)}")
    # Cents that were converted here follow from the rates of their load; new rates do not make an event another.
    converted = () if staged.settled else ("amount_usd_cents",)
    duplicates = drop_repeated(con, "transactions", staged.names)
    duplicates += drop_known(con, "transactions", staged.names, converted)
    show("check", 1, 2)
    duplicates += drop_repeated(con, "chargebacks", staged.names)
    resolve_chargebacks(con, staged.names)
    duplicates += drop_known(con, "chargebacks", staged.names, ("amount_usd_cents",))
    show("check", 2, 2)
    added: dict[str, int] = {}
    versions: dict[str, int] = {}
    # Chargebacks first: a fraud without its transaction waits for it, a transaction without its fraud looks
    # genuine.
    for table in ("chargebacks", "transactions"):
        total = added[table] = int(con.sql(f"SELECT count(*) FROM {table}").fetchall()[0][0])
        version = version_of(lake, table)
        if total or version is None:
            wrote = partial(_wrote, show, table, total)
            version = append(con, lake, table, f"SELECT * FROM {table}", wrote)
        versions[table] = version
    return IngestReport(
        staged.transactions,
        added["transactions"],
        staged.chargebacks,
        added["chargebacks"],
        duplicates,
        versions["transactions"],
        versions["chargebacks"],
    )
