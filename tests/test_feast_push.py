"""Rows pushed to plain views, online and offline; on-demand views, inferred features, stream views without windows."""

import asyncio
from datetime import timedelta, timezone

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from feast import FeatureView, Field, FileSource, PushSource, RequestSource, StreamFeatureView
from feast.data_format import DeltaFormat
from feast.data_source import PushMode
from feast.errors import (
    PushSourceNotFoundException,
    RequestDataNotFoundInEntityDfException,
    RequestDataNotFoundInEntityRowsException,
)  # fmt: skip
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Int64, String

from feature_repo.windows.plain_online import entity_hashes
from tests.windows_project import (
    HOLDER,
    START,
    TIME,
    at,
    event,
    events_source,
    online_client,
    project,
    view_of,
    write_events,
)  # fmt: skip

ROWS = pa.schema([("key", pa.string()), ("amount", pa.int64()), ("time", TIME), ("known", TIME)])
AMOUNT = [Field(name="amount", dtype=Int64)]


def row(amount, seconds, key="a"):
    return {"key": key, "amount": amount, "time": at(seconds), "known": at(seconds)}


def push_source(folder, form="file", rows=()):
    """A push source over a Parquet file or a Delta table of its own."""
    table, options, path = pa.Table.from_pylist(list(rows), ROWS), {}, folder / "rows"
    if form == "delta":
        write_deltalake(str(path), table)
        options = {"file_format": DeltaFormat()}
    else:
        path = folder / "rows.parquet"
        pq.write_table(table, path)
    batch = FileSource(
        name="rows", path=str(path), timestamp_field="time", created_timestamp_column="known", **options
    )
    return PushSource(name="pushed", batch_source=batch)


def plain(source, name="plain", **options):
    return FeatureView(name=name, entities=[HOLDER], schema=AMOUNT, source=source, **options)


def deploy(folder, *objects):
    return project(folder, *objects, name=folder.name)


def online(store, feature="plain:amount", **row):
    return store.get_online_features([feature], [{"key": "a", **row}]).to_dict()[feature.split(":")[1]][0]


def offline(store, seconds, feature="plain:amount", **row):
    frame = pd.DataFrame([{"key": "a", "event_timestamp": at(seconds), **row}])
    table = store.get_historical_features(frame, [feature]).to_arrow()
    return table[feature.split(":")[1]].to_pylist()[0]


@pytest.mark.parametrize("form", ["file", "delta"])
@pytest.mark.parametrize("to", list(PushMode), ids=lambda to: to.name.lower())
def test_pushed_rows_are_where_they_were_pushed_to(folder, form, to):
    source = push_source(folder, form)
    store = deploy(folder, source, plain(source))
    store.push("pushed", pd.DataFrame([row(1, 0)]), to=to)
    asyncio.run(store.push_async("pushed", pd.DataFrame([row(2, 5)]), to=to))
    in_online, in_offline = to is not PushMode.OFFLINE, to is not PushMode.ONLINE
    assert online(store) == (2 if in_online else None)
    assert [offline(store, t) for t in (1, 9)] == ([1, 2] if in_offline else [None, None])


def test_a_row_is_pushed_to_every_view_of_its_source(folder):
    source = push_source(folder)
    store = deploy(folder, source, plain(source), plain(source, "other"))
    store.push("pushed", pd.DataFrame([row(1, 0)]))
    assert (online(store), online(store, "other:amount")) == (1, 1)


def test_a_push_to_a_source_that_is_not_there_is_refused(folder):
    with pytest.raises(PushSourceNotFoundException):
        deploy(folder).push("nowhere", pd.DataFrame([row(1, 0)]))


@pytest.mark.parametrize("to", list(PushMode), ids=lambda to: to.name.lower())
def test_events_pushed_to_a_windowed_view_are_refused_with_the_way_out(folder, to):
    path = write_events(folder / "events.parquet", [event(1, 0)])
    source = events_source(path)
    store = deploy(folder, source, view_of(source, {("count", ""): ["1h"]}))
    before, keys = path.read_bytes(), set(online_client(store).keys("*"))
    events = pd.DataFrame([event(2, 1)])
    way_out = "fraud ingest" if to is PushMode.OFFLINE else "record events"
    with pytest.raises(ValueError, match=rf"^view: .* events.*{way_out}"):
        store.push("arrivals", events, to=to)
    with pytest.raises(ValueError, match=rf"^view: .* events.*{way_out}"):
        asyncio.run(store.push_async("arrivals", events, to=to))
    assert path.read_bytes() == before
    assert set(online_client(store).keys("*")) == keys


def test_a_stream_view_without_aggregations_is_a_plain_view(folder):
    source = push_source(folder, rows=[row(1, 0)])
    view = StreamFeatureView(
        name="plain", entities=[HOLDER], schema=AMOUNT, source=source, timestamp_field="time", aggregations=[],
        ttl=timedelta(seconds=60),
    )  # fmt: skip
    store = deploy(folder, source, view)
    store.materialize(START, at(9))
    assert online(store, event_timestamp=at(60)) == 1 == offline(store, 60)
    assert online(store, event_timestamp=at(61)) is None is offline(store, 61)
    store.push("pushed", pd.DataFrame([row(2, 5)]))
    assert online(store, event_timestamp=at(60)) == 2


@pytest.mark.parametrize("form", ["file", "delta"])
def test_features_that_are_not_declared_are_those_of_the_source(folder, form):
    source = push_source(folder, form, rows=[row(1, 0)])
    view = FeatureView(name="plain", entities=[HOLDER], source=source.batch_source)
    store = deploy(folder, source, view)
    found = store.get_feature_view("plain")
    assert {field.name: field.dtype for field in found.features} == {"amount": Int64}
    assert {field.name: field.dtype for field in found.entity_columns} == {"key": String}
    store.materialize(START, at(9))
    assert online(store) == 1 == offline(store, 9)


@pytest.fixture
def on_demand(folder):
    """A transform of Feast's own kind over a windowed view, a plain one and the request."""
    path = write_events(folder / "events.parquet", [event(1, 0, amount=4), event(2, 1, amount=6)])
    source = events_source(path)
    view = view_of(source, {("sum", "amount"): ["1h"]})
    rows = FileSource(name="rows", path=str(path), timestamp_field="time", created_timestamp_column="known")
    request = RequestSource(name="asked", schema=[Field(name="factor", dtype=Int64)])
    stored = plain(rows)

    @on_demand_feature_view(
        sources=[view, stored, request], schema=[Field(name="result", dtype=Int64)], mode="pandas"
    )
    def scaled(inputs: pd.DataFrame) -> pd.DataFrame:
        result = inputs["all_amount_sum_1h"] * inputs["factor"] + inputs["amount"]
        return pd.DataFrame({"result": result})

    store = deploy(folder, source, view, stored, scaled)
    store.materialize(START, at(60))
    return store


def test_a_transform_of_feast_s_own_kind_has_its_inputs_though_no_one_asked_for_them(on_demand):
    rows = [{"key": "a", "factor": factor, "event_timestamp": at(9)} for factor in (1, 10)]
    answer = on_demand.get_online_features(["scaled:result"], rows).to_dict()
    assert answer.keys() == {"key", "result"}
    assert answer["result"] == [16, 106]
    full = on_demand.get_online_features(["scaled:result"], rows, full_feature_names=True).to_dict()
    assert full["scaled__result"] == [16, 106]
    history = on_demand.get_historical_features(
        pd.DataFrame(rows), ["scaled:result", "view:all_amount_sum_1h"]
    )
    assert history.to_arrow()["result"].to_pylist() == [16, 106]
    assert history.to_df()["all_amount_sum_1h"].tolist() == [10, 10]


def test_request_data_that_is_missing_is_named(on_demand):
    with pytest.raises(RequestDataNotFoundInEntityRowsException, match="factor"):
        on_demand.get_online_features(["scaled:result"], [{"key": "a"}])
    query = "SELECT 'a' AS key, now() AS event_timestamp"
    with pytest.raises(RequestDataNotFoundInEntityDfException, match="factor"):
        on_demand.get_historical_features(query, ["scaled:result"])
    given = f"{query}, 3::BIGINT AS factor"
    assert len(on_demand.get_historical_features(given, ["scaled:result"]).to_df()) == 1


def test_a_transform_that_is_stored_is_written_loaded_and_read(folder):
    source = push_source(folder, rows=[row(5, 0, key="b")])
    stored = plain(source)

    @on_demand_feature_view(
        sources=[stored], entities=[HOLDER], schema=[Field(name="twice", dtype=Int64)], mode="pandas",
        write_to_online_store=True,
    )  # fmt: skip
    def doubled(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"twice": inputs["amount"] * 2})

    store = deploy(folder, source, stored, doubled)
    written = {"key": "a", "amount": 3, "event_timestamp": at(0), "created": at(0)}
    store.write_to_online_store("doubled", pd.DataFrame([written]))
    store.materialize(START, at(9))
    rows = [{"key": key} for key in ("a", "b", "c")]
    assert store.get_online_features(["doubled:twice"], rows).to_dict()["twice"] == [6, 10, None]
    client = online_client(store)
    store.apply([], objects_to_delete=[store.get_on_demand_feature_view("doubled")], partial=False)
    kept = [client.hkeys(key) for key in entity_hashes(client, store.project)]
    assert [sorted(fields) for fields in kept if b"_ts:doubled" in fields] == []
    assert len(kept) == 1  # b of the plain view


def test_ends_of_a_load_mean_the_same_in_every_zone(folder):
    source = push_source(folder, rows=[row(1, 0), row(2, 5), row(3, 20)])
    store = deploy(folder, source, plain(source))
    store.materialize(START.replace(tzinfo=None), at(5).astimezone(timezone(timedelta(hours=9))))
    assert online(store) == 2
    store.materialize_incremental(at(20).replace(tzinfo=None))
    assert online(store) == 3
    assert store.get_feature_view("plain").materialization_intervals == [(START, at(5)), (at(5), at(20))]


def test_a_load_takes_nothing_back_that_was_pushed_later(folder):
    source = push_source(folder, rows=[row(1, 0), row(9, 0, key="b")])
    store = deploy(folder, source, plain(source))
    store.push("pushed", pd.DataFrame([row(2, 5), row(3, -5, key="b")]))
    store.materialize(at(-9), at(9))
    rows = [{"key": "a"}, {"key": "b"}]
    assert store.get_online_features(["plain:amount"], rows).to_dict()["amount"] == [2, 9]
