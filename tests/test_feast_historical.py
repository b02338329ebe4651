"""Historical retrieval of plain views against a naive oracle; data sets that are saved, rows that are added, what is refused."""

import random
from datetime import timedelta

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from feast import Entity, FeatureService, Field, RequestSource
from feast.data_format import DeltaFormat
from feast.errors import (
    FeatureNameCollisionError,
    RequestDataNotFoundInEntityDfException,
    SavedDatasetLocationAlreadyExists,
)  # fmt: skip
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination, SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp
from feast.value_type import ValueType

from tests.windows_project import (
    HOLDER,
    SCHEMA,
    START,
    TIME,
    at,
    event,
    events_source,
    plain_view,
    project,
    view_of,
    write_events,
)  # fmt: skip

NUMBER = Entity(name="number", join_keys=["number"], value_type=ValueType.INT64)
ROWS = pa.schema(
    [("key", pa.string()), ("number", pa.int64()), ("amount", pa.int64()), ("time", TIME), ("known", TIME)]
)
TTL = 40


def deploy(folder, *objects):
    """A project of its own in the module's Redis."""
    return project(folder, *objects, name=folder.name)


def newest(rows, ask, keys, ttl, known):
    """The oracle: one look at every row."""
    best = None
    for row in rows:
        matches = all(row[key] is not None and row[key] == ask[key] for key in keys)
        in_time = row["time"] is not None and row["time"] <= ask["event_timestamp"]
        if not matches or not in_time or (known and row["known"] > ask["event_timestamp"]):
            continue
        if ttl and ask["event_timestamp"] - row["time"] > timedelta(seconds=ttl):
            continue
        if best is None or (row["time"], row["known"]) > (best["time"], best["known"]):
            best = row
    return None if best is None else best["amount"]


def generated(seed):
    """Rows with ties of time, rows created late, null keys and values; asks at and around their times."""
    rng = random.Random(seed)
    rows = []
    for _ in range(120):
        time = None if rng.random() < 0.03 else at(rng.randrange(100))
        late = timedelta(seconds=rng.randrange(60), microseconds=len(rows))  # no two created at one time
        rows.append(
            {
                "key": rng.choice(["a", "b", "c", "", None]),
                "number": rng.choice([1, -1, 2**62, None]),
                "amount": None if rng.random() < 0.1 else rng.randrange(1000),
                "time": time,
                "known": (time or START) + late,
            }
        )
    asks = [
        {
            "key": rng.choice(["a", "b", "c", "", "nobody", None]),
            "number": rng.choice([1, -1, 2**62, 3]),
            "event_timestamp": at(rng.randrange(-5, 150) + rng.choice([0, 0, 1e-6, -1e-6])),
        }
        for _ in range(150)
    ]
    return rows, asks + asks[:20]


@pytest.mark.parametrize("known", [False, True], ids=["all", "known then"])
@pytest.mark.parametrize("seed", range(3))
def test_plain_views_give_what_a_look_at_every_row_gives(folder, seed, known):
    rows, asks = generated(seed)
    path = folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows, ROWS), path)
    views = {
        "by_key": (("key",), 0, plain_view(path, "by_key")),
        "by_key_fresh": (("key",), TTL, plain_view(path, "by_key_fresh", ttl=TTL)),
        "by_both": (("key", "number"), TTL, plain_view(path, "by_both", entities=(NUMBER, HOLDER), ttl=TTL)),
        "by_nothing": ((), TTL, plain_view(path, "by_nothing", entities=(), ttl=TTL)),
    }
    store = deploy(folder, NUMBER, *(view for _, _, view in views.values()))
    job = store.get_historical_features(
        pd.DataFrame(asks).astype({"number": "int64"}),
        [f"{name}:amount" for name in views],
        full_feature_names=True,
        filter_by_created_timestamp=known,
    )
    table = job.to_arrow()
    for name, (keys, ttl, _) in views.items():
        expected = [newest(rows, ask, keys, ttl, known) for ask in asks]
        assert table[f"{name}__amount"].to_pylist() == expected, name
        assert sum(value is not None for value in expected) > 10
    assert job.to_arrow().equals(table)  # a job may be run again


def test_what_is_materialized_is_what_history_says_at_the_end_of_each_load(folder):
    rows, _ = generated(7)
    path = folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows, ROWS), path)
    store = deploy(folder, plain_view(path, "plain"))
    keys = ["a", "b", "c", "nobody"]
    for load, end in (
        (lambda: store.materialize(at(-1), at(50)), at(50)),
        (lambda: store.materialize_incremental(at(120)), at(120)),
        (lambda: store.materialize(at(-1), at(50)), at(120)),  # nothing newer is lost to an older load
    ):
        load()
        frame = pd.DataFrame([{"key": key, "event_timestamp": end} for key in keys])
        offline = store.get_historical_features(frame, ["plain:amount"]).to_arrow()["amount"].to_pylist()
        online = store.get_online_features(["plain:amount"], [{"key": key} for key in keys]).to_dict()
        assert online["amount"] == offline


KINDS = {
    "small": (Int32, pa.int32(), [-(2**31), None]),
    "long": (Int64, pa.int64(), [2**63 - 1, None]),
    "single": (Float32, pa.float32(), [0.5, None]),
    "real": (Float64, pa.float64(), [0.1, None]),
    "text": (String, pa.string(), ["é\x00", None]),
    "raw": (Bytes, pa.binary(), [b"\x00\xff", None]),
    "flag": (Bool, pa.bool_(), [False, None]),
    "when": (UnixTimestamp, TIME, [at(1), None]),
    "longs": (Array(Int64), pa.list_(pa.int64()), [[1, 2], []]),
    "reals": (Array(Float64), pa.list_(pa.float64()), [[0.5], []]),
    "texts": (Array(String), pa.list_(pa.string()), [["", "x"], []]),
    "flags": (Array(Bool), pa.list_(pa.bool_()), [[True], []]),
}


@pytest.mark.parametrize("form", ["parquet", "delta"])
def test_values_of_every_kind_are_the_same_in_the_file_in_history_and_online(folder, form):
    columns = {
        "key": pa.array(["a", "b"]),
        "time": pa.array([at(0)] * 2, TIME),
        "known": pa.array([at(0)] * 2, TIME),
    }
    table = pa.table(columns | {name: pa.array(values, kind) for name, (_, kind, values) in KINDS.items()})
    path = folder / "rows.parquet"
    options = {}
    if form == "delta":
        write_deltalake(str(path), table)
        options = {"file_format": DeltaFormat()}
    else:
        pq.write_table(table, path)
    fields = [(name, kind) for name, (kind, _, _) in KINDS.items()]
    store = deploy(folder, plain_view(path, "plain", fields=fields, **options))
    names = [f"plain:{name}" for name in KINDS]
    frame = pd.DataFrame({"key": ["a", "b"], "event_timestamp": [at(9)] * 2})
    history = store.get_historical_features(frame, names).to_arrow()
    for name, (_, kind, values) in KINDS.items():
        assert history.schema.field(name).type == kind, name
        assert history[name].to_pylist() == values, name
    store.materialize(START, at(9))
    online = store.get_online_features(names, [{"key": "a"}, {"key": "b"}]).to_dict()
    assert {name: online[name][0] for name in KINDS} == {
        name: values[0] for name, (_, _, values) in KINDS.items()
    }
    assert {online[name][1] for name in KINDS if not name.endswith("s")} == {None}


def test_entity_rows_may_be_a_query_over_files_or_have_their_own_name_for_the_time(folder):
    path = folder / "rows.parquet"
    pq.write_table(
        pa.Table.from_pylist([dict(zip(ROWS.names, ["a", 1, 5, at(0), at(0)], strict=True))], ROWS), path
    )
    store = deploy(folder, plain_view(path, "plain"))
    query = (
        f"SELECT key, time + INTERVAL 1 SECOND AS event_timestamp, 'kept' AS note FROM read_parquet('{path}')"
    )
    assert store.get_historical_features(query, ["plain:amount"]).to_df().to_dict("list") == {
        "key": ["a"], "event_timestamp": [at(1)], "note": ["kept"], "amount": [5]
    }  # fmt: skip
    named = pd.DataFrame([{"key": "a", "e_ts": at(1)}])
    assert store.get_historical_features(named, ["plain:amount"]).to_df()["amount"].tolist() == [5]


def test_large_keys_of_a_query_stay_as_they_are_beside_nulls(folder):
    path, large = folder / "rows.parquet", 2**53 + 1
    rows = [dict(zip(ROWS.names, ["a", n, n, at(0), at(0)], strict=True)) for n in (large, large - 1)]
    pq.write_table(pa.Table.from_pylist(rows, ROWS), path)
    store = deploy(folder, NUMBER, plain_view(path, "plain", entities=(NUMBER,)))
    query = (
        f"SELECT number, time + INTERVAL 1 SECOND AS event_timestamp FROM read_parquet('{path}') "
        "UNION ALL SELECT NULL, now() ORDER BY 1 DESC NULLS LAST"
    )
    answer = store.get_historical_features(query, ["plain:amount"]).to_arrow()
    assert answer["number"].to_pylist() == [large, large - 1, None] == answer["amount"].to_pylist()


@pytest.mark.parametrize(
    ("kind", "declared", "keys"),
    [
        (pa.int32(), ValueType.INT32, [7, -7]),
        (pa.int64(), ValueType.INT64, [2**62, -1]),
        (pa.string(), ValueType.STRING, ["7", "é "]),
        (pa.large_string(), ValueType.STRING, ["7", ""]),
    ],
    ids=["int32", "int64", "text", "large text"],
)
def test_keys_of_every_type_are_the_same_in_the_file_in_history_and_online(folder, kind, declared, keys):
    holder = Entity(name="who", join_keys=["who"], value_type=declared)
    rows = {"who": pa.array(keys, kind), "amount": [1, 2], "id": ["x", "y"], "time": pa.array([at(0)] * 2)}
    pq.write_table(pa.table(rows | {"known": rows["time"]}), folder / "rows.parquet")
    source = events_source(folder / "rows.parquet")
    windows = view_of(source, {("sum", "amount"): ["1h"]}, entities=(holder,))
    store = deploy(
        folder, holder, source, windows, plain_view(folder / "rows.parquet", "plain", entities=(holder,))
    )
    store.materialize(START, at(9))
    asks = [{"who": key, "event_timestamp": at(9)} for key in keys]
    features = ["plain:amount", "view:all_amount_sum_1h"]
    online = store.get_online_features(features, asks).to_dict()
    offline = store.get_historical_features(pd.DataFrame(asks), features).to_arrow().to_pydict()
    for answer in (online, offline):
        assert (answer["amount"], answer["all_amount_sum_1h"]) == ([1, 2], [1, 2])


@pytest.mark.parametrize(
    "kind",
    [
        pa.timestamp("s"), pa.timestamp("ms", "UTC"), pa.timestamp("us", "America/New_York"),
        pa.timestamp("ns", "Asia/Tokyo"), pa.string(), pa.date32(),
    ],
    ids=str,
)  # fmt: skip
def test_times_of_the_source_of_every_type_are_the_same_in_history_and_online(folder, kind):
    day = START.replace(hour=0)
    times = pa.array([day], TIME).cast(kind)
    pq.write_table(
        pa.table({"key": ["a"], "amount": [5], "time": times, "known": times}), folder / "rows.parquet"
    )
    store = deploy(folder, plain_view(folder / "rows.parquet", "plain", ttl=TTL))
    store.materialize(day, day + timedelta(hours=1))
    asks = [
        {"key": "a", "event_timestamp": day + timedelta(seconds=seconds)}
        for seconds in (-1e-6, 0, TTL, TTL + 1e-6)
    ]
    history = (
        store.get_historical_features(pd.DataFrame(asks), ["plain:amount"]).to_arrow()["amount"].to_pylist()
    )
    assert history == [None, 5, 5, None]
    assert store.get_online_features(["plain:amount"], asks[1:]).to_dict()["amount"] == history[1:]


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo", None])
def test_instants_of_entity_rows_mean_the_same_in_every_zone(folder, zone):
    path = folder / "rows.parquet"
    row = dict(zip(ROWS.names, ["a", 1, 5, at(0), at(0)], strict=True))
    pq.write_table(pa.Table.from_pylist([row], ROWS), path)
    instants = pd.Series([at(-1e-6), at(0)]).astype("datetime64[us, UTC]")
    frame = pd.DataFrame({"key": ["a", "a"], "event_timestamp": instants.dt.tz_convert(zone)})
    answer = (
        deploy(folder, plain_view(path, "plain")).get_historical_features(frame, ["plain:amount"]).to_arrow()
    )
    assert answer["amount"].to_pylist() == [None, 5]
    assert answer["event_timestamp"].to_pylist() == [at(-1e-6), at(0)]


def test_columns_that_the_source_names_otherwise(folder):
    path = folder / "rows.parquet"
    pd.DataFrame([{"id": "a", "paid": 5, "at": at(0)}]).to_parquet(path)
    view = plain_view(
        path, "plain", timestamp_field="time", created_timestamp_column="",
        field_mapping={"id": "key", "paid": "amount", "at": "time"},
    )  # fmt: skip
    store = deploy(folder, view)
    frame = pd.DataFrame([{"key": "a", "event_timestamp": at(1)}])
    assert store.get_historical_features(frame, ["plain:amount"]).to_df()["amount"].tolist() == [5]


def test_what_cannot_be_answered_is_refused_before_anything_is_read(folder):
    views = [plain_view("nowhere.parquet", name) for name in ("one", "other")]
    request = RequestSource(name="asked", schema=[Field(name="factor", dtype=Int64)])

    @on_demand_feature_view(
        sources=[views[0], request], schema=[Field(name="double", dtype=Int64)], mode="pandas"
    )
    def doubled(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"double": inputs["amount"] * inputs["factor"]})

    store = deploy(folder, *views, doubled)
    frame = pd.DataFrame([{"key": "a", "event_timestamp": at(1)}])
    with pytest.raises(FeatureNameCollisionError):
        store.get_historical_features(frame, ["one:amount", "other:amount"])
    with pytest.raises(KeyError, match="nothing"):
        store.get_historical_features(frame, ["one:nothing"])
    with pytest.raises(RequestDataNotFoundInEntityDfException):
        store.get_historical_features(frame, ["doubled:double"])
    job = store.get_historical_features(frame, ["one:amount"])
    with pytest.raises(FileNotFoundError, match="no Parquet file"):
        job.to_df()
    with pytest.raises(ValueError, match=r"to_sql: no SQL query gives this result.*; call to_arrow"):
        job.to_sql()


@pytest.fixture
def retrieved(folder):
    """A store with a windowed and a plain view, and a retrieval of both."""
    path = write_events(
        folder / "events.parquet", [event(1, 0), event(2, 5, amount=None), event(3, 7, key="b")]
    )
    source = events_source(path)
    view = view_of(source, {("count", ""): ["1h"], ("mean", "amount"): ["1h"]})
    service = FeatureService(name="service", features=[view, rows := plain_view(path, "plain")])
    store = deploy(folder, source, view, rows, service)
    instants = [at(1), at(6), at(8), at(8)]
    frame = pd.DataFrame({"key": ["a", "a", "b", "nobody"], "event_timestamp": instants})
    return store, store.get_historical_features(frame, service, full_feature_names=True)


@pytest.mark.parametrize("name", ["saved.parquet", "folder", "delta"])
def test_a_saved_data_set_is_read_back_as_it_was(retrieved, folder, name):
    store, job = retrieved
    form = DeltaFormat() if name == "delta" else None
    storage = SavedDatasetFileStorage(str(folder / "new" / name), file_format=form)
    store.create_saved_dataset(job, "kept", storage, tags={"for": "a test"})
    found = store.get_saved_dataset("kept")
    assert (found.tags, found.full_feature_names) == ({"for": "a test"}, True)
    expected = job.to_df()
    back = found.to_df()[expected.columns]
    order = ["key", "event_timestamp"]
    pd.testing.assert_frame_equal(
        back.sort_values(order, ignore_index=True), expected.sort_values(order, ignore_index=True)
    )
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        store.create_saved_dataset(job, "again", storage)
    store.create_saved_dataset(job, "again", storage, allow_overwrite=True)
    assert len(store.get_saved_dataset("again").to_df()) == len(expected)
    assert {saved.name for saved in store.list_saved_datasets()} == {"kept", "again"}


def test_a_data_set_that_fails_leaves_what_was_there(retrieved, folder):
    _, job = retrieved
    path = folder / "saved.parquet"
    job.persist(SavedDatasetFileStorage(str(path)))
    before = path.read_bytes()
    (folder / "events.parquet").unlink()
    with pytest.raises(FileNotFoundError):
        job.persist(SavedDatasetFileStorage(str(path)), allow_overwrite=True)
    assert path.read_bytes() == before
    assert [file.name for file in folder.glob("*saved*")] == ["saved.parquet"]


def write_empty(path, form):
    empty = pa.Table.from_pylist([], ROWS)
    if form == "delta":
        write_deltalake(str(path), empty)
    elif form == "folder":
        path.mkdir()
        pq.write_table(empty, path / "first.parquet")
    else:
        pq.write_table(empty, path)


@pytest.mark.parametrize("form", ["file", "folder", "delta"])
def test_rows_are_added_to_a_plain_view_s_source_and_found(folder, form):
    path = folder / ("rows.parquet" if form == "file" else "rows")
    write_empty(path, form)
    options = {"file_format": DeltaFormat()} if form == "delta" else {}
    store = deploy(folder, NUMBER, plain_view(path, "plain", entities=(HOLDER, NUMBER), **options))
    asked = pd.DataFrame([{"key": "a", "number": 1, "event_timestamp": at(t)} for t in (4, 5, 6, 7)])
    seen = []
    for seconds in (5, 7):
        row = {
            "amount": seconds,
            "known": at(9),
            "time": at(seconds),
            "number": 1,
            "key": "a",
        }  # in any order
        store.write_to_offline_store("plain", pd.DataFrame([row]))
        seen.append(store.get_historical_features(asked, ["plain:amount"]).to_arrow()["amount"].to_pylist())
    assert seen == [[None, 5, 5, 5], [None, 5, 5, 7]]
    if form == "delta":
        assert DeltaTable(str(path)).version() == 2


def test_rows_of_other_columns_and_events_are_not_added(folder):
    path = write_events(folder / "events.parquet", [event(1, 0)])
    source = events_source(path)
    store = deploy(folder, source, view_of(source, {("count", ""): ["1h"]}), plain_view(path, "plain"))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="missing_expected_columns"):
        store.write_to_offline_store("plain", pd.DataFrame([{"key": "a", "other": 1, "time": at(0)}]))
    with pytest.raises(ValueError, match=r"^view: its source 'events' holds events"):
        store.write_to_offline_store("view", pa.Table.from_pylist([event(2, 0)], SCHEMA).to_pandas())
    assert path.read_bytes() == before


def test_logs_of_a_feature_service_are_kept_and_found(folder):
    path = folder / "rows.parquet"
    write_empty(path, "file")
    view = plain_view(path, "plain")
    (folder / "logs").mkdir()
    service = FeatureService(
        name="logged",
        features=[view],
        logging_config=LoggingConfig(destination=FileLoggingDestination(path=str(folder / "logs"))),
    )
    store = deploy(folder, view, service)
    logs = pa.table(
        {
            "key": pa.array(["a", "b"]),
            "plain__amount": pa.array([1, None], pa.int64()),
            "plain__amount__timestamp": pa.array([at(0), at(0)], TIME),
            "plain__amount__status": pa.array([1, 2], pa.int32()),
            "__log_timestamp": pa.array([at(5), at(6)], TIME),
            "__log_date": pa.array([at(5).date()] * 2),
            "__request_id": pa.array(["r1", "r2"]),
        }
    )
    store.write_logged_features(logs, service)
    provider = store._get_provider()
    found = provider.retrieve_feature_service_logs(
        service, at(0), at(5.5), store.config, store.registry
    ).to_arrow()
    assert found["plain__amount"].to_pylist() == [1]
