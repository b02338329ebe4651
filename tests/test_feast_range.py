"""Retrieval by a range of time, without entity rows: who is asked about, when, and that the answers are those of such rows."""

from datetime import UTC, datetime, timedelta, timezone

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from feast import Entity, FeatureService, FeatureView, Field, FileSource
from feast.errors import RequestDataNotFoundInEntityDfException
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.types import Int64
from feast.value_type import ValueType

from feature_repo.lake import TRANSACTIONS
from feature_repo.store import apply_definitions, open_store
from feature_repo.windows.sources import pinned
from tests.deployments import events as transactions_and_chargebacks
from tests.deployments import fill_lake
from tests.windows_project import HOLDER, PLACE, at, event, events_source, project, view_of, write_events

COUNT = {("count", ""): ["10s"]}
EVENTS = [
    event(1, 0, place="x"),
    event(2, 5, place="y"),
    event(3, 5, place="y"),
    event(4, 9, key="b", place=None),
    event(5, 20, key=None, place="x"),
    event(6, 30, key=None, place=None),
]


def plain(path, name="plain", entities=(HOLDER,), features=("amount",), **options):
    source = FileSource(name=f"{name}_rows", path=str(path), timestamp_field="time", **options)
    schema = [Field(name=feature, dtype=Int64) for feature in features]
    return FeatureView(name=name, entities=list(entities), schema=schema, source=source)


def ask(store, features, start=None, end=None, **options):
    job = store.get_historical_features(features=features, start_date=start, end_date=end, **options)
    return job.to_arrow().to_pydict()


def rows(answer, *names):
    return list(zip(*(answer[name] for name in names), strict=True))


@pytest.fixture
def store(folder):
    """Windows by holder and by both, a plain view by holder, all over the same events."""
    path = write_events(folder / "events.parquet", EVENTS)
    source = events_source(path)
    holder = view_of(source, COUNT, name="holder_view", prefix="holder")
    pair = view_of(source, COUNT, name="pair", prefix="pair", entities=(HOLDER, PLACE))
    return project(folder, source, holder, pair, plain(path), name=folder.name)


def test_every_time_and_entity_of_the_source_asks_once_in_order(store):
    answer = ask(store, ["holder_view:holder_events_count_10s"], at(0), at(30))
    assert list(answer) == ["key", "event_timestamp", "holder_events_count_10s"]
    assert rows(answer, "key", "event_timestamp", "holder_events_count_10s") == [
        ("a", at(0), 0),
        ("a", at(5), 1),
        ("b", at(9), 0),
    ]


@pytest.mark.parametrize(
    "zone", [UTC, timezone(timedelta(hours=9)), None], ids=["utc", "tokyo", "naive is utc"]
)
def test_both_ends_are_included_to_the_microsecond(store, zone):
    def ends(*seconds):
        moments = [at(s).astimezone(zone or UTC) for s in seconds]
        return [moment if zone else moment.replace(tzinfo=None) for moment in moments]

    def asked(*seconds):
        return ask(store, ["plain:amount"], *ends(*seconds))["event_timestamp"]

    assert asked(0, 9) == [at(0), at(5), at(9)]
    assert asked(0.000001, 8.999999) == [at(5)]
    assert asked(1, 2) == []


def test_without_a_start_it_begins_with_the_first_row_and_without_an_end_it_ends_now(store, folder):
    assert len(ask(store, ["plain:amount"], end=at(9))["key"]) == 3
    coming = datetime.now(UTC) + timedelta(days=2)
    write_events(folder / "events.parquet", [*EVENTS, {**event(7, 0), "time": coming}])
    assert len(ask(store, ["plain:amount"])["key"]) == 3
    assert len(ask(store, ["plain:amount"], end=coming)["key"]) == 4


def test_views_of_several_keys_are_asked_together(store):
    features = ["holder_view:holder_events_count_10s", "pair:pair_events_count_10s", "plain:amount"]
    answer = ask(store, features, at(0), at(30), full_feature_names=True)
    found = rows(
        answer, "key", "place", "event_timestamp", "holder_view__holder_events_count_10s", "plain__amount"
    )
    assert found == [
        ("a", "x", at(0), 0, 1),
        ("a", "y", at(5), 1, 1),
        ("b", None, at(9), 0, 1),
        (None, "x", at(20), 0, None),
    ]  # fmt: skip
    assert answer["pair__pair_events_count_10s"] == [0, 0, 0, 0]


def test_the_answers_are_those_to_the_same_rows_given(store):
    features = ["pair:pair_events_count_10s", "plain:amount"]
    answer = ask(store, features, at(0), at(30))
    frame = pd.DataFrame({name: answer[name] for name in ("key", "place", "event_timestamp")})
    assert store.get_historical_features(frame, features).to_arrow().to_pydict() == answer


def test_sources_that_have_other_keys_or_other_names_for_them_ask_side_by_side(folder):
    number = Entity(name="number", join_keys=["number"], value_type=ValueType.INT64)
    events = write_events(folder / "events.parquet", EVENTS[:1])
    pq.write_table(
        pa.table({"n": [2**62], "limit": [7], "time": pa.array([at(3)], pa.timestamp("us"))}),
        folder / "limits.parquet",
    )
    limits = plain(folder / "limits.parquet", "limits", (number,), ("limit",), field_mapping={"n": "number"})
    view = view_of(events_source(events), COUNT)
    service = FeatureService(
        name="service", features=[view.with_name("buyer").with_join_key_map({"key": "buyer_key"}), limits]
    )
    store = project(folder, number, view.stream_source, view, limits, service, name=folder.name)
    answer = ask(store, service, at(0), at(9))
    assert rows(answer, "buyer_key", "number", "event_timestamp", "limit") == [
        ("a", None, at(0), None),
        (None, 2**62, at(3), 7),
    ]


def test_views_without_entities_ask_at_each_of_their_times(folder):
    path = write_events(folder / "events.parquet", EVENTS)
    store = project(folder, plain(path, entities=()), name=folder.name)
    assert ask(store, ["plain:amount"], at(1), at(30)) == {
        "event_timestamp": [at(t) for t in (5, 9, 20, 30)],
        "amount": [1] * 4,
    }


def test_nothing_is_read_before_the_result_is_asked_for(store, folder):
    job = store.get_historical_features(features=["plain:amount"], start_date=at(0), end_date=at(5))
    assert (job.metadata.keys, job.metadata.max_event_timestamp) == (["key"], at(5))
    write_events(folder / "events.parquet", EVENTS[:1])
    assert len(job.to_df()) == 1
    (folder / "events.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="no Parquet file"):
        job.to_df()


def test_a_source_without_the_key_is_refused_by_name(folder):
    pq.write_table(pa.table({"amount": [1], "time": pa.array([at(0)])}), folder / "rows.parquet")
    store = project(folder, plain(folder / "rows.parquet"), name=folder.name)
    with pytest.raises(ValueError, match=r"no column \['key'\]; it has \['amount', 'time'\]"):
        ask(store, ["plain:amount"], at(0), at(9))


def test_a_range_is_saved_as_a_data_set(store, folder):
    job = store.get_historical_features(features=["plain:amount"], start_date=at(0), end_date=at(9))
    store.create_saved_dataset(job, "kept", SavedDatasetFileStorage(str(folder / "saved.parquet")))
    assert store.get_saved_dataset("kept").to_df()["amount"].tolist() == [1, 1, 1]


def test_the_project_s_own_views_over_the_lake_at_a_pinned_version(module_home):
    transactions, chargebacks = transactions_and_chargebacks(count=40)
    fill_lake(module_home / "lake", transactions[:30], chargebacks)
    later = pa.Table.from_pylist(transactions[30:], TRANSACTIONS)
    write_deltalake(str(module_home / "lake" / "transactions"), later, mode="append")
    store = open_store()
    apply_definitions(store)
    features = ["pair_activity:pair_transactions_count_30d"]
    for version, count in ((0, 30), (1, 40)):
        with pinned({"transactions": version}):
            answer = ask(store, features)
        moments = {(t["customer_id"], t["terminal_id"], t["event_timestamp"]) for t in transactions[:count]}
        assert set(rows(answer, "customer_id", "terminal_id", "event_timestamp")) == moments
    with pytest.raises(RequestDataNotFoundInEntityDfException, match="amount_usd_cents"):
        ask(store, store.get_feature_service("fraud_v1"))
