"""What a FeatureService means, in one digest: a model says by it what it was trained on."""

import hashlib
import json

from feast import FeatureService, FeatureStore
from feast.base_feature_view import BaseFeatureView
from feast.feature_view_projection import FeatureViewProjection
from feast.on_demand_feature_view import OnDemandFeatureView

from feature_repo.windows.spec import is_windowed, view_spec
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
    service = store.get_feature_service(feature_service)
    parts: list[object] = [service_features(service)]
    for projection in service.feature_view_projections:
        parts.append([projection.name_to_use(), _view_digest(store, projection)])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def feature_digest(store: FeatureStore, view: BaseFeatureView, feature: str) -> str:
    """Names the meaning of one feature of a view of the store. 64 hex digits."""
    projection = FeatureViewProjection.from_definition(view)
    projection.features = [field for field in projection.features if field.name == feature]
    return hashlib.sha256(json.dumps(_view_digest(store, projection)).encode()).hexdigest()


def _view_digest(store: FeatureStore, projection: FeatureViewProjection) -> object:
    """What the projection's own features mean; others of the view may come and go."""
    view = store.registry.get_any_feature_view(projection.name, store.project, allow_cache=True)
    names = {field.name for field in projection.features}
    if isinstance(view, OnDemandFeatureView):
        transform = declared_transform(view)
        inputs = sorted(
            view.source_feature_view_projections.values(), key=lambda source: source.name_to_use()
        )
        return [
            transform.digest if transform else view.feature_transformation.udf_string,
            [_view_digest(store, i) for i in inputs],
        ]
    if is_windowed(view):
        return view_spec(view, [store.get_entity(entity) for entity in view.entities]).only(names).digest
    source = view.batch_source
    rule = [
        source.name,
        source.timestamp_field,
        source.created_timestamp_column,
        str(view.ttl),
        view.join_keys,
    ]
    return [rule, [[field.name, str(field.dtype)] for field in view.features if field.name in names]]
