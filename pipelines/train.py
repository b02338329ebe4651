"""``fraud train``: from the lake to a registered model version."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
from feast import FeatureStore

from feature_repo.lake import snapshot
from feature_repo.settings import settings
from feature_repo.store import apply_definitions, defined_service, open_store
from feature_repo.windows.resolve import resolve_service
from monitoring.drift import build_profile
from pipelines.progress import Progress, quiet
from pipelines.rollout_notes import note_champion
from training.dataset import build_dataset
from training.fit import TrainResult, train
from training.instants import from_us
from training.registry import alias_version, promote, set_alias
from training.splits import Fold, time_fold

__all__ = ["bounds", "known_until", "labelled_fold", "train_model"]


def train_model(
    feature_service: str = "fraud_v1",
    *,
    fold: Fold | None = None,
    as_of: datetime | None = None,
    maturity: timedelta = timedelta(days=7),
    train_days: int | None = 28,
    test_days: int = 7,
    champion: bool = True,
    threads: int = 2,
    progress: Progress = quiet,
) -> TrainResult:
    """Build the training set, fit the model beside its baselines, log and register it.

    Args:
        fold: where training and test lie; default: the last ``test_days`` days whose labels are mature at ``as_of``, and
            ``train_days`` days before the maturity gap (None: all history).
        as_of: labels known by then are used; default: the moment after the last event that the lake knows.
        maturity: how long a transaction must have been silent to count as genuine.
        champion: give the new version the alias ``champion``; else ``challenger``.

    Raises:
        FileNotFoundError: the lake is empty.
        ValueError: no such FeatureService, too little history for the fold, or no frauds in it.
        LeakError: the result is too good to be honest.
    """
    defined_service(feature_service)
    lake = settings().lake
    as_of = as_of or known_until(lake)
    fold = fold or labelled_fold(lake, as_of, maturity, train_days=train_days, test_days=test_days)
    store = open_store()
    apply_definitions(store)
    progress("training set", 0, 1)
    dataset = build_dataset(
        store, feature_service, fold.train_start, fold.test_end, as_of=as_of, maturity=maturity, lake=lake
    )
    progress("training set", 1, 1)
    result = train(
        dataset,
        fold,
        profiler=build_profile,
        definitions=_definitions(store, feature_service),
        threads=threads,
        progress=lambda step, done, total: progress("training", done, total),
    )
    if champion:
        before = alias_version("champion")
        promote(result.version)
        note_champion("train", before, result.version, evidence={"test_rows": result.test_rows})
    else:
        set_alias("challenger", result.version)
    return result


def _definitions(store: FeatureStore, feature_service: str) -> dict[str, Any] | None:
    """What the features mean, as the bundle keeps it; None for a FeatureService that the service cannot serve either."""
    try:
        return resolve_service(store, feature_service).as_data()
    except ValueError:
        return None


def known_until(lake: Path) -> datetime:
    """The moment after the last event that the lake knows (µs)."""
    latest = max(bounds(lake, name, "created_timestamp")[1] for name in ("transactions", "chargebacks"))
    return from_us(latest + 1)


def labelled_fold(
    lake: Path, as_of: datetime, maturity: timedelta, *, train_days: int | None, test_days: int
) -> Fold:
    """The latest fold whose test rows have mature labels at ``as_of``; the label delay between its parts is ``maturity``.

    Raises:
        ValueError: the history is too short.
    """
    first, last = bounds(lake, "transactions", "event_timestamp")
    mature = min(from_us(last + 1), as_of - maturity)
    # time_fold rounds up to whole days; a day that is mature only in part is left for later.
    if mature < from_us(last + 1):
        mature = mature.replace(hour=0, minute=0, second=0, microsecond=0)
    return time_fold(from_us(first), mature, test_days=test_days, delay=maturity, train_days=train_days)


def bounds(lake: Path, name: str, column: str) -> tuple[int, int]:
    """First and last instant (µs UTC) of a column of a Delta table; (0, -1) of an empty one."""
    sql = f"SELECT epoch_us(min({column})), epoch_us(max({column})) FROM {snapshot(lake / name).sql}"
    with duckdb.connect() as connection:
        first, last = connection.execute(sql).fetchall()[0]
    return (0, -1) if first is None else (int(first), int(last))
