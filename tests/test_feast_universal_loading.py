"""What Feast's own tests ask of any store and no other file here holds ours to: types, loading and writing."""

import asyncio
import time
from datetime import timedelta, timezone
from zoneinfo import ZoneInfo

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import BatchFeatureView, Entity, FeatureView, Field, FileSource, PushSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bytes, Float32, Int32, Int64, Json, Map, String, Struct, UnixTimestamp
from feast.value_type import ValueType

from tests.feast_universal import deploy, history, named, statuses
from tests.windows_project import (
    HOLDER,
    PLACE,
    SCHEMA,
    START,
    TIME,
    at,
    event,
    events_source,
    plain_view,
    view_of,
    write_events,
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "keys", "declared"),
    [(pa.int32(), [1, -2], {Int32, Int64}), (pa.int64(), [2**40, 0], {Int64}), (pa.string(), ["1", "é"], {String})],
    ids=["int32", "int64", "text"],
)  # fmt: skip
def test_the_type_of_a_key_is_that_of_the_source_where_nobody_declares_it(folder, kind, keys, declared):
    who = Entity(name="who", join_keys=["who"], value_type=ValueType.UNKNOWN)
    times = pa.array([at(0)] * 2, TIME)
    table = pa.table({"who": pa.array(keys, kind), "amount": pa.array([1, 2]), "time": times, "known": times})
    pq.write_table(table, folder / "rows.parquet")
    view = plain_view(folder / "rows.parquet", entities=(who,))
    store = deploy(folder, who, view)
    (column,) = store.get_feature_view("plain").entity_columns
    assert column.name == "who"
    assert column.dtype in declared
    store.materialize(START, at(9))
    rows = [{"who": key, "event_timestamp": at(9)} for key in keys]
    assert history(store, rows, ["plain:amount"])["amount"] == [1, 2]
    assert store.get_online_features(["plain:amount"], rows).to_dict()["amount"] == [1, 2]


LISTS = {
    "smalls": (Array(Int32), pa.list_(pa.int32()), [[], [1, -(2**31)], [7]]),
    "singles": (Array(Float32), pa.list_(pa.float32()), [[], [0.5], [1.25, -0.0]]),
    "moments": (Array(UnixTimestamp), pa.list_(TIME), [[], [at(1), at(2)], [at(3)]]),
    "raws": (Array(Bytes), pa.list_(pa.binary()), [[], [b"\x00", b""], [b"x"]]),
}


def test_lists_of_every_kind_are_the_same_in_the_file_in_history_and_online(folder):
    times = pa.array([at(0)] * 3, TIME)
    columns = {"key": pa.array(["a", "b", "c"]), "time": times, "known": times}
    table = pa.table(columns | {name: pa.array(values, kind) for name, (_, kind, values) in LISTS.items()})
    pq.write_table(table, folder / "rows.parquet")
    fields = [(name, dtype) for name, (dtype, _, _) in LISTS.items()]
    store = deploy(folder, plain_view(folder / "rows.parquet", fields=fields))
    store.materialize(START, at(9))
    names = [f"plain:{name}" for name in LISTS]
    rows = [{"key": key, "event_timestamp": at(9)} for key in "abc"]
    table = store.get_historical_features(pd.DataFrame(rows), names).to_arrow()
    online = store.get_online_features(names, rows).to_dict()
    for name, (_, kind, values) in LISTS.items():
        assert table.schema.field(name).type == kind, name
        assert table[name].to_pylist() == values, name
        assert online[name][1:] == values[1:], name
        assert not online[name][0], name


def test_maps_structs_and_json_are_the_same_in_history_and_online(folder):
    text, person = pa.string(), {"name": "n", "age": "9"}
    kinds = {
        "labels": (Map, pa.struct({"x": text, "y": text}), [{"x": "1", "y": "2"}, None]),
        "profile": (
            Struct({"name": String, "age": String}),
            pa.struct(dict.fromkeys(person, text)),
            [person, None],
        ),
        "settings": (Json, text, ['{"a": [1, 2]}', None]),
    }
    times = pa.array([at(0)] * 2, TIME)
    columns = {"key": pa.array(["a", "b"]), "time": times, "known": times}
    table = pa.table(columns | {name: pa.array(values, kind) for name, (_, kind, values) in kinds.items()})
    pq.write_table(table, folder / "rows.parquet")
    fields = [(name, dtype) for name, (dtype, _, _) in kinds.items()]
    store = deploy(folder, plain_view(folder / "rows.parquet", fields=fields))
    store.materialize(START, at(9))
    names = [f"plain:{name}" for name in kinds]
    rows = [{"key": key, "event_timestamp": at(9)} for key in "ab"]
    offline, online = history(store, rows, names), store.get_online_features(names, rows).to_dict()
    assert {name: offline[name] for name in kinds} == {name: values for name, (_, _, values) in kinds.items()}
    assert online["labels"] == [{"x": "1", "y": "2"}, None]
    assert online["profile"] == [person, None]
    assert online["settings"] == [{"a": [1, 2]}, None]


@pytest.mark.parametrize("latest", [True, False], ids=["newest pulled", "every row pulled"])
@pytest.mark.parametrize("inferred", [True, False], ids=["inferred", "declared"])
def test_what_is_loaded_in_two_steps_is_what_history_says_after_each(folder, latest, inferred):
    rows = [event(1, 0, amount=1), event(2, 60, key="b", amount=2), event(3, 10, key="c", amount=3)]
    rows += [event(4, 70, key="c", amount=4)]
    path = write_events(folder / "rows.parquet", rows)
    view = plain_view(path, "plain", ttl=10_000)
    if inferred:
        view = FeatureView(name="plain", entities=[HOLDER], source=view.batch_source, ttl=view.ttl)
    store = deploy(folder, view)
    store.config.materialization_config.pull_latest_features = latest
    store.materialize(at(-1).replace(tzinfo=None), at(50).astimezone(ZoneInfo("US/Pacific")), ["plain"])
    for end, amounts in ((50, [1, None, 3]), (100, [1, 2, 4])):
        if end == 100:
            store.materialize_incremental(at(100).replace(tzinfo=None), ["plain"])
        asked = [{"key": key, "event_timestamp": at(end)} for key in "abc"]
        online = store.get_online_features(["plain:amount"], asked, full_feature_names=True).to_dict()
        offline = history(store, asked, ["plain:amount"], full_feature_names=True)
        assert online["plain__amount"] == amounts == offline["plain__amount"]


def test_a_view_without_rows_does_not_keep_others_from_being_loaded(folder):
    full = write_events(folder / "events.parquet", [event(1, 0, amount=3)])
    empty = write_events(folder / "empty.parquet", [])
    first, second = events_source(full), FileSource(
        name="nothing", path=str(empty), timestamp_field="time", created_timestamp_column="known"
    )  # fmt: skip
    store = deploy(
        folder,
        first,
        plain_view(empty, "a_empty"),
        view_of(
            PushSource(name="none", batch_source=second), {("count", ""): ["1h"]}, name="b_empty", prefix="no"
        ),
        plain_view(full, "c_full"),
        view_of(first, {("count", ""): ["1h"]}, name="d_full"),
    )
    store.materialize(START, at(9))
    features = [
        "a_empty:amount",
        "b_empty:no_nothing_count_1h",
        "c_full:amount",
        "d_full:all_events_count_1h",
    ]
    rows = [{"key": "a", "event_timestamp": at(9)}]
    answer = store.get_online_features(features, rows, full_feature_names=True).to_dict()
    assert [answer[named(ref, True)] for ref in features] == [[None], [0], [3], [1]]


def test_a_source_without_the_join_key_is_refused_when_it_is_loaded(folder):
    table = pa.table({"amount": [1], "time": pa.array([at(0)], TIME), "known": pa.array([at(0)], TIME)})
    pq.write_table(table, folder / "rows.parquet")
    store = deploy(folder, plain_view(folder / "rows.parquet"))
    with pytest.raises(ValueError, match=r"'key'.*it has .*'amount'"):
        store.materialize(START, at(9))


@pytest.mark.filterwarnings("ignore:Batch feature views are experimental features:RuntimeWarning")
def test_a_batch_view_without_a_function_of_its_own_is_a_plain_view(folder):
    path = write_events(folder / "rows.parquet", [event(1, 0, amount=1), event(2, 5, amount=2)])
    view = BatchFeatureView(
        name="batch", entities=[HOLDER], schema=[Field(name="amount", dtype=Int64)], online=True,
        source=plain_view(path).batch_source, ttl=timedelta(seconds=60),
    )  # fmt: skip
    store = deploy(folder, view)
    store.materialize(START, at(9))
    for seconds, amount in ((4, 1), (5, 2), (65, 2), (66, None)):
        asked = [{"key": "a", "event_timestamp": at(seconds)}]
        assert history(store, asked, ["batch:amount"])["amount"] == [amount]
        if seconds > 9:
            assert store.get_online_features(["batch:amount"], asked).to_dict()["amount"] == [amount]


@pytest.mark.filterwarnings("ignore:Batch feature views are experimental features:RuntimeWarning")
@pytest.mark.parametrize("mode", ["python", "pandas"])
@pytest.mark.parametrize("latest", [True, False], ids=["newest pulled", "every row pulled"])
def test_a_batch_view_with_a_function_is_loaded_as_the_function_makes_it(folder, mode, latest):
    rows = [event(1, 0, amount=1), event(2, 5, key="b", amount=2), event(3, 3, amount=3)]
    path = write_events(folder / "rows.parquet", rows)

    def tenfold(rows):
        return rows.assign(tenfold=rows["amount"] * 10)

    def view(name, entities):
        return BatchFeatureView(
            name=name, entities=entities, schema=[Field(name="tenfold", dtype=Int64)], online=True, udf=tenfold,
            mode=mode, source=plain_view(path).batch_source, ttl=timedelta(0),
        )  # fmt: skip

    store = deploy(folder, view("batch", [HOLDER]), view("anyone", []))
    store.config.materialization_config.pull_latest_features = latest
    store.materialize(START, at(9))
    rows = [{"key": key} for key in "abc"]
    assert store.get_online_features(["batch:tenfold"], rows).to_dict()["tenfold"] == [30, 20, None]
    assert store.get_online_features(["anyone:tenfold"], rows).to_dict()["tenfold"] == [20] * 3


@pytest.mark.parametrize("alone", [False, True], ids=["with its view", "after its view"])
def test_a_stored_transform_has_all_history_that_its_views_have(folder, alone):
    years = 3 * 365 * 86_400
    path = write_events(folder / "rows.parquet", [event(1, -years, amount=3), event(2, 0, key="b", amount=4)])
    plain = plain_view(path)

    @on_demand_feature_view(
        entities=[HOLDER], sources=[plain], schema=[Field(name="twice", dtype=Int64)], mode="pandas",
        write_to_online_store=True,
    )  # fmt: skip
    def doubled(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"twice": inputs["amount"] * 2})

    if alone:
        store = deploy(folder, plain)
        store.materialize_incremental(at(9))
        store.apply([doubled])
        store.materialize_incremental(at(9), ["doubled"])
    else:
        store = deploy(folder, plain, doubled)
        store.materialize_incremental(at(9))
    features, rows = ["plain:amount", "doubled:twice"], [{"key": "a"}, {"key": "b"}]
    answer = store.get_online_features(features, rows).to_dict()
    assert (answer["amount"], answer["twice"]) == ([3, 4], [6, 8])


def test_a_transform_of_windows_cannot_be_stored(folder):
    source = events_source(write_events(folder / "events.parquet", [event(1, 0, amount=3)]))
    windows = view_of(source, {("sum", "amount"): ["1h"]})

    @on_demand_feature_view(
        sources=[windows],
        schema=[Field(name="twice", dtype=Int64)],
        mode="pandas",
        write_to_online_store=True,
    )
    def doubled(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"twice": inputs["all_amount_sum_1h"] * 2})

    store = deploy(folder, source, windows, doubled)
    with pytest.raises(ValueError, match=r"^doubled: .* view 'view' is windowed; declare doubled without"):
        store.materialize(START, at(9), feature_views=["doubled"])


@pytest.mark.parametrize("incremental", [False, True], ids=["from to", "incremental"])
def test_a_stored_transform_of_several_views_is_loaded(folder, incremental):
    both = (HOLDER, PLACE)
    views = []
    for name, amounts in (("price", (100, 200)), ("fee", (5, 7))):
        rows = [
            event(n, 0, key=key, amount=amount)
            for n, (key, amount) in enumerate(zip("ab", amounts, strict=True))
        ]
        table = pa.Table.from_pylist(rows, SCHEMA)
        table = table.rename_columns({"amount": name})
        pq.write_table(table, folder / f"{name}.parquet")
        views.append(
            plain_view(folder / f"{name}.parquet", f"{name}s", entities=both, fields=((name, Int64),))
        )

    @on_demand_feature_view(
        entities=list(both), sources=views, schema=[Field(name="total", dtype=Int64)], mode="pandas",
        write_to_online_store=True,
    )  # fmt: skip
    def bill(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"total": inputs["price"] + inputs["fee"]})

    @on_demand_feature_view(sources=views[:1], schema=[Field(name="twice", dtype=Int64)], mode="pandas")
    def doubled(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"twice": inputs["price"] * 2})

    store = deploy(folder, *views, bill, doubled)
    if incremental:
        store.materialize_incremental(at(9))
    else:
        store.materialize(START, at(9))
    rows = [{"key": key, "place": "x"} for key in "ab"]
    answer = store.get_online_features(["bill:total", "doubled:twice"], rows).to_dict()
    assert (answer["total"], answer["twice"]) == ([105, 207], [200, 400])


def test_times_of_written_rows_may_be_of_any_zone(folder):
    store = deploy(folder, plain_view("nowhere.parquet"))
    rows = pd.DataFrame(
        {
            "key": ["a", "a", "a"],
            "amount": [1, 2, 3],
            "time": pd.Series(
                [
                    at(10).astimezone(timezone(timedelta(hours=-8))),
                    at(30).astimezone(ZoneInfo("Europe/Berlin")),
                    at(20).replace(tzinfo=None),
                ],
                dtype=object,
            ),
            "known": [at(0)] * 3,
        }
    )
    for number in (0, 1, 2):
        store.write_to_online_store("plain", rows[number : number + 1])
    response = store.get_online_features(["plain:amount"], [{"key": "a"}])
    frame = response.to_df(include_event_timestamps=True)
    assert (frame["amount"].tolist(), frame["amount__ts"].tolist()) == ([2], [int(at(30).timestamp())])


@pytest.mark.parametrize(
    "written",
    [{"df": pd.DataFrame()}, {"inputs": {"key": [], "amount": [], "time": [], "known": []}}],
    ids=["an empty frame", "empty columns"],
)
def test_nothing_to_write_is_said_and_nothing_is_written(folder, written):
    store = deploy(folder, plain_view("nowhere.parquet"))
    with pytest.warns(UserWarning, match="plain: no rows to write"):
        store.write_to_online_store("plain", **written)
    with pytest.warns(UserWarning, match="plain: no rows to write"):
        asyncio.run(store.write_to_online_store_async("plain", **written))
    assert statuses(store.get_online_features(["plain:amount"], [{"key": "a"}]), "amount") == ["NOT_FOUND"]


def test_a_row_is_gone_once_the_store_s_own_time_for_keys_is_over(folder):
    store = deploy(folder, plain_view("nowhere.parquet", fields=(("amount", Int64), ("id", String))))
    store.config.online_store.key_ttl_seconds = 1
    row = {"key": "a", "amount": 1, "id": "e", "time": at(0), "known": at(0)}
    store.write_to_online_store("plain", pd.DataFrame([row]))
    features = ["plain:amount", "plain:id"]
    assert store.get_online_features(features, [{"key": "a"}]).to_dict()["amount"] == [1]
    deadline = time.monotonic() + 10
    while store.get_online_features(features, [{"key": "a"}]).to_dict()["amount"] == [1]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    response = store.get_online_features(features, [{"key": "a"}])
    assert response.to_dict() == {"key": ["a"], "amount": [None], "id": [None]}
    assert statuses(response, "amount") == ["NOT_FOUND"]


def test_a_store_may_be_opened_and_closed_around_asynchronous_reads(folder):
    path = write_events(folder / "events.parquet", [event(1, 0, amount=3)])
    source = events_source(path)
    pushed = FeatureView(
        name="pushed", entities=[HOLDER], schema=[Field(name="amount", dtype=Int64)], source=source
    )
    store = deploy(folder, source, pushed)
    row = {"key": "a", "amount": 4, "id": "e", "place": "x", "time": at(0), "known": at(0)}

    async def opened():
        await store.initialize()
        await store.push_async("arrivals", pd.DataFrame([row]))
        response = await store.get_online_features_async(["pushed:amount"], [{"key": "a"}, {"key": "b"}])
        await store.close()
        return response.to_df(include_event_timestamps=True)

    for _ in range(2):
        frame = asyncio.run(opened())
        assert frame["amount"].tolist()[0] == 4
        assert frame["amount__ts"].tolist()[0] == int(at(0).timestamp())
