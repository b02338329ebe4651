"""Labels from chargebacks, as far as they were known at an instant.

A label matures. At the instant ``as_of`` a transaction is

========== ==========================================================================================
fraud (1)  a chargeback with a fraud reason code was reported strictly before ``as_of``
genuine(0) no such chargeback, and the transaction happened strictly more than ``maturity`` before
           ``as_of``; a declined transaction is never genuine: it cannot be charged back, so its
           silence says nothing
unlabelled otherwise (null)
========== ==========================================================================================

A label has a known time of its own: the first fraud chargeback's report, or the end of the maturity period.
One data set therefore answers for every earlier instant too (``as_known_at``), which is how a training part
and a later test part come from the same rows without the first seeing what only the second could know.
"""

from datetime import datetime, timedelta
from typing import Final

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.lake import Snapshot
from feature_repo.reason_codes import FRAUD_REASON_CODES
from training.instants import duration_us, instant_us

__all__ = [
    "UNLABELLED",
    "as_known_at",
    "fraud_reports_sql",
    "labels",
    "labels_sql",
    "run",
    "with_known_timestamp",
]

UNLABELLED: Final = -1
"""What ``as_known_at`` returns for a row without a label (the tables use null)."""


def fraud_reports_sql(chargebacks: Snapshot, *, as_of_us: int) -> str:
    """SQL of one row a transaction: ``transaction_id``, ``reported_us`` (its first fraud report before
    ``as_of_us``).
    """
    codes = ", ".join(f"'{code}'" for code in FRAUD_REASON_CODES)
    return (
        "SELECT transaction_id, min(epoch_us(created_timestamp)) AS reported_us "
        f"FROM {chargebacks.sql} "
        f"WHERE reason_code IN ({codes}) AND epoch_us(created_timestamp) < {as_of_us} "
        "GROUP BY transaction_id"
    )


def labels_sql(
    transactions: Snapshot,
    chargebacks: Snapshot,
    start: datetime,
    end: datetime,
    *,
    as_of: datetime,
    maturity: timedelta,
    columns: tuple[str, ...] = ("transaction_id", "event_timestamp"),
    ordered: bool = True,
) -> str:
    """SQL of the transactions of [start, end) that were known before ``as_of``, with their labels.

    The columns are those named (of the table ``transactions``), then ``label`` (TINYINT, nullable) and
    ``label_known_us`` (µs UTC; null where the label is). Rows are ordered by event time, ties by id, if ``ordered``. All
    statuses are rows: a transaction is scored before its status is known.
    """
    as_of_us, maturity_us = instant_us("as_of", as_of), duration_us("maturity", maturity)
    start_us, end_us = instant_us("start", start), instant_us("end", end)
    if start_us >= end_us:
        raise ValueError(
            f"labels: end {end.isoformat()} is not after start {start.isoformat()}; give a later end"
        )
    if not transactions.files:
        raise ValueError(
            "labels: the table of transactions is empty; load events first (fraud ingest, fraud simulate)"
        )
    named = ", ".join(f"t.{name}" for name in columns)
    genuine = f"(t.status <> 'declined' AND epoch_us(t.event_timestamp) + {maturity_us} < {as_of_us})"
    return (
        f"SELECT {named}, "
        f"CAST(CASE WHEN f.reported_us IS NOT NULL THEN 1 WHEN {genuine} THEN 0 END AS TINYINT) AS label, "
        f"CASE WHEN f.reported_us IS NOT NULL THEN f.reported_us "
        f"WHEN {genuine} THEN epoch_us(t.event_timestamp) + {maturity_us} END AS label_known_us "
        f"FROM {transactions.sql} t "
        f"LEFT JOIN ({fraud_reports_sql(chargebacks, as_of_us=as_of_us)}) f USING (transaction_id) "
        # event_day prunes partitions; the microseconds decide.
        f"WHERE t.event_day BETWEEN make_timestamp({start_us})::DATE AND make_timestamp({end_us})::DATE "
        f"AND epoch_us(t.event_timestamp) >= {start_us} AND epoch_us(t.event_timestamp) < {end_us} "
        f"AND epoch_us(t.created_timestamp) < {as_of_us}"
        + (" ORDER BY t.event_timestamp, t.transaction_id" if ordered else "")
    )


def run(sql: str) -> pa.Table:
    """Run one query in a connection of its own, in UTC."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.sql(sql).to_arrow_table()


def labels(
    transactions: Snapshot,
    chargebacks: Snapshot,
    start: datetime,
    end: datetime,
    *,
    as_of: datetime,
    maturity: timedelta,
) -> pa.Table:
    """The transactions of [start, end) with their labels at ``as_of``.

    Columns: ``transaction_id``, ``event_timestamp``, ``label``, ``label_known_timestamp``. Unlabelled rows are kept,
    with nulls. Ordered by event time, ties by id.
    """
    table = run(labels_sql(transactions, chargebacks, start, end, as_of=as_of, maturity=maturity))
    return with_known_timestamp(table)


def with_known_timestamp(table: pa.Table) -> pa.Table:
    """Replace the column ``label_known_us`` by ``label_known_timestamp`` (UTC)."""
    index = table.schema.get_field_index("label_known_us")
    known = table.column(index).cast(pa.timestamp("us", tz="UTC"))
    return table.set_column(index, "label_known_timestamp", known)


def as_known_at(
    label: npt.NDArray[np.int8],
    label_known_us: npt.NDArray[np.int64],
    event_us: npt.NDArray[np.int64],
    *,
    at_us: int,
    maturity_us: int,
) -> npt.NDArray[np.int8]:
    """The labels of later rows as they stood at the earlier instant ``at_us``: 1, 0 or ``UNLABELLED``.

    A fraud that was reported at or after ``at_us`` looked genuine then, if it was older than the maturity
    period. ``label`` holds ``UNLABELLED`` where there is none; ``label_known_us`` is not read there.
    """
    fraud = (label == 1) & (label_known_us < at_us)
    silent = (label != UNLABELLED) & ~fraud & (event_us + maturity_us < at_us)
    result = np.full(len(label), UNLABELLED, np.int8)
    result[silent] = 0
    result[fraud] = 1
    return result
