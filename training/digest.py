"""A digest of a table's content: the same however its rows are cut into chunks or its strings are stored."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["ContentDigest", "content_digest"]


def content_digest(table: pa.Table) -> str:
    """``sha256:<hex>`` over column names, types, nulls and values, in the table's row order.

    Every NaN counts as the same value; -0.0 and 0.0 differ, as their bits do. Columns are numbers, booleans,
    dates, timestamps, decimals or strings.

    Raises:
        TypeError: a column of another type.
    """
    digest = ContentDigest()
    digest.update(table)
    return digest.text()


class ContentDigest:
    """``content_digest`` of a table that comes piece by piece, each with the same columns, at least one."""

    def __init__(self) -> None:
        self._rows = 0
        self._columns: dict[str, _Column] = {}

    def update(self, table: pa.Table) -> None:
        """Add the table's rows; raises as ``content_digest``."""
        self._rows += table.num_rows
        for name in table.column_names:
            column = table.column(name)
            if pa.types.is_string(column.type):
                column = column.cast(pa.large_string())
            self._columns.setdefault(name, _Column(str(column.type))).update(name, column)

    def text(self) -> str:
        """The digest of all rows so far."""
        digest = hashlib.sha256(f"{self._rows}".encode())
        for name, column in self._columns.items():
            digest.update(f"\0{name}\0{column.kind}\0".encode() + column.summary())
        return f"sha256:{digest.hexdigest()}"


class _Column:
    """One column's digest: which rows are null, how long texts are, and the values, apart, however rows are cut."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._valid, self._lengths, self._values = (hashlib.sha256() for _ in range(3))

    def summary(self) -> bytes:
        return self._valid.digest() + self._lengths.digest() + self._values.digest()

    def update(self, name: str, column: pa.ChunkedArray) -> None:
        text = pa.types.is_large_string(column.type) or pa.types.is_decimal(column.type)
        if not text and not pa.types.is_primitive(column.type):
            raise TypeError(
                f"digest: column '{name}' is {column.type}; cast it to a number, a time or a string first"
            )
        for array in column.chunks:
            self._valid.update(pc.is_valid(array).cast(pa.uint8()).to_numpy(zero_copy_only=False).tobytes())
            if text:
                self._add_text(pc.fill_null(array.cast(pa.large_string()), ""))
            else:
                self._values.update(np.ascontiguousarray(_numbers(array)).tobytes())

    def _add_text(self, text: pa.Array) -> None:
        self._lengths.update(pc.binary_length(text).to_numpy(zero_copy_only=False).tobytes())
        self._values.update(_text_bytes(text))


def _text_bytes(text: pa.Array) -> bytes:
    """The bytes of all strings, one after the other; ``text`` has no nulls."""
    _, offsets, data = text.buffers()
    if data is None or len(text) == 0:
        return b""
    ends = np.frombuffer(offsets, np.int64)[text.offset : text.offset + len(text) + 1]
    return bytes(memoryview(data)[ends[0] : ends[-1]])


def _numbers(array: pa.Array) -> "np.ndarray[tuple[int], np.dtype[np.generic]]":
    if pa.types.is_temporal(array.type):
        array = array.cast(pa.int32() if pa.types.is_date32(array.type) else pa.int64())
    values = np.asarray(pc.fill_null(array, False if pa.types.is_boolean(array.type) else 0))
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), np.array(np.nan, values.dtype), values)
    result: np.ndarray[tuple[int], np.dtype[np.generic]] = values
    return result
