"""Tables written to file sources, Parquet or Delta: a reader never sees half of a file, nor half a version of a Delta table.

Feast's own writer rewrites Parquet in place, appends to no folder of Parquet files, and does not know today's Delta.
"""

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake
from feast.data_format import DeltaFormat
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import FileSource


def replace_table(table: pa.Table, source: FileSource, repo_path: Path | None, allow_overwrite: bool) -> None:
    """Write the table as all that the source holds: a Delta table, a Parquet file, or a folder if its name has no ``.parquet``.

    Of a folder the old files go once the new one is there: in between a reader sees both.

    Raises:
        SavedDatasetLocationAlreadyExists: something is there and ``allow_overwrite`` is not given.
    """
    path = _path(source, repo_path)
    if path.exists() and not allow_overwrite:
        raise SavedDatasetLocationAlreadyExists(location=source.path)
    if isinstance(source.file_format, DeltaFormat):
        write_deltalake(str(path), table, mode="overwrite", schema_mode="overwrite")
    elif path.suffix == ".parquet":
        _write(path, table.schema, lambda writer: writer.write_table(table))
    else:
        before = list(path.glob("**/*.parquet"))
        _write_part(path, table)
        for file in before:
            file.unlink()


def append_table(table: pa.Table, source: FileSource, repo_path: Path | None) -> None:
    """Add rows to what the source holds, in its types; a single Parquet file is written anew with them.

    Raises:
        FileNotFoundError: the source's file or table is not there. pyarrow.ArrowInvalid: a value that its types cannot hold.
    """
    path = _path(source, repo_path)
    if isinstance(source.file_format, DeltaFormat):
        schema = pa.schema(DeltaTable(str(path)).schema().to_arrow())
        write_deltalake(str(path), table.cast(schema), mode="append")
    elif path.is_dir():
        first = next(iter(sorted(path.glob("**/*.parquet"))), None)
        _write_part(path, table.cast(pq.read_schema(first)) if first else table)
    else:
        with pq.ParquetFile(path) as held:

            def write(writer: pq.ParquetWriter) -> None:
                for batch in held.iter_batches():
                    writer.write_batch(batch)
                writer.write_table(table.cast(held.schema_arrow))

            _write(path, held.schema_arrow, write)


def _path(source: FileSource, repo_path: Path | None) -> Path:
    if "://" in source.path:
        raise ValueError(f"{source.path}: not on this machine; write it with the tool that keeps it")
    return Path(FileSource.get_uri_for_file_path(repo_path, source.path))


def _write_part(folder: Path, table: pa.Table) -> None:
    _write(folder / f"part-{uuid4().hex}.parquet", table.schema, lambda writer: writer.write_table(table))


def _write(path: Path, schema: pa.Schema, write: Callable[[pq.ParquetWriter], None]) -> None:
    """Write a Parquet file under another name, and give it its own once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with pq.ParquetWriter(unfinished, schema) as writer:
            write(writer)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
