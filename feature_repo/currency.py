"""Amounts as received, to whole US cents: one rule for bulk loads (SQL) and for single requests (Python).

The rule, in exact integers throughout:

1. the amount is rounded to 4 decimals, halves away from zero (what DuckDB's cast to ``DECIMAL(18, 4)`` does);
2. it is multiplied by the day's rate (8 decimals at most);
3. the product is rounded to the cent, halves to the even cent.

Rates are ``currency_rates.csv`` beside this module (source and accuracy named there): a row holds from its
UTC day until the currency's next row. US dollars need none.
"""

import csv
from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pyarrow as pa

__all__ = ["AMOUNT_LIMIT", "as_amount", "currencies", "rates_table", "to_usd_cents", "usd_cents_sql"]

AMOUNT_LIMIT = Decimal(10) ** 14
"""An amount must be below this many units of its currency: what ``decimal(18, 4)`` holds."""

_FILE = Path(__file__).with_name("currency_rates.csv")
_STEP = Decimal("0.0001")
_RATE_SCALE = 10**8
# amount in 1/10^4 units, times rate in 1/10^8 dollars, over this is cents
_PER_CENT = 10**4 * _RATE_SCALE // 100
_FIRST_DAY, _LAST_DAY = date(1, 1, 1), date(9999, 12, 31)


@dataclass(frozen=True)
class _Rates:
    """One currency's rates, ascending: ``rates_e8[i]`` holds from ``days[i]`` until ``days[i + 1]``."""

    days: tuple[date, ...]
    rates_e8: tuple[int, ...]


def _load(file: Path) -> dict[str, _Rates]:
    """Rates by currency, US dollars included.

    Raises:
        ValueError: a rate is out of range or too fine, or a currency names a day twice.
    """
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    found: dict[str, dict[date, int]] = {"USD": {_FIRST_DAY: _RATE_SCALE}}
    for row in rows:
        where = f"{file.name}: {row['currency']} from {row['valid_from']}"
        rate, day = Decimal(row["usd_per_unit"]) * _RATE_SCALE, date.fromisoformat(row["valid_from"])
        if rate != int(rate) or not 0 < rate < 1000 * _RATE_SCALE:
            raise ValueError(
                f"{where}: rate {row['usd_per_unit']}: "
                "it must be above 0 and below 1000; write at most 8 decimals"
            )
        days = found.setdefault(row["currency"], {})
        if day in days:
            raise ValueError(f"{where}: that day stands twice; keep one row")
        days[day] = int(rate)
    return {
        name: _Rates(tuple(sorted(days)), tuple(days[day] for day in sorted(days)))
        for name, days in found.items()
    }


_RATES = _load(_FILE)


def currencies() -> tuple[str, ...]:
    """The known currency codes (ISO 4217), sorted."""
    return tuple(sorted(_RATES))


def as_amount(amount: Decimal) -> Decimal:
    """The amount with 4 decimals, as the lake keeps it.

    Raises:
        ValueError: not a finite number, negative, or at or above ``AMOUNT_LIMIT``.
    """
    if not amount.is_finite():
        raise ValueError(f"amount {amount}: it is not a number; send digits")
    if amount < 0:
        raise ValueError(f"amount {amount}: it is negative; an amount is 0 or more")
    if amount >= AMOUNT_LIMIT:
        raise ValueError(f"amount {amount}: it is too large; an amount must be below {AMOUNT_LIMIT:f}")
    return amount.quantize(_STEP, ROUND_HALF_UP)


def to_usd_cents(amount: Decimal, currency: str, day: date) -> int:
    """Whole US cents of an amount at the rate of the UTC ``day`` of the transaction.

    Raises:
        ValueError: an unusable amount (see `as_amount`), an unknown currency, or a day before its first rate.
    """
    product = int(as_amount(amount) * 10**4) * _rate_e8(currency, day)
    cents, rest = divmod(product, _PER_CENT)
    return cents + (2 * rest > _PER_CENT or (2 * rest == _PER_CENT and cents % 2))


def _rate_e8(currency: str, day: date) -> int:
    rates = _RATES.get(currency)
    if rates is None:
        raise ValueError(
            f"currency {currency!r}: unknown; known are {', '.join(currencies())} "
            f"(add its rates to {_FILE.name})"
        )
    at = bisect_right(rates.days, day) - 1
    if at < 0:
        raise ValueError(
            f"currency {currency!r} on {day}: its rates begin on {rates.days[0]}; "
            f"add an earlier row to {_FILE.name}"
        )
    return rates.rates_e8[at]


def rates_table() -> pa.Table:
    """The rates for a join: ``currency``, ``from_us``, ``until_us`` (half open, UTC), ``rate_e8``."""
    rows = []
    for name, rates in sorted(_RATES.items()):
        ends = (*rates.days[1:], _LAST_DAY)
        for start, end, rate in zip(rates.days, ends, rates.rates_e8, strict=True):
            rows.append({"currency": name, "from_us": _us(start), "until_us": _us(end), "rate_e8": rate})
    types = [
        ("currency", pa.string()),
        ("from_us", pa.int64()),
        ("until_us", pa.int64()),
        ("rate_e8", pa.int64()),
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema(types))


def usd_cents_sql(amount: str, rate_e8: str) -> str:
    """DuckDB expression of whole US cents, the rule of `to_usd_cents` to the cent.

    Args:
        amount: a SQL expression of type ``DECIMAL(18, 4)``, 0 or more.
        rate_e8: a SQL expression of the day's rate in 1/10^8 dollars, integer.
    """
    product = f"(CAST(CAST({amount} AS DECIMAL(28, 4)) * 10000 AS HUGEINT) * {rate_e8})"
    cents, rest = f"({product} // {_PER_CENT})", f"(2 * ({product} % {_PER_CENT}))"
    up = f"({rest} > {_PER_CENT} OR ({rest} = {_PER_CENT} AND {cents} % 2 = 1))"
    return f"CAST({cents} + CASE WHEN {up} THEN 1 ELSE 0 END AS BIGINT)"


def _us(day: date) -> int:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return int((start - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * 10**6
