"""Performance of journalled decisions: which labels count when, and what early chargebacks tell."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from feature_repo.lake import CHARGEBACKS, TRANSACTIONS, snapshot
from feature_repo.reason_codes import FRAUD_REASON_CODES
from monitoring import decisions, performance
from tests.timelines import micros, moment
from training import evaluation
from training.labels import labels

START = datetime(2025, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
MATURITY = 30 * DAY
NOT_FRAUD = "13.1"


def decision(number: int, at: datetime, score: float | None, customer: str = "c1") -> dict[str, Any]:
    return {
        "transaction_id": f"t{number}",
        "event_timestamp_us": micros(at),
        "known_as_of_us": micros(at),
        "customer_id": customer,
        "terminal_id": "m1",
        "request": {"amount_usd_cents": 100},
        "features": {},
        "score": score,
        "decision": "approve",
        "model_name": "fraud",
        "model_version": "1",
        "definitions_digest": "d",
        "feature_service": "fraud_v1",
        "state_seen": {},
        "degraded": None if score is not None else "no model",
        "latency_us": 400,
        "decided_at_us": micros(at),
    }


def transaction(record: dict[str, Any], status: str = "approved") -> dict[str, Any]:
    at = moment(record["event_timestamp_us"])
    return {
        "transaction_id": record["transaction_id"],
        "event_timestamp": at,
        "customer_id": record["customer_id"],
        "terminal_id": "m1",
        "amount": 1,
        "currency": "USD",
        "amount_usd_cents": 100,
        "status": status,
        "created_timestamp": at,
        "event_day": at.date(),
    }


def chargeback(record: dict[str, Any], delay: timedelta, code: str = FRAUD_REASON_CODES[0]) -> dict[str, Any]:
    row = transaction(record)
    kept = {name: row[name] for name in CHARGEBACKS.names if name in row}
    return kept | {"reason_code": code, "created_timestamp": row["event_timestamp"] + delay}


def measure(
    folder: Path,
    records: Sequence[dict[str, Any]],
    transactions: Sequence[dict[str, Any]],
    chargebacks: Sequence[dict[str, Any]],
    as_of: datetime,
) -> performance.Performance:
    """Write a lake, read labels and delays from it as the monitoring job does, and measure.

    Each table has a row that is not among the decisions besides: a real one is never empty.
    """
    other = decision(-1, START - 300 * DAY, None)
    transactions = [*transactions, transaction(other)]
    chargebacks = [*chargebacks, chargeback(other, DAY, NOT_FRAUD)]
    for name, schema, rows in (
        ("transactions", TRANSACTIONS, transactions),
        ("chargebacks", CHARGEBACKS, chargebacks),
    ):
        table = pa.Table.from_pylist(list(rows), schema)
        write_deltalake(str(folder / name), table, partition_by=["event_day"], mode="overwrite")
    lake = snapshot(folder / "transactions"), snapshot(folder / "chargebacks")
    known = labels(*lake, START - 400 * DAY, START + 400 * DAY, as_of=as_of, maturity=MATURITY)
    delays = performance.reporting_delays(lake[1], as_of=as_of, maturity=MATURITY)
    return performance.measure(decisions.collect(records), known, delays, as_of=as_of, maturity=MATURITY)


def test_a_decision_counts_when_its_label_has_matured_and_not_before(tmp_path: Path) -> None:
    # t1 is a microsecond older than the maturity period at as_of, t2 exactly as old: not yet.
    as_of = START + MATURITY
    records = [decision(1, START - timedelta(microseconds=1), 0.1), decision(2, START, 0.2)]
    found = measure(tmp_path, records, [transaction(r) for r in records], [], as_of)
    assert (found.matured.rows, found.matured.frauds) == (1, 0)


def test_metrics_are_those_of_the_evaluation(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    records = [
        decision(i, START + timedelta(minutes=i), float(rng.random()), f"c{rng.integers(40)}")
        for i in range(400)
    ]
    frauds = [r for r in records if rng.random() < 0.3 * r["score"]]
    backs = [chargeback(r, 3 * DAY) for r in frauds]
    found = measure(tmp_path, records, [transaction(r) for r in records], backs, START + 60 * DAY)
    label = np.array([r in frauds for r in records], dtype=np.int8)
    score = np.array([r["score"] for r in records])
    assert (found.matured.rows, found.matured.frauds) == (400, len(frauds))
    assert found.matured.average_precision is not None
    assert found.matured.average_precision.value == pytest.approx(evaluation.average_precision(label, score))


def test_a_dispute_about_goods_is_no_fraud_and_a_late_fraud_report_is_one(tmp_path: Path) -> None:
    records = [decision(1, START, 0.9), decision(2, START, 0.8), decision(3, START, 0.1)]
    backs = [chargeback(records[0], 3 * DAY, NOT_FRAUD), chargeback(records[1], 45 * DAY)]
    found = measure(tmp_path, records, [transaction(r) for r in records], backs, START + 60 * DAY)
    assert (found.matured.rows, found.matured.frauds) == (3, 1)
    assert found.matured.average_precision is not None
    assert found.matured.average_precision.value == 0.5


def test_unscored_unknown_and_declined_decisions_are_counted_apart(tmp_path: Path) -> None:
    records = [decision(i, START, score) for i, score in enumerate([0.5, None, 0.4, 0.3])]
    rows = [transaction(records[0]), transaction(records[1]), transaction(records[2], "declined")]
    found = measure(tmp_path, records, rows, [], START + 60 * DAY)
    assert (found.matured.rows, found.unscored, found.unknown, found.excluded) == (1, 1, 1, 1)


def test_no_decisions_are_no_error(tmp_path: Path) -> None:
    found = measure(tmp_path, [], [], [], START)
    assert (found.matured.rows, found.matured.average_precision, found.points) == (0, None, ())


def reported_within(share: float) -> timedelta:
    """The delay by which ``share`` of these tests' frauds are reported: uniform over 20 days."""
    return share * 20 * DAY


def history(rng: np.random.Generator, count: int = 400) -> list[dict[str, Any]]:
    """Old frauds whose delays are known, with ids of their own."""
    old = [decision(100_000 + i, START - 100 * DAY, 0.5) for i in range(count)]
    return [chargeback(r, reported_within(float(rng.random()))) for r in old]


def test_the_early_estimate_finds_what_the_matured_labels_say_later(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    records = [
        decision(i, START + timedelta(seconds=i), float(rng.random()), f"c{i % 1500}") for i in range(12_000)
    ]
    frauds = [r for r in records if rng.random() < 0.12 * r["score"] ** 6]
    backs = history(rng) + [chargeback(r, reported_within(float(rng.random()))) for r in frauds]
    rows = [transaction(r) for r in records]
    early = measure(tmp_path, records, rows, backs, START + 10 * DAY).early
    later = measure(tmp_path, records, rows, backs, START + 60 * DAY).matured
    # Half are reported after ten days: each stands for two.
    assert early.reported == pytest.approx(len(frauds) / 2, rel=0.2)
    assert early.expected == pytest.approx(len(frauds), rel=0.2)
    assert early.average_precision is not None
    assert later.average_precision is not None
    assert early.average_precision.low < later.average_precision.value < early.average_precision.high
    reported = {b["transaction_id"] for b in backs if b["created_timestamp"] < START + 10 * DAY}
    naive = evaluation.average_precision(
        np.array([r["transaction_id"] in reported for r in records], np.int8),
        np.array([r["score"] for r in records]),
    )
    error = abs(early.average_precision.value - later.average_precision.value)
    assert error < abs(naive - later.average_precision.value) / 2


def test_decisions_too_young_to_tell_are_left_out_of_the_early_estimate(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    records = [decision(1, START, 0.5), decision(2, START + 6 * DAY, 0.5)]
    found = measure(tmp_path, records, [transaction(r) for r in records], history(rng), START + 8 * DAY)
    assert (found.early.rows, found.early.average_precision) == (1, None)
    assert found.early.why == "no fraud is reported yet"


def test_without_known_delays_there_is_no_early_estimate_and_it_says_why(tmp_path: Path) -> None:
    records = [decision(1, START, 0.5)]
    found = measure(tmp_path, records, [transaction(records[0])], [], START + 8 * DAY)
    assert found.early.average_precision is None
    assert "delays of only 0 matured frauds" in str(found.early.why)


def test_delays_are_of_matured_frauds_reported_within_the_period(tmp_path: Path) -> None:
    as_of = START + MATURITY
    old = [decision(i, START - DAY, 0.5) for i in range(4)]
    young = decision(9, START + DAY, 0.5)
    backs = [
        chargeback(old[0], 5 * DAY),
        chargeback(old[1], 31 * DAY),  # after the period
        chargeback(old[2], 2 * DAY, NOT_FRAUD),
        chargeback(old[3], 3 * DAY),
        chargeback(young, 1 * DAY),  # not matured
    ]
    measure(tmp_path, [young], [transaction(young)], backs, as_of)
    delays = performance.reporting_delays(snapshot(tmp_path / "chargebacks"), as_of=as_of, maturity=MATURITY)
    assert delays.tolist() == [3 * DAY // timedelta(microseconds=1), 5 * DAY // timedelta(microseconds=1)]


@pytest.mark.parametrize(("days", "points"), [(10, 10), (70, 10)])
def test_the_chart_has_a_point_a_day_or_a_week(tmp_path: Path, days: int, points: int) -> None:
    records = [decision(i, START + i * DAY, 0.5) for i in range(days)]
    found = measure(tmp_path, records, [transaction(r) for r in records], [], START + 200 * DAY)
    assert len(found.points) == points
    assert sum(point.rows for point in found.points) == days
    assert found.points[0].start_us == micros(START)
