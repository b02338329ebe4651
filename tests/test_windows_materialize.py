"""Loading history into online state: idempotent, complete by known time, beside live events; and what stays behind."""

import threading
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity
from feast.value_type import ValueType

from feature_repo.windows.plan import OnlinePlan
from feature_repo.windows.recorder import EventRecorder
from feature_repo.windows.state import to_microseconds
from tests import windows_project
from tests.state_bytes import head_of, tail_of
from tests.windows_project import (
    HOLDER,
    PLACE,
    SCHEMA,
    START,
    TIME,
    at,
    event,
    events_source,
    every_aggregate,
    online_client,
    project,
    state_keys,
    view_of,
    write_events,
)

DAY = 86_400
EVERY = every_aggregate("1h", "7d")


def deploy(folder, events, aggregates=EVERY, schema=SCHEMA, **options):
    return windows_project.deploy(folder, events, aggregates, schema, **options)


def held(store):
    """Everything in the online store, the order of records within a state left out of account."""
    client = online_client(store)
    content = {}
    for key in state_keys(store):
        value = client.get(key)
        if key.endswith(b"loaded"):
            content[key] = value
        else:
            content[key] = (head_of(value)[0], sorted(tail_of(value, ["number", "code"]), key=str))
    return content


def ask(store, keys, instant, known=None):
    plan = OnlinePlan.compile(store, "service")
    row = {
        "event_timestamp_us": to_microseconds(instant),
        "known_as_of_us": to_microseconds(known or instant),
    }
    values = plan.read([{"key": key, "place": "x", **row} for key in keys]).values
    return [dict(zip(plan.feature_names, features, strict=True)) for features in values]


def history(count=60):
    places = ["x", "y", None]
    return [
        event(n, n * 3600, key="abc"[n % 3], amount=None if n % 11 == 0 else n * (-1) ** n, place=places[n % 5 % 3])
        for n in range(count)
    ]  # fmt: skip


def test_loading_again_changes_nothing(home, tmp_path):
    store = deploy(tmp_path, history())
    store.materialize(at(-DAY), at(10 * DAY))
    once = held(store)
    assert len(once) == 5  # three states, how far was loaded, and what was left out
    store.materialize(at(-DAY), at(10 * DAY))
    assert held(store) == once
    store.materialize(at(2 * DAY), at(10 * DAY))
    assert held(store) == once


def test_history_loaded_equals_history_recorded(home, tmp_path):
    events = history()
    loaded = deploy(tmp_path, events)
    loaded.materialize(at(-DAY), at(4 * DAY))
    recorded = deploy(tmp_path, [])
    of_load = ask(loaded, "abc", at(2 * DAY))
    online_client(loaded).flushdb()
    EventRecorder.compile(recorded).record("events", events)
    assert str(ask(recorded, "abc", at(2 * DAY))) == str(of_load)
    assert of_load[0]["all_events_count_7d"] == 16


def test_an_incremental_load_brings_what_became_known_since(home, tmp_path):
    events = [*history(), event("late", 3600, amount=1000, late=4 * DAY), event("new", 5 * DAY, amount=2000)]
    store = deploy(tmp_path, events)
    store.materialize(at(-DAY), at(3 * DAY))
    before = ask(store, "a", at(6 * DAY))[0]
    store.materialize_incremental(at(6 * DAY))
    after = ask(store, "a", at(6 * DAY))[0]
    assert after["all_events_count_7d"] == before["all_events_count_7d"] + 2
    assert after["all_amount_sum_7d"] == before["all_amount_sum_7d"] + 3000
    unaware = ask(store, "a", at(6 * DAY), known=at(4 * DAY))[0]
    assert unaware["all_events_count_7d"] == before["all_events_count_7d"]
    everything = held(store)
    store.materialize_incremental(at(6 * DAY))
    assert held(store) == everything


def test_an_event_known_at_the_end_of_a_load_is_in_the_next(home, tmp_path):
    store = deploy(tmp_path, [event(1, DAY), event(2, 2 * DAY)])
    store.materialize(at(0), at(2 * DAY))
    assert ask(store, "a", at(3 * DAY))[0]["all_events_count_7d"] == 1
    store.materialize_incremental(at(2 * DAY + 0.000001))
    assert ask(store, "a", at(3 * DAY))[0]["all_events_count_7d"] == 2


def test_live_events_recorded_before_and_during_a_load_stay_and_count_once(home, tmp_path):
    events = [event(n, n * 60, key=f"k{n % 700}", amount=n) for n in range(2100)]
    store = deploy(tmp_path, events)
    recorder = EventRecorder.compile(store)
    live = [event(f"live{n}", 2 * DAY + n, key=f"k{n}", amount=1) for n in range(700)]
    recorder.record("events", [*live[:300], events[0]])
    stop = threading.Event()

    def keep_recording():
        for one in live[300:]:
            recorder.record("events", [one])
        stop.set()

    thread = threading.Thread(target=keep_recording)
    thread.start()
    store.materialize(at(-DAY), at(2 * DAY))
    thread.join()
    assert stop.is_set()
    rows = ask(store, [f"k{n}" for n in range(700)], at(3 * DAY))
    assert [row["all_events_count_7d"] for row in rows] == [4] * 700
    assert [row["all_amount_sum_7d"] for row in rows] == [3 * n + 2100 + 1 for n in range(700)]


def test_an_event_recorded_live_keeps_the_known_time_it_was_served_by(home, tmp_path):
    store = deploy(tmp_path, [event(1, 0, late=60)])
    EventRecorder.compile(store).record("events", [event(1, 0, late=5)])
    store.materialize(at(-DAY), at(DAY))
    assert ask(store, "a", at(30))[0]["all_events_count_1h"] == 1


def test_a_first_load_that_starts_too_late_is_refused_with_the_start_that_is_not(home, tmp_path):
    store = deploy(tmp_path, history())
    with pytest.raises(
        ValueError, match=r"^view: 25 events .* 2024-03-10 23:00:00.*; materialize from 2024-03-09 22:00"
    ):
        store.materialize(at(25 * 3600), at(3 * DAY))
    assert state_keys(store) == []
    store.materialize(at(0), at(3 * DAY))
    assert ask(store, "a", at(3 * DAY))[0]["all_events_count_7d"] == 20


def test_a_later_load_that_leaves_a_gap_is_refused_as_well(home, tmp_path):
    store = deploy(tmp_path, history())
    store.materialize(at(0), at(10 * 3600))
    before = held(store)
    with pytest.raises(ValueError, match=r"^view: 10 events .*; materialize from 2024-03-10 08:00"):
        store.materialize(at(20 * 3600), at(3 * DAY))
    assert held(store) == before
    store.materialize(at(10 * 3600), at(3 * DAY))
    assert ask(store, "a", at(3 * DAY))[0]["all_events_count_7d"] == 20


def test_events_that_no_window_reaches_are_no_gap_and_questions_about_them_are_refused(home, tmp_path):
    store = deploy(tmp_path, [event(0, 0), *(event(n, 40 * DAY + n) for n in range(1, 4))])
    store.materialize(at(35 * DAY), at(41 * DAY))
    assert ask(store, "a", at(41 * DAY))[0]["all_events_count_7d"] == 3
    with pytest.raises(LookupError, match=r"^view: .*materialize again"):
        ask(store, "a", at(DAY))


def test_a_state_whose_later_events_were_left_out_refuses_questions_that_reach_them(home, tmp_path):
    store = deploy(
        tmp_path, [event(1, 0), event(2, 1, key="b"), event(3, 3 * DAY), event(4, 60 * DAY, key="b")]
    )
    store.materialize(at(-DAY), at(2 * DAY))
    assert ask(store, "a", at(2 * DAY))[0]["all_events_count_7d"] == 1
    store.materialize_incremental(at(61 * DAY))
    with pytest.raises(LookupError, match=r"^view: .*materialize again"):
        ask(store, "a", at(4 * DAY))
    assert [row["all_events_count_7d"] for row in ask(store, "abc", at(61 * DAY))] == [0, 1, 0]


def test_a_missing_column_and_a_wrong_type_are_refused_by_name(home, tmp_path):
    lacking = SCHEMA.remove(SCHEMA.get_field_index("amount"))
    store = deploy(tmp_path, [], schema=lacking)
    with pytest.raises(ValueError, match=r"^view: column 'amount' is not in source 'events'; it has id, "):
        store.materialize(at(0), at(DAY))
    write_events(tmp_path / "events.parquet", [], lacking.append(pa.field("amount", pa.float64())))
    with pytest.raises(ValueError, match=r"^view: column 'amount' is DOUBLE; .* store cents"):
        store.materialize(at(0), at(DAY))
    assert state_keys(store) == []


def test_an_absent_file_is_refused_by_name(home, tmp_path):
    store = deploy(tmp_path, [])
    (tmp_path / "events.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="'events': no Parquet file"):
        store.materialize(at(0), at(DAY))


def test_filter_scale_composite_key_and_null_keys_load_as_they_are_recorded(home, tmp_path):
    schema = SCHEMA.set(SCHEMA.get_field_index("amount"), pa.field("amount", pa.decimal128(18, 4)))
    events = [
        {**event(n, n * 60, key=None if n == 7 else "ab"[n % 2], place="xy"[n % 4 // 2]), "amount": amount}
        for n, amount in enumerate([Decimal("1.5"), Decimal("-0.0001"), None, *map(Decimal, range(10))])
    ]
    options = {
        "entities": [HOLDER, PLACE],
        "where": "amount > -1",
        "scale": {"amount": 4},
        "delay": "1h",
    }
    store = deploy(tmp_path, events, schema=schema, **options)
    store.materialize(at(-DAY), at(DAY))
    of_load, loaded = ask(store, "a", at(2 * 3600 - 1)), held(store)
    online_client(store).flushdb()
    EventRecorder.compile(store).record("events", events)
    assert str(ask(store, "a", at(2 * 3600 - 1))) == str(of_load)
    counted = [
        e["amount"] for e in events if e["key"] == "a" and e["place"] == "x" and e["amount"] is not None
    ]
    assert of_load[0]["all_amount_sum_7d"] == sum(counted) * 10_000 > 0
    assert {k: v for k, v in loaded.items() if not k.endswith(b"loaded")} == held(store)


KEYS = pa.schema([("id", pa.string()), ("key", pa.string()), ("time", TIME), ("known", TIME)])


def keyed(folder, declared, kind, values):
    """A store of a view of one event of each key, the first of them in its source, and all events."""
    holder = Entity(name="who", join_keys=["key"], value_type=declared)
    source = events_source(folder / "events.parquet")
    events = [{**event(n, n, key=value)} for n, value in enumerate(values)]
    events = [{name: e[name] for name in KEYS.names} for e in events]
    write_events(folder / "events.parquet", events[:1], KEYS.set(1, pa.field("key", kind)))
    return project(
        folder, holder, source, view_of(source, {("count", ""): ["1d"]}, entities=[holder])
    ), events


@pytest.mark.parametrize(
    ("declared", "kind", "value"),
    [
        (ValueType.BOOL, pa.bool_(), True),
        (ValueType.BOOL, pa.bool_(), False),
        (ValueType.INT64, pa.int16(), -7),
        (ValueType.DOUBLE, pa.float64(), 1e16),
        (ValueType.STRING, pa.string(), "é:1"),
    ],
)
def test_a_key_of_any_type_names_one_state_loaded_recorded_and_asked(home, tmp_path, declared, kind, value):
    store, events = keyed(tmp_path, declared, kind, [value, value])
    store.materialize(at(-1), at(0.5))
    EventRecorder.compile(store).record("events", events[1:])
    row = {"key": value, "event_timestamp": at(5)}
    answer = store.get_online_features(["view:all_events_count_1d"], [row]).to_dict()
    assert answer["all_events_count_1d"] == [2]


@pytest.mark.parametrize(
    ("declared", "kind", "value", "named"),
    [
        (ValueType.BYTES, pa.binary(), b"a\x00", "BLOB"),
        (ValueType.UNIX_TIMESTAMP, TIME, START, "TIMESTAMP WITH TIME ZONE"),
        (ValueType.FLOAT, pa.float32(), 0.5, "FLOAT"),
    ],
)
def test_a_key_whose_text_is_not_one_is_refused(home, tmp_path, declared, kind, value, named):
    store, _ = keyed(tmp_path, declared, kind, [value])
    with pytest.raises(
        ValueError, match=f"view: join key 'key' of 'events' is {named}; states are named by the text"
    ):
        store.materialize(at(-1), at(0.5))


def test_loaded_state_expires(home, tmp_path):
    store = deploy(tmp_path, history())
    store.materialize(at(-DAY), at(3 * DAY))
    longest = 9 * DAY
    ttls = [online_client(store).ttl(key) for key in state_keys(store) if not key.endswith(b"loaded")]
    assert all(longest <= ttl <= longest * 17 / 16 for ttl in ttls)
    assert len(ttls) == 3


def test_a_deleted_view_leaves_nothing_and_takes_nothing_of_another(home, tmp_path):
    source = events_source(write_events(tmp_path / "events.parquet", history()))
    gone = view_of(source, {("count", ""): ["1h"]}, name="view")
    stays = view_of(source, {("count", ""): ["1h"]}, name="view_2", prefix="two")
    store = project(tmp_path, source, gone, stays)
    store.materialize(at(-DAY), at(3 * DAY))
    assert len(state_keys(store)) == 10
    store.apply([source, stays], objects_to_delete=[gone], partial=False)
    assert len(state_keys(store)) == 5
    assert all(key.startswith(b"window:small:view_2:") for key in state_keys(store))


def test_teardown_leaves_nothing(home, tmp_path):
    store = deploy(tmp_path, history())
    store.materialize(at(-DAY), at(3 * DAY))
    EventRecorder.compile(store).record("events", [event("x", 0, key="other")])
    online_client(store).set("somebody else's", 1)
    assert len(state_keys(store)) == 6
    store.teardown()
    assert state_keys(store) == [b"somebody else's"]


def test_a_key_all_of_whose_events_were_left_out_does_not_answer_without_them(home, tmp_path):
    store = deploy(tmp_path, [event(1, 0, key="a"), event(2, 1, key="b"), event(3, 20 * DAY, key="b")])
    store.materialize(at(-DAY), at(33 * DAY))
    for key in "ab":
        with pytest.raises(LookupError, match=r"^view: .*materialize again"):
            ask(store, key, at(6 * DAY))
    assert ask(store, "a", at(33 * DAY))[0]["all_events_count_7d"] == 0
    # An event recorded later starts the key's state; what was left out before it is still missing.
    EventRecorder.compile(store).record("events", [event(4, 33 * DAY, key="a")])
    with pytest.raises(LookupError, match=r"^view: .*materialize again"):
        ask(store, "a", at(6 * DAY))
    assert ask(store, "a", at(33 * DAY + 1))[0]["all_events_count_7d"] == 1


def test_events_of_a_source_without_known_times_are_known_as_they_happen(home, tmp_path):
    write_events(tmp_path / "events.parquet", [event(1, 0)])
    source = events_source(tmp_path / "events.parquet", created_timestamp_column="")
    store = project(tmp_path, HOLDER, source, view_of(source, {("count", ""): ["7d"]}))
    recorded = {name: value for name, value in event(1, 0).items() if name != "known"}
    assert EventRecorder.compile(store).record("events", [recorded]) == [to_microseconds(at(0))]
    row = {"key": "a", "event_timestamp": at(5)}
    features = ["view:all_events_count_7d"]
    online = store.get_online_features(features=features, entity_rows=[row]).to_dict()
    offline = store.get_historical_features(pd.DataFrame([row]), features).to_df()
    assert online["all_events_count_7d"] == offline["all_events_count_7d"].tolist() == [1]


def test_an_event_that_stands_twice_in_the_source_counts_once_on_both_sides(home, tmp_path):
    store = deploy(tmp_path, [event(1, 0), event(2, 5), event(2, 5), event(3, 5), event(1, 0)])
    store.materialize(at(-DAY), at(DAY))
    row = {"key": "a", "event_timestamp": at(60)}
    features = ["view:all_events_count_7d", "view:all_amount_sum_7d"]
    online = store.get_online_features(features=features, entity_rows=[row]).to_dict()
    offline = store.get_historical_features(pd.DataFrame([row]), features).to_df()
    for name in ("all_events_count_7d", "all_amount_sum_7d"):
        assert online[name] == offline[name].tolist() == [3]


@pytest.mark.parametrize("column", ["id", "time", "known"])
def test_an_event_without_id_or_times_is_refused_on_both_sides(home, tmp_path, column):
    store = deploy(tmp_path, [event(1, 0), {**event(2, 5), column: None}])
    message = rf"^view: column '{column}' of events is null in 1 events"
    with pytest.raises(ValueError, match=message):
        store.materialize(at(-DAY), at(DAY))
    frame = pd.DataFrame([{"key": "a", "event_timestamp": at(60)}])
    with pytest.raises(ValueError, match=message):
        store.get_historical_features(frame, ["view:all_events_count_7d"]).to_df()


def test_a_plan_warms_over_a_view_that_left_events_out(home, tmp_path):
    store = deploy(tmp_path, [event(1, 0), event(2, 60 * DAY)])
    store.materialize(at(-DAY), at(61 * DAY))
    OnlinePlan.compile(store, "service").warm()


def test_a_plan_warms_up_whatever_was_left_out(home, tmp_path):
    store = deploy(tmp_path, [event(1, 0), event(2, 60 * DAY)])
    store.materialize(at(-DAY), at(61 * DAY))
    plan = OnlinePlan.compile(store, "service")
    plan.warm()
    assert plan.missing_state() == []
