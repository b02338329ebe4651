"""What a FeatureService means, in one digest: a model says by it what it was trained on."""

import hashlib
import json
from typing import Any

from feast import FeatureService, FeatureStore
from feast.base_feature_view import BaseFeatureView
from feast.feature_view_projection import FeatureViewProjection
from feast.on_demand_feature_view import OnDemandFeatureView

from feature_repo.windows.spec import ViewSpec, is_windowed, view_spec
from feature_repo.windows.transform import declared_transform


def service_features(service: FeatureService) -> tuple[str, ...]:
    """Names of the service's features, in its order: the order of a model's inputs."""
    return tuple(
        field.name for projection in service.feature_view_projections for field in projection.features
    )


def definitions_digest(store: FeatureStore, feature_service: str) -> str:
    """Names the meaning of a FeatureService's outputs: every window, filter, delay and transform, and their order.

    Equal digests mean equal features to the bit, from equal events. 64 hex digits.
    """
    service, digests = store.get_feature_service(feature_service), Digests(store)
    parts: list[object] = [service_features(service)]
    for projection in service.feature_view_projections:
        parts.append([projection.name_to_use(), digests.of(projection)])
    return _sha256(parts)


class Digests:
    """What the features of a store mean; each view is read and resolved once, so this is for one look at the registry."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._views: dict[str, BaseFeatureView] = {}
        self._specs: dict[str, ViewSpec] = {}
        self._formulas: dict[str, str] = {}

    def feature(self, view: BaseFeatureView, feature: str) -> str:
        """Names the meaning of one feature of a view of the store. 64 hex digits."""
        projection = FeatureViewProjection.from_definition(view)
        projection.features = [field for field in projection.features if field.name == feature]
        return _sha256(self.of(projection))

    def of(self, projection: FeatureViewProjection) -> object:
        """What the projection's own features mean, as JSON; others of the view may come and go."""
        view = self._view(projection.name)
        names = {field.name for field in projection.features}
        if isinstance(view, OnDemandFeatureView):
            inputs = sorted(
                view.source_feature_view_projections.values(), key=lambda source: source.name_to_use()
            )
            return [self._formula(view), [self.of(each) for each in inputs]]
        if is_windowed(view):
            return self._spec(view).only(names).digest
        source = view.batch_source
        rule = [
            source.name,
            source.timestamp_field,
            source.created_timestamp_column,
            str(view.ttl),
            view.join_keys,
        ]
        return [rule, [[field.name, str(field.dtype)] for field in view.features if field.name in names]]

    def _view(self, name: str) -> Any:
        if name not in self._views:
            registry, project = self._store.registry, self._store.project
            self._views[name] = registry.get_any_feature_view(name, project, allow_cache=True)
        return self._views[name]

    def _spec(self, view: Any) -> ViewSpec:
        if view.name not in self._specs:
            entities = [self._store.get_entity(entity) for entity in view.entities]
            self._specs[view.name] = view_spec(view, entities)
        return self._specs[view.name]

    def _formula(self, view: OnDemandFeatureView) -> str:
        if view.name not in self._formulas:
            transform = declared_transform(view)
            text = transform.digest if transform else view.feature_transformation.udf_string
            self._formulas[view.name] = text
        return self._formulas[view.name]


def _sha256(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
