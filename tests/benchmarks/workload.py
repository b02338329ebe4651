"""Workload W as Feast objects of this project, in a repository of the benchmarks' own, and as a plain list of columns.

For every transaction: customer count, sum, mean, max, std of amount over 1h, 1d, 7d, 30d; terminal the same; terminal count
and fraud count over 1d, 7d, 30d delayed by 7d; distinct terminals of a customer over 7d; pair count over 30d; seconds since
the customer's last: 49 columns.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
from feast import FeatureService, FeatureStore, FileSource, PushSource, RepoConfig, StreamFeatureView
from feast.data_format import DeltaFormat

from feature_repo.entities import customer, terminal
from feature_repo.windows.spec import view_spec
from feature_repo.windows.stream import feature_stream
from feature_repo.windows.view import windowed_view
from tests.benchmarks.events import Lake

AMOUNT = "amount_usd_cents"
_LENGTHS = ["1h", "1d", "7d", "30d"]
_LATE_LENGTHS = ["1d", "7d", "30d"]
_SPENT = {
    ("count", ""): _LENGTHS,
    **{(function, AMOUNT): _LENGTHS for function in ("sum", "mean", "max", "std")},
}
_ENTITIES = {"customer": customer, "terminal": terminal}
ALL, ONLINE = "workload", "workload_online"


@dataclass(frozen=True)
class Column:
    """One of W's outputs: ``function`` of ``column`` over ``[t - delay - window, t - delay)`` of a key's events."""

    name: str
    source: str
    keys: tuple[str, ...]
    function: str
    column: str
    window_us: int
    delay_us: int


def source(lake: Path, table: str) -> PushSource:
    """A table of a lake."""
    batch = FileSource(
        name=table, path=str(lake / table), file_format=DeltaFormat(), timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )  # fmt: skip
    return PushSource(name=f"{table}_stream", batch_source=batch)


def views(lake: Path) -> list[StreamFeatureView]:
    """W's views over a lake."""
    transactions, chargebacks = source(lake, "transactions"), source(lake, "chargebacks")
    event = {"source": transactions, "event_id": "transaction_id"}
    customers = {**_SPENT, ("count_distinct", "terminal_id"): ["7d"], ("seconds_since_last", ""): ["30d"]}
    late = {("count", ""): _LATE_LENGTHS}
    return [
        windowed_view("customer_w", prefix="customer", entities=[customer], aggregates=customers, **event),
        windowed_view("terminal_w", prefix="terminal", entities=[terminal], aggregates=_SPENT, **event),
        windowed_view("settled_w", prefix="settled", entities=[terminal], aggregates=late, delay="7d", **event),
        windowed_view(
            "fraud_w", prefix="fraud", entities=[terminal], aggregates=late, delay="7d",
            **event | {"source": chargebacks},
        ),
        windowed_view("pair_w", prefix="pair", entities=[customer, terminal], aggregates={("count", ""): ["30d"]}, **event),
    ]  # fmt: skip


def columns(lake: Path) -> list[Column]:
    """W's outputs, in the order of the views."""
    specs = [view_spec(view, [_ENTITIES[name] for name in view.entities]) for view in views(lake)]
    return [
        Column(a.name, spec.source, spec.keys, a.function, a.column, a.window_us, spec.delay_us)
        for spec in specs
        for a in spec.aggregates
    ]


def online_part(lake: Path) -> list[Column]:
    """The 45 of W's columns that are read online: all but the terminal's standard deviations."""
    return [c for c in columns(lake) if not (c.function == "std" and c.keys == ("terminal_id",))]


def open_store(home: Path, lake: Lake, memory_limit: str | None = None) -> FeatureStore:
    """A project's store with W applied, its services ``ALL`` and ``ONLINE``; FRAUD_HOME is where its server is."""
    declared = views(lake.path)
    named = {column.name for column in online_part(lake.path)}
    served = [view[[a.name for a in view.aggregations if a.name in named]] for view in declared]
    services = [FeatureService(name=ALL, features=declared), FeatureService(name=ONLINE, features=served)]
    return project(home, customer, terminal, *declared, *services, memory_limit=memory_limit)


def project(home: Path, *objects: object, memory_limit: str | None = None) -> FeatureStore:
    """A store with this project's three stores and the objects applied."""
    return applied(
        home,
        "bench",
        *objects,
        offline_store={
            "type": "feature_repo.windows.offline_store.WindowedOfflineStore",
            "memory_limit": memory_limit,
        },
        online_store={"type": "feature_repo.windows.online_store.WindowedOnlineStore"},
        batch_engine={"type": "feature_repo.windows.compute_engine.WindowedComputeEngine"},
    )


def applied(home: Path, name: str, *objects: object, **stores: object) -> FeatureStore:
    """A project with the objects applied, its registry in ``home``; stores that are not given are Feast's own."""
    store = FeatureStore(
        config=RepoConfig(
            project=name,
            provider="local",
            registry=str(home / f"{name}.db"),
            entity_key_serialization_version=3,
            **stores,
        )
    )
    store.apply(list(objects))
    return store


def retrieve(store: FeatureStore, entities: pd.DataFrame) -> pa.Table:
    """W of entity rows by Feast's own call."""
    return store.get_historical_features(entities, store.get_feature_service(ALL)).to_arrow()


def stream(store: FeatureStore, target: Path) -> int:
    """W of every transaction to Parquet files in ``target``, slab by slab; returns the rows."""
    service = store.get_feature_service(ALL)
    return feature_stream(store, service, "transactions", columns=["transaction_id", *ASKED]).to_parquet(
        target
    )


ASKED = ["customer_id", "terminal_id", "event_timestamp"]
"""What an entity row needs to have."""
