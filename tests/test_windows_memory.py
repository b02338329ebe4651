"""Memory of large arrays is used again, and never while something refers to it."""

import gc

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.windows import memory

ROWS = 1 << 20


@pytest.fixture(autouse=True)
def nothing_kept():
    memory.release()
    yield
    memory.release()


def address(array):
    return array.__array_interface__["data"][0]


def test_what_nobody_refers_to_is_used_again():
    first = memory.empty((ROWS, 2))
    where = address(first)
    del first
    second = memory.empty((2 * ROWS - 1000,))
    assert address(second) == where
    assert second.shape == (2 * ROWS - 1000,)
    assert second.dtype == np.int64


@pytest.mark.parametrize(
    "refer",
    [
        lambda array: array[:, 1],
        lambda array: array.reshape(-1)[5:6],
        lambda array: array.view(np.float64),
        lambda array: pa.py_buffer(array[7]),
        lambda array: pa.Array.from_buffers(pa.int64(), 2, [None, pa.py_buffer(array[7])]),
        lambda array: pa.table({"a": pa.Array.from_buffers(pa.int64(), 2, [None, pa.py_buffer(array[7])])}),
    ],
    ids=["view", "flat", "other type", "buffer", "arrow", "table"],
)
def test_what_a_part_refers_to_stays(refer):
    array = memory.empty((ROWS, 2))
    where = address(array)
    array[:] = 7
    part = refer(array)
    del array
    gc.collect()
    other = memory.empty((ROWS, 2))
    assert address(other) != where
    other[:] = 0
    del part, other
    gc.collect()
    assert len({address(memory.empty((ROWS, 2))) for _ in range(3)}) == 1


def test_two_arrays_at_a_time_never_share():
    arrays = [memory.empty((ROWS,)) for _ in range(4)]
    for i, array in enumerate(arrays):
        array[:] = i
    assert [int(array.min()) for array in arrays] == [0, 1, 2, 3]
    assert [int(array.max()) for array in arrays] == [0, 1, 2, 3]


def test_what_is_kept_has_a_limit(monkeypatch):
    monkeypatch.setattr(memory, "_MOST_BYTES", 20 << 20)
    arrays = [memory.empty((ROWS,)) for _ in range(6)]
    del arrays
    assert sum(size * len(kept) for size, kept in memory._FREE.items()) <= 20 << 20
    large = memory.empty((30 << 17,))
    del large
    assert sum(size * len(kept) for size, kept in memory._FREE.items()) <= 20 << 20


def test_one_that_grows_or_shrinks_lets_go_of_what_it_was():
    for size in (4 * ROWS, 6 * ROWS, 5 * ROWS):
        memory.empty((size,))
        assert [room for room, kept in memory._FREE.items() if kept] == [8 * size]


def test_small_ones_cost_no_large_one():
    large = memory.empty((16 * ROWS,))
    where = address(large)
    del large
    several = [memory.empty((ROWS,)) for _ in range(3)]
    assert address(memory.empty((16 * ROWS,))) == where
    assert len(several) == 3


def test_small_and_empty_arrays_are_ordinary_ones():
    assert memory.empty((0,)).shape == (0,)
    assert memory.empty((3, 0)).shape == (3, 0)
    small = memory.empty((10, 3))
    assert small.base is None
    assert not any(memory._FREE.values())


@pytest.mark.parametrize("advice", ["_UNUSED", "_HUGE"])
@pytest.mark.parametrize("known", [None, 12_345])
def test_a_system_that_takes_no_advice_has_arrays_too(monkeypatch, advice, known):
    monkeypatch.setattr(memory, advice, known)
    array = memory.empty((ROWS,))
    array[:] = 3
    del array
    assert any(memory._FREE.values()) == (advice == "_HUGE")


@pytest.mark.parametrize("room", [0, 1, 5, 100])
@pytest.mark.parametrize("kind", [np.int64, np.int32, np.bool_])
def test_a_column_grows_beyond_what_was_expected(room, kind):
    column = memory.Growing(room, kind)
    parts = [np.arange(n).astype(kind) for n in (3, 0, 1, 9)]
    for part in parts:
        column.extend(part)
    assert column.values.dtype == kind
    assert column.values.tolist() == np.concatenate(parts).tolist()
