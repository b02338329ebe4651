"""What every row must be: the checks of a load as data, and how a breach is told.

A load's query computes for each row the bit mask of the checks that it breaks; rows are looked at again only
where a bit is set. A message gives the file, the count, the first rows (the first data row is row 1) with
their values as the source has them, why, and the way out.
"""

from dataclasses import dataclass

import duckdb

from feature_repo.currency import currencies
from feature_repo.reason_codes import REASON_CODES
from pipelines.conversion import has_offset
from pipelines.mapping import Field, Label
from pipelines.problems import IngestError
from pipelines.source_files import Source

__all__ = ["Check", "chargeback_checks", "fault_mask", "raise_breaches", "transaction_checks"]

STATUSES = ("approved", "declined", "pending")
LONGEST_ID = 128
_SHOWN = 3
_CODES = ", ".join(f"'{code}'" for code in REASON_CODES)
_TIMES_WAY_OUT = "check the zones of both times and that the columns are not swapped"
_PLAUSIBLE = "BETWEEN TIMESTAMPTZ '1970-01-01 00:00:00+00' AND TIMESTAMPTZ '2200-01-01 00:00:00+00'"


@dataclass(frozen=True)
class Check:
    """A breach of ``column``, as SQL over a row's ``raw_`` and canonical columns; null means no breach."""

    column: str
    breach: str
    why: str
    way_out: str


def transaction_checks(fields: tuple[Field, ...], label: Label | None) -> list[Check]:
    """The checks of transactions read through these fields."""
    by_name = {field.name: field for field in fields}
    checks = [check for field in fields for check in _field_checks(field)]
    checks.append(
        Check(
            "amount",
            "amount < 0",
            "negative",
            "send refunds and reversals another way; amounts are 0 or more",
        )
    )
    checks.append(
        Check(
            "currency",
            "amount_usd_cents IS NULL AND currency IS NOT NULL "
            "AND event_timestamp IS NOT NULL AND amount IS NOT NULL",
            "unknown currency, or no rate of it on that day",
            f"known are {', '.join(currencies())}; add rates to feature_repo/currency_rates.csv",
        )
    )
    known = ", ".join(f"'{status}'" for status in STATUSES)
    checks.append(
        Check(
            "status",
            f"status NOT IN ({known})",
            "unknown status",
            f"map it to one of {known} with values = {{ ... }}",
        )
    )
    if "amount_usd_cents" in by_name:
        checks.append(Check("amount_usd_cents", "amount_usd_cents < 0", "negative", "amounts are 0 or more"))
    for column, limit in (("latitude", 90), ("longitude", 180)):
        for side in ("customer", "terminal"):
            name = f"{side}_{column}"
            if name in by_name:
                way_out = f"give degrees from -{limit} to {limit}, or leave it empty"
                checks.append(Check(name, f"abs({name}) > {limit}", "outside of the earth", way_out))
    if "created_timestamp" in by_name:
        checks.append(
            Check(
                "created_timestamp",
                "created_timestamp < event_timestamp",
                "known before it happened",
                f"{_TIMES_WAY_OUT}, or leave created_timestamp out",
            )
        )
    return checks + (_label_checks(label) if label else [])


def chargeback_checks(fields: tuple[Field, ...]) -> list[Check]:
    """The checks of a file of chargebacks by itself."""
    checks = [check for field in fields for check in _field_checks(field)]
    unknown = f"reason_code NOT IN ({_CODES})"
    way_out = "add it to feature_repo/reason_codes.csv, or map it with values = { ... }"
    return [*checks, Check("reason_code", unknown, "unknown reason code", way_out)]


def _field_checks(field: Field) -> list[Check]:
    raw, name = f"raw_{field.name}", field.name
    checks = (
        []
        if field.optional
        else [Check(name, f"{raw} IS NULL", "null or empty", "every event needs it; fill it in")]
    )
    unread = f"{raw} IS NOT NULL AND {name} IS NULL"
    if field.kind == "timestamp":
        text = f"CAST({raw} AS VARCHAR)"
        if field.zone is None and field.us_per_unit is None:
            zoneless = f"NOT {has_offset(text)} AND TRY_CAST({text} AS TIMESTAMP) IS NOT NULL"
            way_out = 'add the zone that such times are in to the mapping, such as zone = "UTC"'
            checks.append(Check(name, f"{unread} AND {zoneless}", "no time zone", way_out))
            unread = f"{unread} AND NOT ({zoneless})"
        checks.append(Check(name, unread, "not a time", "write it like 2018-04-01T00:00:31Z"))
        # Without a value of its own, a known time is the event time, which is checked by itself.
        far = f"{raw} IS NOT NULL AND {name} NOT {_PLAUSIBLE}"
        checks.append(Check(name, far, "not between 1970 and 2200", "check the unit and the year"))
    elif field.kind == "amount":
        way_out = "write digits with a decimal point, below 10^14"
        checks.append(Check(name, unread, "not an amount", way_out))
    elif field.kind in ("number", "integer"):
        # pandas writes a missing float as NaN; a number that is not there is null, not an error.
        unread = f"{unread} AND lower(CAST({raw} AS VARCHAR)) <> 'nan'"
        checks.append(Check(name, unread, "not a number", "write digits, or leave it empty"))
    elif field.kind == "id":
        checks.append(
            Check(name, f"length({name}) > {LONGEST_ID}", f"over {LONGEST_ID} characters", "shorten it")
        )
    return checks


def _label_checks(label: Label) -> list[Check]:
    named = ", ".join(repr(value) for value in (*label.genuine, *(value for value, _ in label.chargeback)))
    checks = [
        Check(
            "label",
            "label_is_unknown",
            "a value that the mapping does not name",
            f"it names {named}; add the value to genuine or to chargeback of [label]",
        )
    ]
    if label.reported:
        way_out = "give the time of the report, or set delay in [label]"
        checks.append(
            Check("reported", "charged_back AND reported IS NULL", "a chargeback without a time", way_out)
        )
        checks.append(
            Check(
                "reported",
                "charged_back AND reported < event_timestamp",
                "reported before its transaction",
                _TIMES_WAY_OUT,
            )
        )
    return checks


def fault_mask(checks: list[Check]) -> str:
    """SQL: the sum of a bit for each check that the row breaks, 0 for a row that is fine."""
    bits = [
        f"CASE WHEN {check.breach} THEN {1 << bit}::BIGINT ELSE 0 END" for bit, check in enumerate(checks)
    ]
    return " + ".join(bits)


def raise_breaches(
    con: duckdb.DuckDBPyConnection, source: Source, checks: list[Check], rows_sql: str
) -> None:
    """Tell what is wrong in the rows of ``rows_sql`` (columns ``row_no``, ``faults``, ``raw_<canonical>``).

    Raises:
        IngestError: a message for each check that some row breaks.
    """
    ((mask,),) = con.sql(f"SELECT coalesce(bit_or(faults), 0) FROM ({rows_sql})").fetchall()
    broken = [(bit, check) for bit, check in enumerate(checks) if mask >> bit & 1]
    if broken:
        raise IngestError(*(_message(con, source, bit, check, rows_sql) for bit, check in broken))


def _message(con: duckdb.DuckDBPyConnection, source: Source, bit: int, check: Check, rows_sql: str) -> str:
    rows = con.sql(
        f"""SELECT row_no + 1, CAST(raw_{check.column} AS VARCHAR), count(*) OVER () FROM ({rows_sql})
        WHERE faults & {1 << bit}::BIGINT <> 0 ORDER BY row_no LIMIT {_SHOWN}"""
    ).fetchall()
    shown = ", ".join(f"row {row} has {'null' if value is None else repr(value)}" for row, value, _ in rows)
    count = rows[0][2]
    many = f" (and {count - len(rows):,} more rows)" if count > len(rows) else ""
    return f"{source.name}: {check.column}: {shown}{many}: {check.why}; {check.way_out}"
