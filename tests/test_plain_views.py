"""Plain views through the project's stores: materialized from Delta, nanoseconds, without entities; the newest row counts."""

from datetime import timedelta

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from feast import FeatureView, Field, FileSource, PushSource
from feast.data_format import DeltaFormat
from feast.feature_logging import LOG_TIMESTAMP_FIELD
from feast.types import Int64, UnixTimestamp

from feature_repo.windows.pull import Pull, pull_sql
from feature_repo.windows.sources import pinned
from tests.windows_project import HOLDER, SCHEMA, START, at, event, project, write_events

DAY = 86400
END = at(20)


@pytest.fixture(params=[False, True], ids=["every row pulled", "newest pulled"])
def plain(module_home, tmp_path, request):
    """Makes a store with the plain view ``plain`` over a source of ``time`` and ``known``; Feast pulls in two ways."""

    def make(path, *, entities=(HOLDER,), push=False, columns=(("amount", Int64),), **options):
        options = {"timestamp_field": "time", "created_timestamp_column": "known", **options}
        source = FileSource(name="rows", path=str(path), **options)
        view = FeatureView(
            name="plain",
            entities=list(entities),
            schema=[Field(name=name, dtype=kind) for name, kind in columns],
            source=PushSource(name="pushed", batch_source=source) if push else source,
            ttl=timedelta(0),
        )
        store = project(tmp_path, view, name=tmp_path.name)
        store.config.materialization_config.pull_latest_features = request.param
        return store

    return make


def online(store, *keys, feature="amount"):
    rows = [{"key": key} for key in keys]
    return store.get_online_features([f"plain:{feature}"], rows).to_dict()[feature]


def offline(store, *keys, instant):
    rows = pd.DataFrame([{"key": key, "event_timestamp": instant} for key in keys])
    return store.get_historical_features(rows, ["plain:amount"]).to_df()["amount"].tolist()


def delta(path, events, **options):
    write_deltalake(str(path), pa.Table.from_pylist(events, SCHEMA), **options)
    return path


def nanoseconds(path, events, zone="UTC"):
    frame = pd.DataFrame(events)
    for column in ("time", "known"):
        frame[column] = frame[column].astype("datetime64[ns, UTC]")
        if zone is None:
            frame[column] = frame[column].dt.tz_localize(None)
    frame.to_parquet(path)
    assert pq.read_schema(path).field("time").type == pa.timestamp("ns", tz=zone)
    return path


ROWS = [
    event(1, 0, amount=1),
    event(2, 5, amount=2),
    event(3, 3, amount=3),
    event(4, 2, key="b", amount=4),
]


def test_a_view_over_a_delta_table_is_materialized(plain, tmp_path):
    store = plain(delta(tmp_path / "rows", ROWS), file_format=DeltaFormat())
    store.materialize(START, at(20))
    assert online(store, "a", "b", "c") == [2, 4, None] == [*offline(store, "a", "b", instant=at(20)), None]


def test_a_row_that_a_later_delta_version_removed_does_not_count(plain, tmp_path):
    path = delta(tmp_path / "rows", ROWS)
    delta(path, ROWS[:1], mode="overwrite")
    store = plain(path, file_format=DeltaFormat())
    store.materialize(START, at(20))
    assert online(store, "a", "b") == [1, None]


def test_a_pinned_delta_version_is_what_is_materialized(plain, tmp_path):
    path = delta(tmp_path / "rows", ROWS[:1])
    delta(path, ROWS[1:], mode="append")
    store = plain(path, file_format=DeltaFormat())
    with pinned({"rows": 0}):
        store.materialize(START, at(20))
    assert online(store, "a") == [1]


@pytest.mark.parametrize("zone", ["UTC", None])
def test_a_view_over_nanoseconds_is_materialized(plain, tmp_path, zone):
    store = plain(nanoseconds(tmp_path / "rows.parquet", ROWS, zone))
    store.materialize(START, at(20))
    assert online(store, "a", "b") == [2, 4] == offline(store, "a", "b", instant=at(20))


def test_a_feature_that_is_a_time_in_nanoseconds_is_materialized(plain, tmp_path):
    path = tmp_path / "rows.parquet"
    frame = pd.DataFrame([event(1, 0)])
    frame["seen"] = frame["time"].astype("datetime64[ns, UTC]")
    frame.to_parquet(path)
    store = plain(path, columns=(("seen", UnixTimestamp),))
    store.materialize(START, at(20))
    assert online(store, "a", feature="seen") == [START]


@pytest.mark.parametrize("kind", ["parquet", "delta", "nanoseconds"])
def test_a_view_without_entities_is_materialized(plain, tmp_path, kind):
    write = {"parquet": write_events, "delta": delta, "nanoseconds": nanoseconds}[kind]
    options = {"file_format": DeltaFormat()} if kind == "delta" else {}
    store = plain(write(tmp_path / "rows.parquet", ROWS), entities=(), **options)
    store.materialize(START, at(20))
    # Feast wants a row to answer; without entities its key is of no account.
    assert online(store, "anything") == [2]


def test_of_rows_at_one_time_the_one_created_last_counts(plain, tmp_path):
    rows = [
        event(1, 5, amount=1, late=1),
        event(2, 5, amount=2, late=9),
        {**event(3, 5, amount=3), "known": None},
        event(4, 5, amount=4, late=2),
    ]
    store = plain(write_events(tmp_path / "rows.parquet", rows))
    store.materialize(START, at(20))
    assert online(store, "a") == [2]


def test_both_ends_of_the_range_are_materialized_and_nothing_beyond(plain, tmp_path):
    rows = [
        event(1, 10, key="start"),
        event(2, 10 - 1e-6, key="before"),
        event(3, 20, key="end"),
        event(4, 20 + 1e-6, key="after"),
    ]
    store = plain(write_events(tmp_path / "rows.parquet", rows))
    store.materialize(at(10), at(20))
    assert online(store, "before", "start", "end", "after") == [None, 1, 1, None]


def test_rows_without_a_time_are_left_out(plain, tmp_path):
    rows = [event(1, 5), {**event(2, 6, amount=2), "time": None}]
    store = plain(write_events(tmp_path / "rows.parquet", rows))
    store.materialize(START, at(20))
    assert online(store, "a") == [1]


def test_a_row_without_a_key_is_nobodys_newest(plain, tmp_path):
    path = write_events(tmp_path / "rows.parquet", [event(1, 5), {**event(2, 6), "key": None}])
    assert pulled(plain(path), "latest", ["key"])["key"].to_pylist() == ["a"]


def test_mapped_columns_are_materialized_under_their_names(plain, tmp_path):
    path = tmp_path / "rows.parquet"
    pd.DataFrame(ROWS).rename(columns={"key": "holder", "amount": "paid"}).to_parquet(path)
    store = plain(path, field_mapping={"holder": "key", "paid": "amount"})
    store.materialize(START, at(20))
    assert online(store, "a", "b") == [2, 4]


def test_a_view_over_a_push_source_is_materialized_from_its_files(plain, tmp_path):
    store = plain(delta(tmp_path / "rows", ROWS), push=True, file_format=DeltaFormat())
    store.materialize(START, at(20))
    assert online(store, "a", "b") == [2, 4]


def test_an_incremental_load_brings_what_is_new(plain, tmp_path):
    path = delta(tmp_path / "rows", ROWS)
    store = plain(path, file_format=DeltaFormat())
    store.materialize(START, at(20))
    delta(path, [event(9, 30, amount=9)], mode="append")
    store.materialize_incremental(at(DAY))
    assert online(store, "a", "b") == [9, 4]


def pulled(store, what, keys, start=START, end=END):
    pull = getattr(store._get_provider().offline_store, f"pull_{what}_from_table_or_query")
    source = store.get_feature_view("plain").batch_source
    return pull(store.config, source, keys, ["amount"], "time", "known", start, end).to_arrow()


def test_every_row_of_the_range_is_pulled(plain, tmp_path):
    table = pulled(plain(write_events(tmp_path / "rows.parquet", ROWS)), "all", ["key"], at(2), at(5))
    assert table.column_names == ["key", "amount", "time", "known"]
    assert sorted(table["amount"].to_pylist()) == [2, 3, 4]


def test_without_an_end_or_a_start_everything_is_pulled(plain, tmp_path):
    store = plain(write_events(tmp_path / "rows.parquet", ROWS))
    assert pulled(store, "all", ["key"], None, None).num_rows == 4


def test_without_keys_the_newest_row_is_pulled_first(plain, tmp_path):
    rows = [*ROWS, event(5, 5, amount=5, late=1)]
    store = plain(write_events(tmp_path / "rows.parquet", rows), entities=())
    assert pulled(store, "all", [])["amount"].to_pylist() == [5, 2, 3, 4, 1]
    assert pulled(store, "latest", [])["amount"].to_pylist() == [5]
    store.materialize(START, at(20))
    assert online(store, "anything") == [5]


def test_logs_are_pulled_as_they_are():
    asked = Pull((), ("amount",), LOG_TIMESTAMP_FIELD, None, None, None, newest=False)
    types = {"amount": "BIGINT", LOG_TIMESTAMP_FIELD: "TIMESTAMP WITH TIME ZONE"}
    assert "__dummy_id" not in pull_sql("logs", types, asked)


def test_a_column_that_the_source_lacks_is_named(plain, tmp_path):
    store = plain(write_events(tmp_path / "rows.parquet", ROWS), columns=(("amuont", Int64),))
    with pytest.raises(ValueError, match=r"no column \['amuont'\]; it has .*'amount'"):
        store.materialize(START, at(20))
