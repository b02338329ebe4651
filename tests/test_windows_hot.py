"""Keys with more events than a state holds at once: sealed, summarized, exact in any order, whoever compacts when."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo.windows.compaction import Compactor
from feature_repo.windows.head import SIZES, Sizes
from feature_repo.windows.history_writer import HistoryWriter
from feature_repo.windows.keys import distinct_key, parts_key, state_key, view_prefix
from feature_repo.windows.reading import StateReader, StateView
from feature_repo.windows.recorder import EventRecorder
from feature_repo.windows.scalars import event_number, value_code
from feature_repo.windows.spec import Aggregate, ViewSpec
from tests import oracle
from tests.deliveries import DAY, TINY, rows_of, steady
from tests.homes import client_of
from tests.kernel_rows import plain
from tests.state_bytes import sealed_of
from tests.timelines import SECOND, START, asks, every_function, micros, streams

COUNTER = iter(range(10**6))


@pytest.fixture(scope="module")
def client(module_home):
    return client_of(module_home)


class Deployment:
    """One view under its own name, its recorder, compactor and reader."""

    def __init__(self, client, spec, sizes=TINY):
        self.client, self.spec, self.project = client, spec, f"p{next(COUNTER)}"
        self.recorder = EventRecorder.of(client, self.project, [spec], sizes)
        self.compactor = Compactor(client, spec, sizes)
        self.reader = StateReader(client, [StateView(spec, self.project, ("key",))])

    def record(self, events):
        self.recorder.record(self.spec.source, rows_of(events))

    def key(self, name="a"):
        return state_key(view_prefix(self.project, self.spec), [name])

    def ask(self, wanted):
        """Rows of Python values, and events seen."""
        rows = [{"key": key} for key, _, _ in wanted]
        instants, known = (np.array([ask[i] for ask in wanted], dtype=np.int64) for i in (1, 2))
        ((results, seen),), *_ = self.reader.read(rows, instants, known)
        return [plain(self.spec, row) for row in results], seen.tolist()

    def sealed(self, name="a"):
        return sealed_of(self.client.get(self.key(name)))


def truth(spec, events, wanted):
    return [oracle.aggregates(spec, events, instant, known, key) for key, instant, known in wanted]


@given(st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_any_number_of_deliveries_any_compactions_give_what_the_oracle_gives(client, data):
    delay = data.draw(st.sampled_from([0, 0, SECOND, 10 * SECOND]))
    spec = every_function(delay=delay)
    deployment = Deployment(client, spec)
    arrivals = data.draw(streams(keys=("a",), most=40))
    wanted = data.draw(asks(arrivals, keys=("a",), most=8))
    there = []
    while arrivals:
        size = data.draw(st.integers(1, 12))
        batch, arrivals = arrivals[:size], arrivals[size:]
        deployment.record(batch)
        there += batch
        if data.draw(st.booleans()):
            deployment.compactor.compact([deployment.key()])
        if data.draw(st.booleans()):
            assert deployment.ask(wanted)[0] == truth(spec, there, wanted)
    found, seen = deployment.ask(wanted)
    assert found == truth(spec, there, wanted)
    assert seen == [len({e["id"] for e in there})] * len(wanted)


@pytest.mark.parametrize("delay", [0, 30 * SECOND])
def test_every_edge_of_every_chunk(client, delay):
    spec = every_function(delay=delay, windows=(7 * SECOND, 40 * SECOND, DAY))
    deployment = Deployment(client, spec)
    events = list(steady(120))
    for first in range(0, len(events), 10):
        deployment.record(events[first : first + 10])
    assert deployment.sealed()
    wanted = [
        ("a", e["time"] + shift + delay, e["time"] + shift + delay + late)
        for e in events[::3]
        for shift in (0, 1)
        for late in (0, -50 * SECOND, 100 * SECOND)
    ]
    assert deployment.ask(wanted)[0] == truth(spec, events, wanted)


def test_late_events_and_repeats_are_merged_into_the_chunks_where_they_belong(client):
    spec = every_function(windows=(40 * SECOND, DAY))
    deployment, events = Deployment(client, spec), list(steady(150))
    late = events[20:100:7]
    deployment.record([e for e in events if e not in late])
    deployment.record([*late, *events[::4], *late])
    state = deployment.client.get(deployment.key())
    wanted = [("a", e["time"] + 1, e["time"] + DAY) for e in events[::9]]
    found, seen = deployment.ask(wanted)
    assert found == truth(spec, events, wanted)
    assert set(seen) == {150}
    deployment.compactor.compact([deployment.key()])
    assert deployment.ask(wanted) == (found, seen)
    assert len(deployment.client.get(deployment.key())) < len(state) + 200


def test_what_no_window_reaches_goes_with_its_parts_and_is_refused(client):
    spec = every_function(windows=(SECOND, 3600 * SECOND))
    deployment = Deployment(client, spec, replace(TINY, indexed=0))
    events = list(steady(400, step=1800 * SECOND, late=0))
    for first in range(0, len(events), 20):
        deployment.record(events[first : first + 20])
    deployment.compactor.compact([deployment.key()])
    reach = (2 * 24 + 1) * 2
    parts = client.hgetall(parts_key(deployment.key()))
    held = sum(len(part) for name, part in parts.items())
    assert held < (reach + 10) * 250
    newest = events[-1]["time"]
    wanted = [("a", newest - back * 3600 * SECOND, newest) for back in (0, 1, 24, 47)]
    assert deployment.ask(wanted)[0] == truth(spec, events, wanted)
    with pytest.raises(LookupError, match=r"^view: .*dropped"):
        deployment.ask([("a", newest - 4 * DAY, newest)])
    assert 0 < client.zcard(distinct_key(deployment.key(), 0)) <= 3


def test_events_of_one_instant_are_never_divided(client):
    spec = every_function()
    deployment = Deployment(client, spec)
    same = [
        {**e, "time": micros(START) + n // 25 * SECOND, "known": micros(START)}
        for n, e in enumerate(steady(100))
    ]
    deployment.record(same[:60])
    deployment.record(same[60:])
    deployment.compactor.compact([deployment.key()])
    assert deployment.sealed()
    wanted = [
        ("a", micros(START) + n * SECOND + shift, micros(START) + DAY) for n in range(6) for shift in (0, 1)
    ]
    assert deployment.ask(wanted)[0] == truth(spec, same, wanted)


def load(deployment, events, sizes=TINY):
    """Events of one key, as history."""
    spec = deployment.spec

    def stored(column, event):
        return value_code(event["place"] or "") if column == "place" else event[column] or 0

    batch = pa.RecordBatch.from_pydict(
        {
            "key": ["a"] * len(events),
            "__time": [e["time"] for e in events],
            "__known": [e["known"] for e in events],
            "__id": [event_number(e["id"]) for e in events],
            **{f"__v{i}": [stored(c.name, e) for e in events] for i, c in enumerate(spec.columns)},
        }
    )
    HistoryWriter(deployment.client, spec, view_prefix(deployment.project, spec), sizes).write(batch)


@pytest.mark.parametrize("renew", ["load", "record", "compact"])
def test_what_stands_beside_a_state_goes_no_sooner_than_the_state(client, renew):
    deployment = Deployment(client, every_function(windows=(DAY,)), replace(TINY, indexed=0))
    events = list(steady(60))
    deployment.record(events)
    deployment.compactor.compact([deployment.key()])
    beside = [parts_key(deployment.key()), distinct_key(deployment.key(), 0)]
    for key in (deployment.key(), *beside):
        client.expire(key, 500)
    if renew == "load":
        load(deployment, events[:1])
    elif renew == "record":
        deployment.record([events[0]])
    else:
        deployment.compactor.compact([deployment.key()])
    least = client.ttl(deployment.key())
    assert all(client.ttl(key) >= least for key in beside)
    assert renew == "compact" or least > 500


def test_what_an_expired_state_left_beside_it_counts_no_more(client):
    spec = every_function(windows=(40 * SECOND, DAY))
    deployment, events = Deployment(client, spec), list(steady(120))
    deployment.record(events[:60])
    deployment.compactor.compact([deployment.key()])
    before = client.hgetall(parts_key(deployment.key()))
    client.delete(deployment.key())
    deployment.record(events[60:])
    deployment.compactor.compact([deployment.key()])
    assert not set(before.values()) & set(client.hgetall(parts_key(deployment.key())).values())
    wanted = [("a", e["time"] + 1, e["time"] + DAY) for e in events[60::5]]
    assert deployment.ask(wanted)[0] == truth(spec, events[60:], wanted)


def test_an_event_whose_clock_was_ahead_does_not_drive_out_the_others(client):
    deployment, events = Deployment(client, every_function(windows=(SECOND,))), list(steady(60, late=0))
    ahead = {**events[0], "id": "ahead", "time": events[0]["time"] + 4000 * DAY}
    deployment.record([ahead, *events])
    deployment.compactor.compact([deployment.key()])
    wanted = [("a", e["time"] + 1, e["time"] + 1) for e in events]
    assert deployment.ask(wanted)[0] == truth(deployment.spec, events, wanted)


@pytest.mark.parametrize("sizes", [TINY, replace(TINY, indexed=10**6), replace(TINY, indexed=0)])
def test_values_are_counted_alike_with_an_index_without_one_and_where_one_begins(client, sizes):
    spec = every_function(windows=(7 * SECOND, 60 * SECOND))
    deployment, events = Deployment(client, spec, sizes), list(steady(150))
    late = events[5:150:11]
    arrivals = [e for e in events if e not in late]
    there, indexed = [], []
    while arrivals:
        batch, arrivals = [*arrivals[:8], *late[:1]], arrivals[8:]
        late = late[1:]
        deployment.record(batch)
        there += batch
        newest = max(e["time"] for e in there)
        wanted = [("a", newest + shift, newest + 100 * SECOND) for shift in (-30 * SECOND, 0, 1, 5 * SECOND)]
        assert deployment.ask(wanted)[0] == truth(spec, there, wanted)
        indexed.append(client.exists(distinct_key(deployment.key(), 0)))
    assert deployment.sealed()
    assert indexed == sorted(indexed)
    assert (indexed[0], indexed[-1]) == {200: (0, 1), 10**6: (0, 0), 0: (1, 1)}[sizes.indexed]


def test_an_index_that_begins_holds_nothing_of_a_state_that_has_expired(client):
    spec, sizes = every_function(windows=(DAY,)), replace(TINY, indexed=10**6)
    deployment, events = Deployment(client, spec, sizes), list(steady(60))
    deployment.record(events[:30])
    deployment.compactor.compact([deployment.key()])
    client.zadd(distinct_key(deployment.key(), 0), {b"1234567": events[59]["time"]})
    Compactor(client, spec, replace(TINY, indexed=0)).compact([deployment.key()])
    wanted = [("a", events[29]["time"] + 1, events[29]["time"] + DAY)]
    assert client.exists(distinct_key(deployment.key(), 0))
    assert deployment.ask(wanted)[0] == truth(spec, events[:30], wanted)


def test_states_whose_summaries_hold_other_things_are_others():
    spec = of_three_columns()
    ranked = replace(spec, aggregates=(*spec.aggregates, Aggregate("middle", "p50", "amount", DAY)))
    delayed = replace(
        spec,
        delay_us=DAY,
        aggregates=tuple(replace(a, window_us=a.window_us - DAY or 1) for a in spec.aggregates),
    )
    shorter = replace(
        spec,
        aggregates=tuple(
            replace(a, window_us=DAY) if a.function == "count_distinct" else a for a in spec.aggregates
        ),
    )
    several = (spec, ranked, delayed, shorter)
    assert {each.columns for each in several} == {spec.columns}
    assert {each.horizon_us for each in several} == {spec.horizon_us}
    assert len({each.state_digest for each in several}) == 4


def of_three_columns():
    """A view that aggregates three columns."""
    day = (DAY, 30 * DAY)
    outputs = [
        Aggregate(f"{function}_{column}_{window}", function, column, window)
        for function, column in (("sum", "amount"), ("max", "fee"), ("count_distinct", "place"))
        for window in day
    ]
    return ViewSpec("three", "events", ("key",), "id", "time", "known", "", 0, tuple(outputs))


def bytes_of(client, *keys):
    return sum(client.memory_usage(key, samples=0) or 0 for key in keys)


def priced(count, seed=1):
    for event in steady(count, step=30 * DAY // (count + 1), seed=seed, late=0):
        yield {**event, "amount": 5_000 + event["order"] % 20_000, "fee": event["order"] % 300}


@pytest.mark.parametrize("count", [1, 10, 100, 600, 4000])
def test_loaded_history_takes_at_most_32_bytes_an_event_and_200_a_key(client, count):
    spec = of_three_columns()
    deployment = Deployment(client, spec, SIZES)
    events = list(priced(count))
    load(deployment, events, SIZES)
    key = deployment.key()
    assert bytes_of(client, key, parts_key(key), distinct_key(key, 0)) <= 32 * count + 200
    results, seen = deployment.ask([("a", events[-1]["time"] + 1, events[-1]["time"] + 1)])
    assert (results[0][1], seen) == (
        sum(e["amount"] for e in events),
        [count],
    )


def test_reading_a_hot_key_takes_a_bounded_number_of_bytes(client):
    spec = of_three_columns()
    sizes = Sizes(chunk=16, fresh=8, fanout=8, indexed=20_000)
    deployment = Deployment(client, spec, sizes)
    taken = []
    events = list(priced(6000))
    for first in range(0, 6000, 2000):
        deployment.record(events[first : first + 2000])
        end = events[first + 1999]["time"] + 1
        before = client.info("stats")["total_net_output_bytes"]
        deployment.ask([("a", end, end)])
        taken.append(client.info("stats")["total_net_output_bytes"] - before)
    parts = client.hgetall(parts_key(deployment.key()))
    assert max(taken) < 60_000 < sum(map(len, parts.values()))


VERSIONED = replace(every_function(where="amount > 0"), corrected=True)


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_of_a_corrected_event_the_version_known_last_counts(client, data):
    deployment = Deployment(client, VERSIONED)
    firsts = data.draw(streams(keys=("a",), most=12))
    known = iter(range(10**6))
    versions = []
    for event in {e["id"]: e for e in firsts}.values():
        versions.append({**event, "known": event["time"] + next(known)})
        for _ in range(data.draw(st.integers(0, 2))):
            amount = data.draw(st.integers(-3, 10))
            versions.append({**event, "amount": amount, "known": event["time"] + next(known) * SECOND})
    arrivals = [*data.draw(st.permutations(versions)), *versions[:3]]
    wanted = data.draw(asks(arrivals, keys=("a",), most=6))
    for first in range(0, len(arrivals), 7):
        deployment.record(arrivals[first : first + 7])
        if data.draw(st.booleans()):
            deployment.compactor.compact([deployment.key()])

    def counted(known):
        return [e for e in oracle.newest(versions, known) if (e["amount"] or 0) > 0]

    assert deployment.ask(wanted)[0] == [
        oracle.aggregates(VERSIONED, counted(known), instant, known, key) for key, instant, known in wanted
    ]
