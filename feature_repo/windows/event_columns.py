"""Columns that views compute of their events, over history: conditions, and derived columns in order of their dependence.

A view's source becomes a table expression that has these columns beside its own, so that whatever reads events need not know
of them. Conditions are SQL over the source. Derived columns are computed before, of the events that are wanted and no others,
by the engine that answers any question: each event asks for the features of its own keys at its own instant. They are streamed
to a Parquet file, so memory stays bounded; the file goes when its reader is done.
"""

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from feast import RepoConfig
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.registry.base_registry import BaseRegistry

from feature_repo.lake import literal, parquet_sql, quote
from feature_repo.windows.cuts import between_sql, counted, cuts, histogram_sql
from feature_repo.windows.derived import Integers, decimals, features, stored, used
from feature_repo.windows.event_scan import column_types, integers
from feature_repo.windows.event_sql import refuse_nulls
from feature_repo.windows.limits import limits_of
from feature_repo.windows.resolve import with_bases
from feature_repo.windows.slabs import Request, Slabs
from feature_repo.windows.sources import SourceTable, SourceTables, instant_sql
from feature_repo.windows.spec import Derived, ViewSpec, check_computed
from feature_repo.windows.transform import reals

__all__ = ["EventColumns", "Wanted", "computes", "counted_sql", "recorded_sql", "sources_of"]

_ONE = "derived_event"


@dataclass(frozen=True)
class Wanted:
    """Events that a view is to be computed from.

    Attributes:
        table: the view's source as a table expression.
        condition: SQL over the source's own columns, true of every event that is wanted; empty: all are.
    """

    spec: ViewSpec
    table: str
    condition: str = ""


@dataclass(frozen=True)
class _Origin:
    """Events of which derived columns are computed: a table expression, the names of its columns, the events that are wanted."""

    spec: ViewSpec
    table: str
    types: Mapping[str, str]
    condition: str

    @property
    def sql(self) -> str:
        """Table expression of the events that are wanted."""
        where = f" WHERE {self.condition}" if self.condition else ""
        return f"(SELECT * FROM {self.table}{where})"


def computes(spec: ViewSpec) -> bool:
    """Whether the view reads columns that its source does not have."""
    return bool(spec.conditions or spec.derived)


def sources_of(registry: BaseRegistry, project: str, specs: Iterable[ViewSpec]) -> dict[str, FileSource]:
    """The batch sources, by name, that the derived columns of some views are computed from.

    Raises:
        ValueError: one is not registered.
    """
    views = with_bases(specs)
    names = {base.source for view in views for column in view.derived for base in column.views}
    names |= {column.source for view in views for column in view.derived if column.source}
    if not names:
        return {}
    known = {source.name: source for source in registry.list_data_sources(project, allow_cache=True)}
    lacking = sorted(names - set(known))
    if lacking:
        raise ValueError(
            f"derived columns: sources {lacking} are not registered; name the views that they are computed from in "
            "definitions.py, and run feast apply"
        )
    return {name: known[name] for name in names}


def counted_sql(
    spec: ViewSpec, types: Mapping[str, str], first: int, last: int, asked: str, join_keys: Mapping[str, str]
) -> str:
    """The condition that some window asked for may count an event.

    Args:
        types: of the source's columns. first, last: range of the instants, microseconds.
        asked: table expression of the rows that ask. join_keys: their column for each of the view's keys.
    """
    _require(spec, (spec.timestamp, *spec.keys), types)
    parts = [between_sql(instant_sql(spec.timestamp, types), first - spec.horizon_us, last - spec.delay_us)]
    for key in spec.keys:
        parts.append(f"{quote(key)} IN (SELECT CAST({quote(join_keys[key])} AS {types[key]}) FROM {asked})")
    return " AND ".join(parts)


def recorded_sql(spec: ViewSpec, types: Mapping[str, str], oldest: int, first: int | None, end: int) -> str:
    """The condition that an event happened at ``oldest`` or later and became known in ``[first, end)``, microseconds.

    Args:
        types: of the source's columns. first: None if however early.
    """
    created = spec.created or spec.timestamp
    _require(spec, (spec.timestamp, created), types)
    known = f"epoch_us({instant_sql(created, types)})"
    since = "" if first is None else f" AND {known} >= {first}"
    return f"epoch_us({instant_sql(spec.timestamp, types)}) >= {oldest} AND {known} < {end}{since}"


class EventColumns:
    """Makes table expressions of events with the columns that their views compute; they hold until it is closed.

    Args:
        connection: a DuckDB in UTC, in which conditions and table expressions are understood.
        config: the repository's, for its paths and its memory limit.
        sources: see ``sources_of``.
        read: the tables of sources that others read beside; None: nobody does.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        config: RepoConfig,
        sources: Mapping[str, FileSource],
        read: SourceTables | None = None,
    ) -> None:
        self._connection = connection
        self._config = config
        self._sources = sources
        self._read = read or SourceTables(config.repo_path)
        self._folder: Path | None = None
        self._files = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def tables(self, wanted: Sequence[Wanted]) -> list[str]:
        """A table expression for each view: its source's columns as far as the view reads them, and those it computes.

        Views of one source with the same columns share the expression. A view that computes none keeps its source as it is.

        Raises:
            ValueError: a computed column is called as one of the source; the source lacks what one is computed from, or holds
                events without id or times; a transform has changed. TypeError: one reads what is no number.
        """
        shared: dict[object, list[Wanted]] = {}
        for each in wanted:
            shared.setdefault(_meaning(each), []).append(each)
        made = {meaning: self._made(members) for meaning, members in shared.items()}
        return [made[_meaning(each)] for each in wanted]

    def taken_over(
        self, spec: ViewSpec, event_id: str, derived: Sequence[Derived]
    ) -> dict[str, Decimal | None] | None:
        """Derived columns of one event of another source, by their keys; None where the source has no event of that id.

        Args:
            spec: a view that takes them over. event_id: as text. derived: of one source.

        Raises:
            FileNotFoundError: the source is not there. ValueError, TypeError: as ``tables``.
        """
        given = self._sources[derived[0].source]
        theirs = self._read.of(given).sql
        _require(_of(spec, given), [spec.event_id], column_types(self._connection, theirs))
        # The source is read once for the event itself, however often its row is then asked for.
        query = f"SELECT * FROM {theirs} WHERE CAST({quote(spec.event_id)} AS VARCHAR) = $1"
        rows = self._connection.sql(query, params=[event_id]).to_arrow_table()
        if not rows.num_rows:
            return None
        self._connection.register(_ONE, rows)
        found = self._connection.execute(self._theirs(spec, _ONE, "", derived)).fetchall()
        self._connection.unregister(_ONE)
        ((_, *values),) = found
        return dict(zip((column.key for column in derived), values, strict=True))

    def _made(self, members: Sequence[Wanted]) -> str:
        spec, table = members[0].spec, members[0].table
        conditions, derived = used(spec)
        if not conditions and not derived:
            return table
        types = column_types(self._connection, table)
        check_computed(spec, types)
        if derived:
            table = self._with_derived(members, derived, types)
        tests = "".join(f", ({text}) AS {quote(name)}" for name, text in conditions)
        return f"(SELECT *{tests} FROM {table})" if tests else table

    def _with_derived(
        self, members: Sequence[Wanted], derived: Sequence[Derived], types: Mapping[str, str]
    ) -> str:
        spec = members[0].spec
        conditions = [each.condition for each in members]
        condition = " OR ".join(f"({each})" for each in conditions) if all(conditions) else ""
        own = [column for column in derived if column.source in ("", spec.source)]
        read = set[str]().union(*(_read(each.spec) for each in members), *map(_needs, own))
        columns = [name for name in types if name in read]
        origin = self._computed(_Origin(spec, members[0].table, types, condition), own, columns)
        table = origin.sql
        for name in dict.fromkeys(column.source for column in derived if column not in own):
            table = self._taken_over(spec, table, [column for column in derived if column.source == name])
        return table

    def _taken_over(self, spec: ViewSpec, table: str, derived: Sequence[Derived]) -> str:
        """A table with columns that another source's events have, by event id."""
        theirs = self._read.of(self._sources[derived[0].source]).sql
        name = quote(spec.event_id)
        ids = f"CAST({name} AS VARCHAR) IN (SELECT CAST({name} AS VARCHAR) FROM {table})"
        first = self._theirs(spec, theirs, ids, derived)
        added = ", ".join(quote(column.name) for column in derived)
        path = self._path()
        self._connection.execute(
            f"COPY (SELECT e.*, {added} FROM {table} e LEFT JOIN ({first}) o ON CAST(e.{name} AS VARCHAR) = o.__id) "
            f"TO {literal(path)} (FORMAT parquet)"
        )
        return parquet_sql((path,))

    def _theirs(self, spec: ViewSpec, theirs: str, condition: str, derived: Sequence[Derived]) -> str:
        """A query of ``__id``, as text, and derived columns of another source; of several rows of an id the one known first.

        Args:
            spec: a view that takes them over. theirs: the events as a table expression. condition: see ``Wanted``.
        """
        given = self._sources[derived[0].source]
        types = column_types(self._connection, theirs)
        other = _of(spec, given)
        _require(other, [spec.event_id], types)
        kept = set(_needs(*derived)) | {spec.event_id, other.timestamp, other.created}
        columns = [column for column in types if column in kept]
        origin = self._computed(_Origin(other, theirs, types, condition), derived, columns)
        added = ", ".join(quote(column.name) for column in derived)
        order = ", ".join(quote(time) for time in (other.created, other.timestamp) if time)
        return (
            f"SELECT CAST({quote(spec.event_id)} AS VARCHAR) AS __id, {added} FROM {origin.sql} "
            f"QUALIFY row_number() OVER (PARTITION BY __id ORDER BY {order}) = 1"
        )

    def _computed(self, origin: _Origin, derived: Sequence[Derived], columns: Sequence[str]) -> _Origin:
        """Events with derived columns, one pass over them for each column that says as of when they were scored."""
        for as_of in dict.fromkeys(column.as_of for column in derived):
            group = [column for column in derived if column.as_of == as_of]
            table = self._pass(origin, group, as_of, columns)
            columns = [*columns, *(column.name for column in group)]
            origin = _Origin(origin.spec, table, column_types(self._connection, table), "")
        return origin

    def _pass(self, origin: _Origin, derived: Sequence[Derived], as_of: str, columns: Sequence[str]) -> str:
        spec, types = origin.spec, origin.types
        for column in derived:
            named = replace(spec, view=f"{spec.view}: derived column {column.name!r}")
            _require(named, [name for name in _needs(column) if name != as_of], types)
        refuse_nulls(self._connection, spec, origin.sql)
        moment = instant_sql(spec.timestamp, types)
        query = f"SELECT epoch_us(min({moment})), epoch_us(max({moment})) FROM {origin.sql}"
        ((first, last),) = self._connection.execute(query).fetchall()
        if first is None:
            nulls = [f"CAST(NULL AS DECIMAL(18, {c.scale})) AS {quote(c.name)}" for c in derived]
            return f"(SELECT {', '.join([*map(quote, columns), *nulls])} FROM {origin.table} WHERE false)"
        bases = _bases(derived)
        tables = self.tables([self._base(view, origin, (first, last)) for view in bases.values()])
        requests = [
            Request(view, SourceTable(table), {key: key for key in view.keys})
            for view, table in zip(bases.values(), tables, strict=True)
        ]
        path = self._path()
        limits = limits_of(self._config, list(bases.values()))
        asked = dict.fromkeys((key for view in bases.values() for key in view.keys), origin.sql)
        with Slabs(self._connection, requests, asked, limits, last) as slabs:
            work = _Pass(slabs, list(bases), derived, columns)
            read = set(columns).union(_needs(*derived)) & set(types)
            _write(path, map(work.finished, self._rows(origin, as_of, read, (first, last), limits.rows)))
        return parquet_sql((path,))

    def _base(self, view: ViewSpec, origin: _Origin, span: tuple[int, int]) -> Wanted:
        table = self._read.of(self._sources[view.source]).sql
        condition = ""
        if computes(view):
            types = column_types(self._connection, table)
            condition = counted_sql(view, types, *span, origin.sql, {key: key for key in view.keys})
        return Wanted(view, table, condition)

    def _rows(
        self, origin: _Origin, as_of: str, columns: Iterable[str], span: tuple[int, int], most: int
    ) -> Iterator[pa.Table]:
        """The events by time, so many at a time: their columns, ``__instant`` and ``__known`` microseconds."""
        moment = instant_sql(origin.spec.timestamp, origin.types)
        known = f"epoch_us({moment})"
        if as_of in origin.types:
            known = f"coalesce(epoch_us({instant_sql(as_of, origin.types)}), {known})"
        names = ", ".join(map(quote, sorted(columns)))
        lo, hi = span[0], span[1] + 1

        def histogram(start: int, end: int, buckets: int) -> tuple[int, Integers]:
            width = max((end - start + buckets - 1) // buckets, 1)
            query = histogram_sql(moment, origin.sql, between_sql(moment, start, end), start, width)
            return width, counted(self._connection.execute(query).fetchnumpy(), buckets)

        for start, end in pairwise([lo, *cuts(histogram, lo, hi, most), hi]):
            yield self._connection.sql(
                f"SELECT {names}, epoch_us({moment}) AS __instant, {known} AS __known FROM {origin.sql} "
                f"WHERE {between_sql(moment, start, end)} ORDER BY __instant"
            ).to_arrow_table()

    def _path(self) -> str:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="event-columns-"))
        self._files += 1
        return str(self._folder / f"{self._files}.parquet")


@dataclass(frozen=True)
class _Pass:
    """One pass over events, a table at a time in order of time: ``bases`` names the answers of ``slabs``."""

    slabs: Slabs
    bases: Sequence[str]
    derived: Sequence[Derived]
    columns: Sequence[str]

    def finished(self, rows: pa.Table) -> pa.Table:
        """Some events with their derived columns."""
        keys = dict.fromkeys(key for request in self.slabs.requests for key in request.spec.keys)
        instants, known = integers(rows["__instant"]), integers(rows["__known"])
        found = self.slabs.answer({key: rows[key] for key in keys}, instants, known)
        answers = dict(zip(self.bases, found, strict=True))
        table = rows.select(list(self.columns))
        for column in self.derived:
            read = {name: reals(rows[name]) for name in column.event_columns}
            for base in column.views:
                values = answers[base.digest]
                read |= {name: reals(values[name]) for name in values if name in column.reads}
            units = stored(features(column, instants, read), column.scale)
            table = table.append_column(column.name, decimals(units, column.scale))
        return table


def _write(path: str, parts: Iterator[pa.Table]) -> None:
    first = next(parts)
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        for part in parts:
            writer.write_table(part)


def _of(spec: ViewSpec, given: FileSource) -> ViewSpec:
    """As if the view read another source."""
    created = given.created_timestamp_column or ""
    return replace(spec, source=given.name, timestamp=given.timestamp_field, created=created)


def _bases(derived: Sequence[Derived]) -> dict[str, ViewSpec]:
    """The views that some columns are computed from, by digest, each with the outputs that any of them reads."""
    views = {view.digest: view for column in derived for view in column.views}
    read = {name for column in derived for name in column.reads}
    return {digest: view.only(read) for digest, view in views.items()}


def _needs(*derived: Derived) -> tuple[str, ...]:
    """The columns of an event that derived columns are computed from."""
    keys = [key for column in derived for view in column.views for key in view.keys]
    own = [name for column in derived for name in (*column.event_columns, column.as_of) if name]
    return tuple(dict.fromkeys([*keys, *own]))


def _read(spec: ViewSpec) -> set[str]:
    """Columns of the events that the view reads."""
    read = {*spec.keys, spec.event_id, spec.timestamp, spec.created, *(c.name for c in spec.columns)}
    read |= set(spec.predicate.columns if spec.predicate else ())
    return read.union(*(test.columns for _, test in spec.tests))


def _meaning(wanted: Wanted) -> object:
    conditions, derived = used(wanted.spec)
    identity = (wanted.spec.event_id, wanted.spec.timestamp, wanted.spec.created)
    return wanted.table, identity, tuple(conditions), tuple(column.digest for column in derived)


def _require(spec: ViewSpec, names: Iterable[str], types: Mapping[str, Any]) -> None:
    for name in names:
        if name not in types:
            raise ValueError(
                f"{spec.view}: column {name!r} is not in source {spec.source!r}; it has {', '.join(sorted(types))}"
            )
