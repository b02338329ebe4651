"""Conversion to US cents: the scalar rule by hand, and the SQL form held against it to the cent."""

from datetime import date
from decimal import Decimal
from fractions import Fraction

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.currency import (
    AMOUNT_LIMIT,
    as_amount,
    currencies,
    rates_table,
    to_usd_cents,
    usd_cents_sql,
)

DAY = date(2018, 6, 1)


def cents_by_sql(rows: list[tuple[str, str, date]]) -> list[int]:
    """The bulk rule over (amount as text, currency, day)."""
    con = duckdb.connect()
    con.register("rates", rates_table())
    columns = zip(*((n, *row) for n, row in enumerate(rows)), strict=True)
    con.register("events", pa.table(dict(zip(("n", "amount", "currency", "day"), columns, strict=True))))
    cents = usd_cents_sql("CAST(e.amount AS DECIMAL(18, 4))", "r.rate_e8")
    answer = con.sql(
        f"""SELECT {cents} FROM events e JOIN rates r ON e.currency = r.currency
        AND epoch_us(e.day::TIMESTAMP) >= r.from_us AND epoch_us(e.day::TIMESTAMP) < r.until_us ORDER BY n"""
    ).fetchall()
    return [row[0] for row in answer]


amounts = st.decimals(min_value=0, max_value=AMOUNT_LIMIT - 1, places=7, allow_nan=False)
small_amounts = st.decimals(min_value=0, max_value=20, places=5, allow_nan=False)
days = st.dates(date(2015, 1, 1), date(2029, 12, 31))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(amounts | small_amounts, st.sampled_from(currencies()), days), min_size=1))
def test_sql_and_python_agree_to_the_cent(rows: list[tuple[Decimal, str, date]]) -> None:
    by_sql = cents_by_sql([(f"{amount:f}", currency, day) for amount, currency, day in rows])
    assert by_sql == [to_usd_cents(*row) for row in rows]


@given(amounts | small_amounts, st.sampled_from(currencies()), days)
def test_cents_are_the_nearest_to_the_exact_product(amount: Decimal, currency: str, day: date) -> None:
    rate = Fraction(to_usd_cents(Decimal(10**10), currency, day), 10**12)
    exact = Fraction(as_amount(amount)) * rate * 100
    assert abs(exact - to_usd_cents(amount, currency, day)) <= Fraction(1, 2)


@pytest.mark.parametrize(
    ("amount", "cents"),
    [("0", 0), ("0.005", 0), ("0.015", 2), ("0.0151", 2), ("0.00505", 1), ("1108.8500000000001", 110885)],
)
def test_half_a_cent_goes_to_the_even_cent(amount: str, cents: int) -> None:
    assert to_usd_cents(Decimal(amount), "USD", DAY) == cents
    assert cents_by_sql([(amount, "USD", DAY)]) == [cents]


def test_a_rate_holds_from_its_day_until_the_next_row() -> None:
    last, first = date(2018, 12, 31), date(2019, 1, 1)
    assert to_usd_cents(Decimal(100), "EUR", last) == 11810
    assert to_usd_cents(Decimal(100), "EUR", first) == 11195
    assert cents_by_sql([("100", "EUR", last), ("100", "EUR", first)]) == [11810, 11195]


def test_the_last_rate_holds_on() -> None:
    assert to_usd_cents(Decimal(1), "EUR", date(2040, 1, 1)) == to_usd_cents(
        Decimal(1), "EUR", date(2025, 1, 1)
    )


def test_unknown_currency_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"currency 'XYZ': unknown; known are AUD, .*USD"):
        to_usd_cents(Decimal(1), "XYZ", DAY)


def test_day_before_the_first_rate_is_an_error() -> None:
    with pytest.raises(ValueError, match="rates begin on 2015-01-01"):
        to_usd_cents(Decimal(1), "EUR", date(2014, 12, 31))


@pytest.mark.parametrize(
    ("amount", "why"),
    [("NaN", "not a number"), ("Infinity", "not a number"), ("-0.01", "negative"), ("1e14", "too large")],
)
def test_an_amount_that_is_no_amount_is_refused(amount: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        to_usd_cents(Decimal(amount), "USD", DAY)


def test_a_very_fine_amount_is_rounded_once() -> None:
    assert as_amount(Decimal("1.00004999999999999999999999999999999999999")) == Decimal("1.0000")
