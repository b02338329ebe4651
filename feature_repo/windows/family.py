"""Views of one source that share keys and filter: their events, sorted once, carried from slab to slab."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.windows.evaluate import Asks, Events, evaluate
from feature_repo.windows.event_scan import Field, KeyPart, Piece
from feature_repo.windows.held import Found, Held, Range, Room
from feature_repo.windows.kernel import FOR_EVER
from feature_repo.windows.memory import empty
from feature_repo.windows.sorting import (
    ALL_PASS,
    NOTHING,
    combine,
    gather,
    key_starts,
    leave_unmarked,
    mark,
    merge,
    ordered,
    surviving,
    tied,
)
from feature_repo.windows.spec import ViewSpec

Integers = NDArray[np.int64]
Positions = NDArray[np.int32]
Numbers = Callable[[pa.Array | pa.ChunkedArray], NDArray[np.uint64]]
"""The numbers by which events at one instant are ordered and told apart, from their ids."""
# From how many events on a family has more than one range of keys, and from how many on a range is parted again, each time into
# ranges of so many events, at least and at most so many ranges.
_SPLIT, _LARGEST, _RANGE = 100_000, 500_000, 32_768
_FEWEST, _MOST = 16, 64
# From how many events a row on those of unasked keys are looked for, and by how many marks a row.
_SPARSE, _MARKS = 4, 8


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

    codes: NDArray[Any]
    instants: Integers
    known: Integers
    rows: Integers
    nowhere: Integers

    @classmethod
    def of(cls, parts: Sequence[KeyPart], asks: AskedRows) -> Self:
        """Sort rows by the key made of ``parts``."""
        codes = _codes(parts, asks.keys)
        positions, codes_in_order = ordered(codes, _greatest(parts))
        instants = _at(asks.instants, positions)
        known = instants if asks.known is None else _at(asks.known, positions)
        nowhere = asks.rows[:0] if len(positions) == len(codes) else asks.rows[codes < 0]
        return cls(codes_in_order, instants, known, _at(asks.rows, positions), nowhere)

    def part(self, start: int, end: int) -> "KeyedRows":
        """A range of those that have a key."""
        return KeyedRows(
            self.codes[start:end], self.instants[start:end], self.known[start:end], self.rows[start:end], self.nowhere[:0]
        )  # fmt: skip


class Family:
    """The events that some views still count, by key and time, and those views' answers.

    Events are held in ranges of keys, so that work is shared out and little stands twice while newer events are merged.

    Args:
        parts: the key, part by part.
        specs: views of one source with one filter. fields: what is read for each.
        room: where events are kept.

    Raises:
        OverflowError: there are more combinations of the key's values than 64 bits number.
    """

    def __init__(
        self, parts: Sequence[KeyPart], specs: Sequence[ViewSpec], fields: Sequence[Sequence[Field]], pool: Executor,
        room: Room,
    ) -> None:  # fmt: skip
        self.parts = tuple(parts)
        self.specs = tuple(specs)
        self.horizon_us = max(spec.horizon_us for spec in specs)
        self._where, self._corrected = specs[0].where, specs[0].corrected
        self._fields_of = dict(zip(specs, map(tuple, fields), strict=True))
        self._values = tuple(sorted({field for each in fields for field in each}))
        self._pool, self._room = pool, room
        self._greatest = _greatest(parts)
        if self._greatest >= 2**63:
            raise OverflowError(
                f"{specs[0].view}: {len(parts)} key columns with {[part.size for part in parts]} values have more than 2**63 "
                "combinations; ask for fewer keys at a time"
            )
        # Marks of the keys that will be asked, see ``mark``; None: any may be.
        self._asked: NDArray[np.bool_] | None = None
        # Whether known times are held: not before an event was known late.
        self._late = False
        nothing = np.empty((self._first_value + len(self._values), 0), dtype=np.int64)
        nobody = np.empty(0, dtype=_code_type(self._greatest))
        self._held: list[Range] = [Held(nobody, nothing)]
        # The first code of each range but the first.
        self._bounds = nobody

    @property
    def _first_value(self) -> int:
        """Where among the fields the values begin."""
        return 1 + self._late + self._corrected

    def expect(self, asks: AskedRows, events: int) -> None:
        """Know the rows that will ask, all of them, so that events of no row's key need not be held.

        Only a key of several parts leaves some: the values of each part are those that are asked.

        Args:
            events: about how many there will be; unless they are many more than the rows, none is left out.
        """
        if len(self.parts) > 1 and len(asks) * _SPARSE <= events:
            self._asked = np.zeros(1 << (len(asks) * _MARKS).bit_length(), dtype=np.bool_)
            mark(_codes(self.parts, asks.keys), self._asked)

    def answer(self, asks: KeyedRows, wanted: Sequence[tuple[ViewSpec, Integers]]) -> list[Future[None]]:
        """Fill the rows of each view's int64[r, a] that ask, once what is returned is done."""
        for spec, out in wanted:
            out[asks.nowhere] = _of_no_events(spec)
        edges = _edges(asks.codes, self._bounds)
        return [
            self._pool.submit(self._answer_held, held, asks.part(start, end), wanted)
            for held, (start, end) in zip(self._held, pairwise(edges), strict=True)
            if start < end
        ]

    def _answer_held(self, held: Range, asks: KeyedRows, wanted: Sequence[tuple[ViewSpec, Integers]]) -> None:
        laid = held.laid()
        event_starts, ask_starts = key_starts(laid.codes, asks.codes)
        fields = laid.fields
        asked = Asks(asks.instants, asks.known, ask_starts, asks.rows)
        for spec, out in wanted:
            events = Events(
                timestamps=fields[0],
                known=fields[int(self._late)],
                values=self._values_of(spec, fields),
                starts=event_starts,
                until=fields[self._first_value - 1] if self._corrected else None,
            )
            evaluate(spec, events, asked, range(len(event_starts) - 1), out)

    def sorted(self, piece: Piece, order: Integers | None, floor: int, numbers: Numbers) -> Held | Found:
        """A piece's events by key and time, each event or version once; to be merged.

        Args:
            order: positions of the piece's events in order of time; None if they are in it already.
            floor: events before it are left out.
        """
        codes = _codes(self.parts, piece.keys)
        if self._asked is not None:
            leave_unmarked(codes, self._asked)
        passes = piece.passes[self._where] if self._where and not self._corrected else ALL_PASS
        begin = NOTHING if order is None else order
        rows, sorted_codes = ordered(codes, self._greatest, begin, piece.times, floor, passes)
        until = np.full(len(rows) if self._corrected else 0, FOR_EVER)
        places = tied(sorted_codes, piece.times, rows)
        if len(places):
            repeated = self._settle(rows, places, codes, piece, numbers, until)
            # Nearly always none, and then there is nothing to copy.
            if len(repeated):
                rows, sorted_codes = np.delete(rows, repeated), np.delete(sorted_codes, repeated)
                until = np.delete(until, repeated) if self._corrected else until
        if self._where and self._corrected:
            passed = piece.passes[self._where][rows]
            rows, until, sorted_codes = rows[passed], until[passed], sorted_codes[passed]
        if piece.known is not None and not self._late:
            self._hold_known_times()
        found = Found(sorted_codes, rows, self._columns(piece, rows, until))
        return found.laid() if self._holds else found

    @property
    def _holds(self) -> bool:
        return any(map(len, self._held))

    def merge(self, new: Held | Found, floor: int) -> None:
        """Take events later than all before them, as ``sorted`` gives them, and let go of those before ``floor``.

        Raises:
            OSError: see ``Room.keep``.
        """
        if not self._holds:
            self._take(new)
            return
        laid = new.laid()
        jobs = [
            self._pool.submit(self._merge_held, i, laid, start, end, floor)
            for i, (start, end) in enumerate(pairwise(_edges(laid.codes, self._bounds)))
        ]
        merged = [job.result() for job in jobs]
        # Ranges begin where they did, and where they were parted.
        begins = [
            first for i, (_, firsts) in enumerate(merged) for first in (*self._bounds[i - 1 : i], *firsts)
        ]
        self._held = [held for ranges, _ in merged for held in ranges]
        self._bounds = np.array(begins, dtype=laid.codes.dtype)

    def _merge_held(
        self, i: int, new: Held, start: int, end: int, floor: int
    ) -> tuple[list[Range], NDArray[Any]]:
        """A range with newer events, as one range or several, and the first code of each but the first."""
        before = self._held[i]
        old = before.laid()
        size = surviving(old.fields[0], floor) + end - start
        codes, fields = np.empty(size, new.codes.dtype), np.empty((len(new.fields), size), np.int64)
        merge(old.codes, old.fields, floor, new.codes, new.fields, start, end, codes, fields)
        before.let_go()
        merged = Held(codes, fields)
        if size <= (_LARGEST if len(self._bounds) else _SPLIT):
            return [self._room.keep(merged)], codes[:0]
        spans, firsts = _parted(codes)
        return [self._room.keep(merged.part(start, end)) for start, end in spans], firsts

    def _take(self, held: Held | Found) -> None:
        """Hold these events and no others."""
        self._held, self._bounds = [held], held.codes[:0]
        if len(held) > _SPLIT:
            spans, self._bounds = _parted(held.codes)
            self._held = [held.part(start, end) for start, end in spans]

    def _hold_known_times(self) -> None:
        self._late = True
        for i, held in enumerate(self._held):
            known = held.laid().with_known_times()
            held.let_go()
            self._held[i] = self._room.keep(known)

    def _columns(self, piece: Piece, rows: Positions, until: Integers) -> tuple[Integers, ...]:
        """The fields of a piece's events; ``until`` is that of those at ``rows``."""
        known = piece.times if piece.known is None else piece.known
        columns = [piece.times, known] if self._late else [piece.times]
        if self._corrected:
            ends = np.full(len(piece), FOR_EVER)
            ends[rows] = until
            columns.append(ends)
        return (*columns, *(piece.values[value] for value in self._values))

    def _values_of(self, spec: ViewSpec, fields: Integers) -> Integers:
        """The view's columns of the family's, without a copy where they stand next to each other."""
        places = [self._first_value + self._values.index(field) for field in self._fields_of[spec]]
        if not places:
            return fields[:0]
        if places == list(range(places[0], places[0] + len(places))):
            return fields[places[0] : places[-1] + 1]
        return fields[places]

    def _settle(
        self,
        rows: Positions,
        places: Integers,
        codes: NDArray[Any],
        piece: Piece,
        numbers: Numbers,
        until: Integers,
    ) -> Integers:
        """Put events of one key and instant in the order of their numbers, and those of one number in that of known time.

        Of deliveries of one event the one known first stays; of versions each, until the next one is known.

        Args:
            rows: positions in the piece, by key and time; put in order where they are. places: where in them events are tied.
            until: until when each counts, if there are versions; set where one follows.

        Returns:
            Where in ``rows`` events stand that are there already.
        """
        inside = rows[places]
        number = numbers(piece.ids.take(inside))
        known = piece.times[inside] if piece.known is None else piece.known[inside]
        run = np.concatenate([[0], np.cumsum(_differs(codes[inside]) | _differs(piece.times[inside]))])
        order = np.lexsort((known, number, run))
        inside, number, run, known = inside[order], number[order], run[order], known[order]
        again = ~(_differs(number) | _differs(run))
        if self._corrected:
            again &= ~_differs(known)
        first = np.concatenate([[True], ~again])
        rows[places[first]] = inside[first]
        if self._corrected:
            number, run, known = number[first], run[first], known[first]
            followed = ~(_differs(number) | _differs(run))
            until[places[first][:-1][followed]] = known[1:][followed]
        repeated: Integers = places[~first]
        return repeated


def _codes(parts: Sequence[KeyPart], keys: dict[KeyPart, NDArray[np.int32]]) -> NDArray[Any]:
    """One number a key, -1 for none, as narrow as the greatest of them allows."""
    codes: NDArray[Any] = keys[parts[0]].astype(_code_type(_greatest(parts)), copy=len(parts) > 1)
    for part in parts[1:]:
        combine(codes, keys[part], max(part.size, 1))
    return codes


def _greatest(parts: Sequence[KeyPart]) -> int:
    """The greatest number of a key."""
    return prod(max(part.size, 1) for part in parts) - 1


def _code_type(greatest: int) -> Any:
    return np.int32 if greatest < 2**31 else np.int64


def _parted(codes: NDArray[Any]) -> tuple[list[tuple[int, int]], NDArray[Any]]:
    """Sorted events as ranges of about as many each, from where to where, and the first code of each but the first.

    A key is in one of them.
    """
    size = len(codes)
    ranges = min(max(size // _RANGE, _FEWEST), _MOST)
    places = np.linspace(0, size, ranges + 1).astype(np.int64)[1:-1]
    firsts = np.unique(codes[places])
    firsts = firsts[firsts > codes[0]]
    return list(pairwise(_edges(codes, firsts))), firsts


def _edges(codes: NDArray[Any], bounds: NDArray[Any]) -> list[int]:
    """Where in sorted codes the ranges begin that are parted by ``bounds``, and their end."""
    return [0, *np.searchsorted(codes, bounds).tolist(), len(codes)]


def _at(values: Integers, positions: Positions) -> Integers:
    out = empty((len(positions),))
    gather(values, positions, out)
    return out


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
