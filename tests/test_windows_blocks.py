"""Blocks stand for their events, and superseded versions are seen for as long as they were the newest."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.windows.blocks import summarize
from feature_repo.windows.evaluate import Asks, Events, evaluate
from feature_repo.windows.functions import FUNCTIONS
from feature_repo.windows.kernel import BUCKETS, FOR_EVER, NULL, bucket_of, middle_of
from tests import oracle
from tests.kernel_rows import answer, plain
from tests.timelines import every_function

WINDOWS = (40, 100, 1000)
AMOUNTS = st.one_of(st.none(), st.integers(-70, 70), st.integers(-(10**9), 10**9))


WITHOUT_CODES = every_function(
    windows=WINDOWS, functions=[name for name, row in FUNCTIONS.items() if row.needs != "code"]
)
EVERYTHING = every_function(windows=WINDOWS)


def columns(spec, events):
    """Events of one key as the kernel reads them; codes are small numbers here."""
    values = {"amount": [e["amount"] for e in events], "place": [e["place"] for e in events]}
    stored = [[NULL if v is None else v for v in values[c.name]] for c in spec.columns]
    return (
        np.array([e["time"] for e in events], dtype=np.int64),
        np.array([e["known"] for e in events], dtype=np.int64),
        np.array(stored, dtype=np.int64).reshape(len(spec.columns), len(events)),
    )


def edges(instant):
    """The times at which some window begins, and the one at which all end."""
    return [instant - window for window in WINDOWS] + [instant]


@st.composite
def timelines(draw):
    times = sorted(draw(st.lists(st.integers(0, 1300), min_size=1, max_size=30)))
    return [
        {"id": i, "order": i, "key": 0, "time": t, "known": t, "amount": draw(AMOUNTS), "place": None}
        for i, t in enumerate(times)
    ]


def runs(draw, events, instant):
    """Cut the events where a window begins or ends, and now and then elsewhere; never between two at one instant."""
    cuts = [0]
    for i in range(1, len(events)):
        before, after = events[i - 1]["time"], events[i]["time"]
        must = any(before < edge <= after for edge in edges(instant))
        if before < after and (must or draw(st.booleans())):
            cuts.append(i)
    return [*cuts, len(events)]


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_block_answers_as_its_events_do(data):
    spec, events = WITHOUT_CODES, data.draw(timelines())
    instant = data.draw(st.sampled_from([e["time"] for e in events])) + data.draw(
        st.sampled_from([0, 1, 40, 41, 100, 999])
    )
    times, known, values = columns(spec, events)
    raw = Events(times, known, values, np.array([0, len(events)]))
    cuts = runs(data.draw, events, instant)
    starts = np.array(cuts, dtype=np.int64)
    blocks = summarize(spec, raw, starts)
    if len(cuts) > 3 and data.draw(st.booleans()):
        # Blocks merge like events; the first two lie on one side of every edge only if no edge lies between them.
        middle = events[cuts[1]]["time"]
        if not any(events[cuts[1] - 1]["time"] < edge <= middle for edge in edges(instant)):
            rows = Events(times[starts[:-1]], times[starts[:-1]], np.full((1, len(starts) - 1), NULL), np.array([0, 1]),
                          blocks=blocks._replace(index=np.arange(len(starts) - 1)))  # fmt: skip
            merged = np.array([0, *range(2, len(starts))], dtype=np.int64)
            blocks, starts = summarize(spec, rows, merged), np.delete(starts, 1)
    summarized = data.draw(st.lists(st.booleans(), min_size=len(starts) - 1, max_size=len(starts) - 1))
    at, index, kept = [], [], []
    for j, whole in enumerate(summarized):
        rows = [starts[j]] if whole else list(range(starts[j], starts[j + 1]))
        at += [times[i] for i in rows]
        index += [j if whole else -1 for _ in rows]
        kept += [[NULL if whole else values[0, i] for i in rows]]
    mixed = Events(
        np.array(at), np.array(at), np.concatenate(kept).astype(np.int64)[None, :], np.array([0, len(at)]),
        blocks=blocks._replace(index=np.array(index, dtype=np.int64)),
    )  # fmt: skip
    # All was known when it happened, and blocks must have been known by when they are asked for.
    asks = [(instant, 10**6)]
    truth = oracle.aggregates(spec, events, instant, 10**6)
    assert plain(spec, answer(spec, mixed, asks)[0]) == truth
    assert np.array_equal(answer(spec, mixed, asks), answer(spec, raw, asks))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_version_is_seen_until_the_next_one_was_known(data):
    spec = every_function(windows=WINDOWS, delay=data.draw(st.sampled_from([0, 60])))
    events = [e | {"place": data.draw(st.sampled_from([1, 2, None]))} for e in data.draw(timelines())]
    for e in events:
        e["known"] = e["time"] + data.draw(st.sampled_from([0, 0, 5, 300]))
        e["until"] = data.draw(
            st.sampled_from([int(FOR_EVER), int(FOR_EVER), e["known"] + 50, e["known"] + 400])
        )
    times, known, values = columns(spec, events)
    rows = Events(
        times, known, values, np.array([0, len(events)]), until=np.array([e["until"] for e in events])
    )
    anchors = st.sampled_from(
        [e["time"] for e in events] + [e["until"] for e in events if e["until"] < FOR_EVER]
    )
    asks = []
    for _ in range(data.draw(st.integers(1, 6))):
        instant = data.draw(anchors) + data.draw(st.sampled_from([0, 1, 40, 60, 100, 101]))
        asks.append((instant, instant + data.draw(st.sampled_from([0, 0, 1, 50, -30]))))
    asks.sort()
    for row, (instant, as_of) in zip(answer(spec, rows, asks), asks, strict=True):
        seen = [e for e in events if as_of <= e["until"]]
        assert plain(spec, row) == oracle.aggregates(spec, seen, instant, as_of)


@given(st.integers(-(2**63) + 1, 2**63 - 1), st.integers(0, 70))
@settings(max_examples=300, deadline=None)
def test_a_bucket_holds_its_middle_and_what_is_near_it(value, shift):
    value = (value >> shift) if shift < 60 else value % 200 - 100
    bucket = bucket_of(np.int64(value))
    assert 0 <= bucket < BUCKETS
    assert bucket_of(np.int64(middle_of(bucket))) == bucket
    assert middle_of(bucket) == oracle.middle(value)
    assert abs(middle_of(bucket) - value) * 64 <= abs(value)
    assert bucket_of(np.int64(value - 1)) <= bucket if value > -(2**63) + 1 else True


def test_squares_of_a_block_carry_from_the_low_word_to_the_high_one():
    amounts = [2**32 - 1, 2**32 - 1, 2**40, -(2**41) + 7]
    times, starts = np.arange(4), np.array([0, 4])
    events = Events(times, times, np.array([amounts]), starts)
    blocks = summarize(every_function(windows=WINDOWS, functions=["std"]), events, starts)
    squares = sum(amount**2 for amount in amounts)
    assert (int(blocks.high[0, 0]), int(blocks.low[0, 0])) == divmod(squares, 2**64)


def test_many_small_keys_and_one_large_are_answered_as_each_alone():
    spec, rng = EVERYTHING, np.random.default_rng(7)
    sizes = [*rng.integers(0, 9, 300), 9000, *rng.integers(0, 9, 300)]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    times = np.concatenate([np.sort(rng.integers(0, 3000, n)) for n in sizes])
    known = times + rng.choice([0, 0, 0, 7, 200], len(times))
    values = np.stack([rng.integers(-500, 500, len(times)), rng.integers(0, 5, len(times))])
    events = Events(times, known, values, starts)
    asks = Asks(times, times + rng.choice([0, 0, 90], len(times)), starts, rng.permutation(len(times)))
    together = np.empty((len(times), len(spec.aggregates)), dtype=np.int64)
    evaluate(spec, events, asks, range(len(sizes)), together)
    alone = np.empty_like(together)
    for key in range(len(sizes)):
        a, b = starts[key], starts[key + 1]
        only = Events(times[a:b], known[a:b], np.ascontiguousarray(values[:, a:b]), np.array([0, b - a]))
        part = Asks(asks.instants[a:b], asks.known_as_of[a:b], np.array([0, b - a]), asks.rows[a:b])
        evaluate(spec, only, part, range(1), alone)
    assert np.array_equal(together, alone)
