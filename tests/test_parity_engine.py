"""Oracle, offline retrieval, get_online_features and the compiled plan give the same bits, through real stores.

Each example is a small project: a Parquet source, views with every function, one with a filter and a delay, a composite
key, and a transform. Part of the events is loaded by materialize, the rest recorded as they arrive.
"""

from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import (
    Aggregation,
    Entity,
    FeatureService,
    FeatureStore,
    Field,
    FileSource,
    PushSource,
    RepoConfig,
    RequestSource,
)
from feast.types import Int64, UnixTimestamp
from feast.value_type import ValueType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo.windows.functions import FUNCTIONS
from feature_repo.windows.plan import OnlinePlan
from feature_repo.windows.recorder import EventRecorder
from feature_repo.windows.transform import transform
from feature_repo.windows.view import windowed_view
from tests import oracle
from tests.timelines import COLUMN_OF, START, asks, micros, moment, streams
from tests.windows_project import every_aggregate

FILTER = "amount > -3 AND NOT place IS NULL"
WINDOWS = ["1s", "10s", "1m"]
LENGTHS = {"1s": 1_000_000, "10s": 10_000_000, "1m": 60_000_000}


@transform(
    inputs=["event_timestamp", "limit", "all_amount_mean_1m", "all_events_count_1m"],
    outputs=["share", "log", "second"],
)
def shape(c):
    return {
        "share": c["limit"] / c["all_amount_mean_1m"],
        "log": np.log1p(np.abs(c["limit"])) * c["all_events_count_1m"],
        "second": np.mod(c["event_timestamp"], 60),
    }


def build(folder, project, events):
    path = folder / f"{project}.parquet"
    once = list({e["id"]: e for e in reversed(events)}.values())
    columns = {
        "id": pa.array([e["id"] for e in once], pa.string()),
        "key": pa.array([e["key"] for e in once], pa.string()),
        "place": pa.array([e["place"] for e in once], pa.string()),
        "amount": pa.array([e["amount"] for e in once], pa.int64()),
        "time": pa.array([moment(e["time"]) for e in once], pa.timestamp("us", tz="UTC")),
        "known": pa.array([moment(e["known"]) for e in once], pa.timestamp("us", tz="UTC")),
    }
    pq.write_table(pa.table(columns), path)
    source = PushSource(
        name="arrivals",
        batch_source=FileSource(
            name="events", path=str(path), timestamp_field="time", created_timestamp_column="known"
        ),
    )
    key, place = (
        Entity(name=name, join_keys=[column], value_type=ValueType.STRING)
        for name, column in (("holder", "key"), ("place", "place"))
    )
    every = every_aggregate(*WINDOWS)
    common = {"source": source, "event_id": "id", "aggregates": every}
    everything = windowed_view("everything", prefix="all", entities=[key], **common)
    filtered = windowed_view("filtered", prefix="some", entities=[key], where=FILTER, delay="10s", **common)
    pair = windowed_view("pair", prefix="pair", entities=[key, place], **common)
    request = RequestSource(
        name="request",
        schema=[Field(name="limit", dtype=Int64), Field(name="event_timestamp", dtype=UnixTimestamp)],
    )
    shaped = shape.view("shaped", [everything[["all_amount_mean_1m", "all_events_count_1m"]]], request)
    service = FeatureService(name="service", features=[everything, filtered, pair, shaped])
    store = FeatureStore(
        config=RepoConfig(
            project=project,
            provider="local",
            registry=str(folder / f"{project}.db"),
            entity_key_serialization_version=3,
            offline_store={"type": "feature_repo.windows.offline_store.WindowedOfflineStore"},
            online_store={"type": "feature_repo.windows.online_store.WindowedOnlineStore"},
            batch_engine={"type": "feature_repo.windows.compute_engine.WindowedComputeEngine"},
        )
    )
    store.apply([key, place, source, everything, filtered, pair, shaped, service])
    return store, once


def passes(event):
    return event["amount"] is not None and event["amount"] > -3 and event["place"] is not None


def truth(events, ask_key, ask_place, instant, known):
    pairs = [{**e, "key": (e["key"], e["place"])} for e in events]
    row = {}
    for prefix, pool, key, delay, where in (
        ("all", events, ask_key, 0, lambda e: True),
        ("some", events, ask_key, 10_000_000, passes),
        ("pair", pairs, (ask_key, ask_place), 0, lambda e: True),
    ):
        for function, spec in FUNCTIONS.items():
            for window in WINDOWS:
                inside = oracle.counted(pool, key, instant, LENGTHS[window], delay, known, where)
                subject = COLUMN_OF[spec.needs] or "events"
                row[f"{prefix}_{subject}_{function}_{window}"] = oracle.aggregate(
                    function, COLUMN_OF[spec.needs], inside, instant
                )
    return row


COUNTER = iter(range(10**6))


@given(st.data())
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
def test_oracle_offline_online_and_plan_agree_to_the_bit(module_home, data):
    events = data.draw(streams(most=16))
    wanted = [(*ask, data.draw(st.sampled_from(["x", "y", "w"]))) for ask in data.draw(asks(events, most=4))]
    store, once = build(module_home, f"p{next(COUNTER)}", events)
    loaded_until = data.draw(st.sampled_from([START + timedelta(seconds=s) for s in (0, 5, 40, 400)]))
    store.materialize(START - timedelta(days=30), loaded_until)
    recorder = EventRecorder.compile(store)
    for event in events:
        if event["known"] >= micros(loaded_until):
            row = {**event, "time": moment(event["time"]), "known": moment(event["known"])}
            assert recorder.record("events", [row]) == [event["known"]]

    rows = [
        {"key": k, "place": p, "limit": 7, "event_timestamp": moment(t), "created_timestamp": moment(a)}
        for k, t, a, p in wanted
    ]
    service = store.get_feature_service("service")
    online = store.get_online_features(features=service, entity_rows=rows).to_dict()
    offline = store.get_historical_features(pd.DataFrame(rows), service).to_arrow().to_pydict()
    plan = OnlinePlan.compile(store, "service")
    answer = plan.read(
        [
            {"key": k, "place": p, "limit": 7, "event_timestamp_us": t, "known_as_of_us": a}
            for k, t, a, p in wanted
        ]
    )
    for i, (key, instant, known, place) in enumerate(wanted):
        expected = truth(once, key, place, instant, known)
        for name, value in expected.items():
            assert offline[name][i] == value, (name, i)
            assert online[name][i] == value, (name, i)
        for j, name in enumerate(plan.feature_names):
            served = None if np.isnan(answer.values[i, j]) else answer.values[i, j]
            assert served == offline[name][i], (name, i)
            assert online[name][i] == offline[name][i] or (
                np.isnan(online[name][i]) and offline[name][i] is None
            ), (name, i)
        assert expected.keys() < set(plan.feature_names)


def test_a_view_unknown_to_the_engine_is_refused_at_construction():
    key = Entity(name="holder", join_keys=["key"], value_type=ValueType.STRING)
    source = PushSource(
        name="s", batch_source=FileSource(name="events", path="x.parquet", timestamp_field="time")
    )
    with pytest.raises(ValueError, match="median"):
        windowed_view(
            "v",
            prefix="v",
            entities=[key],
            source=source,
            event_id="id",
            aggregates={("median", "amount"): ["1d"]},
        )
    assert Aggregation(column="a", function="sum").function == "sum"
