"""Every object of the repository, by name: the one file that ``feast apply`` imports.

Feast registers what stands here as a module-level name, so an object that is missing here does not exist for it.
"""

from feature_repo.activity import customer_activity, customer_settled, pair_activity, terminal_activity
from feature_repo.entities import customer, terminal
from feature_repo.risk import customer_fraud, terminal_fraud, terminal_ordinary_fraud, terminal_settled
from feature_repo.services import (
    fraud_v1,
    published_v1,
    request_features,
    spending_features,
    terminal_risk_features,
)
from feature_repo.sources import chargebacks, request, transactions

__all__ = [
    "chargebacks",
    "customer",
    "customer_activity",
    "customer_fraud",
    "customer_settled",
    "fraud_v1",
    "pair_activity",
    "published_v1",
    "request",
    "request_features",
    "spending_features",
    "terminal",
    "terminal_activity",
    "terminal_fraud",
    "terminal_ordinary_fraud",
    "terminal_risk_features",
    "terminal_settled",
    "transactions",
]
