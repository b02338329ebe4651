"""Rows of one source between two instants, as plain views are materialized from it: all of them, or the newest of each key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
from feast.data_source import DataSource
from feast.feature_logging import LOG_TIMESTAMP_FIELD
from feast.infra.offline_stores.file_source import FileSource

from feature_repo.lake import quote
from feature_repo.windows.event_scan import column_types
from feature_repo.windows.plain import DUMMY_KEY
from feature_repo.windows.sources import instant_sql, source_sql, within_sql
from feature_repo.windows.state import from_microseconds


@dataclass(frozen=True)
class Pull:
    """What is asked of a source; columns are named as in its files.

    Attributes:
        keys: join keys; none for a view without entities.
        features: none for every column of the source, which a function of a view may need.
        created: when a row became known; None if the source does not say.
        start, end: range of ``time``, both ends included; None is open. Without a zone they are UTC, as in Feast.
        newest: of each key only the row with the newest ``time``, of several the one created last; rows without a key, which
            nobody could ask for, are left out. Else every row; without keys in that order, newest first, as Feast's local
            engine then leaves it to the online store to keep the newest, and of several at one time the first.
    """

    keys: tuple[str, ...]
    features: tuple[str, ...]
    time: str
    created: str | None
    start: datetime | None
    end: datetime | None
    newest: bool


def pull(connection: duckdb.DuckDBPyConnection, source: str, asked: Pull) -> pa.Table:
    """The rows: keys, features, time and created, in this order, each once; times in microseconds UTC.

    Without keys the first column is Feast's made-up key, except in logs, which no view is kept from.

    Args:
        source: a DuckDB table expression.

    Raises:
        ValueError: the source lacks a column, with those it has.
    """
    types = column_types(connection, source)
    missing = [name for name in _columns(asked, types) if name not in types]
    if missing:
        raise ValueError(f"source: no column {missing}; it has {sorted(types)}")
    return connection.sql(pull_sql(source, types, asked)).to_arrow_table()


def pull_sql(source: str, types: Mapping[str, str], asked: Pull) -> str:
    """The query of ``pull``."""
    columns = [_column(name, types, asked) for name in _columns(asked, types)]
    if not asked.keys and asked.time != LOG_TIMESTAMP_FIELD:
        columns.insert(0, f"'' AS {quote(DUMMY_KEY)}")
    time = f"epoch_us({instant_sql(asked.time, types)})"
    held = [within_sql(asked.time, types, asked.start, asked.end)]
    if asked.newest:
        held += [f"{quote(key)} IS NOT NULL" for key in asked.keys]
    query = f"SELECT {', '.join(columns)} FROM {source} WHERE {' AND '.join(held)}"
    order = [f"{time} DESC"]
    if asked.created:
        order.append(f"epoch_us({instant_sql(asked.created, types)}) DESC NULLS LAST")
    ranked = f"ORDER BY {', '.join(order)}"
    if not asked.newest:
        return query if asked.keys else f"{query} {ranked}"
    by = f"PARTITION BY {', '.join(quote(key) for key in asked.keys)} " if asked.keys else ""
    return f"{query} QUALIFY row_number() OVER ({by}{ranked}) = 1"


def first_instant(source: DataSource, repo_path: Path | None) -> datetime | None:
    """When the first row of a source of files happened, or was known if that is earlier; None of an empty one or of others."""
    if not local_files(source):
        return None
    try:
        table = source_sql(source, repo_path)
    except FileNotFoundError:
        return None
    names = [name for name in (source.timestamp_field, source.created_timestamp_column) if name]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        types = column_types(connection, table)
        earliest = ", ".join(f"min(epoch_us({instant_sql(name, types)}))" for name in names if name in types)
        (found,) = connection.execute(f"SELECT {earliest} FROM {table}").fetchall()
    return min((from_microseconds(value) for value in found if value is not None), default=None)


def local_files(source: DataSource) -> bool:
    """Whether it is a source of files on this machine; others may need credentials, which Feast's own readers know."""
    return isinstance(source, FileSource) and "://" not in source.path


def _columns(asked: Pull, types: Mapping[str, str]) -> Sequence[str]:
    created = (asked.created,) if asked.created else ()
    return tuple(dict.fromkeys((*asked.keys, *(asked.features or types), asked.time, *created)))


def _column(name: str, types: Mapping[str, str], asked: Pull) -> str:
    """Instants become microseconds UTC, as do features in nanoseconds, which neither Feast nor Arrow's readers take."""
    if name in (asked.time, asked.created) or types[name].endswith("_NS"):
        return f"{instant_sql(name, types)} AS {quote(name)}"
    return quote(name)
