"""Windows from a minute to a lifetime, by one key and by three: history, loaded state and recorded state give what is so."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureService
from feast.value_type import ValueType

from feature_repo.windows.durations import microseconds, parse_duration
from feature_repo.windows.plan import OnlinePlan
from feature_repo.windows.recorder import EventRecorder
from feature_repo.windows.stream import feature_stream
from tests import oracle
from tests.timelines import micros
from tests.windows_project import (
    HOLDER,
    PLACE,
    SCHEMA,
    START,
    event,
    events_source,
    online_client,
    project,
    view_of,
    write_events,
)

CHANNEL = Entity(name="channel", join_keys=["channel"], value_type=ValueType.STRING)
WINDOWS = ["1m", "45m", "36h", "400d", "730d", "lifetime"]
DAY_S = 86_400
FUNCTIONS = ("sum", "max", "first", "std", "p90")
LOADED_S = 700 * DAY_S


def made():
    """Four hundred events of twelve years and three keys, some twins of an edge of a window."""
    rng = np.random.default_rng(5)
    seconds = [int(s) for s in rng.integers(-10 * 365 * DAY_S, 800 * DAY_S, 360)]
    seconds += [800 * DAY_S - int(s) for s in rng.integers(0, 2 * DAY_S, 40)]
    seconds += [seconds[0] + length for length in (60, 45 * 60, 36 * 3600, 400 * DAY_S, 730 * DAY_S)]
    return [
        {
            **event(i, s, key="ab"[i % 2], place="xy"[i // 2 % 2], amount=int(rng.integers(-9999, 9999)), late=i % 5 * 30),
            "channel": ["web", "till"][i // 4 % 2],
        }
        for i, s in enumerate(sorted(seconds))
    ]  # fmt: skip


EVENTS = made()


@pytest.fixture(scope="module")
def deployed(module_home):
    """The store; half of the events loaded, the rest recorded."""
    path = write_events(
        module_home / "events.parquet", EVENTS, SCHEMA.append(pa.field("channel", pa.string()))
    )
    source = events_source(path)
    shapes = {("count", ""): WINDOWS, **{(name, "amount"): WINDOWS for name in FUNCTIONS}}
    one = view_of(source, shapes, name="one", prefix="one", entities=(HOLDER,))
    three = view_of(source, shapes, name="three", prefix="three", entities=(HOLDER, PLACE, CHANNEL))
    both = FeatureService(name="both", features=[one, three])
    store = project(module_home, CHANNEL, source, one, three, both)
    loaded = START + timedelta(seconds=LOADED_S)
    store.materialize(START - timedelta(days=11 * 365), loaded)
    later = [e for e in EVENTS if e["known"] >= loaded]
    assert 0 < len(later) < len(EVENTS)
    EventRecorder.compile(store).record("events", later)
    return store


KEYS = {"one": ("key",), "three": ("key", "place", "channel")}


def inside(keys, row, instant, window, known_as_of):
    """The events of a row's keys that a window holds."""
    events = [
        {"id": e["id"], "order": i, "key": 0, "time": micros(e["time"]), "known": micros(e["known"]), "amount": e["amount"]}
        for i, e in enumerate(EVENTS)
        if all(e[name] == row[name] for name in keys)
    ]  # fmt: skip
    return oracle.counted(events, 0, instant, microseconds(parse_duration(window)), 0, known_as_of)


def truth(row):
    """Every feature at a row's instant, by a loop."""
    instant, found = micros(row["event_timestamp"]), {}
    for prefix, keys in KEYS.items():
        for window in WINDOWS:
            events = inside(keys, row, instant, window, instant)
            found[f"{prefix}_events_count_{window}"] = len(events)
            for function in FUNCTIONS:
                name = f"{prefix}_amount_{function}_{window}"
                found[name] = oracle.aggregate(function, "amount", events, instant)
    return found


def asked():
    """Rows after the last event, and at the edges of windows that begin at the first of each key."""
    end = START + timedelta(days=800)
    keys = [(k, p, c) for k in "ab" for p in "xy" for c in ("web", "till")]
    return [
        {"key": k, "place": p, "channel": c, "event_timestamp": end + timedelta(seconds=s)}
        for i, (k, p, c) in enumerate(keys)
        for s in (i, 59 + i, 1800)
    ]


def values(frame, names):
    return [[None if pd.isna(v) else float(v) for v in frame[name]] for name in names]


def test_every_length_and_three_keys_agree_with_the_loop_and_to_the_bit(deployed):
    rows = asked()
    truths = [truth(row) for row in rows]
    names = list(truths[0])
    wanted = [[None if t[name] is None else float(t[name]) for t in truths] for name in names]
    assert any(
        t["one_events_count_lifetime"] > t["one_events_count_730d"] > t["one_events_count_1m"] for t in truths
    )
    service = deployed.get_feature_service("both")
    offline = deployed.get_historical_features(pd.DataFrame(rows), service).to_df()
    assert values(offline, names) == wanted
    asking = [{**row, "created_timestamp": row["event_timestamp"]} for row in rows]
    assert values(deployed.get_online_features(service, asking).to_df(), names) == wanted
    plan = OnlinePlan.compile(deployed, "both")
    instants = [micros(row["event_timestamp"]) for row in rows]
    answer = plan.read(
        [{**row, "event_timestamp_us": t, "known_as_of_us": t} for row, t in zip(rows, instants, strict=True)]
    )
    columns = offline[list(plan.feature_names)].to_numpy(np.float64, na_value=np.nan)
    np.testing.assert_array_equal(answer.values.view(np.int64), columns.view(np.int64))


def test_a_stream_over_twelve_years_keeps_what_a_lifetime_reaches(deployed):
    tables = feature_stream(deployed, deployed.get_feature_service("both"), "events").tables()
    found = {row["id"]: row for row in pa.concat_tables(tables).to_pylist()}
    assert len(found) == len(EVENTS)
    for e in EVENTS:
        instant = micros(e["time"])
        for prefix, keys in KEYS.items():
            events = inside(keys, e, instant, "lifetime", max(instant, micros(e["known"])))
            assert found[e["id"]][f"{prefix}_events_count_lifetime"] == len(events)
            assert found[e["id"]][f"{prefix}_amount_sum_lifetime"] == sum(o["amount"] for o in events)


def test_state_of_a_lifetime_is_given_a_lifetime(deployed):
    client = online_client(deployed)
    states = [key for key in client.keys("window:*") if client.type(key) == b"string"]
    assert states
    assert min(client.ttl(key) for key in states) > 900 * 365 * DAY_S
