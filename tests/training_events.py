"""Small lakes and data sets for the tests of training."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake

from feature_repo.lake import CHARGEBACKS, TRANSACTIONS, Snapshot, snapshot
from training.dataset import Dataset
from training.digest import content_digest

DAY = timedelta(days=1)
START = datetime(2024, 3, 1, tzinfo=UTC)
HANDBOOK = Path(__file__).resolve().parents[2] / "shared" / "data" / "handbook-transactions.parquet"
NO_HANDBOOK = f"the Handbook's data are not at {HANDBOOK.parent.parent.name}/data beside the repository"


def transaction(
    number, at, *, customer="c1", terminal="t1", cents=1000, status="approved", late=timedelta(0)
):
    return {
        "transaction_id": f"tx{number:06d}",
        "event_timestamp": at,
        "customer_id": customer,
        "terminal_id": terminal,
        "amount": Decimal(cents) / 100,
        "currency": "USD",
        "amount_usd_cents": cents,
        "status": status,
        "created_timestamp": at + late,
        "event_day": at.date(),
    }


def chargeback(of, after, *, reason="10.4"):
    kept = (
        "transaction_id",
        "event_timestamp",
        "customer_id",
        "terminal_id",
        "amount_usd_cents",
        "event_day",
    )
    return {
        **{name: of[name] for name in kept},
        "reason_code": reason,
        "created_timestamp": of["event_timestamp"] + after,
    }


def write_lake(lake, transactions, chargebacks):
    """Append to both tables; an empty list still makes the table."""
    for name, schema, rows in (
        ("transactions", TRANSACTIONS, transactions),
        ("chargebacks", CHARGEBACKS, chargebacks),
    ):
        table = pa.Table.from_pylist(rows, schema)
        write_deltalake(str(lake / name), table, mode="append", partition_by=["event_day"])


def snapshots(lake) -> tuple[Snapshot, Snapshot]:
    return snapshot(lake / "transactions"), snapshot(lake / "chargebacks")


def learnable(days=35, per_day=600, *, seed=3, maturity=timedelta(days=7)) -> Dataset:
    """A labelled set of which the feature ``risk`` knows much, ``noise`` nothing, and ``rare`` is mostly null."""
    random = np.random.default_rng(seed)
    n = days * per_day
    seconds = np.sort(random.integers(0, days * 86_400, n))
    start_us = int(START.timestamp()) * 1_000_000
    event_us = start_us + seconds * 1_000_000
    risk, noise = random.normal(size=n), random.normal(size=n)
    rare = np.where(random.random(n) < 0.8, np.nan, random.normal(size=n))
    cents = random.integers(100, 40_000, n)
    odds = -5.5 + 2.0 * risk + 3.0 * (cents > 35_000) + np.nan_to_num(rare)
    label = (random.random(n) < 1 / (1 + np.exp(-odds))).astype(np.int8)
    table = pa.table(
        {
            "transaction_id": [f"tx{i:06d}" for i in range(n)],
            "customer_id": [f"c{i}" for i in random.integers(0, 150, n)],
            "terminal_id": [f"t{i}" for i in random.integers(0, 50, n)],
            "event_timestamp": pa.array(event_us).cast(pa.timestamp("us", tz="UTC")),
            "amount_usd_cents": cents,
            "risk": risk,
            "noise": noise,
            "rare": pa.array(rare, from_pandas=True),
            "amount": cents.astype(np.float64),
            "label": label,
            "label_known_timestamp": pa.array(event_us + maturity // timedelta(microseconds=1)).cast(
                pa.timestamp("us", tz="UTC")
            ),
        }
    )
    manifest = {
        "format": 1,
        "feature_service": "fraud_v1",
        "feature_names": ["risk", "noise", "rare", "amount"],
        "definitions_digest": "0" * 64,
        "versions": {"transactions": 0, "chargebacks": 0},
        "start": START.isoformat(),
        "end": (START + days * DAY).isoformat(),
        "as_of": (START + (days + 8) * DAY).isoformat(),
        "maturity_us": maturity // timedelta(microseconds=1),
        "keep_unlabelled": False,
        "rows": n,
        "frauds": int(label.sum()),
        "digest": content_digest(table),
    }
    return Dataset(table, manifest)
