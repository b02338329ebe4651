"""Views of one source that share keys and filter: their events, sorted once, carried from slab to slab."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.windows.evaluate import Asks, Events, evaluate
from feature_repo.windows.event_scan import Field, KeyPart, Piece
from feature_repo.windows.kernel import FOR_EVER
from feature_repo.windows.sorting import key_starts, merge, order_by, surviving, tied
from feature_repo.windows.spec import ViewSpec

Integers = NDArray[np.int64]
Numbers = Callable[[pa.ChunkedArray], NDArray[np.uint64]]
"""The numbers by which events at one instant are ordered and told apart, from their ids."""


@dataclass(frozen=True)
class AskedRows:
    """Rows that ask, by instant.

    Attributes:
        instants: int64[m] microseconds. known: as of what knowledge; None if each knows up to its instant.
        rows: int64[m] the row of the result for each.
        keys: int32[m] for each key part, -1 where the row has no key.
    """

    instants: Integers
    known: Integers | None
    rows: Integers
    keys: dict[KeyPart, NDArray[np.int32]]

    def __len__(self) -> int:
        return len(self.instants)

    def part(self, start: int, end: int) -> "AskedRows":
        """A range of them."""
        keys = {part: ids[start:end] for part, ids in self.keys.items()}
        known = None if self.known is None else self.known[start:end]
        return AskedRows(self.instants[start:end], known, self.rows[start:end], keys)


@dataclass(frozen=True)
class KeyedRows:
    """Rows that ask, by key and instant; ``nowhere`` are the rows of the result that have no key."""

    codes: Integers
    instants: Integers
    known: Integers
    rows: Integers
    nowhere: Integers

    @classmethod
    def of(cls, parts: Sequence[KeyPart], asks: AskedRows) -> Self:
        """Sort rows by the key made of ``parts``."""
        codes, present = _codes(parts, asks.keys)
        position = _order(codes, present, _greatest(parts))
        instants = asks.instants[position]
        known = instants if asks.known is None else asks.known[position]
        nowhere = asks.rows[:0] if present is None else asks.rows[~present]
        return cls(codes[position], instants, known, asks.rows[position], nowhere)


class Family:
    """The events that some views still count, by key and time, and those views' answers.

    Args:
        parts: the key, part by part.
        specs: views of one source with one filter. fields: what is read for each.
        workers: threads of ``pool``.

    Raises:
        OverflowError: there are more combinations of the key's values than 64 bits number.
    """

    def __init__(
        self, parts: Sequence[KeyPart], specs: Sequence[ViewSpec], fields: Sequence[Sequence[Field]], pool: Executor, workers: int
    ) -> None:  # fmt: skip
        self.parts = tuple(parts)
        self.specs = tuple(specs)
        self.horizon_us = max(spec.horizon_us for spec in specs)
        self._where, self._corrected = specs[0].where, specs[0].corrected
        self._fields_of = dict(zip(specs, map(tuple, fields), strict=True))
        self._values = tuple(sorted({field for each in fields for field in each}))
        self._pool, self._workers = pool, workers
        self._greatest = _greatest(parts)
        if self._greatest >= 2**63:
            raise OverflowError(
                f"{specs[0].view}: {len(parts)} key columns with {[part.size for part in parts]} values have more than 2**63 "
                "combinations; ask for fewer keys at a time"
            )
        self._codes = np.empty(0, dtype=np.int64)
        # The event time, known time if the source has it, until when a version counts if there are versions, the values.
        self._known = 1 if specs[0].created else 0
        self._first_value = 1 + bool(specs[0].created) + self._corrected
        self._fields = np.empty((self._first_value + len(self._values), 0), dtype=np.int64)

    def answer(self, asks: KeyedRows, spec: ViewSpec, out: Integers) -> None:
        """Fill the rows of ``out`` int64[r, a] that ask."""
        out[asks.nowhere] = _of_no_events(spec)
        event_starts, ask_starts = key_starts(self._codes, asks.codes)
        events = Events(
            timestamps=self._fields[0],
            known=self._fields[self._known],
            values=self._values_of(spec),
            starts=event_starts,
            until=self._fields[self._first_value - 1] if self._corrected else None,
        )
        wanted = Asks(asks.instants, asks.known, ask_starts, asks.rows)
        self._in_parallel(spec, events, wanted, out)

    def sorted(
        self, piece: Piece, order: Integers | None, floor: int, numbers: Numbers
    ) -> tuple[Integers, Integers]:
        """The codes and fields of a piece's events by key and time, each event or version once; to be merged.

        Args:
            order: positions of the piece's events in order of time; None if they are in it already.
            floor: events before it are left out.
        """
        codes, present = _codes(self.parts, piece.keys)
        kept = piece.times >= floor
        if present is not None:
            kept &= present
        if self._where and not self._corrected:
            kept &= piece.passes[self._where]
        rows = _order(codes, None if kept.all() else kept, self._greatest, order)
        until = np.full(len(rows) if self._corrected else 0, FOR_EVER)
        places = tied(codes[rows], piece.times[rows])
        if len(places):
            rows, until = self._settle(rows, places, codes, piece, numbers, until)
        if self._where and self._corrected:
            passes = piece.passes[self._where][rows]
            rows, until = rows[passes], until[passes]
        fields = np.empty((len(self._fields), len(rows)), dtype=np.int64)
        sources = [piece.times, *([piece.known] if piece.known is not None else [])]
        for field, source in zip(fields, sources, strict=False):
            np.take(source, rows, out=field)
        if self._corrected:
            fields[self._first_value - 1] = until
        for field, value in zip(fields[self._first_value :], self._values, strict=True):
            np.take(piece.values[value], rows, out=field)
        return codes[rows], fields

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

    def _values_of(self, spec: ViewSpec) -> Integers:
        """The view's columns of the family's, without a copy where they stand next to each other."""
        places = [self._first_value + self._values.index(field) for field in self._fields_of[spec]]
        if not places:
            return self._fields[:0]
        if places == list(range(places[0], places[0] + len(places))):
            return self._fields[places[0] : places[-1] + 1]
        return self._fields[places]

    def _settle(
        self,
        rows: Integers,
        places: Integers,
        codes: Integers,
        piece: Piece,
        numbers: Numbers,
        until: Integers,
    ) -> tuple[Integers, Integers]:
        """Put events of one key and instant in the order of their numbers, and those of one number in that of known time.

        Of deliveries of one event the one known first stays; of versions each, until the next one is known.

        Args:
            rows: positions in the piece, by key and time. places: where in ``rows`` events are tied.
        """
        inside = rows[places]
        number = numbers(piece.ids.take(pa.array(inside)))
        known = piece.times[inside] if piece.known is None else piece.known[inside]
        run = np.concatenate([[0], np.cumsum(_differs(codes[inside]) | _differs(piece.times[inside]))])
        order = np.lexsort((known, number, run))
        inside, number, run, known = inside[order], number[order], run[order], known[order]
        again = ~(_differs(number) | _differs(run))
        if self._corrected:
            again &= ~_differs(known)
        first = np.concatenate([[True], ~again])
        rows, until, kept = rows.copy(), until.copy(), np.ones(len(rows), dtype=bool)
        rows[places[first]] = inside[first]
        kept[places[~first]] = False
        if not self._corrected:
            return rows[kept], until
        number, run, known = number[first], run[first], known[first]
        followed = ~(_differs(number) | _differs(run))
        until[places[first][:-1][followed]] = known[1:][followed]
        return rows[kept], until[kept]

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


def _greatest(parts: Sequence[KeyPart]) -> int:
    """The greatest number of a key."""
    return prod(max(part.size, 1) for part in parts) - 1


def _order(
    codes: Integers, kept: NDArray[np.bool_] | None, greatest: int, order: Integers | None = None
) -> Integers:
    """Positions of the rows that are kept (None: all), by code, those of one code in the order given (None: as they are)."""
    chosen = order
    if kept is not None:
        chosen = np.flatnonzero(kept) if order is None else order[kept[order]]
    if chosen is None:
        every: Integers = order_by(codes, greatest)
        return every
    some: Integers = chosen[order_by(codes[chosen], greatest)]
    return some


def _differs(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each value but the first differs from the one before it."""
    differs: NDArray[np.bool_] = values[1:] != values[:-1]
    return differs


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
