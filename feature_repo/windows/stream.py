"""Features of more rows than fit in memory, slab by slab in order of time.

stream = feature_stream(store, ["customer_activity:customer_transactions_count_7d"], source="transactions")
for table in stream.tables(): ...
stream.to_parquet("features")
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import duckdb
import numpy as np
import pyarrow as pa
from feast import FeatureService, FeatureStore, utils
from feast.infra.offline_stores.file_source import FileSource

from feature_repo.lake import quote
from feature_repo.windows.cuts import between_sql, counted, cuts, histogram_sql
from feature_repo.windows.event_scan import column_types, integers
from feature_repo.windows.limits import limits_of
from feature_repo.windows.parts import PartWriter
from feature_repo.windows.progress import shown
from feature_repo.windows.retrieval import EntityRows, Question, Retrieval, connect
from feature_repo.windows.slabs import Progress
from feature_repo.windows.sources import instant_sql, source_sql
from feature_repo.windows.state import to_microseconds

__all__ = ["FeatureStream", "RowsThatAsk", "feature_stream"]


@dataclass(frozen=True)
class RowsThatAsk:
    """Entity rows as a query, read slab by slab.

    Attributes:
        sql: table expression; it is read several times and must give the same rows each time.
        time: its event-time column.
        known: column of when a row became known, or empty: a row asks as of the later of the two.
        columns: the columns that are kept.
        order: columns by which rows of one instant are ordered; without any, they come as they are read.
    """

    sql: str
    time: str
    known: str
    columns: Sequence[str]
    order: Sequence[str] = ()


class FeatureStream:
    """A retrieval that is answered slab by slab, in ascending order of the rows' instants.

    Args:
        start, end: microseconds UTC; only rows in [start, end) ask. None is open.
    """

    def __init__(
        self, question: Question, rows: RowsThatAsk, start: int | None = None, end: int | None = None
    ) -> None:
        self._question = question
        self._rows = rows
        self._start, self._end = start, end

    def tables(self, progress: Progress = lambda done, total: None) -> Iterator[pa.Table]:
        """One table a slab: the rows' columns, then the features, named as ``get_historical_features`` names them.

        Of no rows there is one table without any.

        Raises:
            ValueError: null times; what ``Retrieval`` refuses.
        """
        with connect(self._question.config) as connection:
            read = _Reader.of(connection, self._rows, self._start, self._end)
            asked = f"({read.all_sql})"
            with Retrieval(self._question, connection, asked, read.hi - 1) as retrieval:
                limits = limits_of(self._question.config, [v.spec for v in self._question.views if v.spec])
                done, total = 0, read.count()
                progress(done, total)
                for lo, hi in read.slabs(limits.rows):
                    rows = read.rows(lo, hi)
                    # Of no rows, one table says what their columns are.
                    if len(rows.instants) or not total:
                        yield retrieval.answer(rows)
                    done += len(rows.instants)
                    progress(done, total)

    def to_parquet(
        self,
        path: Path | str,
        progress: Progress | None = None,
        metadata: dict[str, str] | None = None,
    ) -> int:
        """Write a folder of Parquet files, ``part-00000.parquet`` and on, in order of time; returns how many rows.

        The folder appears under its name when it is complete.

        Args:
            progress: told the rows done, and all of them; None: a bar, where there is someone to see it.
            metadata: written to each file.

        Raises:
            FileExistsError: something is there.
        """
        telling = nullcontext(progress) if progress else shown("rows")
        with PartWriter(Path(path), metadata or {}) as writer, telling as told:
            for table in self.tables(told):
                writer.write(table)
                # The next slab is computed in the room of this one.
                del table
        return writer.rows


def feature_stream(
    store: FeatureStore,
    features: Sequence[str] | FeatureService,
    source: str,
    start: datetime | None = None,
    end: datetime | None = None,
    columns: Sequence[str] | None = None,
    full_feature_names: bool = False,
) -> FeatureStream:
    """The features of every event of a batch source in [start, end), each as of when it became known, in order of time.

    Args:
        source: name of a batch source that some of the features' views read.
        columns: columns of the source to keep beside the features, join keys among them (default: all).

    Raises:
        ValueError: none of the views reads the source, or it lacks a column.
    """
    question = question_of(store, features, full_feature_names)
    batches = {asked.view.batch_source.name: asked.view.batch_source for asked in question.views}
    if source not in batches:
        raise ValueError(
            f"source {source!r}: no view of the features reads it; they read {', '.join(sorted(batches))}"
        )
    rows = rows_of_source(batches[source], store.config.repo_path, columns)
    return FeatureStream(question, rows, _microseconds(start), _microseconds(end))


def rows_of_source(
    source: FileSource, root: Path | None, columns: Sequence[str] | None = None
) -> RowsThatAsk:
    """Every event of a source as a row that asks."""
    sql = source_sql(source, root)
    with duckdb.connect() as connection:
        there = list(column_types(connection, sql))
    missing = [name for name in columns or [] if name not in there]
    if missing:
        raise ValueError(f"source {source.name!r}: no column {missing}; it has {', '.join(sorted(there))}")
    return RowsThatAsk(sql, source.timestamp_field, source.created_timestamp_column or "", columns or there)


def question_of(
    store: FeatureStore, features: Sequence[str] | FeatureService, full_names: bool = False
) -> Question:
    """What ``get_historical_features`` would ask the offline store.

    Raises:
        feast.errors.FeatureViewNotFoundException: a reference names no view.
    """
    refs = utils._get_features(store.registry, store.project, features, allow_cache=True)
    plain, on_demand = utils._get_feature_views_to_use(store.registry, store.project, features)
    grouped, _ = utils._group_feature_refs(refs, plain, on_demand)
    for view, names in grouped:
        needed = [f"{view.projection.name_to_use()}:{name}" for name in names]
        refs = [*refs, *(ref for ref in needed if ref not in refs)]
    views = [view for view, _ in grouped]
    return Question.of(store.config, views, refs, store.registry, store.project, full_names)


@dataclass(frozen=True)
class _Reader:
    """Rows that ask in a DuckDB, all of them in [lo, hi) microseconds."""

    connection: duckdb.DuckDBPyConnection
    asked: RowsThatAsk
    types: dict[str, str]
    lo: int
    hi: int

    @classmethod
    def of(
        cls, connection: duckdb.DuckDBPyConnection, asked: RowsThatAsk, start: int | None, end: int | None
    ) -> Self:
        """The rows of [start, end); None is open."""
        types = column_types(connection, asked.sql)
        moment = instant_sql(asked.time, types)
        query = f"SELECT epoch_us(min({moment})), epoch_us(max({moment})), count(*) - count({moment}) FROM {asked.sql}"
        ((first, last, missing),) = connection.execute(query).fetchall()
        if missing:
            raise ValueError(f"{asked.time}: null in {missing} entity rows; give every row its instant")
        if first is None:
            return cls(connection, asked, types, 0, 0)
        lo = first if start is None else max(first, start)
        hi = last + 1 if end is None else min(last + 1, end)
        return cls(connection, asked, types, lo, max(lo, hi))

    @property
    def moment(self) -> str:
        return instant_sql(self.asked.time, self.types)

    @property
    def all_sql(self) -> str:
        return f"SELECT * FROM {self.asked.sql} WHERE {between_sql(self.moment, self.lo, self.hi)}"

    def count(self) -> int:
        ((count,),) = self.connection.execute(f"SELECT count(*) FROM ({self.all_sql})").fetchall()
        return int(count)

    def slabs(self, most: int) -> Iterator[tuple[int, int]]:
        """Spans of time with about ``most`` rows each."""

        def histogram(lo: int, hi: int, buckets: int) -> tuple[int, Any]:
            width = max((hi - lo + buckets - 1) // buckets, 1)
            query = histogram_sql(self.moment, self.asked.sql, between_sql(self.moment, lo, hi), lo, width)
            return width, counted(self.connection.execute(query).fetchnumpy(), buckets)

        between = cuts(histogram, self.lo, self.hi, most)
        yield from zip([self.lo, *between], [*between, self.hi], strict=True)

    def rows(self, lo: int, hi: int) -> EntityRows:
        """The rows of [lo, hi), by instant."""
        columns = ", ".join(quote(name) for name in self.asked.columns)
        extra = f", epoch_us({self.moment}) AS __instant"
        if self.asked.known:
            extra += f", epoch_us({instant_sql(self.asked.known, self.types)}) AS __known"
        order = ", ".join(["__instant", *(quote(name) for name in self.asked.order)])
        table = self.connection.sql(
            f"SELECT {columns}{extra} FROM {self.asked.sql} WHERE {between_sql(self.moment, lo, hi)}"
            + (f" ORDER BY {order}" if self.asked.order else "")
        ).to_arrow_table()
        instants = integers(table["__instant"])
        if (instants[1:] < instants[:-1]).any():
            table = table.take(pa.array(np.argsort(instants, kind="stable")))
            instants = integers(table["__instant"])
        known = np.maximum(instants, integers(table["__known"])) if self.asked.known else None
        return EntityRows(table.select(list(self.asked.columns)), self.asked.time, instants, known)


def _microseconds(instant: datetime | None) -> int | None:
    if instant is not None and instant.tzinfo is None:
        raise ValueError(f"{instant}: no time zone; give an instant with one")
    return None if instant is None else to_microseconds(instant)
