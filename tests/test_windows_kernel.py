"""The kernel against Python's integers: huge values, overflow, nulls, many distinct values, long keys."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.windows.evaluate import Asks, Events, evaluate
from feature_repo.windows.functions import FUNCTIONS
from feature_repo.windows.kernel import NULL, _multiply, _square, _to_float
from feature_repo.windows.spec import Aggregate, ViewSpec
from tests import oracle
from tests.kernel_rows import answer, plain
from tests.timelines import SECOND, every_function

LARGEST = 2**63 - 1


def spec_of(*functions, window=1000 * SECOND, column="amount", delay=0):
    outputs = tuple(
        Aggregate(f"{name}_{window}", name, column if FUNCTIONS[name].needs != "events" else "", window)
        for name in functions
    )
    return ViewSpec("view", "events", ("key",), "id", "time", "known", "", delay, outputs)


def run(spec, times, values, asks, known=None):
    """Aggregates of one key whose view stores one column, None for null; asks are (instant, known_as_of)."""
    column = np.array([NULL if value is None else value for value in values], dtype=np.int64)
    times = np.array(times, dtype=np.int64)
    events = Events(
        timestamps=times,
        known=times if known is None else np.array(known, dtype=np.int64),
        values=np.stack([column] * len(spec.columns))
        if spec.columns
        else np.empty((0, len(times)), np.int64),
        starts=np.array([0, len(times)]),
    )
    return [plain(spec, row) for row in answer(spec, events, asks)]


def truth(spec, times, values, asks, known=None):
    known = times if known is None else known
    events = [
        {"id": i, "order": i, "key": 0, "time": t, "known": k, "amount": v}
        for i, (t, k, v) in enumerate(zip(times, known, values, strict=True))
    ]
    return [oracle.aggregates(spec, events, instant, known_as_of) for instant, known_as_of in asks]


NUMBERS = spec_of("sum", "mean", "std", "min", "max")


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_huge_values_are_added_and_squared_exactly(data):
    n = data.draw(st.integers(1, 12))
    bound = LARGEST // n
    huge = st.one_of(
        st.integers(-bound, bound), st.integers(bound - 3, bound), st.integers(-bound, -bound + 3), st.none()
    )
    values = data.draw(st.lists(huge, min_size=n, max_size=n))
    times = list(range(n))
    asks = [(i, i) for i in range(n + 1)] + [(n + 1000 * SECOND - 2, n + 1000 * SECOND - 2)]
    assert run(NUMBERS, times, values, asks) == truth(NUMBERS, times, values, asks)


@pytest.mark.parametrize(
    "values",
    [
        [LARGEST // 2, -(LARGEST // 2)],
        [LARGEST // 2, LARGEST // 2],
        [LARGEST // 2, LARGEST // 2 - 1],
        [LARGEST // 3, LARGEST // 3 - 1, -(LARGEST // 3)],
        [2**32, -(2**32) + 1, 2**31],
        [2**32 - 1] * 7 + [2**32],
        [10**14 + i for i in range(30)],
    ],
)
def test_the_deviation_is_that_of_pythons_integers_to_the_bit(values):
    n, end = len(values), len(values)
    squares = n * sum(value * value for value in values) - sum(values) ** 2
    assert run(spec_of("std"), list(range(n)), values, [(end, end)]) == [
        [math.sqrt(float(squares) / float(n * (n - 1)))]
    ]


WORD = 2**64
# Halfway between two floats, and a bit beside it: what lies far below decides how they round.
HALVES = st.builds(
    lambda head, shift, rest: ((head << 11) + 2**10 << shift) + rest,
    st.integers(2**52, 2**53 - 1),
    st.integers(1, 62),
    st.sampled_from([-1, 0, 1]),
)


def words(number):
    return np.uint64(number // WORD), np.uint64(number % WORD)


@given(st.one_of(st.integers(0, 2**126 - 1), HALVES))
@settings(max_examples=300, deadline=None)
def test_128_bits_are_rounded_once_to_the_nearest_float(number):
    assert _to_float(*words(number)) == float(number)


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**63 - 1))
@settings(max_examples=200, deadline=None)
def test_128_bits_times_64_wrap_as_they_should(number, factor):
    high, low = _multiply(*words(number), factor)
    assert int(high) * WORD + int(low) == number * factor % 2**128


@given(st.integers(-LARGEST, LARGEST))
@settings(max_examples=200, deadline=None)
def test_a_square_has_128_bits(value):
    high, low = _square(value)
    assert int(high) * WORD + int(low) == value * value


def test_equal_huge_values_deviate_by_exactly_nothing():
    values = [LARGEST // 1000 - 7] * 1000
    assert run(spec_of("std", "mean"), list(range(1000)), values, [(1000, 1000)])[0][0] == 0.0


@pytest.mark.parametrize("function", ["sum", "mean", "std"])
@pytest.mark.parametrize("sign", [1, -1])
def test_values_that_could_add_up_past_63_bits_are_refused_with_view_and_column(function, sign):
    spec = spec_of(function)
    most = LARGEST // 3
    assert run(spec, [0, 1, 2], [sign * most] * 3, [(3, 3)])[0][0] is not None
    with pytest.raises(OverflowError, match=r"^view: the values of 'amount' .*; store a coarser unit"):
        run(spec, [0, 1, 2], [sign * (most + 1), 0, 0], [(3, 3)])


def test_a_single_value_may_be_the_largest_there_is():
    assert run(spec_of("sum", "max"), [0], [LARGEST], [(1, 1)]) == [[LARGEST, LARGEST]]
    assert run(spec_of("sum", "min"), [0], [-LARGEST], [(1, 1)]) == [[-LARGEST, -LARGEST]]


def test_the_largest_values_of_several_keys_are_not_added_up():
    spec, n = spec_of("sum"), 3
    values = np.array([[LARGEST, -LARGEST, LARGEST]])
    times, each, out = np.zeros(n, dtype=np.int64), np.arange(n + 1), np.empty((n, 1), dtype=np.int64)
    asks = Asks(times + 1, times + 1, each, each[:-1])
    evaluate(spec, Events(times, times, values, each), asks, range(n), out)
    assert out[:, 0].tolist() == [LARGEST, -LARGEST, LARGEST]


@pytest.mark.parametrize("seed", range(8))
def test_keys_together_get_the_answers_of_each_alone(seed):
    chance = np.random.default_rng(seed)
    spec = spec_of(*FUNCTIONS, window=100 * SECOND, delay=5 * SECOND)
    sizes = chance.choice([0, 1, 3, 40, 600, 3000], 80, p=[0.1, 0.3, 0.3, 0.2, 0.07, 0.03])
    # Between keys that are asked lie others, of few events and of many.
    asked = np.where(chance.random(80) < 0.4, chance.integers(1, 6, 80), 0)
    starts, ask_starts = (np.concatenate([[0], np.cumsum(counts)]) for counts in (sizes, asked))

    def moments(counts):
        parts = [np.sort(chance.integers(0, 300, n)) * SECOND for n in counts]
        return np.concatenate(parts).astype(np.int64)

    times, instants = moments(sizes), moments(asked)
    known = times + chance.choice([0, 7 * SECOND], len(times), p=[0.9, 0.1])
    values = chance.integers(-50, 50, (len(spec.columns), len(times)))
    values[:, chance.random(len(times)) < 0.1] = NULL
    events = Events(times, known, values, starts)
    asks = Asks(instants, instants, ask_starts, np.arange(len(instants)))
    together, alone = (np.empty((len(instants), len(spec.aggregates)), dtype=np.int64) for _ in range(2))
    evaluate(spec, events, asks, range(80), together)
    for key in range(80):
        evaluate(spec, events, asks, range(key, key + 1), alone)
    assert (together == alone).all()
    assert len(instants) > 20


def test_values_that_are_only_told_apart_may_be_as_large_as_they_like():
    assert run(spec_of("count_distinct"), [0, 1, 2], [LARGEST, -LARGEST, LARGEST], [(3, 3)]) == [[2]]


def test_nothing_gives_zero_for_counts_and_sums_and_null_for_the_rest():
    spec = spec_of(*FUNCTIONS)
    zero = {"count", "sum", "count_distinct"}
    assert run(spec, [], [], [(5, 5)]) == [[0 if name in zero else None for name in FUNCTIONS]]


def test_nulls_are_events_but_no_values():
    spec = spec_of(*FUNCTIONS)
    rows = run(spec, [0, SECOND, 2 * SECOND], [None] * 3, [(3 * SECOND, 3 * SECOND)])
    expected = dict.fromkeys(FUNCTIONS) | {
        "count": 3,
        "sum": 0,
        "count_distinct": 0,
        "seconds_since_last": 1.0,
        "seconds_since_first": 3.0,
    }
    assert rows == [list(expected.values())]


def test_a_value_among_nulls_is_first_last_least_and_greatest():
    spec = spec_of("count", "first", "last", "min", "max", "mean", "std", "count_distinct")
    assert run(spec, range(5), [None, None, 7, None, None], [(5, 5)]) == [[5, 7, 7, 7, 7, 7.0, None, 1]]


def test_least_and_greatest_of_two_columns_are_kept_apart():
    asked = [("min", "amount"), ("min", "fee"), ("max", "fee"), ("max", "amount")]
    outputs = tuple(Aggregate(f"{name}_{column}", name, column, 10) for name, column in asked)
    spec = ViewSpec("view", "events", ("key",), "id", "time", "known", "", 0, outputs)
    columns = {"amount": [3, 1, 2], "fee": [20, 30, 10]}
    times = np.arange(3)
    events = Events(
        timestamps=times,
        known=times,
        values=np.array([columns[column.name] for column in spec.columns]),
        starts=np.array([0, 3]),
    )
    found = [plain(spec, row) for row in answer(spec, events, [(2, 2), (5, 5)])]
    assert found == [[1, 20, 30, 3], [1, 10, 30, 3]]


def test_zero_is_a_value():
    spec = spec_of("first", "min", "max", "mean", "count_distinct")
    assert run(spec, [0], [0], [(1, 1)]) == [[0, 0, 0, 0.0, 1]]


def test_seconds_since_carry_microseconds_and_stop_at_the_window():
    spec = spec_of("seconds_since_last", "seconds_since_first", window=10 * SECOND)
    asks = [
        (instant, instant) for instant in (SECOND, SECOND + 1, 11 * SECOND, 11 * SECOND + 1, 12 * SECOND + 1)
    ]
    assert run(spec, [SECOND, 2 * SECOND], [0, 0], asks) == [
        [None, None],
        [0.000001, 0.000001],
        [9.0, 10.0],
        [9.000001, 9.000001],
        [None, None],
    ]


def test_seconds_since_are_counted_from_the_instant_not_from_the_delayed_edge():
    spec = spec_of("seconds_since_last", window=10 * SECOND, delay=5 * SECOND)
    assert run(spec, [0], [0], [(5 * SECOND, 5 * SECOND), (6 * SECOND, 6 * SECOND)]) == [[None], [6.0]]


def test_distinct_values_are_counted_among_very_many():
    rng = random.Random(5)
    n = 20_000
    values = [rng.choice([None, rng.randrange(-(2**62), 2**62), rng.randrange(300)]) for _ in range(n)]
    # Multiples of a power of two share their low bits: they meet in the table.
    values[: n // 4] = [i << 40 for i in range(n // 4)]
    spec = spec_of("count_distinct", window=3000)
    asks = [(instant, instant) for instant in range(0, n + 4000, 97)]
    expected = [
        [len({value for value in values[max(0, instant - 3000) : instant] if value is not None})]
        for instant, _ in asks
    ]
    assert run(spec, range(n), values, asks) == expected


def test_distinct_counts_take_unknown_events_out_and_put_them_back():
    spec = spec_of("count_distinct")
    known = [0, 100, 1, 100, 100]
    asks = [(6, 6), (7, 150), (8, 8), (101, 101)]
    rows = run(spec, [0, 1, 2, 3, 4], [5, 5, 6, 6, 7], asks, known)
    assert rows == [[2], [3], [2], [3]]


@pytest.mark.parametrize("delay", [0, 1, 5])
def test_an_event_counts_from_the_microsecond_after_it_was_known(delay):
    spec = spec_of("count", "sum", window=20, delay=delay)
    for late in range(delay + 3):
        asks = [(t, t + behind) for t in range(100, 125) for behind in (-2, -1, 0, 1)]
        expected = truth(spec, [100], [7], asks, [100 + late])
        assert run(spec, [100], [7], asks, [100 + late]) == expected


def test_a_key_with_ten_thousand_events_is_exact_at_every_function():
    rng = random.Random(11)
    n = 10_000
    times = sorted(rng.randrange(4000 * SECOND) for _ in range(n))
    known = [t + rng.choice([0] * 50 + [SECOND, 300 * SECOND]) for t in times]
    values = [rng.choice([None, rng.randrange(-(10**9), 10**9), rng.randrange(50)]) for _ in range(n)]
    spec = spec_of(*FUNCTIONS)
    instants = sorted([*rng.sample(times, 5), times[0], 2000 * SECOND, 3999 * SECOND])
    asks = [(t, t + rng.choice([0, 0, -100 * SECOND, 200 * SECOND])) for t in instants]
    # Nothing ties for last or first: ties are settled by the id, which the oracle and the rows' order share here.
    assert run(spec, times, values, asks, known) == truth(spec, times, values, asks, known)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_asking_together_gives_what_asking_alone_gives(data):
    spec = every_function(delay=data.draw(st.sampled_from([0, 3])), windows=(1, 4, 9))
    n = data.draw(st.integers(0, 12))
    times = sorted(data.draw(st.lists(st.integers(0, 12), min_size=n, max_size=n)))
    known = [t + data.draw(st.sampled_from([0, 0, 1, 5])) for t in times]
    values = data.draw(st.lists(st.one_of(st.none(), st.integers(-2, 2)), min_size=n, max_size=n))
    instants = sorted(data.draw(st.lists(st.integers(-2, 25), min_size=1, max_size=8)))
    asks = [(t, t + data.draw(st.sampled_from([0, -3, 4]))) for t in instants]
    alone = [run(spec, times, values, [ask], known)[0] for ask in asks]
    assert run(spec, times, values, asks, known) == alone
