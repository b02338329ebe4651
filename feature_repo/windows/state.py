"""What the rest of the project asks of online state: times and values as it keeps them, and windows of states at hand."""

from collections.abc import Sequence

import numpy as np

from feature_repo.windows.decoding import decode
from feature_repo.windows.evaluate import Asks, Integers, evaluate
from feature_repo.windows.head import HEAD_BYTES, NOTHING_DROPPED, Head, new_state
from feature_repo.windows.packing import pack_event
from feature_repo.windows.scalars import (
    code,
    event_number,
    from_microseconds,
    number,
    to_microseconds,
    value_code,
)
from feature_repo.windows.spec import ViewSpec

__all__ = [
    "NOTHING_DROPPED",
    "code",
    "event_number",
    "from_microseconds",
    "new_state",
    "number",
    "pack_event",
    "refuse_dropped",
    "to_microseconds",
    "value_code",
    "windows_of_states",
]


def windows_of_states(
    spec: ViewSpec,
    states: Sequence[bytes],
    instants: Integers,
    known_as_of: Integers,
    floor: int = NOTHING_DROPPED,
) -> tuple[Integers, Integers]:
    """The view's aggregates of several states without sealed events, one instant each.

    Args:
        states: ``b""`` where there is none.
        instants, known_as_of: int64[k] microseconds.
        floor: events of any key may be missing up to and including this event time.

    Returns:
        int64[k, a] results (float outputs as the bits of a float64), and int64[k] how many events each state held.

    Raises:
        LookupError: an instant lies so far back that events of its window may have been dropped.
    """
    for state, instant in zip(states, instants, strict=True):
        refuse_dropped(spec, max(floor, Head.of(state).dropped), int(instant))
    decoded = decode(spec, [state[HEAD_BYTES:] for state in states])
    events = decoded.events
    each = np.arange(len(states) + 1, dtype=np.int64)
    out = np.empty((len(states), len(spec.aggregates)), dtype=np.int64)
    evaluate(spec, events, Asks(instants, known_as_of, each, each[:-1]), range(len(states)), out)
    return out, np.diff(events.starts)


def refuse_dropped(spec: ViewSpec, dropped: int, instant: int) -> None:
    """Refuse an instant whose windows reach to events that may have been dropped.

    Raises:
        LookupError: they do.
    """
    if dropped >= instant - spec.horizon_us:
        raise LookupError(
            f"{spec.view}: the window at {from_microseconds(instant)} reaches back to events that were dropped "
            f"(up to {from_microseconds(dropped)}); ask offline, or materialize again from that time"
        )
