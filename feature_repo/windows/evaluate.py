"""The kernel's door: prepared arrays in, one row of aggregates an instant out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_repo.windows.kernel import Blocks, window_values
from feature_repo.windows.spec import ViewSpec

Integers = NDArray[np.int64]
_NOT_SUPERSEDED: Integers = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Events:
    """Events of k keys, by key, then (event time, id).

    Attributes:
        timestamps, known: int64[n] microseconds.
        values: int64[c, n] the view's stored columns; ``kernel.NULL`` where null.
        starts: int64[k + 1]; key i has ``starts[i]:starts[i + 1]``.
        until: int64[n] the last ``known_as_of`` that sees the event (``kernel.FOR_EVER``: each does); None if that
            goes for all of them.
        blocks: what the rows that stand for many events hold; None if each row is one event.
    """

    timestamps: Integers
    known: Integers
    values: Integers
    starts: Integers
    until: Integers | None = None
    blocks: Blocks | None = None


@dataclass(frozen=True)
class Asks:
    """Instants at which to ask, by the same keys, then instant.

    Attributes:
        instants, known_as_of: int64[m] microseconds.
        starts: int64[k + 1], as in ``Events``.
        rows: int64[m] the row of the result for each.
    """

    instants: Integers
    known_as_of: Integers
    starts: Integers
    rows: Integers


def evaluate(spec: ViewSpec, events: Events, asks: Asks, keys: range, out: Integers) -> None:
    """Fill ``out`` int64[r, a] for a range of keys; float outputs are written as the bits of a float64.

    Raises:
        OverflowError: a column's sum over one key could pass 63 bits.
    """
    status, key, column = window_values(
        events.timestamps,
        events.known,
        _NOT_SUPERSEDED if events.until is None else events.until,
        events.values,
        events.starts,
        events.blocks,
        asks.instants,
        asks.known_as_of,
        asks.starts,
        asks.rows,
        spec.program,
        spec.windows,
        spec.delay_us,
        keys.start,
        keys.stop,
        out,
        out.view(np.float64),
    )
    if status:
        raise OverflowError(
            f"{spec.view}: the values of {spec.columns[column].name!r} over one key (number {key}) could add up past 2**63; "
            "store a coarser unit, or filter out what is no amount"
        )
