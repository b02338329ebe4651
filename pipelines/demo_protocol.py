"""The demo's part for the Fraud Detection Handbook's data: its published protocol, beside its published figures.

Figures: Le Borgne, Siblini, Lebichot, Bontempi, «Reproducible Machine Learning for Credit Card Fraud Detection - Practical
Handbook», 2022, chapters 3 (week) and 5 and 7 (prequential), at a label delay of 7 days.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from feature_repo.store import open_store
from pipelines.progress import Progress
from pipelines.train import known_until
from training.dataset import build_dataset
from training.evaluation import Evaluation
from training.models import CatBoostModel, LogisticModel
from training.protocol import run_protocol
from training.published_features import published_features
from training.splits import PROTOCOLS, Rows

__all__ = ["PUBLISHED", "HandbookProtocol", "is_handbook", "published_protocol"]

PUBLISHED = {
    "logistic_regression_published_features": {
        "week": {"auc_roc": 0.871, "average_precision": 0.606, "card_precision_100": 0.291}
    },
    "best": {
        "week": {
            "model": "random forest",
            "auc_roc": 0.867,
            "average_precision": 0.658,
            "card_precision_100": 0.287,
        },
        "prequential": {
            "model": "xgboost",
            "auc_roc": 0.872,
            "average_precision": 0.694,
            "card_precision_100": 0.304,
        },
    },
}
_FIRST, _LAST = datetime(2018, 4, 1, tzinfo=UTC), datetime(2018, 9, 5, tzinfo=UTC)


@dataclass(frozen=True)
class HandbookProtocol:
    """The counts of the published split, what each model reached, and the published figures."""

    week: dict[str, int]
    models: dict[str, dict[str, Any]]
    published: dict[str, Any]


def is_handbook(mapping: str, lake: Path) -> bool:
    """Whether the lake holds the Handbook's weeks, so that its protocol means something."""
    return mapping == "handbook" and known_until(lake) >= _LAST


def published_protocol(lake: Path, maturity: timedelta, progress: Progress) -> HandbookProtocol:
    """Run ``week`` and ``prequential`` with CatBoost on fraud_v1, ``week`` with the published features."""
    store, as_of = open_store(), known_until(lake)
    folds = PROTOCOLS["prequential"]
    start, end = min(fold.train_start for fold in folds), max(fold.test_end for fold in folds)
    progress("features of the protocol's weeks", 0, 2)
    published = build_dataset(store, "published_v1", start, end, as_of=as_of, maturity=maturity, lake=lake)
    progress("features of the protocol's weeks", 1, 2)
    dataset = build_dataset(store, "fraud_v1", start, end, as_of=as_of, maturity=maturity, lake=lake)
    progress("features of the protocol's weeks", 2, 2)
    rows = Rows.of(dataset)
    fifteen = published_features(published.column, rows.amounts_usd_cents, rows.event_us)
    baseline = run_protocol(Rows.of(published), fifteen, "week", LogisticModel, progress)
    week = run_protocol(rows, dataset.values(), "week", CatBoostModel, progress)
    prequential = run_protocol(rows, dataset.values(), "prequential", CatBoostModel, progress)
    names = ("train_rows", "train_frauds", "test_rows", "test_frauds")
    return HandbookProtocol(
        week=dict(zip(names, week.counts[0], strict=True)),
        models={
            "catboost": {"week": _measures(week.mean), "prequential": _measures(prequential.mean)},
            "logistic_regression_published_features": {"week": _measures(baseline.mean), "prequential": None},
        },
        published=PUBLISHED,
    )


def _measures(evaluation: Evaluation) -> dict[str, float]:
    every = evaluation.as_dict()
    return {name: every[name] for name in ("auc_roc", "average_precision", "card_precision_100")}
