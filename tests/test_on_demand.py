"""The formulas over windows and request: against plain Python, the same bits alone and in a crowd, nulls and zeros."""

import math
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from feature_repo.on_demand import (
    EARTH_RADIUS_KM,
    hour_of_day,
    ratio,
    request_shape,
    spending,
    terminal_risk,
    weekday,
)

TRANSFORMS = [request_shape, spending, terminal_risk]
NAN = math.nan
RATES = [name for name in terminal_risk.outputs if "rate" in name]


def alone(transform, **values):
    """The outputs for one row; inputs not named are null."""
    columns = {name: np.array([values.get(name, NAN)], dtype=np.float64) for name in transform.inputs}
    return {name: float(column[0]) for name, column in transform(columns).items()}


def crowd(transform, size, seed=3):
    """Rows as they come: counts, cents, seconds, coordinates; zeros and nulls among them."""
    rng = np.random.default_rng(seed)
    columns = {}
    for name in transform.inputs:
        if name == "event_timestamp":
            column = rng.integers(-(10**9), 4 * 10**9, size).astype(np.float64)
        elif "latitude" in name:
            column = rng.uniform(-90, 90, size)
        elif "longitude" in name:
            column = rng.uniform(-180, 180, size)
        elif "mean" in name or "std" in name or "seconds" in name:
            column = rng.exponential(30_000, size)
        else:
            column = np.floor(rng.exponential(3_000, size))
        dice = rng.random(size)
        column[dice < 0.05] = 0
        if name not in ("event_timestamp", "amount_usd_cents"):
            column[dice > 0.93] = NAN
        columns[name] = column
    return columns


def same_bits(one, two):
    return np.ascontiguousarray(one).tobytes() == np.ascontiguousarray(two).tobytes()


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: transform.path)
def test_a_row_alone_has_the_bits_that_it_has_among_a_million(transform):
    size = 1_000_000
    columns = crowd(transform, size)
    together = transform(columns)
    rng = np.random.default_rng(8)
    places = [*range(70), *range(size - 70, size), *rng.integers(0, size, 400)]
    for place in places:
        single = transform({name: column[place : place + 1].copy() for name, column in columns.items()})
        for name in transform.outputs:
            assert same_bits(single[name], together[name][place : place + 1]), (name, place)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: transform.path)
@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 64, 1000])
def test_a_row_has_the_same_bits_at_every_offset_and_in_every_length(transform, length):
    columns = crowd(transform, 2_000)
    together = transform(columns)
    for offset in (0, 1, 2, 3, 5, 7, 8, 13, 501):
        part = transform({name: column[offset : offset + length] for name, column in columns.items()})
        for name in transform.outputs:
            assert same_bits(part[name], together[name][offset : offset + length]), (name, offset)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: transform.path)
def test_outputs_come_as_declared_and_inputs_are_left_as_they_were(transform):
    columns = crowd(transform, 100)
    before = {name: column.copy() for name, column in columns.items()}
    outputs = transform(columns)
    assert tuple(outputs) == transform.outputs
    assert all(column.dtype == np.float64 and column.shape == (100,) for column in outputs.values())
    assert all(same_bits(columns[name], before[name]) for name in columns)
    assert not any(np.isinf(column).any() for column in outputs.values())


def over(a, b):
    return a / b if b > 0 else NAN


CENTS = st.integers(0, 10**12).map(float)
AMOUNTS = st.one_of(st.just(NAN), st.just(0.0), st.floats(0.01, 1e12), CENTS)


def equal(one, two):
    return one == two or (math.isnan(one) and math.isnan(two))


@given(
    st.fixed_dictionaries(
        {name: CENTS if name == "amount_usd_cents" else AMOUNTS for name in spending.inputs}
    )
)
@settings(max_examples=150, deadline=None)
def test_spending_is_plain_division_to_the_bit(row):
    found = alone(spending, **row)
    amount = row["amount_usd_cents"]
    mean, std, peak = (row[f"customer_settled_amount_usd_cents_{f}_30d"] for f in ("mean", "std", "max"))
    expected = {
        "amount_to_mean_7d": over(amount, row["customer_amount_usd_cents_mean_7d"]),
        "amount_to_mean_30d": over(amount, row["customer_amount_usd_cents_mean_30d"]),
        "amount_zscore_30d": over(
            amount - row["customer_amount_usd_cents_mean_30d"], row["customer_amount_usd_cents_std_30d"]
        ),
        "amount_to_usual_mean": over(amount, mean),
        "amount_to_usual_max": over(amount, peak),
        "amount_usual_zscore": over(amount - mean, std),
        **{
            f"max_{w}_to_usual_mean": over(row[f"customer_amount_usd_cents_max_{w}"], mean)
            for w in ("1d", "3d", "7d", "14d")
        },
    }
    assert expected.keys() == found.keys()
    assert all(equal(found[name], value) for name, value in expected.items())


COUNTS = st.one_of(st.just(NAN), st.integers(0, 500).map(float))


@given(st.fixed_dictionaries(dict.fromkeys(terminal_risk.inputs, COUNTS)))
@settings(max_examples=100, deadline=None)
def test_terminal_risk_is_frauds_over_settled_transactions_of_the_same_age(row):
    found = alone(terminal_risk, **row)
    for window in ("3d", "7d", "14d", "21d", "28d"):
        frauds = row[f"terminal_ordinary_fraud_chargebacks_count_{window}"]
        settled = row[f"terminal_settled_transactions_count_{window}"]
        assert equal(found[f"terminal_ordinary_fraud_rate_{window}"], over(frauds, settled))
    assert equal(
        found["terminal_newest_settled_minus_fraud_s"],
        row["terminal_ordinary_fraud_chargebacks_seconds_since_last_30d"]
        - row["terminal_settled_transactions_seconds_since_last_30d"],
    )


@given(st.integers(-62135596800, 253402300799), st.floats(-180, 180))
@settings(max_examples=200, deadline=None)
def test_hours_and_weekdays_are_those_of_the_calendar(seconds, longitude):
    row = {"event_timestamp": float(seconds), "amount_usd_cents": 0.0, "customer_longitude": longitude}
    found = alone(request_shape, **row)
    # Whole hours by the sun, 15 degrees each; the calendar's last days have no next one.
    shifts = {"utc": 0, "local": round(longitude / 15) * 3600}
    for name, shift in shifts.items():
        days, rest = divmod(seconds + shift, 86_400)
        assert found[f"hour_{name}"] == rest // 3600
        assert found[f"weekday_{name}"] == (days + 3) % 7
    utc = datetime.fromtimestamp(seconds, UTC)
    assert (found["hour_utc"], found["weekday_utc"]) == (utc.hour, utc.weekday())


@pytest.mark.parametrize(
    ("text", "hour", "day"),
    [
        ("1970-01-01T00:00:00", 0, 3),
        ("1969-12-31T23:59:59", 23, 2),
        ("2024-03-10T23:59:59", 23, 6),
        ("2024-03-11T00:00:00", 0, 0),
        ("2024-02-29T12:30:00", 12, 3),
    ],
)
def test_monday_is_0_and_days_begin_at_midnight_utc(text, hour, day):
    seconds = np.array([datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()])
    assert hour_of_day(seconds) == hour
    assert weekday(seconds) == day


def test_local_time_may_be_another_day():
    noon_sunday = datetime(2024, 3, 10, 12, tzinfo=UTC).timestamp()
    east = alone(request_shape, event_timestamp=noon_sunday, amount_usd_cents=0.0, customer_longitude=180.0)
    west = alone(request_shape, event_timestamp=noon_sunday, amount_usd_cents=0.0, customer_longitude=-180.0)
    assert (east["hour_local"], east["weekday_local"]) == (0, 0)
    assert (west["hour_local"], west["weekday_local"]) == (0, 6)


def places(customer, terminal):
    return {
        "customer_latitude": customer[0],
        "customer_longitude": customer[1],
        "terminal_latitude": terminal[0],
        "terminal_longitude": terminal[1],
    }


def distance(customer, terminal):
    return alone(request_shape, event_timestamp=0.0, amount_usd_cents=1.0, **places(customer, terminal))[
        "distance_km"
    ]


PARIS, LONDON, SYDNEY, NEW_YORK = (
    (48.8566, 2.3522),
    (51.5074, -0.1278),
    (-33.8688, 151.2093),
    (40.7128, -74.006),
)


@pytest.mark.parametrize(
    ("one", "two", "km"),
    [(PARIS, LONDON, 343.6), (PARIS, NEW_YORK, 5837.2), (LONDON, SYDNEY, 16993.9)],
)
def test_distances_between_cities_are_the_known_ones(one, two, km):
    assert distance(one, two) == pytest.approx(km, abs=0.5)
    assert distance(two, one) == pytest.approx(distance(one, two), rel=1e-12)


def test_a_degree_a_quarter_and_half_of_the_earth():
    degree = math.pi * EARTH_RADIUS_KM / 180
    assert distance((0.0, 0.0), (0.0, 1.0)) == pytest.approx(degree, rel=1e-12)
    assert distance((0.0, 179.5), (0.0, -179.5)) == pytest.approx(degree, rel=1e-12)
    assert distance((0.0, 0.0), (90.0, 77.0)) == pytest.approx(90 * degree, rel=1e-12)
    assert distance((90.0, 0.0), (-90.0, 0.0)) == pytest.approx(180 * degree, rel=1e-12)
    assert distance(PARIS, PARIS) == 0.0


@given(st.floats(-90, 90), st.floats(-180, 180))
@example(27.0827, -8.3902)  # where rounding takes the chord past the diameter
@settings(max_examples=100, deadline=None)
def test_the_other_side_of_the_earth_is_half_its_girth_away_and_never_null(latitude, longitude):
    there = (-latitude, longitude - 180 if longitude > 0 else longitude + 180)
    assert distance((latitude, longitude), there) == pytest.approx(math.pi * EARTH_RADIUS_KM, rel=1e-6)


@pytest.mark.parametrize("missing", range(4))
def test_an_unknown_place_makes_the_distance_null_and_nothing_else(missing):
    names = ["customer_latitude", "customer_longitude", "terminal_latitude", "terminal_longitude"]
    row = dict.fromkeys(names, 1.0) | {names[missing]: NAN}
    found = alone(request_shape, event_timestamp=0.0, amount_usd_cents=99.0, **row)
    assert math.isnan(found["distance_km"])
    assert math.isnan(found["hour_local"]) == (names[missing] == "customer_longitude")
    assert found["hour_utc"] == 0.0
    assert found["amount_log"] == pytest.approx(math.log1p(99.0), rel=1e-15)


@pytest.mark.parametrize(
    ("a", "b", "result"),
    [
        (1.0, 4.0, 0.25),
        (0.0, 4.0, 0.0),
        (-3.0, 2.0, -1.5),
        (1.0, 0.0, NAN),
        (0.0, 0.0, NAN),
        (1.0, -2.0, NAN),
        (NAN, 2.0, NAN),
        (1.0, NAN, NAN),
    ],
)
def test_a_ratio_with_nothing_to_divide_by_is_null(a, b, result):
    assert equal(float(ratio(np.array([a]), np.array([b]))[0]), result)


def test_a_customer_never_seen_has_null_ratios():
    found = alone(spending, amount_usd_cents=100.0)
    assert all(math.isnan(value) for value in found.values())


def test_a_terminal_without_settled_transactions_has_null_rates_and_one_without_fraud_has_zero():
    counts = {name: 0.0 for name in terminal_risk.inputs if "count" in name}
    assert all(math.isnan(alone(terminal_risk, **counts)[name]) for name in RATES)
    settled = {name: 5.0 if "settled" in name else 0.0 for name in counts}
    assert [alone(terminal_risk, **settled)[name] for name in RATES] == [0.0] * 5
