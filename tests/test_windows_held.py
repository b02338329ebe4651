"""Events that are carried along: the same in memory and in a file, never more in memory than there is room for."""

import resource

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.windows.held import Filed, Held, Room


def some(seed, count, fields, kind=np.int32):
    random = np.random.default_rng(seed)
    codes = np.sort(random.integers(0, 1_000, count)).astype(kind)
    return Held(codes, random.integers(-(2**63), 2**63 - 1, (fields, count)))


def same(one, other):
    laid = one.laid()
    return (
        laid.codes.dtype == other.codes.dtype
        and np.array_equal(laid.codes, other.codes)
        and np.array_equal(laid.fields, other.fields)
    )


@pytest.fixture
def room():
    rooms = []

    def of(most):
        rooms.append(Room(most))
        return rooms[-1]

    yield of
    for each in rooms:
        each.close()


@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(1, 4), st.booleans()), max_size=30),
    st.integers(0, 20_000),
)
@settings(max_examples=200, deadline=None)
def test_what_is_kept_comes_back_whatever_is_let_go_of_meanwhile(steps, most):
    room, kept = Room(most), []
    for seed, (count, fields, goes) in enumerate(steps):
        given_events = some(seed, count, fields, np.int64 if count % 2 else np.int32)
        kept.append((room.keep(given_events), given_events))
        assert len(kept[-1][0]) == count
        if goes:
            kept.pop(seed % len(kept))[0].let_go()
        assert room.used == sum(events.size for events, _ in kept if isinstance(events, Held)) <= most
        assert all(same(events, before) for events, before in kept)
    for events, _ in kept:
        events.let_go()
    assert room.used == 0
    room.close()


def test_beyond_its_room_events_lie_in_a_file_whose_gaps_are_filled_again(room):
    large = room(some(0, 100, 2).size)
    first, *others = [large.keep(some(seed, 100, 2)) for seed in range(4)]
    assert isinstance(first, Held)
    assert all(isinstance(each, Filed) for each in others)
    end = others[-1].file.end
    others[0].let_go()
    others[1].let_go()
    again = [large.keep(some(seed, count, 2)) for seed, count in ((7, 150), (8, 50))]
    assert [each.file.end for each in again] == [end, end]
    assert same(others[2], some(3, 100, 2))
    assert same(again[0], some(7, 150, 2))
    assert same(again[1], some(8, 50, 2))
    first.let_go()
    assert isinstance(large.keep(some(9, 100, 2)), Held)


@pytest.mark.parametrize("most", [0, 10**9])
def test_known_times_can_be_added_to_what_is_kept(room, most):
    events = some(1, 50, 3)
    known = room(most).keep(events).laid().with_known_times()
    assert np.array_equal(known.codes, events.codes)
    assert np.array_equal(known.fields, events.fields[[0, 0, 1, 2]])


def test_the_file_has_no_name(room, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    filed = room(0).keep(some(1, 50, 3))
    assert isinstance(filed, Filed)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_more_is_named_with_the_way_out(room):
    full = room(0)
    before = some(1, 10, 1)
    kept = full.keep(before)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, hard))
    try:
        with pytest.raises(OSError, match=r"did not take 20,000 bytes of them; set TMPDIR .*or memory_limit"):
            full.keep(some(2, 1_000, 2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert same(kept, before)
