"""What Feast's own tests ask of any store and no other file here holds ours to: what is asked, and what is answered."""

import random
from zoneinfo import ZoneInfo

import pandas as pd
import pyarrow as pa
import pytest
from feast import Field, RequestSource
from feast.errors import FeatureNameCollisionError, FeatureViewNotFoundException
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Int64, String

from tests.feast_universal import (
    COUNT,
    END,
    EVERYTHING,
    asks,
    deploy,
    deploy_everything,
    expected,
    history,
    named,
)
from tests.windows_project import START, TIME, at, event, events_source, plain_view, view_of, write_events


@pytest.fixture
def everything(folder):
    return deploy_everything(folder)


@pytest.mark.parametrize("full", [True, False], ids=["full names", "short names"])
def test_views_of_every_kind_and_transforms_of_both_kinds_answer_one_retrieval_and_one_request(
    everything, full
):
    store, events = everything
    rng = random.Random(1)
    rows = asks(rng, [rng.randrange(-60, END + 4000) for _ in range(80)])
    truth = [expected(events, row) for row in rows]
    job = store.get_historical_features(pd.DataFrame(rows), EVERYTHING, full_feature_names=full)
    table = job.to_arrow()
    assert set(table.column_names) == {*rows[0], *(named(ref, full) for ref in EVERYTHING)}
    for ref in EVERYTHING:
        assert table[named(ref, full)].to_pylist() == [row[ref] for row in truth], ref
    pd.testing.assert_frame_equal(job.to_df(), table.to_pandas())
    store.materialize(at(-1), at(END))
    rows = asks(rng, [END] * 12)
    truth = [expected(events, row) for row in rows]
    answer = store.get_online_features(EVERYTHING, rows, full_feature_names=full).to_dict()
    assert answer.keys() == {"key", "place", *(named(ref, full) for ref in EVERYTHING)}
    for ref in EVERYTHING:
        assert answer[named(ref, full)] == [row[ref] for row in truth], ref


@pytest.mark.parametrize("full", [True, False], ids=["full names", "short names"])
def test_a_service_of_some_features_gives_these_and_no_others(everything, full):
    store, events = everything
    refs = [f"windows:{COUNT}", "latest:note", "around:more", "scaled_windows:halved"]
    names = {named(ref, full) for ref in refs}
    rows = [{"key": key, "place": "x", "factor": 2, "event_timestamp": at(END)} for key in "abcd"]
    truth = [expected(events, row) for row in rows]
    store.materialize(at(-1), at(END))
    part = store.get_feature_service("part")
    online = store.get_online_features(part, rows, full_feature_names=full).to_dict()
    offline = history(store, rows, part, full_feature_names=full)
    assert online.keys() - {"key", "place"} == names
    assert names <= offline.keys()
    for ref in refs:
        assert online[named(ref, full)] == offline[named(ref, full)] == [row[ref] for row in truth], ref


@pytest.mark.parametrize("full", [True, False], ids=["full names", "short names"])
@pytest.mark.parametrize(
    ("asked", "others"),
    [
        (["around:more"], ["around:less", "around:same"]),
        (["around:same", "around:less"], ["around:more"]),
        (["scaled_windows:halved"], ["scaled_windows:scaled"]),
    ],
    ids=["one of three", "two of three", "one of ours"],
)
def test_of_a_transform_only_the_outputs_that_are_asked_for_are_given(everything, asked, others, full):
    store, events = everything
    rows = [{"key": "a", "factor": 5, "event_timestamp": at(END)}]
    truth = expected(events, {**rows[0], "place": "x"})
    store.materialize(at(-1), at(END))
    offline = history(store, rows, asked, full_feature_names=full)
    online = store.get_online_features(asked, rows, full_feature_names=full).to_dict()
    for answer in (offline, online):
        assert [answer[named(ref, full)] for ref in asked] == [[truth[ref]] for ref in asked]
        assert not {named(ref, full) for ref in others} & answer.keys()


def test_a_service_of_one_view_twice_is_keyed_by_its_new_join_keys_alone(everything):
    store, _ = everything
    twice = store.get_feature_service("twice")
    rows = [{"payer_key": "a", "payee_key": "nobody", "event_timestamp": at(END)}]
    names = {f"{view}__{feature}" for view in ("payer", "payee") for feature in ("amount", "note")}
    assert store.get_online_features(twice, rows, full_feature_names=True).to_dict().keys() == {
        "payer_key", "payee_key", *names
    }  # fmt: skip
    assert history(store, rows, twice, full_feature_names=True).keys() == {*rows[0], *names}
    with pytest.raises(FeatureNameCollisionError):
        store.get_online_features(twice, rows)
    with pytest.raises(FeatureNameCollisionError):
        store.get_historical_features(pd.DataFrame(rows), twice)


def test_a_feature_that_only_another_view_of_the_source_has_is_refused(folder):
    path = write_events(folder / "events.parquet", [event(1, 0)])
    store = deploy(
        folder,
        plain_view(path, "narrow"),
        plain_view(path, "wide", fields=(("amount", Int64), ("id", String))),
    )
    rows = [{"key": "a", "event_timestamp": at(1)}]
    with pytest.raises(KeyError, match="id"):
        history(store, rows, ["narrow:id"])
    with pytest.raises(KeyError, match="id"):
        store.get_online_features(["narrow:id"], rows)
    with pytest.raises(FeatureViewNotFoundException):
        store.get_online_features(["nobody:id"], rows)
    with pytest.raises(FeatureViewNotFoundException):
        history(store, rows, ["nobody:id"])


def test_a_transform_in_python_takes_windows_values_and_the_request(folder):
    path = write_events(folder / "events.parquet", [event(1, 0, amount=3), event(2, 1, key="b", amount=5)])
    source = events_source(path)
    windows, latest = view_of(source, {("sum", "amount"): ["1h"]}), plain_view(path)
    asked = RequestSource(name="asked", schema=[Field(name="factor", dtype=Int64)])

    @on_demand_feature_view(
        sources=[windows, latest, asked], schema=[Field(name="total", dtype=Int64)], mode="python"
    )
    def added(inputs):
        columns = (inputs["all_amount_sum_1h"], inputs["amount"], inputs["factor"])
        return {"total": [a + b * c for a, b, c in zip(*columns, strict=True)]}

    store = deploy(folder, source, windows, latest, added)
    store.materialize(START, at(9))
    rows = [{"key": key, "factor": factor, "event_timestamp": at(9)} for key, factor in (("a", 2), ("b", 3))]
    assert store.get_online_features(["added:total"], rows).to_dict() == {"key": ["a", "b"], "total": [9, 20]}
    assert history(store, rows, ["added:total"])["total"] == [9, 20]


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", None])
def test_no_rows_get_no_rows_of_a_plain_view_whatever_the_type_of_their_times(folder, zone):
    store = deploy(folder, plain_view(write_events(folder / "rows.parquet", [event(1, 0)]), "plain", ttl=60))
    times = pd.Series([], dtype="datetime64[ns]").dt.tz_localize(zone)
    frame = pd.DataFrame({"key": pd.Series([], dtype=object), "event_timestamp": times})
    table = store.get_historical_features(frame, ["plain:amount"]).to_arrow()
    assert table.num_rows == 0
    assert (table.schema.field("amount").type, table.schema.field("event_timestamp").type) == (
        pa.int64(),
        TIME,
    )
    query = "SELECT 'a' AS key, now() AS event_timestamp WHERE FALSE"
    assert len(store.get_historical_features(query, ["plain:amount"]).to_df(timeout=30)) == 0


def test_instants_of_several_zones_may_stand_in_one_frame(folder):
    path = write_events(folder / "events.parquet", [event(1, 0, amount=3)])
    source = events_source(path)
    store = deploy(folder, source, view_of(source, {("count", ""): ["10s"]}), plain_view(path, ttl=10))
    seconds = [-1e-6, 0, 1e-6, 10, 10.000001]
    zones = ["Europe/Berlin", "US/Pacific", "UTC", "Asia/Kolkata", "America/St_Johns"]
    instants = [at(s).astimezone(ZoneInfo(zone)) for s, zone in zip(seconds, zones, strict=True)]
    instants[2] = instants[2].replace(tzinfo=None)  # without a zone it is UTC
    frame = pd.DataFrame({"key": ["a"] * 5, "event_timestamp": pd.Series(instants, dtype=object)})
    answer = store.get_historical_features(frame, ["plain:amount", "view:all_events_count_10s"]).to_arrow()
    assert answer["event_timestamp"].to_pylist() == [at(s) for s in seconds]
    assert answer["amount"].to_pylist() == [None, 3, 3, 3, None]
    assert answer["all_events_count_10s"].to_pylist() == [0, 0, 1, 1, 0]


def test_rows_alike_but_for_another_column_are_each_answered(folder):
    store = deploy(folder, plain_view(write_events(folder / "rows.parquet", [event(1, 0, amount=5)])))
    rows = [{"key": key, "event_timestamp": at(1), "order": n} for n, key in enumerate(["a", "a", "b", "a"])]
    answer = history(store, rows, ["plain:amount"])
    assert (answer["order"], answer["amount"]) == ([0, 1, 2, 3], [5, 5, None, 5])


def test_a_number_asked_of_a_key_that_is_text_is_its_text(folder):
    path = write_events(folder / "events.parquet", [event(1, 0, key="7", amount=3)])
    source = events_source(path)
    store = deploy(folder, source, view_of(source, {("sum", "amount"): ["1h"]}), plain_view(path))
    store.materialize(START, at(9))
    features = ["plain:amount", "view:all_amount_sum_1h"]
    for keys in (["7", "7"], ["7", 7], [7, "7"], [7, 7]):
        rows = [{"key": key, "event_timestamp": at(9)} for key in keys]
        answer = store.get_online_features(features, rows).to_dict()
        assert answer == {"key": ["7", "7"], "amount": [3, 3], "all_amount_sum_1h": [3, 3]}, keys


def test_a_row_that_does_not_say_when_it_was_created_is_not_known_where_that_is_asked(folder):
    rows = [event(1, 5, amount=1, late=1), {**event(2, 5, amount=2), "known": None}]
    rows += [{**event(3, 5, key="b", amount=3), "known": None}]
    store = deploy(folder, plain_view(write_events(folder / "rows.parquet", rows)))
    asked = [{"key": key, "event_timestamp": at(9)} for key in "ab"]
    assert history(store, asked, ["plain:amount"])["amount"] == [1, 3]
    assert history(store, asked, ["plain:amount"], filter_by_created_timestamp=True)["amount"] == [1, None]


def test_where_a_source_does_not_say_when_rows_were_created_all_of_them_are_known(folder):
    path = write_events(folder / "rows.parquet", [event(1, 5, amount=1, late=100)])
    store = deploy(folder, plain_view(path, created_timestamp_column=""))
    asked = [{"key": "a", "event_timestamp": at(9)}]
    for known in (False, True):
        answer = history(store, asked, ["plain:amount"], filter_by_created_timestamp=known)
        assert answer["amount"] == [1]


def test_in_a_range_of_time_each_view_has_its_own_ttl(folder):
    path = write_events(folder / "rows.parquet", [event(1, 0, amount=1), event(2, 30, amount=2)])
    other = write_events(folder / "other.parquet", [event(1, 0, amount=7), event(2, 60, key="b")])
    store = deploy(
        folder,
        plain_view(path, "brief", ttl=20),
        plain_view(other, "long", ttl=40),
        plain_view(other, "short", ttl=20),
    )
    job = store.get_historical_features(
        features=["brief:amount", "long:amount", "short:amount"], start_date=at(0), end_date=at(60),
        full_feature_names=True,
    )  # fmt: skip
    answer = job.to_arrow()
    rows = zip(*(answer[c].to_pylist() for c in ("key", "event_timestamp", "brief__amount")), strict=True)
    assert list(rows) == [("a", at(0), 1), ("a", at(30), 2), ("b", at(60), None)]
    assert answer["long__amount"].to_pylist() == [7, 7, 1]
    assert answer["short__amount"].to_pylist() == [7, None, 1]
