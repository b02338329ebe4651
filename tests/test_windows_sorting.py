"""Events sorted by key against Python's own sort, and the numbers of the values that are asked."""

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.windows.asked_keys import AskedKeys
from feature_repo.windows.sorting import (
    ALL_PASS,
    NOTHING,
    combine,
    gather,
    leave_unmarked,
    mark,
    ordered,
    tied,
)

GREATEST = [0, 1, 2**14 - 1, 2**14, 2**31 - 1, 2**31, 2**62]


@st.composite
def rows(draw):
    """Codes up to a greatest, with times; some are nobody's, some fail a filter, some come in another order."""
    greatest = draw(st.sampled_from(GREATEST))
    code = st.one_of(st.sampled_from([-1, 0, greatest, greatest // 2]), st.integers(0, greatest))
    codes = draw(st.lists(code, max_size=40))
    kind = np.int32 if greatest < 2**31 else np.int64
    size = {"min_size": len(codes), "max_size": len(codes)}
    times = np.array(draw(st.lists(st.integers(0, 5), **size)), dtype=np.int64)
    passes = np.array(draw(st.lists(st.booleans(), **size)), dtype=np.bool_)
    return np.array(codes, dtype=kind), greatest, times, passes


@given(rows(), st.integers(0, 6), st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_events_come_by_key_and_within_it_as_they_came(drawn, floor, timed, filtered, reordered):
    codes, greatest, times, passes = drawn
    order = np.argsort(times, kind="stable") if reordered else np.arange(len(codes))
    kept = [
        i
        for i in order.tolist()
        if codes[i] >= 0 and (not timed or times[i] >= floor) and (not filtered or passes[i])
    ]
    expected = sorted(kept, key=lambda i: codes[i])
    positions, in_order = ordered(
        codes, greatest, order if reordered else NOTHING, times if timed else NOTHING, floor,
        passes if filtered else ALL_PASS,
    )  # fmt: skip
    assert positions.tolist() == expected
    assert in_order.tolist() == codes[expected].tolist()
    out = np.empty(len(positions), dtype=np.int64)
    gather(times, positions, out)
    assert out.tolist() == times[expected].tolist()
    alike = [
        i
        for i in range(len(expected))
        if any(
            0 <= j < len(expected) and in_order[i] == in_order[j] and out[i] == out[j] for j in (i - 1, i + 1)
        )
    ]
    assert tied(in_order, times, positions).tolist() == alike


@given(rows(), rows(), st.integers(0, 6))
@settings(max_examples=100, deadline=None)
def test_what_is_marked_stays_and_most_of_the_rest_does_not(asked, drawn, size):
    marks = np.zeros(1 << size, dtype=np.bool_)
    mark(asked[0], marks)
    codes = drawn[0].copy()
    leave_unmarked(codes, marks)
    left = set(asked[0].tolist()) - {-1}
    assert all(
        now == was or (now == -1 and was not in left) for now, was in zip(codes, drawn[0], strict=True)
    )
    if not left:
        assert set(codes.tolist()) <= {-1}


def test_of_codes_that_nobody_asks_most_are_left_out():
    marks = np.zeros(1 << 16, dtype=np.bool_)
    mark(np.arange(0, 100, dtype=np.int64), marks)
    codes = np.arange(10_000, dtype=np.int64)
    leave_unmarked(codes, marks)
    assert codes[:100].tolist() == list(range(100))
    assert np.count_nonzero(codes[100:] >= 0) < 100


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_a_key_of_parts_has_one_code_and_none_where_a_part_is_missing(kind):
    codes = np.array([0, 3, -1, 2, 1], dtype=kind)
    combine(codes, np.array([4, 0, 2, -1, 4], dtype=np.int32), 5)
    assert codes.tolist() == [4, 15, -1, -1, 9]


@pytest.mark.parametrize(
    ("asked", "kind", "events"),
    [
        (pa.chunked_array([["b", None, "a"], ["b", "zz"]]), "VARCHAR", ["a", "b", "zz"]),
        (
            pa.chunked_array([pa.array(part).dictionary_encode() for part in (["b", None, "a"], ["b", "zz"])]),
            "VARCHAR",
            ["a", "b", "zz"],
        ),
        (pa.chunked_array([pd.Categorical(["b", None, "a", "b", "zz"], ["never", "zz", "a", "b"])]), "VARCHAR", ["a", "b", "zz"]),
        (pa.chunked_array([pd.Categorical(["2", None, "1", "2", "3"], ["3", "2", "1", "never"])]), "BIGINT", [1, 2, 3]),
        (pa.chunked_array([["2", None, "1", "02", "3"]]), "BIGINT", [1, 2, 3]),
        (pa.chunked_array([pa.array([2, None, 1, 2, 3], pa.int16())]), "VARCHAR", ["1", "2", "3"]),
    ],
    ids=["text", "coded text", "categories", "categories for numbers", "text for numbers", "numbers for text"],
)  # fmt: skip
def test_asked_values_are_numbered_as_the_source_writes_them(asked, kind, events):
    with duckdb.connect() as connection:
        connection.register("asked", pa.table({"who": asked}))
        keys = AskedKeys(connection, {"who": "asked"})
        part = keys.part("key", kind, "who")
        ids = keys.ids({"who": asked})[part].tolist()
        number = dict(connection.execute(f"SELECT value, id FROM {part.table}").fetchall())
    assert ids == [number[events[1]], -1, number[events[0]], number[events[1]], number[events[2]]]


@pytest.mark.parametrize("kind", [pa.string(), pa.null(), pa.int64(), pa.dictionary(pa.int8(), pa.string())])
def test_of_no_rows_there_are_no_values(kind):
    with duckdb.connect() as connection:
        nobody = pa.chunked_array([], kind)
        connection.register("asked", pa.table({"who": nobody}))
        keys = AskedKeys(connection, {"who": "asked"})
        part = keys.part("key", "VARCHAR", "who")
        assert part.size == 0
        assert keys.ids({"who": nobody})[part].tolist() == []


def test_rows_that_are_all_null_ask_for_nobody():
    with duckdb.connect() as connection:
        nobody = pa.chunked_array([pa.nulls(2)])
        connection.register("asked", pa.table({"who": nobody}))
        keys = AskedKeys(connection, {"who": "asked"})
        part = keys.part("key", "VARCHAR", "who")
        assert keys.ids({"who": nobody})[part].tolist() == [-1, -1]
