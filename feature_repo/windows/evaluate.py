"""The kernel's door: prepared arrays in, one row of aggregates an instant out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_repo.windows.kernel import Blocks, window_values, window_values_of_views
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
        raise _overflow(spec, key, column)


def _overflow(spec: ViewSpec, key: int, column: int) -> OverflowError:
    return OverflowError(
        f"{spec.view}: the values of {spec.columns[column].name!r} over one key (number {key}) could add up past 2**63; "
        "store a coarser unit, or filter out what is no amount"
    )


@dataclass(frozen=True)
class Laid:
    """Events of the same k keys in several views, as they are read from their states: without blocks.

    Attributes:
        rooms: int64[v + 1]; the events of view v stand from ``rooms[v]`` on, and fill at most its room.
        fixed: int64[4, n] times, known times, numbers (see ``scalars.event_number``), and ``until`` of views with corrections.
        void: uint8[n], 1 for records that only hide others.
        values: int64, for each view its columns one after the other, each as long as its room.
        starts: int64[v * (k + 1)], each view's as in ``Events``, counted from the start of its room.
    """

    rooms: Integers
    fixed: Integers
    void: NDArray[np.uint8]
    values: Integers
    starts: Integers


class Evaluator:
    """``evaluate`` for several views at once, one instant a key."""

    def __init__(self, specs: Sequence[ViewSpec]) -> None:
        self._specs = tuple(specs)
        self._outputs = [len(spec.aggregates) for spec in specs]
        self._columns = np.array([len(spec.columns) for spec in specs], dtype=np.int64)
        self._versions = np.array([spec.corrected for spec in specs], dtype=np.bool_)
        self._delays = np.array([spec.delay_us for spec in specs], dtype=np.int64)
        self._programs = np.concatenate([np.empty((0, 3), np.int64), *(spec.program for spec in specs)])
        self._program_starts = np.cumsum([0, *self._outputs], dtype=np.int64)
        self._windows = np.concatenate([np.empty(0, np.int64), *(spec.windows for spec in specs)])
        self._window_starts = np.cumsum([0, *(len(spec.windows) for spec in specs)], dtype=np.int64)

    def evaluate(self, laid: Laid, instants: Integers, known_as_of: Integers) -> list[Integers]:
        """Each view's int64[k, a], as ``evaluate`` fills it.

        Raises:
            OverflowError: as there.
        """
        n = len(instants)
        out = np.empty(n * int(self._program_starts[-1]), dtype=np.int64)
        status, view, key, column = window_values_of_views(
            laid.fixed, laid.values, laid.starts, laid.rooms, self._columns, self._versions, self._programs,
            self._program_starts, self._windows, self._window_starts, self._delays, instants, known_as_of, out,
        )  # fmt: skip
        if status:
            raise _overflow(self._specs[view], key, column)
        found, at = [], 0
        for outputs in self._outputs:
            found.append(out[at : at + n * outputs].reshape(n, outputs))
            at += n * outputs
        return found
