"""Writing to the lake: one writer at a time, whole days in order, appended in one Delta commit.

Readers never wait: they name a Delta version. Writers take the lake's lock, because two of them that both
found an id missing would both append it.
"""

import fcntl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import Transaction

from feature_repo.lake import TABLES, no_rows_sql, snapshot
from feature_repo.settings import make_private

__all__ = ["HOOKS", "append", "lake_lock", "lake_rows_sql", "position", "tidy", "version_of"]

HOOKS = PostCommitHookProperties(cleanup_expired_logs=False)
"""What follows each commit: checkpoints, but no version is ever forgotten, for a training set may have named it."""

_BATCH_ROWS = 100_000
# Small appends all day long make thousands of files, each of which costs every reader some 0.3 ms.
_FILES_A_DAY = 64
_LARGE_BYTES = 64 * 1024 * 1024


@contextmanager
def lake_lock(lake: Path) -> Iterator[None]:
    """Be the only writer of the lake, after waiting for another; a killed process holds no lock."""
    with (make_private(lake) / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def version_of(lake: Path, table: str) -> int | None:
    """The newest version of a table of the lake, None if it does not exist."""
    try:
        return int(DeltaTable(str(lake / table)).version())
    except TableNotFoundError:
        return None


def position(lake: Path, table: str, application: str) -> int | None:
    """How far ``application`` had come by the table's newest version, as it said to ``append``; None if it never did."""
    try:
        found = DeltaTable(str(lake / table)).transaction_version(application)
    except TableNotFoundError:
        return None
    return None if found is None else int(found)


def lake_rows_sql(lake: Path, table: str) -> str:
    """A DuckDB table expression over the table's newest version; of no rows if there is none."""
    if version_of(lake, table) is not None:
        return snapshot(lake / table).sql
    return no_rows_sql(tuple((field.name, _sql_type(field.type)) for field in TABLES[table]))


def _sql_type(kind: pa.DataType) -> str:
    kinds = {"string": "VARCHAR", "int64": "BIGINT", "double": "DOUBLE", "date32[day]": "DATE"}
    if str(kind) in kinds:
        return kinds[str(kind)]
    if pa.types.is_timestamp(kind):
        return "TIMESTAMPTZ"
    if pa.types.is_map(kind):
        return f"MAP({_sql_type(kind.key_type)}, {_sql_type(kind.item_type)})"
    return f"DECIMAL({kind.precision}, {kind.scale})" if pa.types.is_decimal(kind) else ""


def append(
    con: duckdb.DuckDBPyConnection,
    lake: Path,
    table: str,
    rows_sql: str,
    wrote: Callable[[int], None] | None = None,
    positions: Mapping[str, int] | None = None,
) -> int:
    """Append the rows of a query to a table of the lake in one commit, and return the new version.

    ``rows_sql`` yields the table's columns by name, ``event_day`` left out: it is derived here. Columns that may be
    null may be left out too. A table from before a column was there gets it, null in all that it holds. Call it under
    `lake_lock`, with rows that the table does not have. ``wrote`` is called with the rows written so far. ``positions`` say
    how far applications have come with this commit: they are there with its rows, or not at all.

    Raises:
        OSError: the commit failed (no space, no permission, a broken table); the table is as before.
    """
    schema = TABLES[table]
    given = con.sql(f"SELECT * FROM ({rows_sql})").columns
    columns = ", ".join(
        name
        if name in given or not schema.field(name).nullable
        else f"CAST(NULL AS {_sql_type(schema.field(name).type)}) AS {name}"
        for name in schema.names
        if name != "event_day"
    )
    # Ordered by day, so that one partition is open at a time, and by time within it, so that readers skip row
    # groups.
    ordered = (
        f"SELECT {columns}, CAST(event_timestamp AS DATE) AS event_day FROM ({rows_sql}) "
        "ORDER BY event_timestamp, transaction_id"
    )
    batches = con.sql(ordered).to_arrow_reader(_BATCH_ROWS)
    try:
        write_deltalake(
            str(lake / table),
            pa.RecordBatchReader.from_batches(schema, _exact(batches, schema, wrote)),
            mode="append",
            partition_by=["event_day"],
            schema_mode="merge" if _lacks(lake / table, schema) else None,
            commit_properties=CommitProperties(
                app_transactions=[Transaction(name, at) for name, at in (positions or {}).items()]
            ),
            post_commithook_properties=HOOKS,
        )
    except DeltaError as error:
        raise OSError(
            f"{lake / table}: {str(error).splitlines()[0]}: the table is as before; put it right and load again"
        ) from error
    version = version_of(lake, table)
    if version is None:
        raise RuntimeError(f"{lake / table}: no Delta table after a commit; was it removed meanwhile?")
    return version


def tidy(lake: Path, table: str) -> None:
    """Put the small files of each day together where there are many; call it under `lake_lock`.

    Versions before keep their files: what was pinned stays readable.
    """
    found = DeltaTable(str(lake / table))
    files = pa.table(found.get_add_actions(flatten=True))
    days: dict[str, int] = {}
    for day, size in zip(
        files["partition.event_day"].to_pylist(), files["size_bytes"].to_pylist(), strict=True
    ):
        if size < _LARGE_BYTES:
            days[str(day)] = days.get(str(day), 0) + 1
    for day in sorted(day for day, count in days.items() if count > _FILES_A_DAY):
        found.optimize.compact(
            [("event_day", "=", day)], target_size=_LARGE_BYTES, post_commithook_properties=HOOKS
        )


def _lacks(path: Path, schema: pa.Schema) -> bool:
    """Whether a table that is there lacks a column."""
    try:
        there = {field.name for field in DeltaTable(str(path)).schema().fields}
    except TableNotFoundError:
        return False
    return not there.issuperset(schema.names)


def _exact(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, wrote: Callable[[int], None] | None
) -> Iterator[pa.RecordBatch]:
    """The batches in the table's own schema, which also says what is never null."""
    done = 0
    for batch in batches:
        yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)
        done += batch.num_rows
        if wrote is not None:
            wrote(done)
