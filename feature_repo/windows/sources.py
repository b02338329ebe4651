"""Batch sources as DuckDB table expressions, at the Delta version that is asked for."""

import glob
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from feast.data_format import DeltaFormat
from feast.infra.offline_stores.file_source import FileSource

from feature_repo.lake import parquet_sql, quote, snapshot
from feature_repo.windows.state import to_microseconds

# What every Parquet file begins with.
_PARQUET = b"PAR1"
_NEWEST: Mapping[str, int] = MappingProxyType({})
_PINNED: ContextVar[Mapping[str, int]] = ContextVar("pinned_versions", default=_NEWEST)


@contextmanager
def pinned(versions: Mapping[str, int]) -> Iterator[None]:
    """Read the named sources at these Delta versions while the context lasts; other sources at their newest.

    Retrievals read when their result is asked for, so that must happen inside:
    ``with pinned({"transactions": 3}): table = store.get_historical_features(...).to_arrow()``.
    """
    token = _PINNED.set({**_PINNED.get(), **versions})
    try:
        yield
    finally:
        _PINNED.reset(token)


@dataclass(frozen=True)
class SourceTable:
    """A source as it is at one moment.

    Attributes:
        sql: DuckDB table expression. full: columns that are known to be null in no row.
        rows: how many there are, None where that is not known without counting.
    """

    sql: str
    full: frozenset[str] = frozenset()
    rows: int | None = None


class SourceTables:
    """The tables of sources, each looked for once: all who read one by this object read one version of it.

    Args:
        repo_path: what paths of sources are relative to.
    """

    def __init__(self, repo_path: Path | None) -> None:
        self._repo_path = repo_path
        self._found: dict[str, SourceTable] = {}

    def of(self, source: FileSource) -> SourceTable:
        """A source's table; raises as ``source_table``."""
        if source.name not in self._found:
            self._found[source.name] = source_table(source, self._repo_path)
        return self._found[source.name]


def source_sql(source: FileSource, repo_path: Path | None) -> str:
    """A DuckDB table expression over the files of a source; raises as ``source_table``."""
    return source_table(source, repo_path).sql


def source_table(source: FileSource, repo_path: Path | None) -> SourceTable:
    """The files of a source, columns named as its field mapping says.

    Raises:
        FileNotFoundError: no Delta table, or no Parquet file, at the source's path. ValueError: what is there is no Parquet.
    """
    path = FileSource.get_uri_for_file_path(repo_path, source.path)
    if isinstance(source.file_format, DeltaFormat):
        found = snapshot(path, _PINNED.get().get(source.name))
        # The paths begin with the day: read in their order, events come almost in that of time.
        table = SourceTable(replace(found, files=tuple(sorted(found.files))).sql, found.full, found.rows)
    else:
        table = SourceTable(parquet_sql(_parquet_files(path, source.name)))
    if not source.field_mapping:
        return table
    renames = ", ".join(f"{quote(old)} AS {quote(new)}" for old, new in sorted(source.field_mapping.items()))
    full = frozenset(source.field_mapping.get(name, name) for name in table.full)
    return SourceTable(f"(SELECT * RENAME ({renames}) FROM {table.sql})", full, table.rows)


def instant_sql(column: str, types: Mapping[str, str]) -> str:
    """A time column as TIMESTAMPTZ; without a zone it is UTC.

    Nanoseconds are cut off, as Python cuts them off live events: DuckDB's own cast would round.
    """
    if types[column].endswith("_NS"):
        return f"make_timestamptz(epoch_ns({quote(column)}) // 1000)"
    return f"CAST({quote(column)} AS TIMESTAMPTZ)"


def within_sql(time: str, types: Mapping[str, str], start: datetime | None, end: datetime | None) -> str:
    """That a row has a time, in ``[start, end]``; None is open. Ends without a zone are UTC, as in Feast."""
    moment = f"epoch_us({instant_sql(time, types)})"
    held = [f"{quote(time)} IS NOT NULL"]
    for comparison, instant in ((">=", start), ("<=", end)):
        if instant is not None:
            held.append(f"{moment} {comparison} {_microseconds(instant)}")
    return " AND ".join(held)


def _microseconds(instant: datetime) -> int:
    return to_microseconds(instant if instant.tzinfo else instant.replace(tzinfo=UTC))


def _parquet_files(path: str, name: str) -> tuple[str, ...]:
    if "://" in path:
        return (path,)
    pattern = f"{path}/**/*.parquet" if Path(path).is_dir() else path
    files = tuple(sorted(glob.glob(pattern, recursive=True)))
    if not files:
        raise FileNotFoundError(
            f"source {name!r}: no Parquet file at {path}; load the data, or correct the source's path"
        )
    with open(files[0], "rb") as file:
        if file.read(len(_PARQUET)) != _PARQUET:
            raise ValueError(
                f"source {name!r}: {files[0]} is not a Parquet file; write it as one, or as a Delta table with "
                "file_format=DeltaFormat()"
            )
    return files
