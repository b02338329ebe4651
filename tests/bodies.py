"""Requests that are right as they are, at an instant of their own, for tests to spoil."""

from datetime import UTC, datetime

from feature_repo.windows.scalars import to_microseconds

NOW = datetime(2026, 11, 21, 10, 0, 0, tzinfo=UTC)
NOW_US = to_microseconds(NOW)

SMALLEST = {
    "transaction_id": "t1",
    "customer_id": "c1",
    "terminal_id": "m1",
    "event_timestamp": "2026-11-21T09:00:00Z",
    "amount": "12.50",
}
FULL = {
    **SMALLEST,
    "currency": "EUR",
    "channel": "online",
    "category": "books",
    "customer_latitude": 52.5,
    "customer_longitude": 13.4,
    "terminal_latitude": -33,
    "terminal_longitude": -0.25,
    "status": "approved",
    "created_timestamp": "2026-11-21T09:00:01.5+00:00",
}
CHARGEBACK = {"transaction_id": "t1", "reason_code": "10.4"}
