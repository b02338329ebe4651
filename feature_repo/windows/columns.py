"""Rows of results, as the kernel writes them, turned into columns: Arrow's, and the reals that transforms read."""

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from feature_repo.windows.kernel import NULL
from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.transform import Reals

Integers = NDArray[np.int64]
_TILE = 64
# Rows of a chunk: a multiple of 8, so that each chunk's bitmaps begin at a byte.
_CHUNK = 32_768
# The bits of a float but its sign, and of infinity: what lies beyond is no number.
_UNSIGNED, _INFINITY = np.int64(0x7FFFFFFFFFFFFFFF), np.int64(0x7FF0000000000000)


@njit(cache=True, nogil=True)
def _turn(rows: Any, whole: Any, room: Any, valid: Any, nulls: Any) -> None:
    """Turn int64[r, a] into int64[a, r] in the same memory, with bitmaps of what is not null. A float's null is any NaN.

    Args:
        room: int64[r * a] or more, to work in. valid: uint8[a, (r + 7) // 8]. nulls: int64[a], counts.
    """
    count, outputs = rows.shape
    columns = room[: count * outputs].reshape((outputs, count))
    for tile in range(0, count, _TILE):
        stop = min(tile + _TILE, count)
        for a in range(outputs):
            for first in range(tile, stop, 8):
                end = min(first + 8, stop)
                # No branch on a value: nulls come as they like, and a wrong guess costs more than the rest.
                bits = np.int64(0)
                if whole[a]:
                    for r in range(first, end):
                        value = rows[r, a]
                        columns[a, r] = value
                        bits |= np.int64(value != NULL) << (r - first)
                else:
                    for r in range(first, end):
                        value = rows[r, a]
                        columns[a, r] = value
                        bits |= np.int64((value & _UNSIGNED) <= _INFINITY) << (r - first)
                valid[a, first >> 3] = bits
                ones = (bits & 0x55) + (bits >> 1 & 0x55)
                ones = (ones & 0x33) + (ones >> 2 & 0x33)
                nulls[a] += end - first - (ones & 0x0F) - (ones >> 4)
    rows.reshape(-1)[:] = room[: count * outputs]


def arrow_columns(
    rows: Integers, whole: NDArray[np.bool_], pool: Executor, parts: int
) -> list[pa.ChunkedArray]:
    """The columns of int64[r, a] as Arrow's: int64 where ``whole``, else float64; the kernel's nulls are nulls.

    The arrays lie where the rows were, turned chunk by chunk: memory for a second copy would cost more than to fill it.
    """
    count = len(rows)
    starts = range(0, max(count, 1), _CHUNK)
    share = -(-len(starts) // parts)
    turning = [
        pool.submit(_turned, rows, whole, starts[first : first + share])
        for first in range(0, len(starts), share)
    ]
    chunks = [arrays for turned in turning for arrays in turned.result()]
    return [pa.chunked_array(arrays) for arrays in zip(*chunks, strict=True)]


def _turned(rows: Integers, whole: NDArray[np.bool_], starts: Sequence[int]) -> list[list[pa.Array]]:
    """Of each chunk that begins at one of ``starts`` its columns."""
    outputs = rows.shape[1]
    room = np.empty(min(len(rows), _CHUNK) * outputs, dtype=np.int64)
    found = []
    for start in starts:
        chunk = rows[start : start + _CHUNK]
        valid = np.empty((outputs, (len(chunk) + 7) // 8), dtype=np.uint8)
        nulls = np.zeros(outputs, dtype=np.int64)
        _turn(chunk, whole, room, valid, nulls)
        columns = chunk.reshape(outputs, len(chunk))
        found.append([_array(columns[a], valid[a], int(nulls[a]), bool(whole[a])) for a in range(outputs)])
    return found


@njit(cache=True, nogil=True)
def fill_reals(results: Any, whole: Any, columns: Any) -> None:
    """Turn int64[r, a], as the kernel writes it, into float64[a, r], null as NaN: contiguous columns.

    Columns with gaps between their values would not do: numpy may take another path, with other bits, through them.
    """
    real = results.view(np.float64)
    for a in range(results.shape[1]):
        for r in range(results.shape[0]):
            if not whole[a]:
                columns[a, r] = real[r, a]
            elif results[r, a] == NULL:
                columns[a, r] = np.nan
            else:
                columns[a, r] = results[r, a]


def as_reals(spec: ViewSpec, results: Integers) -> dict[str, Reals]:
    """A view's results as float64 columns by name, null as NaN."""
    columns = np.empty(results.shape[::-1])
    fill_reals(results, spec.whole, columns)
    return dict(zip((a.name for a in spec.aggregates), columns, strict=True))


def _array(values: Integers, valid: NDArray[np.uint8], nulls: int, whole: bool) -> pa.Array:
    kind = pa.int64() if whole else pa.float64()
    bitmap = pa.py_buffer(valid) if nulls else None
    return pa.Array.from_buffers(kind, len(values), [bitmap, pa.py_buffer(values)], nulls)
