"""The canonical Delta tables: their schemas, and how to read them.

Every table is partitioned by ``event_day`` (the UTC day of ``event_timestamp``, derived at load). Readers list the live
Parquet files of one Delta version and hand them to DuckDB, which reads them at its own Parquet speed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
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
        # As of when the service read the features of a transaction that it scored as it happened; null of all others.
        pa.field("scored_timestamp", TIMESTAMP),
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
"""The tables of events."""

DECISIONS = pa.schema(
    [
        pa.field("transaction_id", pa.string(), nullable=False),
        pa.field("event_timestamp", TIMESTAMP, nullable=False),
        pa.field("known_as_of", TIMESTAMP),
        pa.field("created_timestamp", TIMESTAMP),
        pa.field("decided_at", TIMESTAMP, nullable=False),
        pa.field("customer_id", pa.string(), nullable=False),
        pa.field("terminal_id", pa.string(), nullable=False),
        pa.field("decision", pa.string(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("degraded", pa.string()),
        pa.field("model_name", pa.string()),
        pa.field("model_version", pa.string()),
        pa.field("feature_service", pa.string()),
        pa.field("definitions_digest", pa.string()),
        pa.field("latency_us", pa.int64()),
        pa.field("request", pa.map_(pa.string(), pa.float64())),
        pa.field("features", pa.map_(pa.string(), pa.float64())),
        pa.field("state_seen", pa.map_(pa.string(), pa.int64())),
        # What else the journal says of a decision, as a JSON object.
        pa.field("more", pa.string()),
        pa.field("event_day", pa.date32(), nullable=False),
    ]
)
"""What the service decided, a row a decision, as its journal has it (see ``decision_rows``)."""

TABLES = {**SCHEMAS, "decisions": DECISIONS}

# What a table may have whose files hold its rows as they are.
_HARMLESS = {"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"}
# DuckDB's names of Delta's primitive types; decimals carry their digits along.
_DUCKDB_TYPES = {
    "boolean": "BOOLEAN",
    "byte": "TINYINT",
    "short": "SMALLINT",
    "integer": "INTEGER",
    "long": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "date": "DATE",
    "string": "VARCHAR",
    "timestamp": "TIMESTAMPTZ",
    "timestamp_ntz": "TIMESTAMP",
}


@dataclass(frozen=True)
class Snapshot:
    """One version of one Delta table.

    Attributes:
        version: its number.
        files: the Parquet files that hold its rows, as absolute paths.
        columns: name and DuckDB type of each column; empty where the type is not primitive.
        partitions: names of the columns that stand in the files' paths.
        alike: every file holds every other column. A column that came later is null in the files before it.
        full: names of columns that are null in no row, as far as the log tells.
        rows: how many there are; None where the log does not tell.
    """

    version: int
    files: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    partitions: tuple[str, ...]
    alike: bool = True
    full: frozenset[str] = frozenset()
    rows: int | None = None

    @property
    def sql(self) -> str:
        """A DuckDB table expression of its rows; of its columns and no rows where it has no files."""
        if not self.files:
            return no_rows_sql(self.columns)
        types = dict(self.columns)
        read = parquet_sql(self.files, {name: types[name] for name in self.partitions}, alike=self.alike)
        if self.alike:
            return read
        # No file may hold a column yet, so the table's own say what there is.
        whole = no_rows_sql(tuple(column for column in self.columns if column[1]))
        return f"(SELECT * FROM {read} UNION ALL BY NAME SELECT * FROM {whole})"


def snapshot(path: Path | str, version: int | None = None) -> Snapshot:
    """The table at ``path`` as of ``version`` (None: the newest).

    Raises:
        FileNotFoundError: there is no Delta table at ``path``. ValueError: its files do not hold its rows as they are, but, say,
            deleted ones too.
    """
    try:
        table = DeltaTable(str(path), version=version)
    except TableNotFoundError as error:
        raise FileNotFoundError(
            f"no Delta table at {path}: load events first (fraud ingest, or fraud simulate), "
            "or set FRAUD_HOME to where they are"
        ) from error
    _refuse_features(path, table)
    columns = tuple(
        (field.name, _duckdb_type(getattr(field.type, "type", ""))) for field in table.schema().fields
    )
    partitions = tuple(table.metadata().partition_columns)
    held = [name for name, _ in columns if name not in partitions]
    files = pa.table(table.get_add_actions(flatten=True))
    # The log counts, for every file, the nulls of each column that the file holds.
    counted = {
        name: files[f"null_count.{name}"] for name in held if f"null_count.{name}" in files.column_names
    }
    whole = {name: nulls for name, nulls in counted.items() if not nulls.null_count}
    full = frozenset(name for name, nulls in whole.items() if len(nulls) and not pc.sum(nulls).as_py())
    alike = len(whole) == len(held)
    counts = files["num_records"]
    rows = None if counts.null_count else int(pc.sum(counts).as_py() or 0)
    return Snapshot(table.version(), tuple(table.file_uris()), columns, partitions, alike, full, rows)


def _refuse_features(path: Path | str, table: DeltaTable) -> None:
    features = set(table.protocol().reader_features or ()) - _HARMLESS
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        features.add("columnMapping")
    if features:
        raise ValueError(
            f"Delta table at {path}: its files cannot be read as they are, since it has {', '.join(sorted(features))}; write it "
            "without (in Spark: ALTER TABLE ... DROP FEATURE, which rewrites what it must), or copy it"
        )


def _duckdb_type(delta: str) -> str:
    return delta.upper() if delta.startswith("decimal") else _DUCKDB_TYPES.get(delta, "")


def no_rows_sql(columns: tuple[tuple[str, str], ...]) -> str:
    """A DuckDB table expression of columns without rows; ``columns`` are names and DuckDB types."""
    nulls = ", ".join(f"CAST(NULL AS {kind or 'VARCHAR'}) AS {quote(name)}" for name, kind in columns)
    return f"(SELECT {nulls} WHERE false)"


def parquet_sql(
    files: tuple[str, ...], partitions: Mapping[str, str] | None = None, *, alike: bool = True
) -> str:
    """A DuckDB table expression over Parquet files.

    Args:
        files: at least one.
        partitions: columns that stand in the files' paths, each with its DuckDB type.
        alike: all hold the same columns; else what some lack is null there.
    """
    names = ", ".join(literal(name) for name in files)
    by_name = "" if alike else ", union_by_name=true"
    if not partitions:
        return f"read_parquet([{names}], hive_partitioning=false{by_name})"
    types = ", ".join(f"{literal(name)}: {kind}" for name, kind in partitions.items())
    return f"read_parquet([{names}], hive_partitioning=true, hive_types={{{types}}}{by_name})"


def quote(name: str) -> str:
    """A name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as a SQL string."""
    return "'" + text.replace("'", "''") + "'"
