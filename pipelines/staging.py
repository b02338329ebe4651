"""Staging: a load's rows, converted and checked in a DuckDB that spills, before the lake sees any."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

import duckdb

from feature_repo.currency import rates_table, usd_cents_sql
from feature_repo.windows.durations import microseconds
from pipelines.contracts import Check, chargeback_checks, fault_mask, raise_breaches, transaction_checks
from pipelines.conversion import converted, raw_columns, refuse_unusable
from pipelines.mapping import TRANSACTION_COLUMNS, Field, Label, Mapping
from pipelines.source_files import ROW, Source, unreadable

__all__ = ["stage_chargebacks", "stage_transactions", "staging_area"]

_MEMORY = "2GB"
_PREFIX = ".staging-"


@contextmanager
def staging_area(lake: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB with empty tables ``transactions`` and ``chargebacks``, whose memory is bounded by spilling.

    Spill files lie beside the lake's tables, in a folder that is removed at the end, or by the next load after a
    kill. Call it under the lake's lock.
    """
    for left in lake.glob(f"{_PREFIX}*"):
        rmtree(left, ignore_errors=True)
    with TemporaryDirectory(prefix=_PREFIX, dir=lake, ignore_cleanup_errors=True) as spill:
        con = duckdb.connect(config={"temp_directory": spill, "memory_limit": _MEMORY})
        try:
            con.execute("SET TimeZone = 'UTC'")
            con.register("rates", rates_table())
            con.execute(
                """CREATE TABLE transactions (file_no INTEGER, row_no BIGINT, transaction_id VARCHAR,
                event_timestamp TIMESTAMPTZ, customer_id VARCHAR, terminal_id VARCHAR, amount DECIMAL(18, 4),
                currency VARCHAR, amount_usd_cents BIGINT, status VARCHAR, channel VARCHAR, category VARCHAR,
                customer_latitude DOUBLE, customer_longitude DOUBLE, terminal_latitude DOUBLE,
                terminal_longitude DOUBLE, created_timestamp TIMESTAMPTZ)"""
            )
            con.execute(
                """CREATE TABLE chargebacks (file_no INTEGER, row_no BIGINT, transaction_id VARCHAR,
                created_timestamp TIMESTAMPTZ, reason_code VARCHAR)"""
            )
            yield con
        finally:
            con.close()


def stage_transactions(con: duckdb.DuckDBPyConnection, source: Source, file_no: int, mapping: Mapping) -> int:
    """Convert and check one source of transactions, and the chargebacks that its label tells; returns its
    rows.

    Raises:
        IngestError: a column or a row that cannot be used.
    """
    label = mapping.label
    refuse_unusable(source, (*mapping.transactions, *_label_fields(label)))
    checks = transaction_checks(mapping.transactions, label)
    rows = f"SELECT *, {fault_mask(checks)} AS faults FROM ({transactions_sql(source, mapping)})"
    _convert(con, source, checks, rows)
    con.execute(f"INSERT INTO transactions BY NAME SELECT {file_no} AS file_no, {_STAGED} FROM incoming")
    con.execute(
        f"""INSERT INTO chargebacks SELECT {file_no}, row_no, transaction_id, reported, label_reason
        FROM incoming WHERE charged_back"""
    )
    return int(con.sql("SELECT count(*) FROM incoming").fetchall()[0][0])


def stage_chargebacks(
    con: duckdb.DuckDBPyConnection, source: Source, file_no: int, fields: tuple[Field, ...]
) -> int:
    """Convert and check one source of chargebacks by itself; returns its rows.

    Raises:
        IngestError: a column or a row that cannot be used.
    """
    refuse_unusable(source, fields)
    checks = chargeback_checks(fields)
    values = ", ".join(f"{converted(source, field)} AS {field.name}" for field in fields)
    raw = f"SELECT {ROW} AS row_no, {raw_columns(source, fields)} FROM {source.relation}"
    rows = f"SELECT *, {fault_mask(checks)} AS faults FROM (SELECT *, {values} FROM ({raw}))"
    _convert(con, source, checks, rows)
    con.execute(
        f"""INSERT INTO chargebacks
        SELECT {file_no}, row_no, transaction_id, created_timestamp, reason_code FROM incoming"""
    )
    return int(con.sql("SELECT count(*) FROM incoming").fetchall()[0][0])


def _convert(con: duckdb.DuckDBPyConnection, source: Source, checks: list[Check], rows: str) -> None:
    """Fill the table ``incoming`` with a source's converted rows, none of which breaks a check."""
    canonical = f"SELECT COLUMNS(lambda name: NOT starts_with(name, 'raw_')) FROM ({rows})"
    try:
        con.execute(f"CREATE OR REPLACE TEMP TABLE incoming AS {canonical}")
    except (duckdb.InvalidInputException, duckdb.IOException) as error:
        raise unreadable(source.name, error) from None
    if con.sql("SELECT count(*) FROM incoming WHERE faults <> 0").fetchall()[0][0]:
        raise_breaches(con, source, checks, rows)


_STAGED = ", ".join(("row_no", *TRANSACTION_COLUMNS))


def transactions_sql(source: Source, mapping: Mapping) -> str:
    """The query of a source's transactions: ``row_no``, ``raw_<canonical>``, canonical columns, the label's.

    The label's are ``label_reason`` (code or null), ``charged_back``, ``label_is_unknown`` and ``reported``.
    """
    fields = {field.name: field for field in mapping.transactions}
    label_fields = _label_fields(mapping.label)
    taken = raw_columns(source, (*fields.values(), *label_fields))
    raw = f"SELECT {ROW} AS row_no, {taken} FROM {source.relation}"
    values = [
        f"{converted(source, fields[name]) if name in fields else 'NULL'} AS {alias}"
        for name in TRANSACTION_COLUMNS
        for alias in [_SETTLED.get(name, name)]
    ]
    plain = f"SELECT *, {', '.join(values)}, {_label_columns(mapping.label)} FROM ({raw})"
    cents = f"coalesce(settled_usd_cents, {usd_cents_sql('greatest(amount, 0)', 'rate_e8')})"
    return f"""SELECT plain.*, {cents} AS amount_usd_cents,
        coalesce(known, event_timestamp) AS created_timestamp, {_reported(source, mapping.label)} AS reported
        FROM ({plain}) AS plain LEFT JOIN rates ON rates.currency = plain.currency
        AND epoch_us(event_timestamp) >= from_us AND epoch_us(event_timestamp) < until_us"""


# What the source itself says of two columns that are otherwise worked out.
_SETTLED = {"amount_usd_cents": "settled_usd_cents", "created_timestamp": "known"}


def _label_fields(label: Label | None) -> tuple[Field, ...]:
    if label is None:
        return ()
    column = Field("label", "text", label.column)
    return (column, label.reported) if label.reported else (column,)


def _label_columns(label: Label | None) -> str:
    if label is None:
        return "NULL AS label_reason, false AS charged_back, false AS label_is_unknown"
    cases = " ".join(f"WHEN '{_sql(value)}' THEN '{_sql(code)}'" for value, code in label.chargeback)
    named = ", ".join(
        f"'{_sql(value)}'" for value in (*label.genuine, *(value for value, _ in label.chargeback))
    )
    return f"""CASE CAST(raw_label AS VARCHAR) {cases} END AS label_reason, label_reason IS NOT NULL AS
    charged_back,
        coalesce(CAST(raw_label AS VARCHAR) NOT IN ({named}), false) AS label_is_unknown"""


def _reported(source: Source, label: Label | None) -> str:
    if label is None:
        return "CAST(NULL AS TIMESTAMPTZ)"
    if label.reported:
        return converted(source, label.reported)
    return f"make_timestamptz(epoch_us(event_timestamp) + {microseconds(label.delay or timedelta(0))})"


def _sql(text: str) -> str:
    return text.replace("'", "''")
