"""Feast's registry and its changes: what a plan shows, what an apply takes over, what a delete and a teardown leave."""

import re
from datetime import timedelta

import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureService, Project
from feast.data_format import DeltaFormat
from feast.diff.property_diff import TransitionType
from feast.feature_view import DUMMY_ENTITY_NAME
from feast.repo_contents import RepoContents
from feast.types import Int64

from feature_repo.windows.compaction import Compactor
from feature_repo.windows.head import Sizes
from feature_repo.windows.keys import distinct_key, parts_key, state_key, view_prefix
from feature_repo.windows.recorder import EventRecorder, windowed_specs
from tests.windows_project import (
    HOLDER,
    PLACE,
    START,
    at,
    event,
    events_source,
    online_client,
    plain_view,
    project,
    view_of,
    write_events,
)  # fmt: skip

DAY = 86_400
YEAR = 365 * DAY
COUNTS = {("count", ""): ["1d", "7d"]}
EVENTS = [event(1, 0), event(2, 5, amount=2), event(3, 2 * DAY, key="b"), event(4, 3 * DAY, amount=4)]


def planned(store, *, views=(), streams=(), services=(), sources=()):
    """What ``feast plan`` finds."""
    contents = RepoContents(
        projects=[Project(name=store.project)],
        data_sources=list(sources), entities=[HOLDER, PLACE], feature_views=list(views), on_demand_feature_views=[],
        stream_feature_views=list(streams), label_views=[], feature_services=list(services), permissions=[],
    )  # fmt: skip
    diff, _, _ = store.plan(contents)
    return diff


def changes(store, **definitions):
    """What a plan says of each view and service: new, gone or the properties that differ, as texts."""
    diff = planned(store, **definitions)
    return {
        each.name: {
            p.property_name: (p.val_existing, p.val_declared) for p in each.feast_object_property_diffs
        }
        if each.transition_type == TransitionType.UPDATE
        else each.transition_type.name
        for each in diff.feast_object_diffs
        if each.transition_type != TransitionType.UNCHANGED
        and each.name != DUMMY_ENTITY_NAME
        and each.feast_object_type.value != "data source"  # which Feast does not show either
    }


@pytest.fixture
def path(module_home, tmp_path):
    return write_events(tmp_path / "events.parquet", EVENTS)


def test_a_plan_of_what_is_applied_and_materialized_shows_nothing(path, tmp_path):
    def definitions():
        source = events_source(path)
        view = view_of(source, COUNTS, where="amount > 1", delay="1h")
        return view, plain_view(path), FeatureService(name="service", features=[view])

    view, plain, service = definitions()
    store = project(tmp_path, view.stream_source, view, plain, service, name=tmp_path.name)
    store.materialize(START, at(9 * DAY))
    view, plain, service = definitions()
    assert (
        changes(store, views=[plain], streams=[view], services=[service], sources=[view.stream_source]) == {}
    )


def test_a_plan_shows_a_changed_window_and_only_that(path, tmp_path):
    source = events_source(path)
    store = project(tmp_path, source, view_of(source, COUNTS), name=tmp_path.name)
    changed = view_of(events_source(path), {("count", ""): ["1d", "8d"]})
    assert changes(store, streams=[changed]) == {
        "view": {
            "features": ("all_events_count_7d (INT64)", "all_events_count_8d (INT64)"),
            "aggregations": (
                "all_events_count_7d (count of events over 7 days, 0:00:00)",
                "all_events_count_8d (count of events over 8 days, 0:00:00)",
            ),
        }
    }
    shown = planned(store, streams=[changed]).to_string()  # what a person sees
    assert re.search("all_events_count_7d.* -> .*all_events_count_8d", shown)
    assert "all_events_count_1d" not in shown


def test_a_plan_shows_a_window_that_changed_under_its_name(path, tmp_path):
    source = events_source(path)
    store = project(tmp_path, source, view_of(source, COUNTS), name=tmp_path.name)
    changed = view_of(events_source(path), COUNTS)
    changed.aggregations[1].time_window = timedelta(days=9)
    assert changes(store, streams=[changed]) == {
        "view": {
            "aggregations": (
                "all_events_count_7d (count of events over 7 days, 0:00:00)",
                "all_events_count_7d (count of events over 9 days, 0:00:00)",
            )
        }
    }


def test_a_plan_shows_filter_delay_ttl_and_source(path, tmp_path):
    source = events_source(path)
    store = project(tmp_path, source, view_of(source, COUNTS), plain_view(path), name=tmp_path.name)
    changed = view_of(events_source(path), COUNTS, where="amount > 1", delay="1h")
    shown = changes(store, views=[plain_view("elsewhere.parquet", ttl=60)], streams=[changed])
    assert shown["view"] == {"tags": ("none", "window.delay=1h, window.where=amount > 1")}
    assert shown["plain"].keys() == {"ttl", "source"}
    assert shown["plain"]["ttl"] == ("0:00:00", "0:01:00")
    assert 'uri: "elsewhere.parquet"' in shown["plain"]["source"][1]


def test_a_plan_shows_what_is_new_and_what_is_gone(path, tmp_path):
    source = events_source(path)
    store = project(tmp_path, source, view_of(source, COUNTS), name=tmp_path.name)
    assert changes(store, streams=[view_of(events_source(path), COUNTS, name="other", prefix="other")]) == {
        "view": "DELETE",
        "other": "CREATE",
    }


def test_applying_again_is_no_new_version(path, tmp_path):
    views = [view_of(events_source(path), COUNTS), plain_view(path)]
    store = project(tmp_path, *views, name=tmp_path.name)
    for _ in range(2):
        store.apply([view_of(events_source(path), COUNTS), plain_view(path)])
    assert store.get_stream_feature_view("view").current_version_number in (None, 0)
    assert store.get_feature_view("plain").current_version_number in (None, 0)


@pytest.mark.parametrize("windowed", [True, False])
def test_a_source_that_moved_is_read_where_it_is(path, tmp_path, windowed):
    def definition(where):
        return view_of(events_source(where), COUNTS) if windowed else plain_view(where)

    store = project(tmp_path, definition(path), name=tmp_path.name)
    store.materialize(START, at(DAY))
    moved = write_events(tmp_path / "moved.parquet", [event(9, 1, amount=9), event(8, 0), event(7, 0)])
    store.apply([definition(moved)])
    name = "view:all_events_count_1d" if windowed else "plain:amount"
    frame = pd.DataFrame([{"key": "a", "event_timestamp": at(60)}])
    assert store.get_historical_features(frame, [name]).to_df().iloc[0, -1] == (3 if windowed else 9)
    view = store.registry.get_any_feature_view(name.split(":")[0], store.project)
    assert len(view.materialization_intervals) == 1


def test_an_incremental_load_without_history_starts_with_the_first_event(module_home, tmp_path):
    old = [event(1, -3 * YEAR, key="old"), event(2, 0), event(3, DAY)]
    path = write_events(tmp_path / "events.parquet", old)
    view = view_of(events_source(path), {("count", ""): ["2000d"]})
    store = project(tmp_path, view, plain_view(path), name=tmp_path.name)
    store.materialize_incremental(at(2 * DAY))
    asked = [{"key": key, "event_timestamp": at(2 * DAY)} for key in ("old", "a")]
    answer = store.get_online_features(["view:all_events_count_2000d", "plain:amount"], asked).to_dict()
    assert answer["all_events_count_2000d"] == [1, 2]
    assert answer["amount"] == [1, 1]
    for found in (store.get_stream_feature_view("view"), store.get_feature_view("plain")):
        assert found.materialization_intervals == [(at(-3 * YEAR), at(2 * DAY))]


def test_an_incremental_load_without_history_brings_what_a_ttl_would_leave_out(module_home, tmp_path):
    path = write_events(tmp_path / "events.parquet", [event(1, 0)])
    store = project(tmp_path, plain_view(path, ttl=60), name=tmp_path.name)
    store.materialize_incremental(at(DAY))
    rows = [{"key": "a", "event_timestamp": at(seconds)} for seconds in (60, 61)]
    assert store.get_online_features(["plain:amount"], rows).to_dict()["amount"] == [1, None]


def test_an_incremental_load_goes_on_where_the_last_one_ended(path, tmp_path):
    store = project(tmp_path, view_of(events_source(path), COUNTS), plain_view(path), name=tmp_path.name)
    store.materialize(START, at(DAY))
    store.materialize_incremental(at(9 * DAY))
    for found in (store.get_stream_feature_view("view"), store.get_feature_view("plain")):
        assert found.materialization_intervals == [(START, at(DAY)), (at(DAY), at(9 * DAY))]
    rows = [{"key": "a", "event_timestamp": at(4 * DAY)}]
    answer = store.get_online_features(["view:all_events_count_7d", "plain:amount"], rows).to_dict()
    assert (answer["all_events_count_7d"], answer["amount"]) == ([3], [4])


def test_a_changed_window_is_loaded_from_the_beginning_by_an_incremental_load(path, tmp_path):
    store = project(tmp_path, view_of(events_source(path), COUNTS), name=tmp_path.name)
    store.materialize(START, at(9 * DAY))
    store.apply([view_of(events_source(path), {("count", ""): ["30d"]})])
    store.materialize_incremental(at(10 * DAY))
    rows = [{"key": "a", "event_timestamp": at(10 * DAY)}]
    assert store.get_online_features(["view:all_events_count_30d"], rows).to_dict()[
        "all_events_count_30d"
    ] == [3]


def test_an_incremental_load_of_one_view_leaves_the_others_alone(path, tmp_path):
    store = project(tmp_path, view_of(events_source(path), COUNTS), plain_view(path), name=tmp_path.name)
    store.materialize_incremental(at(9 * DAY), ["plain"])
    assert store.get_stream_feature_view("view").materialization_intervals == []
    assert store.get_feature_view("plain").materialization_intervals == [(START, at(9 * DAY))]


def test_an_incremental_load_from_delta_and_from_an_empty_table(module_home, tmp_path):
    from deltalake import write_deltalake

    from tests.windows_project import SCHEMA

    path = tmp_path / "delta"
    write_deltalake(str(path), pa.Table.from_pylist([], SCHEMA))
    store = project(tmp_path, plain_view(path, file_format=DeltaFormat()), name=tmp_path.name)
    store.materialize_incremental(at(0))
    write_deltalake(str(path), pa.Table.from_pylist(EVENTS, SCHEMA), mode="append")
    store.materialize_incremental(at(9 * DAY))
    assert store.get_online_features(["plain:amount"], [{"key": "a"}]).to_dict()["amount"] == [4]


def test_a_deleted_view_of_either_kind_is_gone_from_registry_and_redis(path, tmp_path):
    view, plain, nobodys = (
        view_of(events_source(path), COUNTS),
        plain_view(path),
        plain_view(path, name="nobodys", entities=()),
    )
    store = project(tmp_path, view, plain, nobodys, name=tmp_path.name)
    before = set(online_client(store).keys("*"))
    store.materialize(START, at(9 * DAY))
    assert len(set(online_client(store).keys("*")) - before) > 5
    for found in [store.get_stream_feature_view("view"), *map(store.get_feature_view, ("plain", "nobodys"))]:
        store.apply([found], objects_to_delete=[found], partial=False)  # what `feast delete` does
    assert store.list_all_feature_views() == []
    assert set(online_client(store).keys("*")) == before


def test_teardown_leaves_nothing_of_the_project_in_redis(path, tmp_path):
    view, plain = view_of(events_source(path), COUNTS), plain_view(path)
    nobodys = plain_view(path, name="nobodys", entities=())
    store = project(tmp_path, view.stream_source, view, plain, nobodys, name=tmp_path.name)
    client = online_client(store)
    before = set(client.keys("*"))
    store.materialize(START, at(9 * DAY))
    EventRecorder.compile(store).record("events", [event("x", 0, key="other")])
    store.teardown()
    assert set(client.keys("*")) == before


def hot(path, folder, name):
    """A project of two views in which one key of each is sealed in chunks beside its state, with sets of distinct values."""
    source = events_source(path)
    aggregates = COUNTS | {("count_distinct", "place"): ["7d"]}
    views = [view_of(source, aggregates, name=view, prefix=view) for view in ("hot", "hot_too")]
    store = project(folder, source, *views, plain_view(path), name=name)
    client, sizes = online_client(store), Sizes(chunk=3, fresh=1, fanout=2, quiet=0, late=2, indexed=0)
    specs = windowed_specs(store)
    recorder = EventRecorder.of(client, store.project, specs, sizes)
    recorder.record("events", [event(n, n, key="[a]*?", place=f"place {n % 7}") for n in range(200)])
    for spec in specs:
        state = state_key(view_prefix(store.project, spec), ["[a]*?"])
        Compactor(client, spec, sizes).compact([state])
        assert client.exists(state, parts_key(state), distinct_key(state, 0)) == 3
    return store


def test_a_deleted_view_takes_the_chunks_and_sets_of_its_hot_keys_along_and_no_one_elses(path, tmp_path):
    store = hot(path, tmp_path, tmp_path.name)
    client = online_client(store)
    both = [set(client.keys(f"window:{store.project}:{view}:*")) for view in ("hot", "hot_too")]
    store.apply([], objects_to_delete=[store.get_stream_feature_view("hot")], partial=False)
    assert [bool(client.exists(*keys)) for keys in both] == [False, True]
    assert set(client.keys(f"window:{store.project}:hot_too:*")) == both[1]
    rows = [{"key": "[a]*?", "event_timestamp": at(200)}]
    answer = store.get_online_features(["hot_too:hot_too_place_count_distinct_7d"], rows).to_dict()
    assert answer["hot_too_place_count_distinct_7d"] == [7]


def test_teardown_leaves_nothing_of_hot_keys_and_everything_of_another_project(path, tmp_path):
    before = None
    for name in (f"{tmp_path.name}_other", tmp_path.name):
        store = hot(path, tmp_path, name)
        before = before or set(online_client(store).keys("*"))
    assert set(online_client(store).keys("*")) > before
    store.teardown()
    assert set(online_client(store).keys("*")) == before


@pytest.mark.parametrize("field", ["", "amount"])
def test_a_view_that_loses_an_entity_or_a_feature_is_a_changed_view(path, tmp_path, field):
    store = project(tmp_path, plain_view(path, entities=(HOLDER, PLACE)), name=tmp_path.name)
    changed = (
        plain_view(path)
        if not field
        else plain_view(path, entities=(HOLDER, PLACE), fields=(("known", Int64),))
    )
    shown = changes(store, views=[changed])["plain"]
    assert shown.keys() == ({"features"} if field else {"entities", "entity_columns"})


def test_a_view_deleted_and_applied_again_starts_empty(path, tmp_path):
    def views():
        return view_of(events_source(path), COUNTS), plain_view(path)

    store = project(tmp_path, *views(), name=tmp_path.name)
    store.materialize(START, at(9 * DAY))
    found = [store.get_stream_feature_view("view"), store.get_feature_view("plain")]
    store.apply([], objects_to_delete=found, partial=False)
    store.apply([HOLDER, *views()])
    rows = [{"key": "a", "event_timestamp": at(4 * DAY)}]
    answer = store.get_online_features(["view:all_events_count_7d", "plain:amount"], rows).to_dict()
    assert (answer["all_events_count_7d"], answer["amount"]) == ([0], [None])
    store.materialize_incremental(at(9 * DAY))
    answer = store.get_online_features(["view:all_events_count_7d", "plain:amount"], rows).to_dict()
    assert (answer["all_events_count_7d"], answer["amount"]) == ([3], [4])
