"""Point-in-time retrieval: what is asked, the rows that ask, and the columns that views and transforms add to them."""

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureView, FileSource, RepoConfig
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from numpy.typing import NDArray

from feature_repo.windows.event_columns import EventColumns, Wanted, computes, counted_sql, sources_of
from feature_repo.windows.event_scan import column_types
from feature_repo.windows.limits import limits_of
from feature_repo.windows.plain import DUMMY_KEY, point_in_time_join
from feature_repo.windows.slabs import Progress, Request, Slabs
from feature_repo.windows.sources import SourceTable, SourceTables, instant_sql
from feature_repo.windows.spec import ViewSpec, is_windowed, view_spec
from feature_repo.windows.transform import Transform, declared_transform

Integers = NDArray[np.int64]
KNOWN_AS_OF = "created_timestamp"
_OURS = ("__instant", "__known", "__row")
_NUMBERS = ("integer", "floating", "mixed-integer", "mixed-integer-float", "decimal", "complex", "boolean")


@dataclass(frozen=True)
class AskedView:
    """One view and the features that are asked of it; ``spec`` is None for a plain view."""

    view: FeatureView
    features: Sequence[str]
    spec: ViewSpec | None

    def join_keys(self, columns: Collection[str]) -> dict[str, str]:
        """The column of the entity rows for each of the view's keys.

        Raises:
            ValueError: there is none, with the columns there are.
        """
        renamed = self.view.projection.join_key_map or {}
        join_keys = {key: renamed.get(key, key) for key in self.view.join_keys}
        for key, column in join_keys.items():
            if column not in columns and key != DUMMY_KEY:
                raise ValueError(
                    f"{self.view.name}: join key {column!r} is not in the entity rows, which have {sorted(columns)}"
                )
        return join_keys


@dataclass(frozen=True)
class Question:
    """Features asked of a repository.

    Attributes:
        transforms: on-demand views declared as a ``Transform``. others: those left to Feast.
        feature_refs: ``view:feature``, as asked.
        full_names: whether features are named ``view__feature``.
        filter_by_created: hide plain views' rows created after the row that asks.
        sources: what derived event columns are computed from, see ``sources_of``.
    """

    config: RepoConfig
    views: Sequence[AskedView]
    transforms: Sequence[tuple[OnDemandFeatureView, Transform]]
    others: Sequence[OnDemandFeatureView]
    feature_refs: Sequence[str]
    full_names: bool = False
    filter_by_created: bool = False
    sources: Mapping[str, FileSource] = field(default_factory=dict)

    @classmethod
    def of(
        cls, config: RepoConfig, feature_views: Sequence[FeatureView], feature_refs: Sequence[str], registry: BaseRegistry,
        project: str, full_names: bool = False, filter_by_created: bool = False,
    ) -> Self:  # fmt: skip
        """What Feast asks of an offline store.

        Raises:
            ValueError: see ``view_spec``.
        """
        on_demand = OnDemandFeatureView.get_requested_odfvs(list(feature_refs), project, registry)
        declared = [(view, declared_transform(view)) for view in on_demand]
        entities = registry.list_entities(project, allow_cache=True)
        views = []
        for view in feature_views:
            features = requested_of(view, feature_refs)
            spec = None
            if is_windowed(view):
                spec = view_spec(view, [e for e in entities if e.name in view.entities]).only(set(features))
            views.append(AskedView(view, features, spec))
        sources = sources_of(registry, project, [asked.spec for asked in views if asked.spec])
        return cls(
            config, views, [(view, t) for view, t in declared if t is not None],
            [view for view, t in declared if t is None], feature_refs, full_names, filter_by_created, sources,
        )  # fmt: skip


@dataclass(frozen=True)
class EntityRows:
    """Rows that ask.

    Attributes:
        table: all their columns, as given.
        time_column: which of them says when.
        instants: int64[n] that, in microseconds UTC. known: int64[n] what they know, None if each knows up to its instant.
    """

    table: pa.Table
    time_column: str
    instants: Integers
    known: Integers | None

    @classmethod
    def of_frame(cls, frame: pd.DataFrame, time_column: str) -> Self:
        """The rows of a frame.

        Raises:
            ValueError: see ``microseconds_of``.
        """
        known = None
        if KNOWN_AS_OF in frame.columns and time_column != KNOWN_AS_OF:
            known = microseconds_of(frame[KNOWN_AS_OF], KNOWN_AS_OF)
        table = pa.Table.from_pandas(frame, preserve_index=False)
        return cls(table, time_column, microseconds_of(frame[time_column], time_column), known)


class Retrieval:
    """Answers a question for rows that ask, all at once or batch by batch in ascending order of their instants.

    Args:
        asked: table expression of every row that will ask; None: the first batch is all of them.
        last: the last instant at which they will, microseconds.
    """

    def __init__(
        self, question: Question, connection: duckdb.DuckDBPyConnection, asked: str | None = None, last: int | None = None
    ) -> None:  # fmt: skip
        self._question = question
        self._last = last
        self._connection = connection
        self._asked = asked
        self._slabs: Slabs | None = None
        # Of one version each, however many views read it.
        self._sources = SourceTables(question.config.repo_path)
        self._event_columns = EventColumns(connection, question.config, question.sources, self._sources)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._slabs:
            self._slabs.__exit__(kind, error, trace)
        self._event_columns.__exit__(kind, error, trace)

    def answer(self, rows: EntityRows, progress: Progress = lambda done, total: None) -> pa.Table:
        """The rows as given, with UTC instants, and the features' columns after them.

        Raises:
            ValueError: a join key is missing, or what the engine refuses; see ``Slabs``.
        """
        given = rows.table.column_names
        columns = {name: rows.table.column(name) for name in given}
        columns[rows.time_column] = pa.array(rows.instants).cast(pa.timestamp("us", tz="UTC"))
        join_keys = [asked.join_keys(given) for asked in self._question.views]
        self._register(rows, {column for each in join_keys for column in each.values()})
        windowed = self._windowed(rows, join_keys, progress)
        for asked, keys in zip(self._question.views, join_keys, strict=True):
            added = windowed.pop(0) if asked.spec else self._plain(rows, asked, keys)
            prefix = f"{asked.view.projection.name_to_use()}__" if self._question.full_names else ""
            columns |= {prefix + name: added[name] for name in asked.features}
        for view, transform in self._question.transforms:
            columns |= self._transformed(view, transform, columns)
        return pa.table(columns)

    def _register(self, rows: EntityRows, keys: Collection[str]) -> None:
        """The table ``asks``, for whatever reads it: keys, ``__instant``, ``__known``, ``__row``."""
        if not any(asked.spec is None or computes(asked.spec) for asked in self._question.views):
            return
        named = {name: rows.table.column(name) for name in rows.table.column_names if name in keys}
        known = rows.instants if rows.known is None else rows.known
        ours = (rows.instants, known, np.arange(len(rows.instants)))
        asks = pa.table(named | dict(zip(_OURS, map(pa.array, ours), strict=True)))
        self._connection.register("asks", asks)

    def _windowed(
        self, rows: EntityRows, join_keys: Sequence[dict[str, str]], progress: Progress
    ) -> list[dict[str, pa.ChunkedArray]]:
        windowed = [keys for asked, keys in zip(self._question.views, join_keys, strict=True) if asked.spec]
        names = list(dict.fromkeys(column for keys in windowed for column in keys.values()))
        keys = {name: rows.table.column(name) for name in names}
        if self._slabs is None:
            requests = self._requests(rows, join_keys)
            limits = limits_of(self._question.config, [request.spec for request in requests])
            self._slabs = Slabs(self._connection, requests, self._values(keys), limits, self._last)
        return self._slabs.answer(keys, rows.instants, rows.known, progress)

    def _values(self, keys: Mapping[str, pa.ChunkedArray]) -> dict[str, str]:
        """For each key column a table expression with every value that will be asked of it."""
        if self._asked is not None:
            return dict.fromkeys(keys, self._asked)
        for i, (name, column) in enumerate(keys.items()):
            self._connection.register(f"asked_{i}", pa.table({name: column}))
        return {name: f"asked_{i}" for i, name in enumerate(keys)}

    def _requests(self, rows: EntityRows, join_keys: Sequence[dict[str, str]]) -> list[Request]:
        requests = []
        for view, keys in zip(self._question.views, join_keys, strict=True):
            if view.spec:
                source = self._sources.of(view.view.batch_source)
                requests.append(Request(view.spec, source, keys))
        if not any(computes(request.spec) for request in requests):
            return requests
        first, last = self._span(rows)
        wanted = []
        for request in requests:
            condition, types = "", column_types(self._connection, request.source.sql)
            if request.spec.derived:
                asked = self._asked or "asks"
                condition = counted_sql(request.spec, types, first, last, asked, request.join_keys)
            wanted.append(Wanted(request.spec, request.source.sql, condition))
        tables = self._event_columns.tables(wanted)
        return [
            request if request.source.sql == table else replace(request, source=SourceTable(table))
            for request, table in zip(requests, tables, strict=True)
        ]

    def _span(self, rows: EntityRows) -> tuple[int, int]:
        """The first and the last instant of all rows that will ask, microseconds; 0 of none."""
        if self._asked is None:
            return (int(rows.instants.min()), int(rows.instants.max())) if len(rows.instants) else (0, 0)
        moment = instant_sql(rows.time_column, column_types(self._connection, self._asked))
        query = f"SELECT epoch_us(min({moment})), epoch_us(max({moment})) FROM {self._asked}"
        ((first, last),) = self._connection.execute(query).fetchall()
        return int(first), int(last)

    def _plain(
        self, rows: EntityRows, asked: AskedView, join_keys: dict[str, str]
    ) -> dict[str, pa.ChunkedArray]:
        source = self._sources.of(asked.view.batch_source).sql
        filtered = rows.known is not None or self._question.filter_by_created
        return point_in_time_join(
            self._connection, asked.view, source, join_keys, list(asked.features), filtered
        )

    def _transformed(
        self, view: OnDemandFeatureView, transform: Transform, columns: dict[str, Any]
    ) -> dict[str, pa.Array]:
        full = self._question.full_names
        prefixes = {
            feature.name: projection.name_to_use() if full else ""
            for projection in view.source_feature_view_projections.values()
            for feature in projection.features
        }
        inputs = {
            name: columns[f"{prefixes[name]}__{name}" if prefixes.get(name) else name]
            for name in transform.inputs
        }
        outputs = transform.apply_arrow(inputs)
        prefix = f"{view.projection.name_to_use()}__" if full else ""
        return {prefix + name: outputs[name] for name in requested_of(view, self._question.feature_refs)}


def connect(config: RepoConfig) -> duckdb.DuckDBPyConnection:
    """A DuckDB of its own, in UTC, with the store's memory limit; what is beyond it goes to the system's temporary folder."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    # It would draw one for each of many queries, terminal or not.
    connection.execute("SET enable_progress_bar = false")
    # Several queries read the same files.
    connection.execute("SET parquet_metadata_cache = true")
    # Its own choice is the folder that a command is run in, whatever that is.
    connection.execute("SET temp_directory = ?", [tempfile.gettempdir()])
    limit = getattr(config.offline_store, "memory_limit", None)
    if limit:
        connection.execute("SET memory_limit = ?", [limit])
    return connection


def entity_frame(entity_df: pd.DataFrame | str | None) -> pd.DataFrame:
    """The entity rows as a frame, whether given as one or as a query.

    Raises:
        ValueError: neither is given.
    """
    if isinstance(entity_df, str):
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            frame: pd.DataFrame = connection.execute(entity_df).df()
            return frame
    if isinstance(entity_df, pd.DataFrame):
        return entity_df
    raise ValueError("entity_df: give a pandas frame, or a SQL query, with the join keys and event_timestamp")


def requested_of(view: Any, feature_refs: Sequence[str]) -> list[str]:
    """The features of one view among ``view:feature`` references, in their order."""
    name = view.projection.name_to_use()
    return [ref.split(":", 1)[1] for ref in feature_refs if ref.split(":", 1)[0] == name]


def microseconds_of(values: pd.Series, column: str) -> np.ndarray[Any, Any]:
    """A column of times as int64 microseconds UTC; times without a zone are UTC, as in Feast.

    Raises:
        ValueError: null times, with the first rows; numbers, which do not say what they count.
    """
    kind = pd.api.types.infer_dtype(values, skipna=True)
    if kind in _NUMBERS and values.notna().any():
        raise ValueError(
            f"{column}: {values.dtype} ({kind}), which does not say what it counts from when; give datetimes, such as "
            f"pandas.to_datetime(frame[{column!r}], unit='us', utc=True)"
        )
    if values.dtype == object or isinstance(values.dtype, pd.StringDtype):
        values = pd.to_datetime(values, utc=True)
    missing = np.flatnonzero(values.isna().to_numpy())
    if len(missing):
        raise ValueError(
            f"{column}: null in {len(missing)} entity rows, first {missing[:5].tolist()}; give every row its instant"
        )
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        values = values.dt.tz_convert("UTC").dt.tz_localize(None)
    # One copy: the rows answer for themselves, whatever becomes of the frame.
    return values.to_numpy().astype("datetime64[us]", copy=False).astype(np.int64)
