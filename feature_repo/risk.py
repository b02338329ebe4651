"""Frauds confirmed by chargebacks, and the transactions that they can be set against.

A chargeback takes days to be reported. Windows that end before those days compare frauds with transactions of the same
age, so a terminal with few frauds is a quiet terminal and not one whose frauds are not reported yet.
"""

from feature_repo.entities import customer, terminal
from feature_repo.reason_codes import FRAUD_REASON_CODES
from feature_repo.sources import chargebacks, transactions
from feature_repo.windows.view import windowed_view

DELAY = "7d"
CONFIRMED = f"reason_code IN ({', '.join(repr(code) for code in FRAUD_REASON_CODES)})"
# A high amount explains a fraud by itself; a confirmed fraud of an ordinary amount says something about the terminal.
ORDINARY = f"{CONFIRMED} AND amount_usd_cents <= 22000"

terminal_settled = windowed_view(
    "terminal_settled",
    prefix="terminal_settled",
    entities=[terminal],
    source=transactions,
    event_id="transaction_id",
    delay=DELAY,
    aggregates={
        ("count", ""): ["1d", "3d", "7d", "14d", "21d", "28d", "30d"],
        ("seconds_since_last", ""): ["30d"],
    },
    description="A terminal's transactions old enough for their chargebacks to be known.",
)

terminal_fraud = windowed_view(
    "terminal_fraud",
    prefix="terminal_fraud",
    entities=[terminal],
    source=chargebacks,
    event_id="transaction_id",
    where=CONFIRMED,
    delay=DELAY,
    aggregates={("count", ""): ["1d", "7d", "30d"]},
    description="A terminal's confirmed frauds.",
)

terminal_ordinary_fraud = windowed_view(
    "terminal_ordinary_fraud",
    prefix="terminal_ordinary_fraud",
    entities=[terminal],
    source=chargebacks,
    event_id="transaction_id",
    where=ORDINARY,
    delay=DELAY,
    aggregates={
        ("count", ""): ["3d", "7d", "14d", "21d", "28d"],
        ("seconds_since_first", ""): ["28d"],
        ("seconds_since_last", ""): ["28d", "30d"],
        ("count_distinct", "customer_id"): ["7d", "30d"],
    },
    description="A terminal's confirmed frauds of ordinary amounts.",
)

customer_fraud = windowed_view(
    "customer_fraud",
    prefix="customer_fraud",
    entities=[customer],
    source=chargebacks,
    event_id="transaction_id",
    where=CONFIRMED,
    delay=DELAY,
    aggregates={("count", ""): ["7d", "14d", "30d"], ("seconds_since_first", ""): ["14d"]},
    description="A customer's confirmed frauds.",
)
