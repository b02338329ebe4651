"""What customers, terminals and their pairs have been doing, up to the last event."""

from feature_repo.entities import customer, terminal
from feature_repo.sources import transactions
from feature_repo.windows.view import windowed_view

AMOUNT = "amount_usd_cents"

customer_activity = windowed_view(
    "customer_activity",
    prefix="customer",
    entities=[customer],
    source=transactions,
    event_id="transaction_id",
    aggregates={
        ("count", ""): ["1h", "1d", "7d", "30d"],
        ("sum", AMOUNT): ["1d", "7d", "30d"],
        ("mean", AMOUNT): ["1d", "7d", "30d"],
        ("max", AMOUNT): ["1d", "3d", "7d", "14d"],
        ("std", AMOUNT): ["30d"],
        ("count_distinct", "terminal_id"): ["1d", "7d"],
        ("seconds_since_last", ""): ["30d"],
    },
    description="A customer's transactions before this one.",
)

customer_settled = windowed_view(
    "customer_settled",
    prefix="customer_settled",
    entities=[customer],
    source=transactions,
    event_id="transaction_id",
    delay="14d",
    aggregates={("mean", AMOUNT): ["30d"], ("std", AMOUNT): ["30d"], ("max", AMOUNT): ["30d"]},
    description="What was usual for a customer before the last fortnight: a fraud that goes on does not move it.",
)

terminal_activity = windowed_view(
    "terminal_activity",
    prefix="terminal",
    entities=[terminal],
    source=transactions,
    event_id="transaction_id",
    aggregates={("count", ""): ["1h", "1d"], ("count_distinct", "customer_id"): ["1d"]},
    description="A terminal's transactions before this one.",
)

pair_activity = windowed_view(
    "pair_activity",
    prefix="pair",
    entities=[customer, terminal],
    source=transactions,
    event_id="transaction_id",
    aggregates={("count", ""): ["30d"]},
    description="What this customer did at this terminal before.",
)
