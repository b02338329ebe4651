"""Views of one source that share keys and filter: their events, sorted once, carried from slab to slab."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.windows.evaluate import Asks, Events, evaluate
from feature_repo.windows.event_scan import KeyPart, Piece
from feature_repo.windows.sorting import key_starts, merge, order_by, surviving, tied
from feature_repo.windows.spec import ViewSpec

Integers = NDArray[np.int64]
Numbers = Callable[[pa.ChunkedArray], NDArray[np.uint64]]
"""The numbers by which events at one instant are ordered and told apart, from their ids."""


@dataclass(frozen=True)
class AskedRows:
    """Rows that ask, by instant.

    Attributes:
        instants, known: int64[m] microseconds: when, and as of what knowledge.
        rows: int64[m] the row of the result for each.
        keys: int32[m] for each key part, -1 where the row has no key.
    """

    instants: Integers
    known: Integers
    rows: Integers
    keys: dict[KeyPart, NDArray[np.int32]]

    def __len__(self) -> int:
        return len(self.instants)

    def part(self, start: int, end: int) -> "AskedRows":
        """A range of them."""
        keys = {part: ids[start:end] for part, ids in self.keys.items()}
        return AskedRows(self.instants[start:end], self.known[start:end], self.rows[start:end], keys)


class Family:
    """The events that some views still count, by key and time, and those views' answers.

    Args:
        parts: the key, part by part. columns: stored columns of any of the views.
        workers: threads of ``pool``.
    """

    def __init__(
        self, parts: Sequence[KeyPart], specs: Sequence[ViewSpec], known: bool, pool: Executor, workers: int
    ) -> None:
        self.parts = tuple(parts)
        self.specs = tuple(specs)
        self.horizon_us = max(spec.horizon_us for spec in specs)
        self._where = specs[0].where
        self._columns = tuple(sorted({column for spec in specs for column in spec.columns}))
        self._known = known
        self._pool, self._workers = pool, workers
        self._greatest = prod(max(part.size, 1) for part in parts) - 1
        if self._greatest >= 2**63:
            raise OverflowError(
                f"{specs[0].view}: {len(parts)} key columns with {[part.size for part in parts]} values have more than 2**63 "
                "combinations; ask for fewer keys at a time"
            )
        self._codes = np.empty(0, dtype=np.int64)
        # Time first, then known time if the source has it, then the columns.
        self._fields = np.empty((1 + known + len(self._columns), 0), dtype=np.int64)

    @property
    def bytes_held(self) -> int:
        """Memory of the events."""
        return self._codes.nbytes + self._fields.nbytes

    def answer(self, asks: AskedRows, spec: ViewSpec, out: Integers) -> None:
        """Fill the rows of ``out`` int64[r, a] that ask."""
        codes, present = _codes(self.parts, asks.keys)
        if present is None:
            position = order_by(codes, self._greatest)
        else:
            out[asks.rows[~present]] = _of_no_events(spec)
            inside = np.flatnonzero(present)
            position = inside[order_by(codes[inside], self._greatest)]
        event_starts, ask_starts = key_starts(self._codes, codes[position])
        events = Events(
            timestamps=self._fields[0],
            known=self._fields[1 if self._known else 0],
            values=self._values(spec),
            starts=event_starts,
        )
        wanted = Asks(asks.instants[position], asks.known[position], ask_starts, asks.rows[position])
        self._in_parallel(spec, events, wanted, out)

    def sorted(
        self, piece: Piece, order: Integers | None, floor: int, numbers: Numbers
    ) -> tuple[Integers, Integers]:
        """The codes and fields of a piece's events by key and time, each event once; to be merged.

        Args:
            order: positions of the piece's events in order of time; None if they are in it already.
            floor: events before it are left out.
        """
        codes, present = _codes(self.parts, piece.keys)
        kept = piece.times >= floor
        if present is not None:
            kept &= present
        if self._where:
            kept &= piece.passes[self._where]
        chosen: Integers | None = order
        if not kept.all():
            chosen = np.flatnonzero(kept) if order is None else order[kept[order]]
        ordered = codes if chosen is None else codes[chosen]
        by_key = order_by(ordered, self._greatest)
        rows = by_key if chosen is None else chosen[by_key]
        codes, times = codes[rows], piece.times[rows]
        places = tied(codes, times)
        if len(places):
            rows = _settle(rows, places, codes, times, piece, numbers)
            codes = _codes_of(codes, rows, self.parts, piece)
        fields = np.empty((len(self._fields), len(rows)), dtype=np.int64)
        sources = [piece.times, *([piece.known] if piece.known is not None else [])]
        sources += [piece.values[column] for column in self._columns]
        for field, source in zip(fields, sources, strict=True):
            np.take(source, rows, out=field)
        return codes, fields

    def merge(self, codes: Integers, fields: Integers, floor: int) -> None:
        """Take events later than all before them, as ``sorted`` gives them, and let go of those before ``floor``."""
        old_codes, old = self._codes, self._fields
        if not len(old_codes):
            self._codes, self._fields = codes, fields
            return
        parts = self._workers if len(old_codes) > 100_000 else 1
        cuts = old_codes[np.linspace(0, len(old_codes) - 1, parts + 1).astype(np.int64)[1:-1]]
        old_edges = [0, *np.searchsorted(old_codes, cuts).tolist(), len(old_codes)]
        new_edges = [0, *np.searchsorted(codes, cuts).tolist(), len(codes)]
        ranges = list(pairwise(old_edges))
        counting = [self._pool.submit(surviving, old[0], a, b, floor) for a, b in ranges]
        sizes = [left.result() + b - a for left, (a, b) in zip(counting, pairwise(new_edges), strict=True)]
        starts = np.cumsum([0, *sizes])
        self._codes = np.empty(starts[-1], dtype=np.int64)
        self._fields = np.empty((len(fields), starts[-1]), dtype=np.int64)
        jobs = [
            self._pool.submit(
                merge, old_codes, old, a, b, floor, codes, fields, c, d, self._codes, self._fields, int(start)
            )
            for (a, b), (c, d), start in zip(ranges, pairwise(new_edges), starts[:-1], strict=True)
        ]  # fmt: skip
        for job in jobs:
            job.result()

    def _values(self, spec: ViewSpec) -> Integers:
        """The view's columns of the family's, without a copy where they stand next to each other."""
        places = [1 + self._known + self._columns.index(column) for column in spec.columns]
        if not places:
            return self._fields[:0]
        if places == list(range(places[0], places[0] + len(places))):
            return self._fields[places[0] : places[-1] + 1]
        return self._fields[places]

    def _in_parallel(self, spec: ViewSpec, events: Events, asks: Asks, out: Integers) -> None:
        """Run the kernel on every core, each on ranges of keys with their share of the work."""
        keys = len(events.starts) - 1
        work = events.starts + asks.starts
        cuts = np.searchsorted(work, np.linspace(0, work[-1], 4 * self._workers + 1))
        cuts[0], cuts[-1] = 0, keys
        ranges = [range(int(a), int(b)) for a, b in pairwise(cuts) if a < b]
        for done in [self._pool.submit(evaluate, spec, events, asks, each, out) for each in ranges]:
            done.result()


def _codes(
    parts: Sequence[KeyPart], keys: dict[KeyPart, NDArray[np.int32]]
) -> tuple[Integers, NDArray[np.bool_] | None]:
    """One number a key, and which rows have one (None: all); the number of a row that has none means nothing."""
    codes = keys[parts[0]].astype(np.int64)
    present = codes >= 0
    for part in parts[1:]:
        codes *= max(part.size, 1)
        codes += keys[part]
        present &= keys[part] >= 0
    return codes, None if present.all() else present


def _codes_of(codes: Integers, rows: Integers, parts: Sequence[KeyPart], piece: Piece) -> Integers:
    """The codes of rows after some of them were dropped."""
    if len(rows) == len(codes):
        return codes
    return _codes(parts, {part: piece.keys[part][rows] for part in parts})[0]


def _settle(
    rows: Integers, places: Integers, codes: Integers, times: Integers, piece: Piece, numbers: Numbers
) -> Integers:
    """Put events of one key and instant in the order of their numbers; of one number keep the one known first.

    Args:
        rows: positions in the piece, by key and time. places: where in ``rows`` events are tied.
    """
    inside = rows[places]
    number = numbers(piece.ids.take(pa.array(inside)))
    same = (codes[places[1:]] == codes[places[:-1]]) & (times[places[1:]] == times[places[:-1]])
    run = np.concatenate([[0], np.cumsum(~same)])
    known = piece.times[inside] if piece.known is None else piece.known[inside]
    order = np.lexsort((known, number, run))
    settled = rows.copy()
    settled[places] = inside[order]
    number, run = number[order], run[order]
    again = np.concatenate([[False], (number[1:] == number[:-1]) & (run[1:] == run[:-1])])
    return np.delete(settled, places[again]) if again.any() else settled


def _of_no_events(spec: ViewSpec) -> Integers:
    """The answer for a key that has no events, int64[a]."""
    out = np.empty((1, len(spec.aggregates)), dtype=np.int64)
    nothing, zero = np.empty(0, dtype=np.int64), np.zeros(1, dtype=np.int64)
    events = Events(
        nothing, nothing, np.empty((len(spec.columns), 0), dtype=np.int64), np.zeros(2, dtype=np.int64)
    )
    evaluate(spec, events, Asks(zero, zero, np.array([0, 1]), zero), range(1), out)
    answer: Integers = out[0]
    return answer
