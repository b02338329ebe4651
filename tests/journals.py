"""Rows as a service journals them, each made from a number, and which of them a lake holds; a service's lines found again."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from deltalake import DeltaTable

from feature_repo.journal import read_decisions
from feature_repo.windows.scalars import to_microseconds

COUNT = "customer_transactions_count_7d"
# At microseconds that no millisecond keeps; forty of the hours after it lie in three days.
START = datetime(2025, 3, 1, 12, 0, 0, 123457, tzinfo=UTC)


def transaction(number, **changes):
    """As the recorder of transactions takes it."""
    at = START + timedelta(hours=number % 40, microseconds=number)
    row = {
        "transaction_id": f"t{number}",
        "event_timestamp": at,
        "customer_id": f"c{number % 7}",
        "terminal_id": "m1",
        "amount": Decimal("12.3400"),
        "currency": "USD",
        "amount_usd_cents": 1234 + number,
        "status": "approved",
        "channel": None,
        "category": "grocery",
        "customer_latitude": 1 / 3,
        "customer_longitude": None,
        "terminal_latitude": None,
        "terminal_longitude": None,
        "created_timestamp": at + timedelta(microseconds=1),
        "scored_timestamp": None,
    }
    return row | changes


def chargeback(number):
    """Of the transaction of that number, a week later."""
    row = transaction(number)
    kept = ("transaction_id", "event_timestamp", "customer_id", "terminal_id", "amount_usd_cents")
    reported = row["event_timestamp"] + timedelta(days=7)
    return {name: row[name] for name in kept} | {"reason_code": "10.4", "created_timestamp": reported}


def decision(number, **changes):
    """On the transaction of that number."""
    row = transaction(number)
    return {
        "transaction_id": row["transaction_id"],
        "content": "0" * 32,
        "event_timestamp_us": to_microseconds(row["event_timestamp"]),
        "known_as_of_us": to_microseconds(row["event_timestamp"]) + 1,
        "customer_id": row["customer_id"],
        "terminal_id": row["terminal_id"],
        "request": {"amount_usd_cents": row["amount_usd_cents"], "customer_latitude": None},
        "features": {"a": number / 3, "b": None, "c": 0.1 + 0.2},
        "score": 1 / (number + 3),
        "decision": "review",
        "model_name": "fraud",
        "model_version": "7",
        "policy": {"review_cost_cents": 300.0},
        "definitions_digest": "d" * 64,
        "feature_service": "fraud_v1",
        "state_seen": {"customer_activity": number},
        "degraded": None,
        "created_timestamp_us": to_microseconds(row["created_timestamp"]),
        "latency_us": 400,
        "decided_at_us": to_microseconds(row["created_timestamp"]) + 5,
    } | changes


def write(journal, numbers):
    """Journal a transaction and its decision for each number, and for each third a chargeback."""
    for number in numbers:
        journal.event("transactions", transaction(number))
        journal.decision(decision(number))
        if number % 3 == 0:
            journal.event("chargebacks", chargeback(number))


def ids(lake, table):
    """The transaction ids in a table of a lake, sorted; one that is there twice is given twice."""
    return sorted(DeltaTable(str(lake / table)).to_pyarrow_table()["transaction_id"].to_pylist())


def assert_loaded(lake, numbers):
    """What ``write`` journals of exactly these numbers is in the lake, each once."""
    every = sorted(f"t{number}" for number in numbers)
    assert ids(lake, "transactions") == ids(lake, "decisions") == every
    assert ids(lake, "chargebacks") == sorted(f"t{number}" for number in numbers if number % 3 == 0)


def line_of(home, transaction_id):
    """The line of a transaction's decision in a home's journal; there must be one and no other."""
    (found,) = (line for line in read_decisions(home / "journal") if line["transaction_id"] == transaction_id)
    return found


def all_counted(home, answer):
    """How many transactions of its customer a decision counted over seven days: all that were decided before it.

    Args:
        answer: to the last transaction of a customer who sent all of them within the week before it.
    """
    own = line_of(home, answer["transaction_id"])
    lines = [line for line in read_decisions(home / "journal") if line["customer_id"] == own["customer_id"]]
    assert own["features"][COUNT] == len(lines) - 1
    return len(lines) - 1
