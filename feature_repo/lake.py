"""The canonical Delta tables: their schemas, and how to read them.

Every table is partitioned by ``event_day`` (the UTC day of ``event_timestamp``, derived at load). Readers list the live
Parquet files of one Delta version and hand them to DuckDB, which reads them at its own Parquet speed.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

TIMESTAMP = pa.timestamp("us", tz="UTC")

TRANSACTIONS = pa.schema(
    [
        pa.field("transaction_id", pa.string(), nullable=False),
        pa.field("event_timestamp", TIMESTAMP, nullable=False),
        pa.field("customer_id", pa.string(), nullable=False),
        pa.field("terminal_id", pa.string(), nullable=False),
        pa.field("amount", pa.decimal128(18, 4), nullable=False),
        pa.field("currency", pa.string(), nullable=False),
        pa.field("amount_usd_cents", pa.int64(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("channel", pa.string()),
        pa.field("category", pa.string()),
        pa.field("customer_latitude", pa.float64()),
        pa.field("customer_longitude", pa.float64()),
        pa.field("terminal_latitude", pa.float64()),
        pa.field("terminal_longitude", pa.float64()),
        pa.field("created_timestamp", TIMESTAMP, nullable=False),
        pa.field("event_day", pa.date32(), nullable=False),
    ]
)

CHARGEBACKS = pa.schema(
    [
        pa.field("transaction_id", pa.string(), nullable=False),
        pa.field("event_timestamp", TIMESTAMP, nullable=False),
        pa.field("customer_id", pa.string(), nullable=False),
        pa.field("terminal_id", pa.string(), nullable=False),
        pa.field("amount_usd_cents", pa.int64(), nullable=False),
        pa.field("reason_code", pa.string(), nullable=False),
        pa.field("created_timestamp", TIMESTAMP, nullable=False),
        pa.field("event_day", pa.date32(), nullable=False),
    ]
)

SCHEMAS = {"transactions": TRANSACTIONS, "chargebacks": CHARGEBACKS}

# Delta's primitive types of partition columns, whose values stand in file paths as text.
_DUCKDB_TYPES = {
    "boolean": "BOOLEAN",
    "date": "DATE",
    "integer": "INTEGER",
    "long": "BIGINT",
    "string": "VARCHAR",
    "timestamp": "TIMESTAMPTZ",
}


@dataclass(frozen=True)
class Snapshot:
    """One version of one Delta table.

    Attributes:
        version: its number.
        files: the Parquet files that hold its rows, as absolute paths.
        partitions: the columns it is partitioned by, as ``name TYPE`` in DuckDB's types.
    """

    version: int
    files: tuple[str, ...]
    partitions: tuple[str, ...] = ()


def snapshot(path: Path | str, version: int | None = None) -> Snapshot:
    """The table at ``path`` as of ``version`` (None: the newest).

    Raises:
        FileNotFoundError: there is no Delta table at ``path``.
    """
    try:
        table = DeltaTable(str(path), version=version)
    except TableNotFoundError as error:
        raise FileNotFoundError(
            f"no Delta table at {path}: load events first (fraud ingest, or fraud simulate), "
            "or set FRAUD_HOME to where they are"
        ) from error
    types = {field.name: str(getattr(field.type, "type", "")) for field in table.schema().fields}
    partitions = tuple(f"{name} {_DUCKDB_TYPES[types[name]]}" for name in table.metadata().partition_columns)
    return Snapshot(table.version(), tuple(table.file_uris()), partitions)


def read_sql(files: tuple[str, ...], partitions: tuple[str, ...] = ("event_day DATE",)) -> str:
    """A DuckDB table expression over the Parquet files of a snapshot.

    Args:
        files: at least one.
        partitions: columns that stand in the files' paths, each with its DuckDB type; the lake's own by default.
    """
    names = ", ".join("'" + name.replace("'", "''") + "'" for name in files)
    if not partitions:
        return f"read_parquet([{names}], hive_partitioning=false)"
    types = ", ".join("'{}': {}".format(*column.rsplit(" ", 1)) for column in partitions)
    return f"read_parquet([{names}], hive_partitioning=true, hive_types={{{types}}})"
