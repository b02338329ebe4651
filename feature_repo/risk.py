"""Frauds confirmed by chargebacks, after the delay in which they become known."""

from feature_repo.entities import customer, terminal
from feature_repo.sources import chargebacks, transactions
from feature_repo.windows.view import windowed_view

DELAY = "7d"

terminal_delayed = windowed_view(
    "terminal_delayed",
    prefix="terminal_delayed",
    entities=[terminal],
    source=transactions,
    event_id="transaction_id",
    delay=DELAY,
    aggregates={("count", ""): ["1d", "7d", "30d"]},
    description="A terminal's transactions old enough for their chargebacks to be known.",
)

terminal_fraud = windowed_view(
    "terminal_fraud",
    prefix="terminal_fraud",
    entities=[terminal],
    source=chargebacks,
    event_id="transaction_id",
    delay=DELAY,
    aggregates={("count", ""): ["1d", "7d", "30d"]},
    description="A terminal's confirmed frauds.",
)

customer_fraud = windowed_view(
    "customer_fraud",
    prefix="customer_fraud",
    entities=[customer],
    source=chargebacks,
    event_id="transaction_id",
    delay=DELAY,
    aggregates={("count", ""): ["7d", "30d"]},
    description="A customer's confirmed frauds.",
)
