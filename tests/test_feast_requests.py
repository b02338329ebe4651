"""Online requests of every shape, over windowed and plain views at once: rows, names, statuses, entities, instants."""

import asyncio
from datetime import UTC, datetime, timedelta

import pandas as pd
import pyarrow as pa
import pytest
from feast import Aggregation, Entity, FeatureService, FeatureView, Field, FileSource, StreamFeatureView
from feast.errors import FeatureNameCollisionError, FeatureViewNotFoundException
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value
from feast.types import Int64, String
from feast.value_type import ValueType

from feature_repo.windows.recorder import EventRecorder
from tests.windows_project import (
    HOLDER,
    PLACE,
    SCHEMA,
    at,
    event,
    events_source,
    project,
    view_of,
    write_events,
)  # fmt: skip

DAY = 86_400
NUMBER = Entity(name="number", join_keys=["number"], value_type=ValueType.INT64)
EVENTS = [
    event(1, 0, amount=10),
    event(2, 10, amount=20, place="y"),
    event(3, 20, key="b", amount=None),
    event(4, 30, key="x", place="a", amount=40),
]
COUNT, MEAN = "holder_events_count_1h", "holder_amount_mean_1h"


@pytest.fixture(scope="module")
def store(module_home, tmp_path_factory):
    """One project for all tests: events by holder and by both entities, profiles and settings."""
    folder = tmp_path_factory.mktemp("requests")

    rows = [{**one, "number": [7, 7, -7, 2**62][n]} for n, one in enumerate(EVENTS)]

    schema = SCHEMA.append(pa.field("number", pa.int64()))
    source = events_source(write_events(folder / "events.parquet", rows, schema))
    aggregates = {("count", ""): ["1h"], ("mean", "amount"): ["1h"]}
    holder = view_of(source, aggregates, name="holder_view", prefix="holder")
    pair = view_of(source, {("count", ""): ["1h"]}, name="pair", prefix="pair", entities=(HOLDER, PLACE))
    # The columns of the entities in another order than the entities, as a schema that lists them may have it.
    swapped = StreamFeatureView(
        name="swapped", entities=[HOLDER, PLACE], source=source, timestamp_field="time", tags=pair.tags,
        schema=[Field(name=name, dtype=String) for name in ("place", "key")]
        + [Field(name="swapped_count", dtype=Int64)],
        aggregations=[Aggregation(column="", function="count", time_window=timedelta(hours=1), name="swapped_count")],
    )  # fmt: skip
    by_number = view_of(
        source, {("sum", "amount"): ["1h"]}, name="by_number", prefix="number", entities=(NUMBER,)
    )
    profile = FeatureView(
        name="profile", entities=[HOLDER], schema=[Field(name="limit", dtype=Int64)], ttl=timedelta(hours=1),
        source=FileSource(name="profiles", path=str(folder / "profiles.parquet"), timestamp_field="time"),
    )  # fmt: skip
    setting = FeatureView(
        name="setting", entities=[], schema=[Field(name="rate", dtype=Int64)],
        source=FileSource(name="settings", path=str(folder / "settings.parquet"), timestamp_field="time"),
    )  # fmt: skip
    pd.DataFrame([{"key": "a", "limit": 5, "time": at(0)}]).to_parquet(folder / "profiles.parquet")
    pd.DataFrame([{"rate": 3, "time": at(0)}]).to_parquet(folder / "settings.parquet")
    service = FeatureService(name="service", features=[holder, profile, setting])
    renamed = FeatureService(
        name="renamed",
        features=[
            holder.with_name("buyer").with_join_key_map({"key": "buyer_key"}),
            holder.with_name("seller").with_join_key_map({"key": "seller_key"}),
            profile.with_name("buyer_profile").with_join_key_map({"key": "buyer_key"}),
            profile,
        ],
    )
    views = [holder, pair, swapped, by_number, profile, setting, service, renamed]
    made = project(folder, NUMBER, source, *views, name="requests")
    made.materialize(at(-DAY), at(DAY))
    return made


def statuses(response):
    """Names of the statuses of each feature."""
    names = response.proto.metadata.feature_names.val
    return {
        name: [FieldStatus.Name(status) for status in vector.statuses]
        for name, vector in zip(names, response.proto.results, strict=True)
    }


def test_views_of_every_kind_answer_one_request(store):
    rows = [{"key": key, "event_timestamp": at(60)} for key in ("a", "b", "never seen")]
    response = store.get_online_features(store.get_feature_service("service"), rows)
    assert response.to_dict() == {
        "key": ["a", "b", "never seen"],
        COUNT: [2, 1, 0],
        MEAN: [15.0, None, None],
        "limit": [5, None, None],
        "rate": [3, 3, 3],
    }
    found = statuses(response)
    assert found[COUNT] == ["PRESENT"] * 3
    assert found[MEAN] == ["PRESENT", "NULL_VALUE", "NULL_VALUE"]
    assert found["limit"] == ["PRESENT", "NOT_FOUND", "NOT_FOUND"]
    assert found["rate"] == ["PRESENT"] * 3


def test_each_row_is_answered_at_its_own_instant(store):
    instants = [at(0), at(0.000001), at(10), at(11), at(3600), at(3600.000001), at(3611)]
    rows = [{"key": "a", "event_timestamp": instant} for instant in instants]
    answer = store.get_online_features([f"holder_view:{COUNT}", "profile:limit"], rows).to_dict()
    assert answer[COUNT] == [0, 1, 1, 2, 2, 1, 0]
    assert answer["limit"] == [5, 5, 5, 5, 5, None, None]


@pytest.mark.parametrize(
    "write",
    [
        lambda t: t,
        lambda t: t.isoformat(),
        lambda t: t.replace(tzinfo=None),
        lambda t: t.astimezone(datetime.fromisoformat("2024-01-01T00:00+09:00").tzinfo),
        pd.Timestamp,
        lambda t: pd.Timestamp(t).tz_localize(None).to_datetime64(),
    ],
    ids=["utc", "text", "naive", "tokyo", "pandas", "numpy"],
)
def test_an_instant_may_be_written_in_many_ways(store, write):
    row = {"key": "a", "event_timestamp": write(at(10.000001))}
    assert store.get_online_features([f"holder_view:{COUNT}"], [row]).to_dict()[COUNT] == [2]


@pytest.mark.parametrize("wrong", [None, 5, pd.NaT, at(0).date()])
def test_what_is_no_instant_is_refused(store, wrong):
    with pytest.raises(ValueError, match="entity rows: event_timestamp is"):
        store.get_online_features([f"holder_view:{COUNT}"], [{"key": "a", "event_timestamp": wrong}])


def test_what_was_known_may_be_asked_for(store):
    EventRecorder.compile(store).record("events", [{**event("late", 15, key="slow", late=100), "number": 1}])
    rows = [
        {"key": "slow", "event_timestamp": at(60), "created_timestamp": at(known)} for known in (60, 115, 116)
    ]
    assert store.get_online_features([f"holder_view:{COUNT}"], rows).to_dict()[COUNT] == [0, 0, 1]


def test_no_rows_get_no_rows(store):
    response = store.get_online_features([f"holder_view:{COUNT}", "profile:limit"], [])
    assert response.to_dict() == {"key": [], COUNT: [], "limit": []}
    assert len(response.to_df()) == 0
    service = store.get_feature_service("renamed")
    named = store.get_online_features(service, [], full_feature_names=True).to_dict()
    assert list(named)[:3] == ["buyer_key", "key", "seller_key"]
    assert named.keys() >= {f"buyer__{COUNT}", f"seller__{MEAN}", "profile__limit"}
    assert store.get_online_features(["setting:rate"], {"key": []}).to_dict() == {"rate": []}
    with pytest.raises(FeatureViewNotFoundException):
        store.get_online_features(["nobody:knows"], [])


def test_columns_and_protos_are_rows_as_well(store):
    features = [f"holder_view:{COUNT}"]
    columns = {"key": ["a", "b"], "event_timestamp": [at(60)] * 2}
    assert store.get_online_features(features, columns).to_dict()[COUNT] == [2, 1]
    repeated = RepeatedValue(val=[Value(string_val="a"), Value(string_val="b")])
    moments = RepeatedValue(val=[Value(unix_timestamp_val=int(at(60).timestamp()))] * 2)
    rows = {"key": repeated, "event_timestamp": moments}
    assert store.get_online_features(features, rows).to_dict()[COUNT] == [2, 1]


def test_rows_of_differing_columns_are_refused(store):
    with pytest.raises(ValueError, match="same keys"):
        store.get_online_features([f"holder_view:{COUNT}"], [{"key": "a"}, {"key": "b", "place": "x"}])


@pytest.mark.parametrize("feature", [f"holder_view:{COUNT}", "profile:limit"])
def test_a_null_key_and_a_missing_one_are_refused_by_name(store, feature):
    with pytest.raises(ValueError, match=r"^entity rows: key is null in row 1"):
        store.get_online_features([feature], [{"key": "a"}, {"key": None}])
    with pytest.raises(KeyError, match="join key 'key' is not in the entity rows"):
        store.get_online_features([feature], [{"place": "a"}])


def test_an_unknown_feature_of_a_known_view_is_refused(store):
    with pytest.raises(KeyError, match="nothing"):
        store.get_online_features(["holder_view:nothing"], [{"key": "a"}])


def test_a_key_named_none_is_somebody(store):
    EventRecorder.compile(store).record("events", [{**event("none", 15, key="None"), "number": 2}])
    rows = [{"key": "None", "event_timestamp": at(60)}]
    assert store.get_online_features([f"holder_view:{COUNT}"], rows).to_dict()[COUNT] == [1]


def test_composite_keys_are_told_apart_whatever_order_their_columns_stand_in(store):
    pairs = [("a", "x"), ("a", "y"), ("x", "a"), ("y", "a")]
    rows = [{"place": place, "key": key, "event_timestamp": at(60)} for key, place in pairs]
    answer = store.get_online_features(["pair:pair_events_count_1h", "swapped:swapped_count"], rows).to_dict()
    assert answer["pair_events_count_1h"] == [1, 1, 1, 0] == answer["swapped_count"]
    frame = pd.DataFrame(rows)
    offline = store.get_historical_features(frame, ["swapped:swapped_count"]).to_df()
    assert offline["swapped_count"].tolist() == [1, 1, 1, 0]


def test_the_online_store_reads_a_view_by_itself(store):
    online = store._get_provider().online_store
    text = [Value(string_val="a"), Value(string_val="y")]
    keys = [EntityKey(join_keys=["key", "place"], entity_values=text)]
    view = store.get_stream_feature_view("swapped")
    ((_, values),) = online.online_read(store.config, view, keys)
    assert values["swapped_count"].int64_val == 0  # now: long after
    profile = store.get_feature_view("profile")
    keys = [EntityKey(join_keys=["key"], entity_values=[Value(string_val=key)]) for key in "ab"]
    assert (
        online.online_read(store.config, profile, keys, ["limit"]) == [(None, None)] * 2
    )  # too old; not there
    assert asyncio.run(online.online_read_async(store.config, profile, keys, ["limit"])) == [(None, None)] * 2


def test_integer_keys_are_read_as_integers(store):
    rows = [{"number": number, "event_timestamp": at(60)} for number in (7, -7, 2**62, 8)]
    online = store.get_online_features(["by_number:number_amount_sum_1h"], rows).to_dict()
    offline = store.get_historical_features(pd.DataFrame(rows), ["by_number:number_amount_sum_1h"]).to_df()
    assert online["number_amount_sum_1h"] == [30, 0, 40, 0] == offline["number_amount_sum_1h"].tolist()


def test_one_view_under_two_names_and_join_keys(store):
    rows = [{"buyer_key": "a", "seller_key": "b", "key": "c", "event_timestamp": at(60)}]
    service = store.get_feature_service("renamed")
    answer = store.get_online_features(service, rows, full_feature_names=True).to_dict()
    offline = store.get_historical_features(pd.DataFrame(rows), service, full_feature_names=True)
    expected = {
        f"buyer__{COUNT}": [2],
        f"seller__{COUNT}": [1],
        f"seller__{MEAN}": [None],
        "buyer_profile__limit": [5],
        "profile__limit": [None],
    }
    assert {name: answer[name] for name in expected} == expected
    table = offline.to_arrow()
    assert {name: table[name].to_pylist() for name in expected} == expected
    with pytest.raises(FeatureNameCollisionError):
        store.get_online_features(service, rows)


def test_asynchronous_reading_is_the_same(store):
    rows = [{"key": key, "event_timestamp": at(60)} for key in ("a", "b", "c")]
    service = store.get_feature_service("service")

    async def many():
        return await asyncio.gather(*(store.get_online_features_async(service, rows) for _ in range(20)))

    expected = store.get_online_features(service, rows)
    assert all(
        response.to_dict() == expected.to_dict() and statuses(response) == statuses(expected)
        for response in asyncio.run(many())
    )


def test_times_in_the_response_are_the_instant_and_the_row_s_own(store):
    rows = [{"key": "a", "event_timestamp": at(60)}]
    answer = store.get_online_features([f"holder_view:{COUNT}", "profile:limit"], rows)
    times = answer.to_dict(include_event_timestamps=True)
    assert times[f"{COUNT}__ts"] == [int(at(60).timestamp())]
    assert times["limit__ts"] == [int(at(0).timestamp())]


def test_without_an_instant_it_is_now(store):
    now = datetime.now(UTC)
    recent = {**event("now", 0, key="fresh"), "time": now, "known": now, "number": 3}
    EventRecorder.compile(store).record("events", [recent])
    assert store.get_online_features([f"holder_view:{COUNT}"], [{"key": "fresh"}]).to_dict()[COUNT] == [1]


def test_values_cannot_be_written_into_a_windowed_view(store):
    frame = pd.DataFrame([{"key": "a", COUNT: 3, MEAN: 1.0, "time": at(0), "known": at(0)}])
    with pytest.raises(ValueError, match="keeps events, not values; record events"):
        store.write_to_online_store("holder_view", frame)
