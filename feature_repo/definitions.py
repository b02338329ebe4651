"""Every object of the repository, by name: the one file that ``feast apply`` imports.

Feast registers what stands here as a module-level name, so an object that is missing here does not exist for it.
"""

from feature_repo.activity import customer_activity, pair_activity, terminal_activity
from feature_repo.entities import customer, terminal
from feature_repo.risk import customer_fraud, terminal_delayed, terminal_fraud
from feature_repo.services import fraud_v1, request_features
from feature_repo.sources import chargebacks, request, transactions

__all__ = [
    "chargebacks",
    "customer",
    "customer_activity",
    "customer_fraud",
    "fraud_v1",
    "pair_activity",
    "request",
    "request_features",
    "terminal",
    "terminal_activity",
    "terminal_delayed",
    "terminal_fraud",
    "transactions",
]
