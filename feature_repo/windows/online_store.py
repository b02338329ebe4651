"""Feast's Redis online store, with windowed views finished at the instant of the request, and plain views as they should be.

Of windowed views it keeps events, not values (see ``state.py``), so an answer is fresh to the last event and decays as time
passes. ``event_timestamp`` in an entity row is the instant (else now), ``created_timestamp`` what was known (else the
instant). Plain views are kept as ``plain_online.py`` says, newest row only; their age is taken at the instant.

What became of a value is its status:

===================  ============================================================================================
``PRESENT``          a value; of a windowed view also one that no event enters, such as a count of 0
``NULL_VALUE``       the row has null there; or no event in the window gives a value, as with a mean of nothing
``NOT_FOUND``        plain views: the entity has no row. A windowed view answers for an entity that it never saw
``OUTSIDE_MAX_AGE``  plain views: the row is older than the view's ttl; the value is not given
===================  ============================================================================================
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any

import redis
from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, RedisType
from feast.online_response import OnlineResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from feature_repo.settings import settings
from feature_repo.windows import amendments
from feature_repo.windows.embedded import ensure_running
from feature_repo.windows.keys import loaded_key, project_prefix, state_prefix
from feature_repo.windows.live import let_go
from feature_repo.windows.online_answer import (
    declared_join_keys,
    entity_keys,
    no_rows,
    populate,
    read_plain,
    read_windows,
)
from feature_repo.windows.plain_online import PlainRows, entity_hashes, escaped, remove_keys
from feature_repo.windows.question import Question, question_of
from feature_repo.windows.redis_address import connect
from feature_repo.windows.spec import is_windowed, view_spec

amendments.install()

_NOW = Question()
_QUESTION: ContextVar[Question] = ContextVar("question", default=_NOW)


class WindowedOnlineStoreConfig(RedisOnlineStoreConfig):
    """Settings of ``WindowedOnlineStore``: those of Feast's Redis store.

    connection_string: as in Feast. Empty (the default): ``FRAUD_REDIS`` if it is set, else an embedded Valkey server.
    skip_dedup, client: without effect; every write keeps the newest row, and redis-py reads.
    """

    type: str = "feature_repo.windows.online_store.WindowedOnlineStore"
    connection_string: str = ""


class WindowedOnlineStore(RedisOnlineStore):
    """Online store: state of windows, read as of an instant; plain views as Feast keeps them."""

    _client: Any = None

    def _get_client(self, online_store_config: WindowedOnlineStoreConfig) -> Any:
        if self._client is None:
            address = online_store_config.connection_string or settings().redis
            if address and online_store_config.redis_type == RedisType.redis:
                self._client = connect(address)
            elif address:
                named = online_store_config.model_copy(update={"connection_string": address})
                return super()._get_client(named)
            else:
                self._client = redis.Redis(unix_socket_path=str(ensure_running(settings().home)))
        return self._client

    def get_online_features(
        self, config: RepoConfig, features: Any, entity_rows: Any, registry: Any, project: str,
        full_feature_names: bool = False, include_feature_view_version_metadata: bool = False,
    ) -> OnlineResponse:  # fmt: skip
        """As Feast's, at each row's ``event_timestamp``; no rows get no rows.

        Raises:
            ValueError: a null join key, or a time that is none. KeyError: an unknown feature, or a join key that is missing.
            LookupError: an instant that a state no longer reaches back to.
        """
        rows, question = question_of(entity_rows)
        if not any(rows.values()):
            return no_rows(registry, project, features, full_feature_names)
        token = _QUESTION.set(question)
        try:
            return super().get_online_features(
                config, features, rows, registry, project, full_feature_names,
                include_feature_view_version_metadata,
            )  # fmt: skip
        finally:
            _QUESTION.reset(token)

    async def get_online_features_async(self, *args: Any, **kwargs: Any) -> OnlineResponse:
        """``get_online_features`` in a thread: reading is short, and there is one place that says how."""
        return await asyncio.to_thread(self.get_online_features, *args, **kwargs)

    def _read_features_per_fv(
        self, config: RepoConfig, grouped_refs: list[Any], join_key_values: Mapping[str, Any],
        entity_name_to_join_key_map: Mapping[str, str], response: Any, full_feature_names: bool, with_versions: bool,
    ) -> None:  # fmt: skip
        question = _QUESTION.get()
        client = self._get_client(config.online_store)
        asked = [(view, names, entity_keys(view, join_key_values)) for view, names in grouped_refs]
        rows = read_plain(client, config, [each for each in asked if not is_windowed(each[0])], question)
        rows |= read_windows(
            client, config, [each for each in asked if is_windowed(each[0])], question, entity_name_to_join_key_map
        )  # fmt: skip
        for view, names in grouped_refs:
            read = rows[view.projection.name_to_use()]
            populate(response, view, names, read, full_feature_names, with_versions)

    def online_read(
        self, config: RepoConfig, table: FeatureView, entity_keys: list[EntityKey], requested_features: list[str] | None = None
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:  # fmt: skip
        """As Feast's, as of now: neither time nor values where there is nothing that is within the ttl."""
        names = requested_features or [field.name for field in table.features]
        client = self._get_client(config.online_store)
        if is_windowed(table):
            join_keys = declared_join_keys(config) if len(table.entities) > 1 else {}
            rows = read_windows(client, config, [(table, names, entity_keys)], _NOW, join_keys)
        else:
            rows = read_plain(client, config, [(table, names, entity_keys)], _NOW)
        read = rows[table.projection.name_to_use()]
        return [(row.time if row.values is not None else None, row.values) for row in read]

    async def online_read_async(self, *args: Any, **kwargs: Any) -> Any:
        """``online_read`` in a thread."""
        return await asyncio.to_thread(self.online_read, *args, **kwargs)

    def online_write_batch(self, config: RepoConfig, table: FeatureView, data: Any, progress: Any) -> None:
        """Keep the newest row of each entity of a plain view; a correction replaces the row of its time.

        Raises:
            ValueError: a windowed view; it is fed with events.
        """
        amendments.refuse_values(table)
        PlainRows(self._get_client(config.online_store), config, table).write(data)
        if progress:
            progress(len(data))

    async def online_write_batch_async(self, *args: Any, **kwargs: Any) -> None:
        """``online_write_batch`` in a thread."""
        await asyncio.to_thread(self.online_write_batch, *args, **kwargs)

    def has_history(self, config: RepoConfig, view: FeatureView, entities: list[Entity]) -> bool:
        """Whether the view was ever materialized; a windowed one under its present definition."""
        if not is_windowed(view):
            return bool(view.materialization_intervals)
        client = self._get_client(config.online_store)
        return bool(client.exists(loaded_key(config.project, view_spec(view, entities))))

    def update(
        self, config: RepoConfig, tables_to_delete: Sequence[FeatureView], tables_to_keep: Sequence[Any],
        entities_to_delete: Sequence[Entity], entities_to_keep: Sequence[Entity], partial: bool,
    ) -> None:  # fmt: skip
        """Remove what deleted views kept. What a view kept under an earlier definition goes when it expires."""
        for view in tables_to_delete:
            self.delete_table(config, view)

    def delete_table(self, config: RepoConfig, table: FeatureView) -> None:
        """Remove everything kept for a view, but for the state that a served model reads: that goes when it expires."""
        client = self._get_client(config.online_store)
        if is_windowed(table):
            prefix, read = (
                state_prefix(config.project, table.name),
                let_go(client, config.project, table.name),
            )
            found = client.scan_iter(escaped(prefix) + b"*", count=1000)
            remove_keys(client, (key for key in found if not key.startswith(read)))
        else:
            PlainRows(client, config, table).remove()

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Remove everything kept for the project, whatever views Feast still knows."""
        client = self._get_client(config.online_store)
        remove_keys(client, entity_hashes(client, config.project))
        prefix = project_prefix(config.project)
        remove_keys(client, client.scan_iter(escaped(prefix) + b"*", count=1000))
