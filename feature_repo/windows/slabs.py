"""Windows over history, slab by slab in time, in bounded memory.

Rows that ask are answered in slabs, by instant. Each event is read and sorted once, however many slabs there are: what a
later slab's windows can still reach is carried along, and what none can is let go of.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.windows.asked_keys import AskedKeys
from feature_repo.windows.columns import arrow_columns
from feature_repo.windows.cuts import cuts
from feature_repo.windows.event_scan import EventScan, KeyPart, column_types
from feature_repo.windows.event_sql import check_columns, event_number_sql
from feature_repo.windows.family import AskedRows, Family, KeyedRows
from feature_repo.windows.held import Room
from feature_repo.windows.limits import Limits
from feature_repo.windows.memory import empty, release
from feature_repo.windows.sources import SourceTable
from feature_repo.windows.spec import ViewSpec

Integers = NDArray[np.int64]
Progress = Callable[[int, int], None]
"""``progress(done, total)`` rows."""
_Sorting = tuple[Family, Future[Any], int]
"""A family, the events that are sorted for it, and before when it needs none."""
# No event lies before it, and DuckDB has a timestamp for it.
_EARLIEST = -(2**62)


@dataclass(frozen=True)
class Request:
    """One view to answer.

    Attributes:
        source: its events. join_keys: the column of the rows that ask for each of its keys.
    """

    spec: ViewSpec
    source: SourceTable
    join_keys: Mapping[str, str]


class Slabs:
    """Answers windowed views for rows that ask, in ascending order of their instants.

    Args:
        connection: a DuckDB in which ``asked`` is known.
        requests: the views; those without aggregates are answered with no columns.
        asked: for each key column of the rows that ask, a table expression with every value that will be asked of it.
        last: the last instant at which rows will ask, microseconds; None: all ask at once.

    Raises:
        ValueError: see ``EventScan``.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        requests: Sequence[Request],
        asked: Mapping[str, str],
        limits: Limits,
        last: int | None = None,
    ) -> None:
        self._connection = connection
        self._limits = limits
        self._last = last
        self._workers = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._workers)
        self._room = Room(limits.held)
        self._keys = AskedKeys(connection, asked)
        self.requests = tuple(requests)
        # By the request's place.
        self._family_of: dict[int, Family] = {}
        self._feeds = self._plan()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()
        self._room.close()

    def answer(
        self,
        keys: Mapping[str, pa.ChunkedArray],
        instants: Integers,
        known: Integers | None,
        progress: Progress = lambda done, total: None,
    ) -> list[dict[str, pa.ChunkedArray]]:
        """Every aggregate of each view for every row that asks, in the order of rows.

        Args:
            keys: the rows' key columns. instants: microseconds; none may lie before one that was answered.
            known: as of what knowledge, microseconds; None if each row knows up to its instant.

        Raises:
            OverflowError: see ``evaluate``. OSError: see ``Room.keep``.
        """
        if self._last is not None:
            # What the results of earlier rows took is room for the events of these.
            release()
        outs = [empty((len(instants), len(request.spec.aggregates))) for request in self.requests]
        self._fill(self._asked_rows(keys, instants, known), outs, progress)
        return [self._columns(request, out) for request, out in zip(self.requests, outs, strict=True)]

    def _asked_rows(
        self, keys: Mapping[str, pa.ChunkedArray], instants: Integers, known: Integers | None
    ) -> AskedRows:
        """Rows by instant."""
        ids = self._keys.ids(keys)
        known = None if known is not None and np.array_equal(known, instants) else known
        rows = np.arange(len(instants))
        if _ascending(instants):
            return AskedRows(instants, known, rows, ids)
        order = np.argsort(instants, kind="stable")
        ids = {part: each[order] for part, each in ids.items()}
        return AskedRows(instants[order], None if known is None else known[order], rows[order], ids)

    def _fill(self, asks: AskedRows, outs: Sequence[Integers], progress: Progress) -> None:
        """Answer rows by instant, into int64[r, a] for each request."""
        if len(asks):
            last = int(asks.instants[-1]) if self._last is None else self._last
            for feed in self._feeds:
                feed.expect(int(asks.instants[0]), last, self._limits.events)
                for family in feed.families if self._last is None else ():
                    family.expect(asks, feed.expected)
        for start in range(0, len(asks), self._limits.rows):
            part = asks.part(start, min(start + self._limits.rows, len(asks)))
            self._advance(int(part.instants[0]), int(part.instants[-1]))
            self._answer(part, outs)
            progress(start + len(part), len(asks))

    def _answer(self, asks: AskedRows, outs: Sequence[Integers]) -> None:
        families = list(dict.fromkeys(self._family_of.values()))
        every = dict.fromkeys(family.parts for family in families)
        keyed = {parts: self._pool.submit(KeyedRows.of, parts, asks) for parts in every}
        filling = []
        for parts, sorting in keyed.items():
            for family in families:
                if family.parts == parts:
                    mine = [i for i in range(len(outs)) if self._family_of[i] is family]
                    wanted = [(self.requests[i].spec, outs[i]) for i in mine]
                    filling += family.answer(sorting.result(), wanted)
        for filled in filling:
            filled.result()

    def _columns(self, request: Request, out: Integers) -> dict[str, pa.ChunkedArray]:
        """A filled result, which becomes Arrow columns by name."""
        arrays = arrow_columns(out, request.spec.whole, self._pool, self._workers)
        return {a.name: array for a, array in zip(request.spec.aggregates, arrays, strict=True)}

    def _plan(self) -> "list[_Feed]":
        """One feed a source."""
        sources = dict.fromkeys(request.source for request in self.requests)
        types = {source: column_types(self._connection, source.sql) for source in sources}
        feeds: dict[object, list[_Member]] = {}
        for index, request in enumerate(self.requests):
            spec = request.spec
            check_columns(spec, types[request.source])
            parts = tuple(
                self._keys.part(key, types[request.source][key], request.join_keys[key]) for key in spec.keys
            )
            feed = (request.source, spec.timestamp, spec.created, spec.event_id)
            feeds.setdefault(feed, []).append(_Member(index, spec, parts))
        return [
            self._feed(members, types[self.requests[members[0].request].source]) for members in feeds.values()
        ]

    def _feed(self, members: "Sequence[_Member]", types: dict[str, str]) -> "_Feed":
        """One family for the views of a source with the same keys and filter."""
        first = self.requests[members[0].request]
        parts = [member.parts for member in members]
        specs = [member.spec for member in members]
        scan = EventScan(self._connection, specs, first.source, types, parts)
        shared: dict[object, list[int]] = {}
        for i, member in enumerate(members):
            shared.setdefault((member.parts, member.spec.where, member.spec.corrected), []).append(i)
        families = []
        for sharing in shared.values():
            specs, fields = [members[i].spec for i in sharing], [scan.fields[i] for i in sharing]
            family = Family(members[sharing[0]].parts, specs, fields, self._pool, self._room)
            families.append(family)
            self._family_of |= {members[i].request: family for i in sharing}
        return _Feed(scan, families)

    def _advance(self, first: int, last: int) -> None:
        """Have every event that the instants ``first`` to ``last`` count."""
        before: list[_Sorting] = []
        for feed in self._feeds:
            sorting: list[_Sorting] = []
            for start, end in feed.spans(first, last):
                self._merge(sorting)
                sorting = self._sort(feed, start, end, first)
            # While one feed's events are sorted, the next one's are read.
            self._merge(before)
            before = sorting
        self._merge(before)

    def _sort(self, feed: "_Feed", start: int, end: int, first: int) -> "list[_Sorting]":
        """Read the events of [start, end) and begin to sort those that instants from ``first`` on count."""
        piece = feed.scan.read(start, end, feed.expected)
        order = None if _ascending(piece.times) else np.argsort(piece.times, kind="stable")
        floors = [first - family.horizon_us for family in feed.families]
        return [
            (family, self._pool.submit(family.sorted, piece, order, floor, self._numbers), floor)
            for family, floor in zip(feed.families, floors, strict=True)
        ]

    def _merge(self, sorting: "list[_Sorting]") -> None:
        """Take what was sorted; what none refers to any more makes room meanwhile."""
        while sorting:
            family, found, floor = sorting.pop(0)
            family.merge(found.result(), floor)

    def _numbers(self, ids: pa.Array | pa.ChunkedArray) -> NDArray[np.uint64]:
        if pa.types.is_uint64(ids.type):
            return np.asarray(ids.to_numpy(), dtype=np.uint64)
        with self._connection.cursor() as cursor:
            cursor.register("tied_events", pa.table({"id": ids}))
            found = cursor.sql(f"SELECT {event_number_sql('id')} AS n FROM tied_events").to_arrow_table()
        return np.asarray(found["n"].to_numpy(), dtype=np.uint64)


@dataclass(frozen=True)
class _Member:
    """One request of a source: its place among the requests, and the parts of its key."""

    request: int
    spec: ViewSpec
    parts: tuple[KeyPart, ...]


class _Feed:
    """The events of one source, handed to its families once, in order of time."""

    def __init__(self, scan: EventScan, families: Sequence[Family]) -> None:
        self.scan = scan
        self.families = families
        self._reach = max(family.horizon_us for family in families)
        self._wait = min(min(spec.delay_us for spec in family.specs) for family in families)
        self._count = scan.count()
        # About how many are read at a time.
        self.expected = 0
        # Where the events lie; None: not looked up.
        self._span: tuple[int, int] | None = None
        # Events are read up to one of these; the last is where all have been read that will count.
        self._cuts: Integers = np.empty(0, dtype=np.int64)
        # Events before it were read.
        self._frontier: int | None = None

    def expect(self, first: int, last: int, most: int) -> None:
        """Plan to read about ``most`` events at a time at most, for instants from ``first`` to ``last``."""
        self.expected = min(self._count, most)
        if self._count > most and self._span is None:
            self._span = self.scan.span()
        between = self._between(first, last)
        if between is None or (len(self._cuts) and between[1] <= self._cuts[-1]):
            return
        lo, hi = between
        parts = cuts(self.scan.histogram, lo, hi, most) if self._count > most else []
        self._cuts = np.array([*parts, hi], dtype=np.int64)

    def spans(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Where to read next, so that every event was read that some view counts at an instant from ``first`` to ``last``.

        Each time as much is read as planned: the fewer the reads, the fewer times are events merged.
        """
        between = self._between(first, last)
        if between is None:
            return
        start, needed = between
        for end in self._cuts[np.searchsorted(self._cuts, start, side="right") :].tolist():
            if start >= needed:
                break
            yield start, end
            self._frontier = start = end

    def _between(self, first: int, last: int) -> tuple[int, int] | None:
        """Where the events lie that were not read and that count at an instant from ``first`` to ``last``; None: nowhere."""
        if not self._count:
            return None
        lo = max(first - self._reach, _EARLIEST)
        lo = lo if self._frontier is None else max(lo, self._frontier)
        hi = last - self._wait
        if self._span is not None:
            lo, hi = max(lo, self._span[0]), min(hi, self._span[1] + 1)
        return (lo, hi) if lo < hi else None


def _ascending(values: Integers) -> bool:
    return bool((values[1:] >= values[:-1]).all())
