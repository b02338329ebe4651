"""Events of keys, as many of each as asked for, in a Parquet file, with a view and a service of their own."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureService, FeatureStore, FileSource, PushSource
from feast.value_type import ValueType

from feature_repo.windows.view import windowed_view
from tests.benchmarks.workload import project

START = datetime(2024, 1, 1, tzinfo=UTC)
END = datetime(2024, 1, 31, tzinfo=UTC)
"""Events lie between these; both in microseconds divide evenly."""
SERVICE, SOURCE = "keyed_service", "keyed_events"
_SPAN_US = 30 * 86_400_000_000
_START_US = int(START.timestamp()) * 1_000_000
_HOLDER = Entity(name="holder", join_keys=["key"], value_type=ValueType.STRING)
_LENGTHS = ["1h", "1d", "7d", "30d"]
SPENT: dict[tuple[str, str], Sequence[str]] = {
    ("count", ""): _LENGTHS,
    **{(function, "amount"): _LENGTHS for function in ("sum", "mean", "max", "std")},
}
THREE_COLUMNS: dict[tuple[str, str], Sequence[str]] = {
    ("sum", "amount"): _LENGTHS,
    ("sum", "items"): _LENGTHS,
    ("count_distinct", "place"): ["7d"],
}


def events(keys: np.ndarray, seed: int) -> pa.Table:
    """An event for each entry of ``keys`` (numbers), in order of time, 30 days long, the last of them before END."""
    random = np.random.default_rng(seed)
    n = len(keys)
    times = pa.array(_START_US + np.sort(random.integers(0, _SPAN_US, n))).cast(pa.timestamp("us", tz="UTC"))
    return pa.table(
        {
            "id": pa.array(np.arange(n)).cast(pa.string()),
            "key": pa.array(random.permutation(keys)).cast(pa.string()),
            "place": pa.array(random.integers(0, 10_000, n)).cast(pa.string()),
            "amount": pa.array(random.integers(1, 100_000, n)),
            "items": pa.array(random.integers(1, 10, n)),
            "time": times,
            "known": times,
        }
    )


def open_keyed(home: Path, rows: pa.Table, aggregates: dict[tuple[str, str], Sequence[str]]) -> FeatureStore:
    """A project over the events: one view, one service, the project's three stores."""
    path = home / "events.parquet"
    pq.write_table(rows, path)
    return reopen(home, aggregates)


def reopen(home: Path, aggregates: dict[tuple[str, str], Sequence[str]]) -> FeatureStore:
    """The project over the events that ``open_keyed`` wrote."""
    batch = FileSource(
        name=SOURCE,
        path=str(home / "events.parquet"),
        timestamp_field="time",
        created_timestamp_column="known",
    )
    view = windowed_view(
        "keyed", prefix="keyed", entities=[_HOLDER], event_id="id", aggregates=aggregates,
        source=PushSource(name="arrivals", batch_source=batch),
    )  # fmt: skip
    return project(home, _HOLDER, view, FeatureService(name=SERVICE, features=[view]))


def as_events(rows: pa.Table) -> list[dict[str, Any]]:
    """Rows as a recorder takes them."""
    return rows.to_pylist()
