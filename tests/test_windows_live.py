"""A view changes under running recorders: nothing is lost, whatever comes first, and the old definition answers on."""

import random
import threading
from datetime import timedelta

import numpy as np
import pytest

from feature_repo.windows.derived import derive
from feature_repo.windows.keys import expiry_s, lifetime_s, loaded_key
from feature_repo.windows.live import (
    LEASE_US,
    await_recorders,
    claim,
    incomplete,
    live_key,
    read_live,
)
from feature_repo.windows.live_recorder import LiveRecorder
from feature_repo.windows.plan import StateReader, StateView
from feature_repo.windows.recorder import windowed_specs
from feature_repo.windows.state import to_microseconds
from tests.clocks import Clock
from tests.timelines import moment
from tests.windows_project import (
    HOLDER,
    at,
    event,
    events_source,
    online_client,
    project,
    view_of,
    write_events,
)

SHORT = {("count", ""): ["10s"], ("sum", "amount"): ["10s"]}
LONG = {("count", ""): ["1m"], ("sum", "amount"): ["1m"]}


@pytest.fixture
def small(home):
    """A project whose one view counts ten seconds, and the file of its source, empty."""
    path = write_events(home / "events.parquet", [])
    source = events_source(path)
    return project(home, source, view_of(source, SHORT)), source, path


def change(store, source, aggregates=LONG):
    store.apply([view_of(source, aggregates)])
    return windowed_specs(store)[0]


def answers(store, spec, seconds, key="a"):
    """The view's aggregates by name under one definition, asked at an instant."""
    reader = StateReader(online_client(store), [StateView(spec, store.project, spec.keys)])
    now = np.array([to_microseconds(at(seconds))])
    ((results, _),), _, _ = reader.read([{"key": key}], now, now)
    return dict(zip((a.name for a in spec.aggregates), results[0].tolist(), strict=True))


def named(spec):
    return f"{spec.view}:{spec.state_digest}"


def test_a_running_recorder_writes_a_changed_view_once_it_follows(small):
    store, source, _ = small
    old = windowed_specs(store)[0]
    recorder = LiveRecorder.open(store)
    recorder.record("events", [event(1, 1)])
    new = change(store, source)
    recorder.record("events", [event(2, 2)])
    assert recorder.follow([])
    assert not recorder.follow([])
    recorder.record("events", [event(3, 3)])
    assert answers(store, old, 5)["all_events_count_10s"] == 3
    assert answers(store, new, 5)["all_events_count_1m"] == 1


def test_history_must_reach_past_what_was_recorded_without_the_definition(small):
    store, source, path = small
    recorder = LiveRecorder.open(store)
    recorder.record("events", [event(1, 1), event(2, 2)])
    new = change(store, source)
    recorder.follow([])
    recorder.record("events", [event(3, 30)])
    assert incomplete(online_client(store), store.project, [new]) == ["view"]
    with pytest.raises(ValueError, match="recorded without its present definition"):
        store.materialize(at(-1), at(2))
    with pytest.raises(ValueError, match="fraud backfill"):
        store.materialize(at(-1), at(2.5))
    write_events(path, [event(1, 1), event(2, 2)])
    store.materialize(at(-1), at(2.5))
    assert incomplete(online_client(store), store.project, [new]) == []
    assert answers(store, new, 31) == {"all_events_count_1m": 3, "all_amount_sum_1m": 3}


def test_a_load_waits_for_every_running_recorder(small):
    store, source, path = small
    first, second = LiveRecorder.open(store), LiveRecorder.open(store)
    first.record("events", [event(1, 1)])
    second.record("events", [event(2, 2)])
    write_events(path, [event(1, 1), event(2, 2)])
    new = change(store, source)
    first.follow([])
    client = online_client(store)
    end = to_microseconds(at(10))
    with pytest.raises(ValueError, match="do not write its present definition"):
        await_recorders(client, store.project, new, end, sleep=lambda s: None)
    waits = []
    missed = await_recorders(
        client, store.project, new, end, sleep=lambda s: waits.append(s) or second.follow([])
    )
    assert len(waits) == 1
    assert missed == to_microseconds(at(2))


def test_a_recorder_that_ended_is_not_waited_for(small):
    store, source, _ = small
    LiveRecorder.open(store).close()
    new = change(store, source)
    waits = []
    await_recorders(online_client(store), store.project, new, 1, sleep=waits.append)
    assert waits == []


def test_what_an_ended_recorder_recorded_is_still_missed_by_a_new_definition(small):
    store, source, _ = small
    recorder = LiveRecorder.open(store)
    recorder.record("events", [event(1, 5)])
    recorder.close()
    new = change(store, source)
    with pytest.raises(ValueError, match="recorded without"):
        await_recorders(online_client(store), store.project, new, to_microseconds(at(5)))
    again = LiveRecorder.open(store)
    assert {named(spec) for spec in again.specs} == {
        named(new),
        *(name for name in read_live(online_client(store), store.project).specs),
    }
    assert read_live(online_client(store), store.project).missed == {named(new): to_microseconds(at(5))}


def test_after_a_restart_the_old_definition_is_kept_up_for_who_reads_it(small):
    store, source, path = small
    old = windowed_specs(store)[0]
    write_events(path, [event(1, 1)])
    store.materialize(at(-1), at(2))
    recorder = LiveRecorder.open(store)
    recorder.record("events", [event(2, 3)])
    change(store, source)
    recorder.close()
    # The service was down for a night: every lease has ended.
    client = online_client(store)
    client.hset(live_key(store.project), f"until:{named(old)}", 1)
    again = LiveRecorder.open(store)
    claim(client, store.project, [old])
    assert incomplete(client, store.project, [old]) == []
    again.follow([old])
    again.record("events", [event(3, 4)])
    assert answers(store, old, 5)["all_events_count_10s"] == 3


def test_a_definition_that_nobody_reads_is_let_go_and_lacks_events_when_it_comes_back(small):
    store, source, path = small
    old = windowed_specs(store)[0]
    write_events(path, [event(1, 1)])
    store.materialize(at(-1), at(2))
    clock = Clock()
    recorder = LiveRecorder.open(store, monotonic=clock)
    change(store, source)
    recorder.follow([old])
    client = online_client(store)
    clock.now = LEASE_US / 1e6 + 1
    client.hset(live_key(store.project), f"until:{named(old)}", 1)
    assert not recorder.follow([old])
    client.hset(live_key(store.project), f"until:{named(old)}", 1)
    assert recorder.follow([])
    assert named(old) not in {named(spec) for spec in recorder.specs}
    recorder.record("events", [event(2, 3)])
    recorder.follow([])
    claim(client, store.project, [old])
    assert incomplete(client, store.project, [old]) == ["view"]


def test_a_definition_that_this_code_cannot_write_is_passed_over_and_known_to_lack_what_is_recorded(
    small, caplog
):
    store, _, _ = small
    client = online_client(store)
    client.hset(live_key(store.project), "spec:other:1", '{"source": "events", "no": "such part"}')
    client.hset(live_key(store.project), "until:other:1", 2**60)
    recorder = LiveRecorder.open(store)
    assert [spec.view for spec in recorder.specs] == ["view"]
    assert "another version of the code" in caplog.text
    recorder.record("events", [event(1, 3)])
    recorder.follow([])
    assert read_live(client, store.project).missed == {"other:1": to_microseconds(at(3))}


def test_a_take_up_that_fails_half_way_is_made_up_for(small, monkeypatch):
    store, source, _ = small
    recorder = LiveRecorder.open(store)
    recorder.record("events", [event(1, 1)])
    new = change(store, source)

    def fail(*arguments):
        raise ConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr("feature_repo.windows.live_recorder.say_missed", fail)
        with pytest.raises(ConnectionError):
            recorder.follow([])
    recorder.record("events", [event(2, 2)])
    assert recorder.follow([])
    live = read_live(online_client(store), store.project)
    assert live.missed == {named(new): to_microseconds(at(2))}
    assert all(named(new) in follows for follows in live.follows.values())


def test_a_recorder_that_cannot_read_the_registry_goes_on_to_follow_what_is_live(small, monkeypatch):
    """If it fell silent it would be taken for ended, and history loaded without what it records."""
    store, source, _ = small
    first, second = LiveRecorder.open(store), LiveRecorder.open(store)
    new = change(store, source)
    first.follow([])

    def unreadable(store):
        raise ValueError("function 'later' is not known")

    monkeypatch.setattr("feature_repo.windows.live_recorder.windowed_specs", unreadable)
    second.record("events", [event(1, 1)])
    with pytest.raises(ValueError, match="'later' is not known"):
        second.follow([])
    live = read_live(online_client(store), store.project)
    assert all(named(new) in follows for follows in live.follows.values())
    assert live.missed == {named(new): to_microseconds(at(1))}


@pytest.mark.parametrize("served", [True, False])
def test_a_deleted_view_leaves_nothing_but_what_a_model_reads(small, served):
    store, _, path = small
    old = windowed_specs(store)[0]
    write_events(path, [event(1, 1)])
    store.materialize(at(-1), at(2))
    recorder = LiveRecorder.open(store)
    recorder.follow([old] if served else [])
    view = store.get_stream_feature_view("view")
    store.apply([], objects_to_delete=[view], partial=False)
    recorder.follow([old] if served else [])
    client = online_client(store)
    if served:
        recorder.record("events", [event(2, 2)])
        assert incomplete(client, store.project, [old]) == []
        assert answers(store, old, 5)["all_events_count_10s"] == 2
    else:
        assert recorder.specs == ()
        assert client.keys("window:small:view:*") == []


def usual_then(source):
    """A view of means, and a column of what the mean was before each event."""
    usual = view_of(source, {("mean", "amount"): ["1m"]}, name="usual", prefix="usual")
    return usual, derive("then", [usual], [HOLDER], "usual_amount_mean_1m", 2)


def test_a_derived_view_is_written_only_once_what_it_is_computed_from_has_its_history(small):
    """A value computed from a state that is not loaded yet would be another than history's, and would stay."""
    store, source, path = small
    past = [event(1, 1, amount=2), event(2, 2, amount=4)]
    write_events(path, past)
    recorder = LiveRecorder.open(store)
    usual, then = usual_then(source)
    peak = view_of(source, {("sum", "then"): ["1m"]}, name="peak", prefix="peak", derived=[then])
    store.apply([usual, peak])
    recorder.follow([])
    specs = {spec.view: spec for spec in windowed_specs(store)}
    assert set(recorder.specs) == {specs["usual"], specs["view"]}
    recorder.record("events", [event(3, 3, amount=9)])
    write_events(path, [*past, event(3, 3, amount=9)])
    with pytest.raises(ValueError, match="peak: recorders run, and its columns are computed from usual"):
        store.materialize(at(-1), at(3.5), feature_views=["peak"])
    store.materialize(at(-1), at(3.5), feature_views=["usual"])
    recorder.record("events", [event(4, 4, amount=1)])
    assert recorder.follow([])
    assert set(recorder.specs) == set(specs.values())
    client = online_client(store)
    assert incomplete(client, store.project, [specs["peak"]]) == ["peak"]
    write_events(path, [*past, event(3, 3, amount=9), event(4, 4, amount=1)])
    store.materialize(at(-1), at(4.5), feature_views=["peak"])
    recorder.record("events", [event(5, 5)])
    assert incomplete(client, store.project, [specs["peak"]]) == []
    # Means before each event: none, 2, 3, 5, 4.
    assert answers(store, specs["peak"], 6) == {"peak_then_sum_1m": 1400}


DAYS = 4 * 86_400


@pytest.fixture
def rated(small):
    """A store in which an event of four days ago is too old for what ``rated`` computes of it; a recorder, the views' specs."""
    store, source, path = small
    write_events(path, [event(1, 1), event(2, DAYS)])
    usual, then = usual_then(source)
    peak = view_of(source, {("count", ""): ["5d"]}, name="peak", prefix="peak", derived=[then])
    rated = view_of(
        source, {("count", ""): ["5d"], ("sum", "then"): ["5d"]}, name="rated", prefix="rated", derived=[then]
    )
    store.apply([usual, peak, rated])
    store.materialize(at(-1), at(DAYS + 1))
    return LiveRecorder.open(store), {spec.view: spec for spec in windowed_specs(store)}


def test_an_event_too_old_for_its_derived_columns_goes_to_all_other_views(small, rated, caplog):
    store, _, path = small
    recorder, specs = rated
    old, new = event(3, 5, late=DAYS), event(4, DAYS + 5)
    recorder.record("events", [old])
    assert answers(store, specs["peak"], DAYS + 10) == {"peak_events_count_5d": 3}
    assert recorder.record("events", [old, new]) == [to_microseconds(e["known"]) for e in (old, new)]
    assert answers(store, specs["peak"], DAYS + 10) == {"peak_events_count_5d": 4}
    assert answers(store, specs["rated"], DAYS + 10)["rated_events_count_5d"] == 3
    assert f"{named(specs['rated'])} lacks an event of events until fraud backfill loads it" in caplog.text
    write_events(path, [event(1, 1), event(2, DAYS), old, new])
    store.materialize(at(-1), at(DAYS + 11), feature_views=["rated"])
    assert answers(store, specs["rated"], DAYS + 12) == {"rated_events_count_5d": 4, "rated_then_sum_5d": 200}


def test_an_event_beside_one_that_is_too_old_counts_from_when_it_is_said_to_be_known(small, rated):
    store, _, _ = small
    recorder, specs = rated
    events = [{**event(3, 5), "known": None}, {**event(4, DAYS + 5), "known": None}]
    _, new = recorder.write_each("events", events)
    reader = StateReader(online_client(store), [StateView(specs["peak"], store.project, ("key",))])
    instant = np.array([to_microseconds(at(DAYS + 10))])
    counts = [
        reader.read([{"key": "a"}], instant, np.array([known]))[0][0][0].tolist()
        for known in (new.known_us, new.known_us + 1)
    ]
    assert counts == [[[3]], [[4]]]


def test_a_view_whose_filter_cannot_be_asked_of_an_event_does_not_stop_the_others(small, caplog):
    store, source, _ = small
    recorder = LiveRecorder.open(store)
    store.apply([view_of(source, SHORT, name="wrong", prefix="wrong", where="time > '2024-01-01'")])
    recorder.follow([])
    (known,) = recorder.record("events", [{**event(1, 1), "known": None}])
    specs, client = {spec.view: spec for spec in windowed_specs(store)}, online_client(store)
    assert answers(store, specs["view"], 5)["all_events_count_10s"] == 0
    reader = StateReader(client, [StateView(specs["view"], store.project, ("key",))])
    later = np.array([known + 1])
    ((results, _),), _, _ = reader.read([{"key": "a"}], np.array([to_microseconds(at(5))]), later)
    assert results[0].tolist() == [1, 1]
    assert f"{named(specs['wrong'])} lacks an event of events" in caplog.text
    assert read_live(client, store.project).missed == {named(specs["wrong"]): known}
    with pytest.raises(TypeError, match="is float"):
        recorder.record("events", [event(2, 2, amount=1.5)])


def test_of_some_events_those_that_no_view_can_take_stand_beside_the_others(small):
    store, _, _ = small
    recorder = LiveRecorder.open(store)
    spec = windowed_specs(store)[0]
    events = [event(1, 1), event(2, 2, amount=1.5), event(3, 3)]
    first, wrong, third = recorder.write_each("events", events)
    assert [first.known_us, third.known_us] == [to_microseconds(events[i]["known"]) for i in (0, 2)]
    assert isinstance(wrong, TypeError)
    assert answers(store, spec, 9)["all_events_count_10s"] == 2
    with pytest.raises(TypeError, match="is float"):
        recorder.write("events", [event(4, 4, amount=1.5), event(5, 5)])
    assert answers(store, spec, 9)["all_events_count_10s"] == 3


def test_an_empty_registry_is_refused(home):
    with pytest.raises(ValueError, match="run feast apply"):
        LiveRecorder.open(project(home))


@pytest.mark.parametrize("seed", range(4))
def test_no_event_is_lost_whatever_comes_first(small, seed):
    """Two recorders record while the view changes, they take it up and history is loaded, each at some moment."""
    store, source, path = small
    rng = random.Random(seed)
    old = windowed_specs(store)[0]
    recorders = [LiveRecorder.open(store) for _ in range(2)]
    arrived = []

    def arrive(number):
        row = event(number, number / 10, amount=number)
        rng.choice(recorders).record("events", [row])
        arrived.append(row)

    steps = ["apply", "follow 0", "follow 1", "load"]
    moments = sorted(rng.randrange(1, 60) for _ in steps)
    rng.shuffle(steps)
    steps.remove("load")
    steps.append("load")
    new = None
    for number in range(1, 61):
        arrive(number)
        while moments and moments[0] == number:
            moments.pop(0)
            step = steps.pop(0)
            if step == "apply":
                new = change(store, source)
            elif step.startswith("follow"):
                recorders[int(step[-1])].follow([old])
            else:
                write_events(path, arrived)
                loading = threading.Thread(
                    target=lambda end=number: store.materialize(at(-1), at(end / 10 + 0.05))
                )
                loading.start()
                while loading.is_alive():
                    for recorder in recorders:
                        recorder.follow([old])
                    loading.join(0.05)
    assert incomplete(online_client(store), store.project, [new]) == []
    total = sum(range(1, 61))
    assert answers(store, new, 6.05) == {"all_events_count_1m": 60, "all_amount_sum_1m": total}
    assert answers(store, old, 6.05)["all_amount_sum_10s"] == total


def test_a_load_before_any_recorder_ran_needs_nothing_of_them(small):
    store, _, path = small
    write_events(path, [event(1, 1)])
    store.materialize(at(-1), at(2))
    client = online_client(store)
    assert not client.exists(live_key(store.project))
    assert incomplete(client, store.project, windowed_specs(store)) == []


def test_a_definition_is_kept_up_for_an_hour_after_it_was_last_read(small):
    store, _, _ = small
    (spec,), client, hour = windowed_specs(store), online_client(store), timedelta(hours=1)
    before = server_clock(client)
    claim(client, store.project, [spec])
    until = moment(int(client.hget(live_key(store.project), f"until:{named(spec)}")))
    assert before + hour <= until <= server_clock(client) + hour


def server_clock(client):
    seconds, micros = client.time()
    return moment(seconds * 1_000_000 + micros)


def test_what_was_loaded_stays_loaded_while_a_recorder_runs_and_no_longer(small):
    store, _, path = small
    write_events(path, [event(1, 1), event(2, 2)])
    store.materialize(at(-1), at(10))
    (spec,), client = windowed_specs(store), online_client(store)
    key = loaded_key(store.project, spec)
    assert expiry_s(spec) <= client.ttl(key) <= lifetime_s(spec)
    client.expire(key, 5)
    LiveRecorder.open(store).follow([])
    assert client.ttl(key) >= expiry_s(spec)
    client.delete(key)
    assert incomplete(client, store.project, [spec]) == ["view"]
