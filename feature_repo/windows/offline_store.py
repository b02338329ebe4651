"""Feast's DuckDB offline store, with windowed views computed exactly.

Windowed views go to ``slabs.py``, plain views to one join each (``plain.py``), on-demand transforms to the same numpy
functions that serve; ``retrieval.py`` puts them together. What plain views are materialized from is in ``pull.py``. A retrieval
is lazy: but for a query of entity rows, which is run at once, nothing is read before its result is asked for.
"""

from collections.abc import Callable, Collection
from copy import copy
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.data_source import DataSource
from feast.errors import RequestDataNotFoundInEntityDfException
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import (
    get_pyarrow_schema_from_batch_source,
    infer_event_timestamp_from_entity_df,
)
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.saved_dataset import SavedDatasetStorage

from feature_repo.windows.file_tables import append_table, replace_table
from feature_repo.windows.progress import shown
from feature_repo.windows.pull import Pull, local_files, pull
from feature_repo.windows.retrieval import EntityRows, Question, Retrieval, connect, entity_frame
from feature_repo.windows.source_rows import TIME, asked_columns, source_rows
from feature_repo.windows.sources import source_sql
from feature_repo.windows.spec import is_windowed
from feature_repo.windows.state import from_microseconds


class WindowedOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """Settings of ``WindowedOfflineStore``; those of Feast's DuckDB store and:

    memory_limit: about how much memory a retrieval may use beside the table that it returns, such as ``4GB``. Windows are
        answered in slabs that fit in it (``limits.py``). What does not fit, of DuckDB or of the events that windows still reach,
        lies in files in the system's temporary folder (``TMPDIR``). Default: DuckDB's own limit, and 4 GB for windows.
    """

    type: str = "feature_repo.windows.offline_store.WindowedOfflineStore"
    memory_limit: str | None = None


class WindowedRetrievalJob(RetrievalJob):
    """A point-in-time retrieval, run when its result is asked for."""

    def __init__(
        self,
        run: Callable[[], pa.Table],
        full_feature_names: bool,
        on_demand: list[OnDemandFeatureView],
        metadata: RetrievalMetadata | None,
        repo_path: Path | None,
    ) -> None:
        self._run = run
        self._full_feature_names = full_feature_names
        self._on_demand = on_demand
        self._metadata = metadata
        self._repo_path = repo_path

    @property
    def full_feature_names(self) -> bool:
        """Whether features are named ``view__feature``."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """On-demand views left to Feast: those not declared as a ``Transform`` of this project."""
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """Features, keys and time range of the retrieval."""
        return self._metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._run()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._run().to_pandas()
        return frame

    def persist(
        self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None
    ) -> None:
        """Write the result, transforms and all, to a Parquet or Delta file storage.

        Raises:
            SavedDatasetLocationAlreadyExists: something is there and ``allow_overwrite`` is not given.
            ValueError: another kind of storage.
        """
        if not isinstance(storage, SavedDatasetFileStorage):
            raise ValueError(
                f"persist: storage {type(storage).__name__}: this store writes files; give a SavedDatasetFileStorage"
            )
        source = storage.to_data_source()
        replace_table(self.to_arrow(timeout=timeout), source, self._repo_path, allow_overwrite)

    def to_sql(self) -> str:
        """Refused: windows are computed by the kernel and transforms by numpy, so no one query says what the result is.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "to_sql: no SQL query gives this result, which the windows engine computes; call to_arrow, or persist the result and "
            "query its file"
        )


class WindowedOfflineStore(DuckDBOfflineStore):
    """Offline store: exact windows, ASOF joins for plain views, everything else as Feast's DuckDB store."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Features of every entity row as of its instant.

        Args:
            entity_df: a frame, or a DuckDB query, with join keys, ``event_timestamp`` and, optionally, ``created_timestamp``:
                the instant at which the question is asked, if later or earlier than the event. Times without a zone are UTC.
                None: the rows of ``source_rows``.
            start_date, end_date: of those the first and last time; None is open, but Feast ends them now.

        Raises:
            ValueError: no usable event timestamp, with the rows; a missing join key; what ``view_spec`` refuses.
            RequestDataNotFoundInEntityDfException: an on-demand view needs a column that the rows do not have.
        """
        question = Question.of(
            config,
            feature_views,
            feature_refs,
            registry,
            project,
            full_feature_names,
            filter_by_created_timestamp,
        )

        given = None if entity_df is None else _entity_rows(entity_df)
        columns = asked_columns(feature_views) if given is None else given.table.column_names
        _check_request_data(question, columns)

        def run() -> pa.Table:
            with (
                connect(config) as connection,
                Retrieval(question, connection) as retrieval,
                shown("rows") as bar,
            ):
                rows = given or source_rows(connection, feature_views, config.repo_path, start_date, end_date)
                return retrieval.answer(rows, bar)

        span = (start_date, end_date) if given is None else _span(given)
        time_column = TIME if given is None else given.time_column
        metadata = RetrievalMetadata(
            features=list(feature_refs), keys=[c for c in columns if c != time_column],
            min_event_timestamp=span[0], max_event_timestamp=span[1],
        )  # fmt: skip
        return WindowedRetrievalJob(
            run, full_feature_names, list(question.others), metadata, config.repo_path
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """The newest row of each key in ``[start_date, end_date]``; see ``Pull``. Sources elsewhere than in files: Feast's."""
        if not local_files(_batch_source(data_source)):
            return DuckDBOfflineStore.pull_latest_from_table_or_query(
                config, data_source, join_key_columns, feature_name_columns, timestamp_field,
                created_timestamp_column, start_date, end_date,
            )  # fmt: skip
        asked = Pull(
            tuple(join_key_columns), tuple(feature_name_columns), timestamp_field, created_timestamp_column,
            start_date, end_date, newest=True,
        )  # fmt: skip
        return _pull_job(config, data_source, asked)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Every row in ``[start_date, end_date]``; see ``Pull``. Sources elsewhere than in files: Feast's."""
        if not local_files(_batch_source(data_source)):
            return DuckDBOfflineStore.pull_all_from_table_or_query(
                config, data_source, join_key_columns, feature_name_columns, timestamp_field,
                created_timestamp_column, start_date, end_date,
            )  # fmt: skip
        asked = Pull(
            tuple(join_key_columns), tuple(feature_name_columns), timestamp_field, created_timestamp_column,
            start_date, end_date, newest=False,
        )  # fmt: skip
        return _pull_job(config, data_source, asked)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Add rows to a plain view's source, whose columns they have. Sources elsewhere than in files: Feast's.

        Raises:
            ValueError: other columns; a windowed view, whose events come in by a door that checks them.
        """
        source = feature_view.batch_source
        if not local_files(source):
            DuckDBOfflineStore.offline_write_batch(config, feature_view, table, progress)
            return
        if is_windowed(feature_view):
            raise ValueError(
                f"{feature_view.name}: its source {source.name!r} holds events; add them where events are loaded and checked "
                "(fraud ingest), not as features"
            )
        _, columns = get_pyarrow_schema_from_batch_source(config, source)
        if table.column_names != columns:
            raise ValueError(
                f"{feature_view.name}: columns {table.column_names}; source {source.name!r} has {columns}, in this order"
            )
        append_table(table, source, config.repo_path)
        if progress:
            progress(table.num_rows)


def _entity_rows(entity_df: pd.DataFrame | str) -> EntityRows:
    frame = entity_frame(entity_df)
    time_column = infer_event_timestamp_from_entity_df(dict(zip(frame.columns, frame.dtypes, strict=True)))
    return EntityRows.of_frame(frame, time_column)


def _span(rows: EntityRows) -> tuple[datetime | None, datetime | None]:
    """The first and the last instant; None of no rows."""
    if not len(rows.instants):
        return None, None
    return from_microseconds(int(rows.instants.min())), from_microseconds(int(rows.instants.max()))


def _check_request_data(question: Question, columns: Collection[str]) -> None:
    """That the rows have what on-demand views need of them; Feast looks at frames only."""
    for view in [*(view for view, _ in question.transforms), *question.others]:
        for name in view.get_request_data_schema():
            if name not in columns:
                raise RequestDataNotFoundInEntityDfException(feature_name=name, feature_view_name=view.name)


def _batch_source(source: DataSource) -> DataSource:
    """A push source's files; Feast asks for the push source itself."""
    return getattr(source, "batch_source", None) or source


def _pull_job(config: RepoConfig, source: DataSource, asked: Pull) -> RetrievalJob:
    # Feast asks by the files' own column names, and renames what it is given.
    unmapped = copy(_batch_source(source))
    unmapped.field_mapping = {}

    def run() -> pa.Table:
        with connect(config) as connection:
            return pull(connection, source_sql(unmapped, config.repo_path), asked)

    return WindowedRetrievalJob(run, False, [], None, config.repo_path)
