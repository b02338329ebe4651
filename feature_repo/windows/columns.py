"""Rows of results, as the kernel writes them, turned into columns: Arrow's, and the reals that transforms read."""

from collections.abc import Sequence
from concurrent.futures import Executor
from itertools import pairwise
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


@njit(cache=True, nogil=True)
def _turn(rows: Any, start: Any, end: Any, whole: Any, columns: Any, valid: Any, nulls: Any) -> None:
    """Turn rows ``start`` to ``end`` of int64[r, a] into int64[a, r] with bitmaps of what is not null.

    ``start`` is a multiple of 8, so that ranges of rows can be turned at the same time. A float's null is any NaN.
    """
    outputs = rows.shape[1]
    for tile in range(start, end, _TILE):
        stop = min(tile + _TILE, end)
        for a in range(outputs):
            missing = 0
            for first in range(tile, stop, 8):
                bits = 0
                for r in range(first, min(first + 8, stop)):
                    value = rows[r, a]
                    columns[a, r] = value
                    real = value & np.int64(0x7FFFFFFFFFFFFFFF)
                    if value == NULL if whole[a] else real > np.int64(0x7FF0000000000000):
                        missing += 1
                    else:
                        bits |= 1 << (r - first)
                valid[a, first >> 3] = bits
            nulls[a] += missing


def arrow_columns(rows: Integers, whole: NDArray[np.bool_], pool: Executor, parts: int) -> Sequence[pa.Array]:
    """The columns of int64[r, a] as Arrow arrays: int64 where ``whole``, else float64; the kernel's nulls are nulls."""
    count, outputs = rows.shape
    columns = np.empty((outputs, count), dtype=np.int64)
    valid = np.empty((outputs, (count + 7) // 8), dtype=np.uint8)
    edges = [*range(0, count, max(8, (count // parts + 7) // 8 * 8)), count]
    nulls = [np.zeros(outputs, dtype=np.int64) for _ in edges]
    ranges = list(zip(pairwise(edges), nulls, strict=False))
    for done in [
        pool.submit(_turn, rows, start, end, whole, columns, valid, missing)
        for (start, end), missing in ranges
    ]:
        done.result()
    missing = np.sum(nulls, axis=0)
    return [_array(columns[a], valid[a], int(missing[a]), bool(whole[a])) for a in range(outputs)]


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
