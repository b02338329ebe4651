"""Point-in-time retrieval: the entity rows, and the columns that views and transforms add to them."""

from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.on_demand_feature_view import OnDemandFeatureView

from feature_repo.windows.offline import compute
from feature_repo.windows.plain import point_in_time_join
from feature_repo.windows.sources import source_sql
from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.transform import Transform

KNOWN_AS_OF = "created_timestamp"


class Retrieval:
    """One run: the entity table in DuckDB, and the columns added to it."""

    def __init__(
        self, config: RepoConfig, frame: pd.DataFrame, time_column: str, instants: np.ndarray[Any, Any],
        full_names: bool, filter_by_created: bool,
    ) -> None:  # fmt: skip
        self._config = config
        self._full_names = full_names
        self._filter_by_created = filter_by_created
        self._time_column = time_column
        self._connection = connect(config)
        entity = pa.Table.from_pandas(frame, preserve_index=False)
        moment = pa.array(instants).cast(pa.timestamp("us", tz="UTC"))
        self._columns = {name: entity.column(name) for name in entity.column_names}
        self._columns[time_column] = moment
        self._known_given = KNOWN_AS_OF in frame.columns and time_column != KNOWN_AS_OF
        known = microseconds_of(frame[KNOWN_AS_OF], KNOWN_AS_OF) if self._known_given else instants
        self._rows = len(frame)
        self._connection.register(
            "entity_rows",
            entity.drop_columns([c for c in (time_column, KNOWN_AS_OF) if c in entity.column_names])
            .append_column("__instant", pa.array(instants))
            .append_column("__known", pa.array(known))
            .append_column("__row", pa.array(np.arange(self._rows))),
        )
        self._connection.execute("CREATE TEMP TABLE asks AS SELECT * FROM entity_rows")
        self._entity_columns = set(entity.column_names)

    def add_view(self, view: FeatureView, features: list[str], spec: ViewSpec | None) -> None:
        source = source_sql(view.batch_source, self._config.repo_path)
        join_keys = self._join_keys(view)
        if spec is None:
            added = point_in_time_join(
                self._connection,
                view,
                source,
                join_keys,
                features,
                self._known_given or self._filter_by_created,
            )
        elif spec.aggregates:
            added = compute(self._connection, spec, source, join_keys, self._rows)
        else:
            added = {}
        prefix = f"{view.projection.name_alias or view.name}__" if self._full_names else ""
        for name in features:
            self._columns[prefix + name] = added[name]

    def add_transform(self, view: OnDemandFeatureView, transform: Transform, feature_refs: list[str]) -> None:
        prefixes = {
            feature.name: projection.name_to_use() if self._full_names else ""
            for projection in view.source_feature_view_projections.values()
            for feature in projection.features
        }
        inputs = {
            name: self._columns[f"{prefixes[name]}__{name}" if prefixes.get(name) else name]
            for name in transform.inputs
        }
        outputs = transform.apply_arrow(inputs)
        prefix = f"{view.projection.name_to_use()}__" if self._full_names else ""
        for name in requested_of(view, feature_refs):
            self._columns[prefix + name] = outputs[name]

    def table(self) -> pa.Table:
        self._connection.close()
        return pa.table(self._columns)

    def _join_keys(self, view: FeatureView) -> dict[str, str]:
        renamed = view.projection.join_key_map or {}
        join_keys = {key: renamed.get(key, key) for key in view.join_keys}
        for key, column in join_keys.items():
            if column not in self._entity_columns and key != "__dummy_id":
                raise ValueError(
                    f"{view.name}: join key {column!r} is not in the entity rows, which have {sorted(self._entity_columns)}"
                )
        return join_keys


def connect(config: RepoConfig) -> duckdb.DuckDBPyConnection:
    """A DuckDB of its own, in UTC, with the store's memory limit."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
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


def requested_of(view: Any, feature_refs: list[str]) -> list[str]:
    """The features of one view among ``view:feature`` references, in their order."""
    name = view.projection.name_to_use()
    return [ref.split(":", 1)[1] for ref in feature_refs if ref.split(":", 1)[0] == name]


def instants_of(frame: pd.DataFrame, column: str) -> np.ndarray[Any, Any]:
    """The instants of entity rows, int64 microseconds UTC; raises as ``microseconds_of``."""
    return microseconds_of(frame[column], column)


def microseconds_of(values: pd.Series, column: str) -> np.ndarray[Any, Any]:
    """A column of times as int64 microseconds UTC; times without a zone are UTC, as in Feast.

    Raises:
        ValueError: null times, with the first rows.
    """
    if values.dtype == object or isinstance(values.dtype, pd.StringDtype):
        values = pd.to_datetime(values, utc=True)
    missing = np.flatnonzero(values.isna().to_numpy())
    if len(missing):
        raise ValueError(
            f"{column}: null in {len(missing)} entity rows, first {missing[:5].tolist()}; give every row its instant"
        )
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        values = values.dt.tz_convert("UTC").dt.tz_localize(None)
    return values.to_numpy().astype("datetime64[us]").astype(np.int64)
