"""Small generated event streams: ties, late and out-of-order events, nulls, window edges, keys without events."""

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from feature_repo.windows.functions import FUNCTIONS
from feature_repo.windows.spec import Aggregate, ViewSpec
from feature_repo.windows.state import code

START = datetime(2024, 3, 9, 22, tzinfo=UTC)  # a spring night: some calendars skip an hour in these days
SECOND = 1_000_000
# Steps that land on the edges of the windows below as often as beside them.
STEPS = st.sampled_from(
    [0, 0, 1, SECOND - 1, SECOND, SECOND + 1, 5 * SECOND, 10 * SECOND - 1, 10 * SECOND, 10 * SECOND + 1]
)
LATENESS = st.sampled_from([0, 0, 0, 0, 1, SECOND, 4 * SECOND, 15 * SECOND, 200 * SECOND])
AMOUNTS = st.one_of(
    st.none(), st.integers(-5, 5), st.integers(-(10**9), 10**9), st.sampled_from([10**14, -(10**14)])
)
WINDOWS = (SECOND, 10 * SECOND, 60 * SECOND)
# The column of the events below that a function aggregates, by what it needs.
COLUMN_OF = {"events": "", "number": "amount", "code": "place"}


def micros(moment):
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def moment(instant):
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=instant)


@st.composite
def streams(draw, keys=("a", "b", "c"), most=24):
    """Events in order of arrival, which is seldom order of time; some delivered twice."""
    events, at = [], micros(START)
    for i in range(draw(st.integers(0, most))):
        at += draw(STEPS)
        event = {
            "id": f"e{i}",
            "order": code(f"e{i}"),
            "key": draw(st.sampled_from(keys)),
            "time": at,
            "known": at + draw(LATENESS),
            "amount": draw(AMOUNTS),
            "place": draw(st.sampled_from(["x", "y", "z", None])),
        }
        events.append(event)
    arrival = draw(st.permutations(events))
    repeated = draw(st.lists(st.sampled_from(events), max_size=3)) if events else []
    return [*arrival, *repeated]


@st.composite
def asks(draw, events, keys=("a", "b", "c", "never seen"), most=6):
    """(key, instant, known_as_of): at events, at window edges from them, beside both; mostly asked at the instant itself."""
    anchors = [event["time"] for event in events] or [micros(START)]
    found = []
    for _ in range(draw(st.integers(1, most))):
        shift = draw(
            st.sampled_from([0, 1, -1, SECOND, 10 * SECOND, 10 * SECOND + 1, 60 * SECOND, 90 * SECOND])
        )
        instant = draw(st.sampled_from(anchors)) + shift
        late = draw(st.sampled_from([0, 0, 0, 5 * SECOND, -5 * SECOND, 300 * SECOND, -60 * SECOND]))
        found.append((draw(st.sampled_from(keys)), instant, instant + late))
    return found


def every_function(delay=0, where="", windows=WINDOWS, functions=tuple(FUNCTIONS)):
    """A view with every function over every window."""
    outputs = [
        Aggregate(f"{name}_{window}", name, COLUMN_OF[FUNCTIONS[name].needs], window)
        for name in functions
        for window in windows
    ]
    return ViewSpec("view", "events", ("key",), "id", "time", "known", where, delay, tuple(outputs))
