"""Many events recorded in one go leave the very bytes that they leave one by one, whatever views each of them goes to."""

import random
from dataclasses import replace

import pytest
import redis

from feature_repo.windows.embedded import ensure_running
from feature_repo.windows.keys import state_key, view_prefix
from feature_repo.windows.recorder import EventRecorder
from feature_repo.windows.spec import Aggregate
from tests.state_bytes import HEAD, records_of
from tests.timelines import SECOND, START, every_function, micros, moment

# The stored columns of a view with every function: the amount, and the place as a code.
KINDS = ["number", "code"]
COUNTS = replace(every_function(), aggregates=(Aggregate("n", "count", "", SECOND),))
SPECS = {
    name: replace(spec, view=name)
    for name, spec in {
        "plain": every_function(),
        "late": every_function(delay=60 * SECOND),
        "counts": COUNTS,
        "pair": replace(COUNTS, keys=("key", "place")),
        "filtered": every_function(where="amount > 500"),
        "rare": replace(COUNTS, where="amount BETWEEN 0 AND 100"),
        "corrected": replace(every_function(where="amount > 300"), corrected=True),
        # Another event id, so another way to pack.
        "numbered": replace(every_function(), event_id="order"),
    }.items()
}


@pytest.fixture(scope="module")
def client(module_home):
    return redis.Redis(unix_socket_path=str(ensure_running(module_home)))


def some_events(count, seed=3):
    """Events of few keys, some null, with amounts of every length and known at once, soon, much later or before."""
    rng = random.Random(seed)
    lengths = [0, 1, -1, 63, 64, -64, -65, 8191, 8192, 2**20, -(2**20), 2**27, 2**62, -(2**63) + 1, None]
    for n in range(count):
        time = micros(START) + n * SECOND
        late = rng.choice([0, 0, 0, 1, 5 * SECOND, 3600 * SECOND, -SECOND])
        yield {
            "id": f"e{n}",
            "order": n,
            "key": rng.choice(["a", "b", "long" * 30, None]),
            "place": rng.choice(["p1", "p2", 7, True, 1, None]),
            "amount": rng.choice([*lengths, rng.randrange(1000)]),
            "time": moment(time),
            "known": moment(time + late),
        }


def states(client, project):
    """Every state of a project by what follows the project's name."""
    start = f"window:{project}:".encode()
    return {key[len(start) :]: client.get(key) for key in client.keys(start + b"*")}


@pytest.mark.parametrize("count", [2, 20, 21, 203])
def test_many_events_leave_the_bytes_that_they_leave_one_by_one(client, count):
    events, together, alone = list(some_events(count)), f"together{count}", f"alone{count}"
    known = EventRecorder.of(client, together, SPECS.values()).record("events", events)
    one = EventRecorder.of(client, alone, SPECS.values())
    assert known == [time for event in events for time in one.record("events", [event])]
    assert states(client, together) == states(client, alone)


def test_each_view_alone_leaves_what_it_leaves_among_others(client):
    events = list(some_events(60))
    EventRecorder.of(client, "among", SPECS.values()).record("events", events)
    for spec in SPECS.values():
        EventRecorder.of(client, "apart", [spec]).record("events", events)
    assert states(client, "among") == states(client, "apart")


def test_of_events_known_now_and_known_before_each_record_says_its_own_time(client):
    events = list(some_events(45))
    for n, event in enumerate(events):
        if n % 4 > 1:
            del event["known"]
    known = EventRecorder.of(client, "clock", SPECS.values()).record("events", events)
    assert all(abs(k - micros(e["known"])) == 0 for k, e in zip(known, events, strict=True) if "known" in e)
    for name in ("plain", "corrected"):
        spec = SPECS[name]
        found = {}
        for key in ("a", "b", "long" * 30):
            state = client.get(state_key(view_prefix("clock", spec), [key]))
            for time, _, (amount, _), seen, void in records_of(state[HEAD:], KINDS):
                found[time] = (amount, seen, void)
        assert found == {
            micros(e["time"]): (e["amount"], k, name == "corrected" and (e["amount"] or 0) <= 300)
            for k, e in zip(known, events, strict=True)
            if e["key"] is not None
        }


def test_a_filtered_view_asks_nothing_of_events_that_do_not_pass(client):
    events = [{**event, "amount": 5} for event in some_events(4)]
    del events[2]["place"]
    recorder = EventRecorder.of(client, "lacking", [replace(SPECS["pair"], where="amount > 500")])
    recorder.record("events", events)
    assert states(client, "lacking") == {}
    events[2]["amount"] = 501
    with pytest.raises(KeyError, match="place"):
        recorder.record("events", events)


def test_no_events_are_written_in_no_time(client):
    assert EventRecorder.of(client, "nothing", SPECS.values()).record("events", []) == []
