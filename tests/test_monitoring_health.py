"""Health and columns of journalled decisions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_repo.journal import Journal, read_decisions
from monitoring import decisions, health


def record(number: int, **changes: Any) -> dict[str, Any]:
    line = {
        "transaction_id": f"t{number}",
        "event_timestamp_us": 1_000 + number,
        "known_as_of_us": 1_000 + number,
        "customer_id": "c",
        "terminal_id": "m",
        "request": {"amount_usd_cents": 5},
        "features": {"a": 1.0, "b": None},
        "score": 0.25,
        "decision": "approve",
        "model_name": "fraud",
        "model_version": "3",
        "definitions_digest": "d",
        "feature_service": "fraud_v1",
        "state_seen": {"v": 2},
        "degraded": None,
        "latency_us": 1000 * number,
        "decided_at_us": 5_000,
    }
    return line | changes


DEGRADED = {
    "features": {},
    "score": None,
    "decision": "review",
    "degraded": "no model",
    "model_version": None,
}


def test_counts_shares_and_latencies() -> None:
    found = health.measure(decisions.collect([record(i) for i in range(1, 100)] + [record(100, **DEGRADED)]))
    assert (found.decisions, found.by_decision) == (100, {"approve": 99, "review": 1})
    assert (found.degraded_share, found.degraded) == (0.01, {"no model": 1})
    assert found.p50_ms == pytest.approx(50.5)
    assert found.p99_ms == pytest.approx(99.01)
    assert (found.first_us, found.last_us) == (1_001, 1_100)


def test_nulls_are_counted_among_decisions_that_had_features() -> None:
    found = health.measure(
        decisions.collect([record(1), record(2, features={"a": 1.0, "b": 2.0}), record(3, **DEGRADED)])
    )
    assert found.nulls == {"b": 0.5, "a": 0.0}
    assert found.null_share == 0.25


def test_no_decisions_are_no_error() -> None:
    found = health.measure(decisions.collect([]))
    assert (found.decisions, found.p50_ms, found.null_share, found.first_us) == (0, None, None, None)


def test_values_pass_through_the_journal_to_the_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=200) * 10.0 ** rng.integers(-300, 300, 200)
    journal = Journal(tmp_path, clock_us=lambda: 0)
    for number, value in enumerate(values):
        journal.decision(record(number, features={"x": float(value)}, score=float(abs(value))))
    read = decisions.collect(read_decisions(tmp_path))
    assert read.features[:, 0].tobytes() == values.tobytes()
    assert read.score.tobytes() == np.abs(values).tobytes()


def test_batches_hold_all_rows_in_order_whatever_their_size() -> None:
    records = [record(i) for i in range(10)]
    for size in (1, 3, 10, 11):
        read = list(decisions.batches(iter(records), size))
        assert [name for batch in read for name in batch.transaction_id] == [f"t{i}" for i in range(10)]
        assert max(len(batch) for batch in read) <= size


def test_records_with_other_features_share_columns_and_lack_values() -> None:
    read = decisions.collect([record(1, features={"a": 1.0}), record(2, features={"b": 2.0})])
    assert read.feature_names == ("a", "b")
    assert json.dumps(read.features.tolist()) == "[[1.0, NaN], [NaN, 2.0]]"


def test_taking_rows_keeps_every_column_aligned() -> None:
    read = decisions.collect([record(i, score=i / 10) for i in range(5)]).take(
        np.array([0, 1, 0, 1, 0], dtype=bool)
    )
    assert read.transaction_id == ["t1", "t3"]
    assert read.score.tolist() == [0.1, 0.3]
    assert len(read) == len(read.state_seen) == len(read.features) == 2
