"""Small Feast projects for tests of the engine: one entity or two, a Parquet source, the project's three stores."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, PushSource, RepoConfig
from feast.types import Int64
from feast.value_type import ValueType

from feature_repo.windows.functions import FUNCTIONS
from feature_repo.windows.view import windowed_view
from tests.timelines import COLUMN_OF

START = datetime(2024, 3, 9, 22, tzinfo=UTC)
HOLDER = Entity(name="holder", join_keys=["key"], value_type=ValueType.STRING)
PLACE = Entity(name="place", join_keys=["place"], value_type=ValueType.STRING)
TIME = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [("id", pa.string()), ("key", pa.string()), ("place", pa.string()), ("amount", pa.int64()), ("time", TIME), ("known", TIME)]
)  # fmt: skip


def at(seconds):
    """An instant that many seconds after START, exact to the microsecond."""
    return START + timedelta(microseconds=round(seconds * 1_000_000))


def event(number, seconds, *, key="a", amount=1, place="x", late=0):
    """An event ``seconds`` after START, known ``late`` seconds after it happened."""
    time = at(seconds)
    return {
        "id": f"e{number}",
        "key": key,
        "place": place,
        "amount": amount,
        "time": time,
        "known": time + timedelta(seconds=late),
    }


def write_events(path, events, schema=SCHEMA):
    """Replace the Parquet file at ``path``."""
    pq.write_table(pa.Table.from_pylist(events, schema), path)
    return path


def events_source(path, **options):
    """A push source over the Parquet file, its batch source named ``events``."""
    options = {"timestamp_field": "time", "created_timestamp_column": "known", **options}
    return PushSource(name="arrivals", batch_source=FileSource(name="events", path=str(path), **options))


def view_of(source, aggregates, *, name="view", prefix="all", entities=(HOLDER,), **options):
    """A windowed view of ``source`` by ``HOLDER``."""
    return windowed_view(
        name, prefix=prefix, entities=entities, source=source, event_id="id", aggregates=aggregates, **options
    )


def plain_view(path, name="plain", *, entities=(HOLDER,), ttl=0, fields=(("amount", Int64),), **options):
    """A plain view over the file at ``path``; ``ttl`` in seconds, 0 for none, ``options`` of its source."""
    options = {"timestamp_field": "time", "created_timestamp_column": "known", **options}
    source = FileSource(name=f"{name}_rows", path=str(path), **options)
    schema = [Field(name=field, dtype=kind) for field, kind in fields]
    return FeatureView(
        name=name, entities=list(entities), schema=schema, source=source, ttl=timedelta(seconds=ttl)
    )


def every_aggregate(*windows):
    """Every function over each window, as ``view_of`` takes them."""
    return {(name, COLUMN_OF[row.needs]): list(windows) for name, row in FUNCTIONS.items()}


def project(folder, *objects, name="small"):
    """A store with the objects applied; FRAUD_HOME says where its online store is."""
    store = FeatureStore(
        config=RepoConfig(
            project=name,
            provider="local",
            registry=str(folder / f"{name}.db"),
            entity_key_serialization_version=3,
            offline_store={"type": "feature_repo.windows.offline_store.WindowedOfflineStore"},
            online_store={"type": "feature_repo.windows.online_store.WindowedOnlineStore"},
            batch_engine={"type": "feature_repo.windows.compute_engine.WindowedComputeEngine"},
        )
    )
    store.apply([HOLDER, PLACE, *objects])
    return store


def deploy(folder, events, aggregates, schema=SCHEMA, **options):
    """A store over a file of the events with a view ``view`` and a service ``service`` of it."""
    source = events_source(write_events(folder / "events.parquet", events, schema))
    view = view_of(source, aggregates, **options)
    return project(folder, source, view, FeatureService(name="service", features=[view]))


def online_client(store):
    """The Redis client of the store's online store."""
    return store._get_provider().online_store._get_client(store.config.online_store)


def state_keys(store):
    """Every key there is in the online store, sorted."""
    return sorted(online_client(store).keys("*"))
