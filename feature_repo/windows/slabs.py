"""Windows over history, slab by slab in time, in bounded memory.

Rows that ask are answered in slabs, by instant. Each event is read and sorted once, however many slabs there are: what a
later slab's windows can still reach is carried along, and what none can is let go of.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.lake import quote
from feature_repo.windows.columns import arrow_columns
from feature_repo.windows.cuts import cuts
from feature_repo.windows.event_scan import EventScan, KeyPart, column_types, integers
from feature_repo.windows.event_sql import check_columns, event_number_sql
from feature_repo.windows.family import AskedRows, Family, KeyedRows
from feature_repo.windows.limits import Limits
from feature_repo.windows.memory import empty
from feature_repo.windows.spec import ViewSpec

Integers = NDArray[np.int64]
Progress = Callable[[int, int], None]
"""``progress(done, total)`` rows."""


@dataclass(frozen=True)
class Request:
    """One view to answer: its events' table expression, and the column of the rows that ask for each of its keys."""

    spec: ViewSpec
    source: str
    join_keys: Mapping[str, str]


class Slabs:
    """Answers windowed views for rows that ask, in ascending order of their instants.

    Args:
        connection: a DuckDB in which ``asked`` is known.
        requests: the views; those without aggregates are answered with no columns.
        asked: table expression of every row that will ask, for the values of its key columns.
        last: the last instant at which rows will ask, microseconds; None: all ask at once.

    Raises:
        ValueError: see ``EventScan``.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, requests: Sequence[Request], asked: str, limits: Limits,
        last: int | None = None,
    ) -> None:  # fmt: skip
        self._connection = connection
        self._limits = limits
        self._last = last
        self._workers = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._workers)
        self._keys = _Keys(connection, asked)
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

    def answer(
        self, table: str, rows: int, progress: Progress = lambda done, total: None
    ) -> list[dict[str, pa.ChunkedArray]]:
        """Every aggregate of each view for every row of a table, in row order.

        Args:
            table: its key columns, ``__instant`` and ``__known`` in microseconds, ``__row`` from 0 to ``rows - 1``. No instant
                may lie before one that was answered.

        Raises:
            OverflowError: see ``evaluate``.
        """
        outs = [empty((rows, len(request.spec.aggregates))) for request in self.requests]
        self._fill(self._asked_rows(table), outs, progress)
        return [self._columns(request, out) for request, out in zip(self.requests, outs, strict=True)]

    def _asked_rows(self, table: str) -> AskedRows:
        """The rows of a table with ``__instant``, ``__known`` (microseconds) and ``__row``, by instant."""
        found = self._connection.sql(self._keys.sql(table)).to_arrow_table()
        instants, rows = integers(found["__instant"]), integers(found["__row"])
        given = integers(found["__known"])
        known = None if np.array_equal(given, instants) else given
        keys = {part: found[f"__k{i}"].to_numpy() for i, part in enumerate(self._keys.parts)}
        if _ascending(instants):
            return AskedRows(instants, known, rows, keys)
        order = np.argsort(instants, kind="stable")
        keys = {part: ids[order] for part, ids in keys.items()}
        known = None if known is None else known[order]
        return AskedRows(instants[order], known, rows[order], keys)

    def _fill(self, asks: AskedRows, outs: Sequence[Integers], progress: Progress) -> None:
        """Answer rows by instant, into int64[r, a] for each request."""
        if len(asks):
            last = int(asks.instants[-1]) if self._last is None else self._last
            for feed in self._feeds:
                feed.expect(int(asks.instants[0]), last, self._limits.events)
        for start in range(0, len(asks), self._limits.rows):
            part = asks.part(start, min(start + self._limits.rows, len(asks)))
            self._advance(int(part.instants[0]), int(part.instants[-1]))
            self._answer(part, outs)
            progress(start + len(part), len(asks))

    def _answer(self, asks: AskedRows, outs: Sequence[Integers]) -> None:
        families = [self._family_of[i] for i in range(len(self.requests))]
        every = dict.fromkeys(family.parts for family in families)
        keyed = {parts: self._pool.submit(KeyedRows.of, parts, asks) for parts in every}
        filling = []
        for parts, sorting in keyed.items():
            for request, family, out in zip(self.requests, families, outs, strict=True):
                if family.parts == parts:
                    filling += family.answer(sorting.result(), request.spec, out)
        for filled in filling:
            filled.result()

    def _columns(self, request: Request, out: Integers) -> dict[str, pa.ChunkedArray]:
        """A filled result, which becomes Arrow columns by name."""
        arrays = arrow_columns(out, request.spec.whole, self._pool, self._workers)
        return {a.name: array for a, array in zip(request.spec.aggregates, arrays, strict=True)}

    def _plan(self) -> "list[_Feed]":
        """One feed a source."""
        types = {request.source: column_types(self._connection, request.source) for request in self.requests}
        feeds: dict[object, list[_Member]] = {}
        for index, request in enumerate(self.requests):
            spec = request.spec
            check_columns(spec, types[request.source])
            parts = tuple(
                self._keys.part(key, types[request.source][key], request.join_keys[key]) for key in spec.keys
            )
            feed = (request.source, spec.timestamp, spec.created, spec.event_id)
            feeds.setdefault(feed, []).append(_Member(index, spec, parts))
        return [self._feed(members) for members in feeds.values()]

    def _feed(self, members: "Sequence[_Member]") -> "_Feed":
        """One family for the views of a source with the same keys and filter."""
        source = self.requests[members[0].request].source
        scan = EventScan(self._connection, [m.spec for m in members], source, [m.parts for m in members])
        shared: dict[object, list[int]] = {}
        for i, member in enumerate(members):
            shared.setdefault((member.parts, member.spec.where, member.spec.corrected), []).append(i)
        families = []
        for sharing in shared.values():
            specs, fields = [members[i].spec for i in sharing], [scan.fields[i] for i in sharing]
            family = Family(members[sharing[0]].parts, specs, fields, self._pool)
            families.append(family)
            self._family_of |= {members[i].request: family for i in sharing}
        return _Feed(scan, families)

    def _advance(self, first: int, last: int) -> None:
        """Have every event that the instants ``first`` to ``last`` count."""
        for feed in self._feeds:
            for start, end in feed.spans(first, last):
                self._take(feed, start, end, first)

    def _take(self, feed: "_Feed", start: int, end: int, first: int) -> None:
        """Read the events of [start, end); let go of those that no instant from ``first`` on counts."""
        piece = feed.scan.read(start, end)
        order = None if _ascending(piece.times) else np.argsort(piece.times, kind="stable")
        floors = [first - family.horizon_us for family in feed.families]
        sorting = [
            self._pool.submit(family.sorted, piece, order, floor, self._numbers)
            for family, floor in zip(feed.families, floors, strict=True)
        ]
        # What is not referred to any more makes room for what is merged.
        del piece, order
        for family, floor in zip(feed.families, floors, strict=True):
            family.merge(*sorting.pop(0).result(), floor)

    def _numbers(self, ids: pa.ChunkedArray) -> NDArray[np.uint64]:
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


class _Keys:
    """The values asked of each key, numbered in a table each."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, asked: str) -> None:
        self._connection = connection
        self._asked = asked
        self._numbered: dict[KeyPart, tuple[str, str]] = {}

    @property
    def parts(self) -> Sequence[KeyPart]:
        return list(self._numbered)

    def part(self, key: str, kind: str, column: str) -> KeyPart:
        """The part for a source's key of a DuckDB type, asked in a column of the rows."""
        asked = (column, kind)
        table = next((p.table for p, a in self._numbered.items() if a == asked), "")
        size = next((p.size for p, a in self._numbered.items() if a == asked), 0)
        if not table:
            table = f"__numbered_{len(self._numbered)}"
            self._connection.execute(
                f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT value, (row_number() OVER () - 1)::INTEGER AS id FROM "
                f"(SELECT DISTINCT {_cast(column, kind)} AS value FROM {self._asked} WHERE {quote(column)} IS NOT NULL)"
            )
            ((size,),) = self._connection.execute(f"SELECT count(*) FROM {table}").fetchall()
        part = KeyPart(key, table, size)
        self._numbered[part] = asked
        return part

    def sql(self, table: str) -> str:
        """The rows of a table that ask, with the number of each part of their keys, -1 for none."""
        named = list(self._numbered.items())
        numbers = "".join(f", coalesce(i{i}.id, -1) AS __k{i}" for i in range(len(named)))
        joins = "".join(
            f" LEFT JOIN {part.table} i{i} ON {_cast(column, kind, 'a.')} = i{i}.value"
            for i, (part, (column, kind)) in enumerate(named)
        )
        return f"SELECT a.__instant, a.__known, a.__row{numbers} FROM {table} a{joins}"


class _Feed:
    """The events of one source, handed to its families once, in order of time."""

    def __init__(self, scan: EventScan, families: Sequence[Family]) -> None:
        self.scan = scan
        self.families = families
        self._reach = max(family.horizon_us for family in families)
        self._wait = min(min(spec.delay_us for spec in family.specs) for family in families)
        self._span = scan.span()
        # Events are read up to one of these; the last is where all have been read that will count.
        self._cuts: Integers = np.empty(0, dtype=np.int64)
        # Events before it were read.
        self._frontier: int | None = None

    def expect(self, first: int, last: int, most: int) -> None:
        """Plan to read about ``most`` events at a time at most, for instants from ``first`` to ``last``."""
        between = self._between(first, last)
        if between is None or (len(self._cuts) and between[1] <= self._cuts[-1]):
            return
        lo, hi = between
        self._cuts = np.array([*cuts(self.scan.histogram, lo, hi, most), hi], dtype=np.int64)

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
        if self._span is None:
            return None
        lo = max(first - self._reach, self._span[0])
        lo = lo if self._frontier is None else max(lo, self._frontier)
        hi = min(last - self._wait, self._span[1] + 1)
        return (lo, hi) if lo < hi else None


def _cast(column: str, kind: str, table: str = "") -> str:
    return f"CAST({table}{quote(column)} AS {kind})"


def _ascending(values: Integers) -> bool:
    return bool((values[1:] >= values[:-1]).all())
