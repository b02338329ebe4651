"""A digest of a table's content: the same however its rows are cut into chunks or its strings are stored."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["content_digest"]


def content_digest(table: pa.Table) -> str:
    """``sha256:<hex>`` over column names, types, nulls and values, in the table's row order.

    Every NaN counts as the same value; -0.0 and 0.0 differ, as their bits do. Columns are numbers, booleans,
    dates, timestamps, decimals or strings.

    Raises:
        TypeError: a column of another type.
    """
    digest = hashlib.sha256(f"{table.num_rows}".encode())
    for name in table.column_names:
        _add_column(digest, name, table.column(name))
    return f"sha256:{digest.hexdigest()}"


def _add_column(digest: "hashlib._Hash", name: str, column: pa.ChunkedArray) -> None:
    if pa.types.is_string(column.type):
        column = column.cast(pa.large_string())
    digest.update(f"\0{name}\0{column.type}\0".encode())
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    digest.update(np.packbits(pc.is_valid(array).to_numpy(zero_copy_only=False)).tobytes())
    if pa.types.is_large_string(array.type):
        text = pc.fill_null(array, "")
        digest.update(pc.binary_length(text).to_numpy(zero_copy_only=False).tobytes())
        digest.update(_text_bytes(text))
    elif pa.types.is_decimal(array.type):
        _add_column(digest, name, pa.chunked_array([array.cast(pa.string())]))
    elif pa.types.is_primitive(array.type):
        digest.update(np.ascontiguousarray(_numbers(array)).tobytes())
    else:
        raise TypeError(
            f"digest: column '{name}' is {array.type}; cast it to a number, a time or a string first"
        )


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
