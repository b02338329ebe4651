"""What lies at a path: files to read, each a DuckDB relation with columns, types and row numbers."""

from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from feature_repo.lake import snapshot
from pipelines.problems import IngestError

__all__ = ["ROW", "Source", "find_sources", "unreadable"]

ROW = "file_row_number"
"""Column of every source relation: the row's place in its file, from 0."""

_READ = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv"}
_PICKLES = {".pkl", ".pickle"}


@dataclass(frozen=True)
class Source:
    """One file (or Arrow table): its name in messages, its relation as SQL, and its columns' DuckDB types."""

    name: str
    relation: str
    types: dict[str, str]


def find_sources(con: duckdb.DuckDBPyConnection, path: str | Path | pa.Table, what: str) -> list[Source]:
    """The sources at ``path``: a file, a folder (searched through), a glob, a Delta table or an Arrow table.

    ``what`` names an Arrow table in messages, and must be an identifier of its own within ``con``.

    Raises:
        IngestError: nothing to read there, a pickle, or a file that is not what its name says.
    """
    if isinstance(path, pa.Table):
        return [_arrow_source(con, path, what)]
    return [_file_source(con, file) for file in _files(Path(path))]


def _files(path: Path) -> list[Path]:
    if (path / "_delta_log").is_dir():
        return [Path(file) for file in snapshot(path).files]
    found = [path] if path.is_file() else sorted(_candidates(path))
    for file in found:
        if file.suffix.lower() in _PICKLES:
            raise IngestError(
                f"{file}: a pickle: opening one runs whatever code it holds, so none is opened here; "
                'convert one that you trust: python -c "import pandas, sys; pandas.read_pickle(sys.argv[1])'
                '.to_parquet(sys.argv[2])" day.pkl day.parquet'
            )
    readable = [file for file in found if file.suffix.lower() in _READ]
    if not readable:
        kind = (
            f"{path.suffix!r} is no format that is read here" if path.is_file() else "nothing to read there"
        )
        raise IngestError(f"{path}: {kind}; name a {', '.join(_READ)} file, a folder of them or a glob")
    return readable


def _candidates(path: Path) -> list[Path]:
    """Files under a folder, without hidden ones and tools' own (``_SUCCESS``), or behind a glob."""
    if path.is_dir():
        found = [file.relative_to(path) for file in path.rglob("*") if file.is_file()]
        return [path / file for file in found if not any(part.startswith((".", "_")) for part in file.parts)]
    base = Path(*path.parts[: next((i for i, part in enumerate(path.parts) if _is_glob(part)), 0)])
    if not any(_is_glob(part) for part in path.parts):
        raise IngestError(f"{path}: no such file or folder; check the path")
    return [file for file in base.glob(str(path.relative_to(base))) if file.is_file()]


def _is_glob(part: str) -> bool:
    return any(sign in part for sign in "*?[")


def _file_source(con: duckdb.DuckDBPyConnection, file: Path) -> Source:
    name = str(file).replace("'", "''")
    if _READ[file.suffix.lower()] == "parquet":
        relation = f"read_parquet('{name}', file_row_number=true)"
    else:
        # All columns as text: a value that does not convert is then reported with its row, not guessed
        # around.
        rows = f"read_csv('{name}', all_varchar=true, header=true)"
        relation = f"(SELECT *, row_number() OVER () - 1 AS {ROW} FROM {rows})"
    return _described(con, str(file), relation)


def _arrow_source(con: duckdb.DuckDBPyConnection, table: pa.Table, what: str) -> Source:
    con.register(what, table)
    return _described(con, what, f"(SELECT *, row_number() OVER () - 1 AS {ROW} FROM {what})")


def _described(con: duckdb.DuckDBPyConnection, name: str, relation: str) -> Source:
    try:
        described = con.sql(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    except duckdb.Error as error:
        raise unreadable(name, error) from None
    return Source(name, relation, {row[0]: row[1] for row in described if row[0] != ROW})


def unreadable(name: str, error: duckdb.Error) -> IngestError:
    """The error for a file that DuckDB cannot read, with the first line of its own (which names a CSV's line)."""
    first_line = str(error).splitlines()[0]
    return IngestError(f"{name}: cannot be read: {first_line}; write it again, or leave it out")
