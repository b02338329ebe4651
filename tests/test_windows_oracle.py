"""The oracle, the kernel on online state, and the kernel on DuckDB's rows give the same bits."""

import duckdb
import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.windows.limits import Limits
from feature_repo.windows.slabs import Request, Slabs
from feature_repo.windows.sources import SourceTable
from feature_repo.windows.state import new_state, pack_event, windows_of_states
from tests import oracle
from tests.kernel_rows import plain
from tests.timelines import SECOND, asks, every_function, moment, streams

DELAYS = st.sampled_from([0, SECOND, 10 * SECOND])
WHERES = st.sampled_from(["", "amount > 0", "place = 'x' OR amount IS NULL", "NOT place IN ('y')"])


def passes(where, event):
    """The filters above, by hand, in SQL's logic."""
    amount, place = event["amount"], event["place"]
    return {
        "": True,
        "amount > 0": amount is not None and amount > 0,
        "place = 'x' OR amount IS NULL": place == "x" or amount is None,
        "NOT place IN ('y')": place is not None and place != "y",
    }[where]


def online(spec, events, wanted):
    """Pack events as they arrive, append, read back."""
    states = []
    for key, _, _ in wanted:
        state = b""
        for event in events:
            row = {**event, "time": moment(event["time"])}
            if event["key"] == key and (spec.predicate is None or spec.predicate(row)):
                state += pack_event(spec, row, event["known"])
        states.append(new_state(state) if state else b"")
    instants = np.array([ask[1] for ask in wanted], dtype=np.int64)
    known = np.array([ask[2] for ask in wanted], dtype=np.int64)
    return windows_of_states(spec, states, instants, known)[0]


def offline(spec, events, wanted, limits):
    """The same events as a table (each id once, as the lake holds them), the same asks as entity rows, slab by slab."""
    once = list({event["id"]: event for event in reversed(events)}.values())
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        table = pa.table(
            {
                "id": pa.array([e["id"] for e in once], pa.string()),
                "key": pa.array([e["key"] for e in once], pa.string()),
                "time": pa.array([moment(e["time"]) for e in once], pa.timestamp("us", tz="UTC")),
                "known": pa.array([moment(e["known"]) for e in once], pa.timestamp("us", tz="UTC")),
                "amount": pa.array([e["amount"] for e in once], pa.int64()),
                "place": pa.array([e["place"] for e in once], pa.string()),
            }
        )
        connection.register("events", table)
        key = pa.array([ask[0] for ask in wanted], pa.string())
        instants, known = (np.array([ask[i] for ask in wanted], dtype=np.int64) for i in (1, 2))
        connection.register("asks", pa.table({"key": key}))
        requests = [Request(spec, SourceTable("events"), {"key": "key"})]
        with Slabs(connection, requests, {"key": "asks"}, limits) as slabs:
            (columns,) = slabs.answer({"key": pa.chunked_array([key])}, instants, known)
    return [[columns[a.name][i].as_py() for a in spec.aggregates] for i in range(len(wanted))]


@given(st.data())
@settings(max_examples=250, deadline=None)
def test_state_and_table_give_what_the_oracle_gives(data):
    events = data.draw(streams())
    wanted = data.draw(asks(events))
    where = data.draw(WHERES)
    spec = every_function(delay=data.draw(DELAYS), where=where)
    counted = [event for event in events if passes(where, event)]
    truth = [oracle.aggregates(spec, counted, instant, known, key) for key, instant, known in wanted]
    assert [plain(spec, row) for row in online(spec, events, wanted)] == truth
    limits = Limits(
        rows=data.draw(st.sampled_from([1, 2, 100])),
        events=data.draw(st.sampled_from([1, 3, 100])),
        held=data.draw(st.sampled_from([0, 1_000, 1_000_000])),
    )
    assert offline(spec, events, wanted, limits) == truth
