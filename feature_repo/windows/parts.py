"""A folder of Parquet files, written while it is computed, in sight only when it is complete."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

# Two files of one slab are encoded at the same time.
_AT_ONCE = 2
_LEAST_ROWS = 100_000


class PartWriter:
    """Writes tables in order into ``part-00000.parquet`` and on; the folder gets its name at the end.

    Integers and times are delta-packed, which is small and quick; floats stand as they are, since no encoding makes them much
    smaller; text is dictionary-encoded and compressed. Statistics, by which readers leave parts out, are kept of times and
    texts: those of features, which follow no order, would never leave one out. A writer that is killed leaves a folder
    ``.{name}.partial-{pid}``, and nothing under the name.

    Args:
        metadata: written to each file.

    Raises:
        FileExistsError: something is at ``path``.
    """

    def __init__(self, path: Path, metadata: dict[str, str]) -> None:
        if path.exists():
            raise FileExistsError(f"{path}: it is there already; remove it, or write elsewhere")
        self.rows = 0
        self._path = path
        self._partial = path.parent / f".{path.name}.partial-{os.getpid()}"
        self._metadata = {name.encode(): text.encode() for name, text in metadata.items()}
        self._parts = 0
        self._pool = ThreadPoolExecutor(_AT_ONCE)

    def __enter__(self) -> Self:
        self._partial.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()
        if kind is None:
            self._partial.rename(self._path)
        else:
            shutil.rmtree(self._partial)

    def write(self, table: pa.Table) -> None:
        """Append a table, as one file or two."""
        files = _AT_ONCE if len(table) > _LEAST_ROWS else 1
        size = -(-len(table) // files)
        jobs = []
        for start in range(0, len(table), max(size, 1)):
            file = self._partial / f"part-{self._parts:05}.parquet"
            jobs.append(self._pool.submit(_write, table.slice(start, size), file, self._metadata))
            self._parts += 1
        for job in jobs:
            job.result()
        # What encoding took is room for the next table.
        pa.default_memory_pool().release_unused()
        self.rows += len(table)

    def add(self, name: str, text: str) -> None:
        """Put a file of text beside them; readers of Parquet pass over a name that begins with ``_``."""
        (self._partial / name).write_text(text, encoding="utf-8")


def _write(table: pa.Table, file: Path, metadata: dict[bytes, bytes]) -> None:
    schema = table.schema
    floats = [f.name for f in schema if pa.types.is_floating(f.type)]
    whole = [f.name for f in schema if pa.types.is_integer(f.type)]
    times = [f.name for f in schema if pa.types.is_timestamp(f.type)]
    text = [name for name in schema.names if name not in {*floats, *whole, *times}]
    pq.write_table(
        table.replace_schema_metadata({**(schema.metadata or {}), **metadata}),
        file,
        row_group_size=len(table),
        use_dictionary=text or False,
        write_statistics=[*times, *text] or False,
        compression={f.name: "snappy" if f.name in text else "none" for f in schema},
        column_encoding=dict.fromkeys([*whole, *times], "DELTA_BINARY_PACKED"),
    )
