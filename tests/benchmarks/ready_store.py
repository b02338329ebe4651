"""An online store for Feast that has every answer ready: what is left of a request is Feast's own work."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel

_MOMENT = datetime(2024, 1, 1, tzinfo=UTC)


class ReadyOnlineStoreConfig(FeastConfigBaseModel):
    """No settings."""

    type: str = "tests.benchmarks.ready_store.ReadyOnlineStore"


class ReadyOnlineStore(OnlineStore):
    """Answers each feature with a number that was made before."""

    _value = Value(double_val=1.5)

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """The same values for every key."""
        values = dict.fromkeys(requested_features or [], self._value)
        return [(_MOMENT, values) for _ in entity_keys]

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: Any, progress: Callable[[int], Any] | None
    ) -> None:
        """Keeps nothing."""

    def update(
        self, config: RepoConfig, tables_to_delete: Sequence[FeatureView], tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity], entities_to_keep: Sequence[Entity], partial: bool,
    ) -> None:  # fmt: skip
        """Keeps nothing."""

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Keeps nothing."""
