"""Feast's Redis online store, with windowed views finished at the instant of the request.

Of windowed views it keeps events, not values (see ``state.py``), so an answer is fresh to the last event and decays as time
passes. ``event_timestamp`` in an entity row is the instant (else now), ``created_timestamp`` what was known (else the
instant). Plain views are Feast's own, untouched.
"""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import redis
from feast import Entity, FeatureView, RepoConfig, utils
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.types import Int64
from feast.value_type import ValueType

from feature_repo.settings import settings
from feature_repo.windows.embedded import ensure_running
from feature_repo.windows.evaluate import Integers
from feature_repo.windows.kernel import NULL
from feature_repo.windows.keys import project_prefix, state_prefix
from feature_repo.windows.plan import StateReader, StateView
from feature_repo.windows.spec import ViewSpec, is_windowed, view_spec
from feature_repo.windows.state import from_microseconds, to_microseconds

INSTANT, KNOWN_AS_OF = "event_timestamp", "created_timestamp"


@dataclass(frozen=True)
class _Question:
    """The instants of one request; None means now."""

    instants: Integers | None = None
    known_as_of: Integers | None = None


_NOW = _Question()
_QUESTION: ContextVar[_Question] = ContextVar("question", default=_NOW)


class WindowedOnlineStoreConfig(RedisOnlineStoreConfig):
    """Settings of ``WindowedOnlineStore``: those of Feast's Redis store.

    connection_string: as in Feast. Empty (the default): ``FRAUD_REDIS`` if it is set, else an embedded Valkey server.
    """

    type: str = "feature_repo.windows.online_store.WindowedOnlineStore"
    connection_string: str = ""


class WindowedOnlineStore(RedisOnlineStore):
    """Online store: state of windows, read as of an instant; plain views as Feast keeps them."""

    _client: Any = None
    _client_async: Any = None

    def _get_client(self, online_store_config: WindowedOnlineStoreConfig) -> Any:
        if self._client is None:
            address = online_store_config.connection_string or settings().redis
            if address:
                named = online_store_config.model_copy(update={"connection_string": address})
                return super()._get_client(named)
            self._client = redis.Redis(unix_socket_path=str(ensure_running(settings().home)))
        return self._client

    async def _get_client_async(self, online_store_config: WindowedOnlineStoreConfig) -> Any:
        if self._client_async is None:
            address = online_store_config.connection_string or settings().redis
            if address:
                named = online_store_config.model_copy(update={"connection_string": address})
                return await super()._get_client_async(named)
            self._client_async = redis.asyncio.Redis(unix_socket_path=str(ensure_running(settings().home)))
        return self._client_async

    def get_online_features(
        self, config: RepoConfig, features: Any, entity_rows: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """As Feast's, at each row's ``event_timestamp``."""
        rows, question = _take_instants(entity_rows)
        token = _QUESTION.set(question)
        try:
            return super().get_online_features(config, features, rows, *args, **kwargs)
        finally:
            _QUESTION.reset(token)

    async def get_online_features_async(
        self, config: RepoConfig, features: Any, entity_rows: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """As Feast's, at each row's ``event_timestamp``."""
        rows, question = _take_instants(entity_rows)
        token = _QUESTION.set(question)
        try:
            return await super().get_online_features_async(config, features, rows, *args, **kwargs)
        finally:
            _QUESTION.reset(token)

    def _read_features_per_fv(
        self, config: RepoConfig, grouped_refs: list[Any], join_key_values: Mapping[str, Any],
        entity_name_to_join_key_map: Mapping[str, str], response: Any, full_feature_names: bool, with_versions: bool,
    ) -> None:  # fmt: skip
        plain = [(view, names) for view, names in grouped_refs if not is_windowed(view)]
        if plain:
            super()._read_features_per_fv(
                config,
                plain,
                join_key_values,
                entity_name_to_join_key_map,
                response,
                full_feature_names,
                with_versions,
            )
        windowed = [(view, names) for view, names in grouped_refs if is_windowed(view)]
        if windowed:
            self._answer_windows(
                config, windowed, join_key_values, response, full_feature_names, with_versions
            )

    async def _read_features_per_fv_async(
        self, config: RepoConfig, grouped_refs: list[Any], join_key_values: Mapping[str, Any],
        entity_name_to_join_key_map: Mapping[str, str], response: Any, full_feature_names: bool, with_versions: bool,
    ) -> None:  # fmt: skip
        plain = [(view, names) for view, names in grouped_refs if not is_windowed(view)]
        if plain:
            await super()._read_features_per_fv_async(
                config,
                plain,
                join_key_values,
                entity_name_to_join_key_map,
                response,
                full_feature_names,
                with_versions,
            )
        windowed = [(view, names) for view, names in grouped_refs if is_windowed(view)]
        if windowed:
            self._answer_windows(
                config, windowed, join_key_values, response, full_feature_names, with_versions
            )

    def _answer_windows(
        self, config: RepoConfig, windowed: list[Any], join_key_values: Mapping[str, Any], response: Any,
        full_feature_names: bool, with_versions: bool,
    ) -> None:  # fmt: skip
        views = [_state_view(config.project, view) for view, _ in windowed]
        reader = StateReader(self._get_client(config.online_store), views)
        names = sorted({key for view in views for key in view.join_keys})
        columns = {name: [_plain(value) for value in join_key_values[name]] for name in names}
        count = len(columns[names[0]])
        rows = [{name: columns[name][i] for name in names} for i in range(count)]
        question = _QUESTION.get()
        results, instants, _ = reader.read(rows, question.instants, question.known_as_of)
        places = [[i] for i in range(count)]
        for (view, features), state_view, (values, _) in zip(windowed, views, results, strict=True):
            read = _protos(state_view.spec, set(features), values, instants)
            utils._populate_response_from_feature_data(
                features, read, places, response, full_feature_names, view, count, with_versions
            )

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[Any],
        requested_features: list[str] | None = None,
    ) -> Any:
        """As Feast's; windowed views as of now."""
        if not is_windowed(table):
            return super().online_read(config, table, entity_keys, requested_features)
        view = _state_view(config.project, table)
        rows = [
            {key: _plain(value) for key, value in zip(entity.join_keys, entity.entity_values, strict=True)}
            for entity in entity_keys
        ]
        results, instants, _ = StateReader(self._get_client(config.online_store), [view]).read(
            rows, None, None
        )
        names = set(requested_features or [a.name for a in view.spec.aggregates])
        return _protos(view.spec, names, results[0][0], instants)

    def online_write_batch(self, config: RepoConfig, table: FeatureView, data: Any, progress: Any) -> None:
        """As Feast's, for plain views.

        Raises:
            ValueError: a windowed view; it is fed with events.
        """
        if is_windowed(table):
            raise ValueError(
                f"{table.name}: a windowed view keeps events, not values; record events "
                "(feature_repo.windows.recorder.EventRecorder), or load history with feast materialize"
            )
        super().online_write_batch(config, table, data, progress)

    def update(
        self, config: RepoConfig, tables_to_delete: Sequence[FeatureView], tables_to_keep: Sequence[Any],
        entities_to_delete: Sequence[Entity], entities_to_keep: Sequence[Entity], partial: bool,
    ) -> None:  # fmt: skip
        """Remove the state of deleted views. What a view kept under an earlier definition goes when it expires."""
        gone = [view for view in tables_to_delete if is_windowed(view)]
        rest = [view for view in tables_to_delete if not is_windowed(view)]
        super().update(config, rest, tables_to_keep, entities_to_delete, entities_to_keep, partial)
        for view in gone:
            self._remove(config, state_prefix(config.project, view.name))

    def delete_table(self, config: RepoConfig, table: FeatureView) -> None:
        """Remove everything kept for a view."""
        if is_windowed(table):
            self._remove(config, state_prefix(config.project, table.name))
        else:
            super().delete_table(config, table)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Remove everything kept for the project; Feast names its plain views only."""
        super().teardown(config, [view for view in tables if not is_windowed(view)], entities)
        self._remove(config, project_prefix(config.project))

    def _remove(self, config: RepoConfig, prefix: bytes) -> None:
        client = self._get_client(config.online_store)
        escaped = b"".join(b"\\" + bytes([c]) if c in b"*?[]\\" else bytes([c]) for c in prefix)
        batch: list[bytes] = []
        for key in client.scan_iter(escaped + b"*", count=1000):
            batch.append(key)
            if len(batch) == 1000:
                client.unlink(*batch)
                batch.clear()
        if batch:
            client.unlink(*batch)


def _state_view(project: str, view: FeatureView) -> StateView:
    join_keys = {column.name: column.name for column in view.entity_columns}
    entities = [
        Entity(name=name, join_keys=[key], value_type=ValueType.STRING)
        for name, key in zip(view.entities, [c.name for c in view.entity_columns], strict=True)
    ]
    spec = view_spec(view, entities)
    renamed = {**join_keys, **(view.projection.join_key_map or {})}
    return StateView(spec, project, tuple(renamed[key] for key in spec.keys))


def _protos(
    spec: ViewSpec, names: set[str], values: Integers, instants: Integers
) -> list[tuple[datetime, dict[str, ValueProto]]]:
    rows = []
    for instant, row in zip(instants, values, strict=True):
        features = {}
        for aggregate, value in zip(spec.aggregates, row, strict=True):
            if aggregate.name in names:
                features[aggregate.name] = _proto(value, aggregate.row.returns == Int64)
        rows.append((from_microseconds(int(instant)), features))
    return rows


def _proto(value: np.int64, whole: bool) -> ValueProto:
    if whole:
        return ValueProto() if value == NULL else ValueProto(int64_val=int(value))
    real = float(value.view(np.float64))
    return ValueProto() if np.isnan(real) else ValueProto(double_val=real)


def _plain(value: ValueProto) -> object:
    kind = value.WhichOneof("val")
    return None if kind is None else getattr(value, kind)


def _take_instants(entity_rows: Any) -> tuple[dict[str, Any], _Question]:
    """Entity rows by column, their instants as datetimes, and the question they ask."""
    if isinstance(entity_rows, list):
        if any(set(row) != set(entity_rows[0]) for row in entity_rows):
            raise ValueError("All entity_rows must have the same keys.")
        columns = {name: [row[name] for row in entity_rows] for name in entity_rows[0]}
    else:
        columns = {name: list(getattr(values, "val", values)) for name, values in entity_rows.items()}
    if INSTANT not in columns:
        if KNOWN_AS_OF in columns:
            raise ValueError(
                f"entity rows: {KNOWN_AS_OF} without {INSTANT}; give the instant that is asked about"
            )
        count = max((len(values) for values in columns.values()), default=0)
        now = datetime.now(UTC)
        # Transforms over the time of the request get now; the windows take the server's clock.
        return {**columns, INSTANT: [now] * count}, _Question()
    columns[INSTANT] = [_moment(value, INSTANT) for value in columns[INSTANT]]
    instants = np.array([to_microseconds(value) for value in columns[INSTANT]], dtype=np.int64)
    if KNOWN_AS_OF not in columns:
        return columns, _Question(instants, instants)
    known = [_moment(value, KNOWN_AS_OF) for value in columns.pop(KNOWN_AS_OF)]
    return columns, _Question(instants, np.array([to_microseconds(value) for value in known], dtype=np.int64))


def _moment(value: Any, column: str) -> datetime:
    """A datetime, an ISO 8601 text or Feast's own timestamp value, as a datetime; without a zone it is UTC, as in Feast."""
    if isinstance(value, ValueProto):
        value = datetime.fromtimestamp(value.unix_timestamp_val, UTC)
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, np.datetime64):
        value = from_microseconds(int(value.astype("datetime64[us]").astype(np.int64)))
    if not isinstance(value, datetime):
        kind = "a date" if isinstance(value, date) else type(value).__name__
        raise ValueError(f"entity rows: {column} is {value!r} ({kind}); give a datetime, or ISO 8601 text")
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value
