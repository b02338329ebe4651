"""Events in a real Valkey server: any order, any number of deliveries, any process; bounded, exact or refused."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from feast import FeatureService
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo.windows import embedded
from feature_repo.windows.plan import OnlinePlan
from feature_repo.windows.reading import StateReader, StateView
from feature_repo.windows.recorder import EventRecorder, windowed_specs
from feature_repo.windows.state import to_microseconds
from tests import oracle
from tests.state_bytes import head_of, tail_of
from tests.timelines import moment, streams
from tests.windows_project import (
    START,
    at,
    event,
    events_source,
    every_aggregate,
    online_client,
    project,
    view_of,
)

HOUR = 3600
GRACE = 2 * 24 * HOUR  # s behind the newest event of a key that are still answered
COUNTER = iter(range(10**6))


@pytest.fixture(scope="module")
def store(module_home):
    source = events_source(module_home / "events.parquet")
    view = view_of(source, every_aggregate("10s", "1m"), name="everything")
    hourly = view_of(
        source, {("count", ""): ["1h"], ("sum", "amount"): ["1h"]}, name="hourly", prefix="hourly"
    )
    large = view_of(
        source, {("count", ""): ["1h"]}, name="large", prefix="large", where="amount >= 100", delay="10s"
    )
    service = FeatureService(name="service", features=[view, hourly, large])
    return project(module_home, source, view, hourly, large, service)


@pytest.fixture(scope="module")
def plan(store):
    return OnlinePlan.compile(store, "service")


@pytest.fixture(scope="module")
def recorder(store):
    return EventRecorder.compile(store)


@pytest.fixture
def key():
    """A key that no other test has used."""
    return f"k{next(COUNTER)}"


def ask(plan, key, *instants):
    """The features of a key at instants, by name; instants are aware datetimes."""
    rows = [
        {"key": key, "event_timestamp_us": to_microseconds(t), "known_as_of_us": to_microseconds(t)}
        for t in instants
    ]
    values = plan.read(rows).values
    return [dict(zip(plan.feature_names, row, strict=True)) for row in values]


def state_of(store, view, key):
    (name,) = online_client(store).keys(f"window:small:{view}:*:{len(key)}:{key}")
    return name, online_client(store).get(name)


@given(st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_events_in_any_order_delivered_any_number_of_times_give_the_same_answers(store, plan, recorder, data):
    arrivals = data.draw(streams(keys=("a",), most=14))
    in_order = sorted({e["id"]: e for e in reversed(arrivals)}.values(), key=lambda e: e["time"])
    ordered, shuffled = (f"{word}{next(COUNTER)}" for word in ("ordered", "shuffled"))
    for name, events in ((ordered, in_order), (shuffled, arrivals)):
        rows = [{**e, "key": name, "time": moment(e["time"]), "known": moment(e["known"])} for e in events]
        while rows:
            size = data.draw(st.integers(1, 5))
            batch, rows = rows[:size], rows[size:]
            assert recorder.record("events", batch) == [to_microseconds(e["known"]) for e in batch]
    instants = [START, *(moment(e["time"] + shift) for e in in_order for shift in (0, 1, 10_000_000))]
    wanted = [
        {"event_timestamp_us": to_microseconds(t), "known_as_of_us": to_microseconds(t) + late}
        for t in instants
        for late in (0, 20_000_000)
    ]
    one, two = (plan.read([{"key": name, **row} for row in wanted]) for name in (ordered, shuffled))
    assert one.values.tobytes() == two.values.tobytes()
    assert {view: seen.tolist() for view, seen in one.state_seen.items()} == {
        view: seen.tolist() for view, seen in two.state_seen.items()
    }


def test_of_several_deliveries_the_one_known_first_says_when_an_event_became_known(plan, recorder, key):
    for late in (30, 5, 60):
        recorder.record("events", [event(1, 0, key=key, late=late)])
    counts = [row["all_events_count_1m"] for row in ask(plan, key, at(5), at(5.000001), at(30), at(59))]
    assert counts == [0, 1, 1, 1]


CHILD = """
import json, sys
from feast import FeatureStore, RepoConfig
from feature_repo.windows.recorder import EventRecorder
from tests.windows_project import event
config, key, first, count = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
recorder = EventRecorder.compile(FeatureStore(config=RepoConfig(**config)))
print("ready", flush=True)
sys.stdin.readline()
for number in range(first, first + count):
    recorder.record("events", [event(number, number / 10, key=key, amount=number)])
"""


def test_two_processes_that_record_at_once_lose_nothing_and_double_nothing(
    module_home, store, plan, recorder, key
):
    config = {
        "project": "small",
        "provider": "local",
        "registry": str(module_home / "small.db"),
        "entity_key_serialization_version": 3,
        "offline_store": {"type": "feature_repo.windows.offline_store.WindowedOfflineStore"},
        "online_store": {"type": "feature_repo.windows.online_store.WindowedOnlineStore"},
    }
    # Events 150 to 249 come from both.
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CHILD, json.dumps(config), key, "150", "250"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout.readline() == "ready\n"
        child.stdin.write("go\n")
        child.stdin.flush()
        for number in range(250):
            recorder.record("events", [event(number, number / 10, key=key, amount=number)])
    assert child.returncode == 0
    (row,) = ask(plan, key, at(HOUR / 2))
    assert row["hourly_events_count_1h"] == 400
    assert row["hourly_amount_sum_1h"] == sum(range(400))
    _, state = state_of(store, "hourly", key)
    times = [record[0] for record in tail_of(state, ["number"])]
    assert len(times) == 500
    assert times != sorted(times), "the two took turns"


def ten_minutely(key, count, start=0):
    """Events each ten minutes, some a little out of order."""
    return [event(n, 600 * n - (900 if n % 7 == 0 else 0), key=key, amount=n) for n in range(start, count)]


def test_state_stays_bounded_and_answers_exact_inside_the_grace(store, plan, recorder, key):
    events = ten_minutely(key, 3000)
    sizes = []
    for first in range(0, len(events), 100):
        recorder.record("events", events[first : first + 100])
        sizes.append(len(tail_of(state_of(store, "hourly", key)[1], ["number"])))
    reach = (GRACE + HOUR) // 600
    assert max(sizes) <= 2 * reach + 100
    assert min(sizes[20:]) >= reach
    newest = max(e["time"] for e in events)
    plainly = [
        {**e, "order": n, "time": to_microseconds(e["time"]), "known": to_microseconds(e["known"])}
        for n, e in enumerate(events)
    ]
    instants = [newest - timedelta(seconds=back) for back in (0, 1, HOUR, GRACE / 2, GRACE - 1, GRACE)]
    for instant, row in zip(instants, ask(plan, key, *instants), strict=True):
        now = to_microseconds(instant)
        inside = oracle.counted(plainly, key, now, HOUR * 1_000_000, 0, now)
        assert row["hourly_events_count_1h"] == len(inside) > 0
        assert row["hourly_amount_sum_1h"] == sum(e["amount"] for e in inside)


def test_a_question_that_reaches_dropped_events_is_refused_with_the_way_out(store, recorder, key):
    recorder.record("events", ten_minutely(key, 1500))
    _, state = state_of(store, "hourly", key)
    dropped = head_of(state)[0]
    assert dropped < min(record[0] for record in tail_of(state, ["number"]))
    (spec,) = (spec for spec in windowed_specs(store) if spec.view == "hourly")
    reader = StateReader(online_client(store), [StateView(spec, "small", ("key",))])
    first_answered = np.array([dropped + HOUR * 1_000_000 + 1])
    ((results, _),), *_ = reader.read([{"key": key}], first_answered, first_answered)
    assert results[0, 0] > 0
    with pytest.raises(LookupError, match=r"^hourly: .* dropped .*; ask offline, or materialize again"):
        reader.read([{"key": key}], first_answered - 1, first_answered - 1)


def test_an_event_that_comes_after_its_time_was_dropped_does_not_open_it_again(plan, recorder, key):
    recorder.record("events", ten_minutely(key, 1500))
    recorder.record("events", [event("late", 100, key=key)])
    with pytest.raises(LookupError, match=r"dropped"):
        ask(plan, key, at(200))


def test_of_a_small_state_nothing_is_dropped(plan, recorder, key):
    recorder.record("events", [event(n, n * 30 * 24 * HOUR, key=key) for n in range(60)])
    assert [row["hourly_events_count_1h"] for row in ask(plan, key, at(1), at(59 * 30 * 24 * HOUR + 1))] == [
        1,
        1,
    ]


def test_a_server_without_the_scripts_is_given_them(store, plan, recorder, key):
    recorder.record("events", [event(1, 0, key=key)])
    online_client(store).script_flush()
    recorder.record("events", [event(n, n, key=key) for n in range(2, 9)])
    assert ask(plan, key, at(30))[0]["all_events_count_1m"] == 8


def test_a_server_that_was_restarted_has_every_event_and_takes_more(module_home, plan, recorder, key):
    recorder.record("events", [event(1, 0, key=key, amount=5)])
    assert embedded.stop(module_home)
    embedded.ensure_running(module_home)
    recorder.record("events", [event(2, 1, key=key, amount=7)])
    assert ask(plan, key, at(30))[0]["all_amount_sum_1m"] == 12


def test_a_state_expires_when_nothing_in_it_can_count_any_more(store, recorder, key):
    recorder.record("events", [event(1, 0, key=key, amount=100)])
    client = online_client(store)
    for view, longest in (("everything", 60), ("hourly", HOUR), ("large", HOUR + 10)):
        name, _ = state_of(store, view, key)
        assert GRACE + longest <= client.ttl(name) <= (GRACE + longest) * 17 / 16
        client.expire(name, 10)
    recorder.record("events", [event(2, 1, key=key, amount=100)])
    assert client.ttl(state_of(store, "hourly", key)[0]) > GRACE


def test_a_state_takes_little_more_memory_than_its_bytes_however_it_grows(store, recorder, key):
    client = online_client(store)
    for i in range(80):
        recorder.record("events", [event(f"{key}-{i}", i, key=key)])
        name, state = state_of(store, "everything", key)
        # What the server keeps beside a string, and the steps in which it gives memory.
        assert client.memory_usage(name) <= 1.25 * len(state) + 150


def test_that_states_are_kept_small_is_nothing_for_the_servers_log(module_home, store, recorder, key):
    recorder.record("events", [event(f"{key}-{i}", i, key=key) for i in range(40)])
    before = log_bytes(module_home)
    recorder.record("events", [event(f"{key}-41", 41, key=key)])
    name, state = state_of(store, "everything", key)
    written = log_bytes(module_home) - before
    # Two views count the event: each its key, a record, and the command around them.
    assert 0 < written < 2 * (len(name) + 100)
    left = online_client(store).pttl(name)
    embedded.stop(module_home)
    embedded.ensure_running(module_home)
    again = online_client(store)
    assert again.get(name) == state
    assert 0 <= left - again.pttl(name) < 60_000


@pytest.mark.parametrize("command", ["bitop", "pexpire"])
def test_a_user_who_may_not_keep_states_small_loses_neither_events_nor_their_expiry(
    store, plan, recorder, key, command
):
    client = online_client(store)
    client.execute_command("ACL", "SETUSER", "default", f"-{command}")
    try:
        for i in range(6):
            recorder.record("events", [event(f"{key}-{i}", i, key=key)])
    finally:
        client.execute_command("ACL", "SETUSER", "default", f"+{command}")
    assert ask(plan, key, at(30))[0]["all_events_count_1m"] == 6
    name, state = state_of(store, "hourly", key)
    assert client.ttl(name) > GRACE
    assert (len(state) - head_of(state)[2]) % 6 == 0


def log_bytes(home):
    """How much the server's append-only log holds, written as it is by now."""
    return sum(path.stat().st_size for path in (home / "valkey").rglob("*.aof"))


def test_an_event_without_known_time_is_known_now_by_the_servers_clock(store, plan, recorder, key):
    seconds, micros = online_client(store).time()
    now = datetime.fromtimestamp(seconds, UTC)
    rows = [
        {**event(1, 0, key=key), "time": now, "known": None},
        {name: value for name, value in event(2, 0, key=key).items() if name != "known"} | {"time": now},
    ]
    known = recorder.record("events", rows)
    assert all(0 <= k - (seconds * 1_000_000 + micros) < 30_000_000 for k in known)
    asked = {"key": key, "event_timestamp_us": known[1] + 1}
    place = plan.feature_names.index("all_events_count_1m")
    for known_as_of, count in (
        (known[0], 0),
        (known[0] + 1, 1 if known[1] > known[0] else 2),
        (known[1] + 1, 2),
    ):
        answer = plan.read([{**asked, "known_as_of_us": known_as_of}])
        assert answer.values[0, place] == count


def test_in_a_large_batch_each_event_keeps_its_own_known_time_and_states(store, plan, recorder, key):
    seconds, _ = online_client(store).time()
    now = datetime.fromtimestamp(seconds, UTC)
    rows = [
        {
            **event(n, 0, key=[key, None, f"{key}'"][n % 3], amount=n * 5),
            "time": now,
            "known": now if n % 2 else None,
        }
        for n in range(101)
    ]
    known = recorder.record("events", rows)
    assert len(known) == 101
    given = [k == to_microseconds(now) for k in known]
    assert all(given[1::2])
    assert not any(k < to_microseconds(now) for k in known[::2])
    late = {"key": key, "event_timestamp_us": max(known) + 1, "known_as_of_us": max(known) + 1}
    (mine,), (others,) = (plan.read([{**late, "key": name}]).values for name in (key, f"{key}'"))
    for row, first in ((mine, 0), (others, 2)):
        found = dict(zip(plan.feature_names, row, strict=True))
        assert found["all_amount_sum_1m"] == sum(n * 5 for n in range(first, 101, 3))
    _, state = state_of(store, "large", key)
    assert len(tail_of(state, [])) == sum(1 for n in range(0, 101, 3) if n * 5 >= 100)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"amount": 1.5}, TypeError),
        ({"amount": 2**63}, ValueError),
        ({"amount": -(2**63)}, ValueError),
        ({"time": datetime(2024, 3, 9)}, ValueError),
        ({"place": 1.5}, TypeError),
        ({"id": None}, TypeError),
    ],
)
def test_of_a_batch_with_a_wrong_event_nothing_is_written(store, recorder, key, wrong, error):
    with pytest.raises(error):
        recorder.record("events", [event(1, 0, key=key), {**event(2, 1, key=key), **wrong}])
    assert online_client(store).keys(f"*:{len(key)}:{key}") == []


def test_a_missing_column_and_an_unknown_source_are_refused(recorder, key):
    incomplete = event(1, 0, key=key)
    del incomplete["amount"]
    with pytest.raises(KeyError, match="amount"):
        recorder.record("events", [incomplete])
    with pytest.raises(KeyError, match="no windowed view reads it; there are"):
        recorder.record("event", [event(1, 0, key=key)])


def test_an_event_without_key_or_outside_the_filter_touches_no_state(store, recorder, key):
    before = len(online_client(store).keys("*"))
    known = recorder.record("events", [event(1, 0, key=None), event(2, 0, key=key, amount=99)])
    assert known == [to_microseconds(at(0))] * 2
    assert len(online_client(store).keys("*")) == before + 2
    assert not online_client(store).keys(f"window:small:large:*{key}")


def test_keys_that_read_alike_have_states_of_their_own(plan, recorder):
    names = ["1:2", "1", "2", "1:21:2", "", "ä", "a*", "a?"]
    for n, name in enumerate(names):
        recorder.record("events", [event(1, 0, key=name, amount=n)])
    assert [ask(plan, name, at(1))[0]["all_amount_last_1m"] for name in names] == list(range(len(names)))


def test_a_damaged_state_is_an_error_not_an_answer(store, plan, recorder, key):
    recorder.record("events", [event(1, 0, key=key)])
    name, _ = state_of(store, "hourly", key)
    online_client(store).append(name, b"torn")
    with pytest.raises(ValueError, match=r"^hourly: a state with .* is no whole number"):
        ask(plan, key, at(1))
    online_client(store).delete(name)


def test_warming_asks_for_nothing_that_a_state_has_dropped(plan, recorder):
    recorder.record("events", [{**one, "key": ""} for one in ten_minutely("", 1500)])
    plan.warm()
