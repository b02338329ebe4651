"""A FeatureService resolved: all that serving needs to know of it, without Feast and without the registry.

As JSON data it travels with a model, so that the model can be served by the definitions that it was trained on for as long
as their state is kept, whatever is registered by then.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from feast import FeatureStore
from feast.on_demand_feature_view import OnDemandFeatureView

from feature_repo.windows.digest import definitions_digest, service_features
from feature_repo.windows.plain_data import from_data, to_data
from feature_repo.windows.spec import ViewSpec, is_windowed, view_spec
from feature_repo.windows.transform import Transform, declared_transform, resolve

__all__ = ["Resolved", "resolve_service", "view_from_data", "with_bases"]


@dataclass(frozen=True)
class Resolved:
    """What a FeatureService means.

    Attributes:
        views: the windowed views that it reads, by itself or through its transforms, in its order.
        transforms: in its order. feature_names: the order of a model's inputs. digest: see ``definitions_digest``.
    """

    views: tuple[ViewSpec, ...]
    transforms: tuple[Transform, ...]
    feature_names: tuple[str, ...]
    digest: str

    def as_data(self) -> dict[str, Any]:
        """JSON-ready data. A transform stays code: its path and digest stand for it."""
        return {
            "views": [to_data(spec) for spec in self.views],
            "transforms": [{"path": each.path, "digest": each.digest} for each in self.transforms],
            "feature_names": list(self.feature_names),
            "digest": self.digest,
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Resolved":
        """The inverse of ``as_data``.

        Raises:
            ValueError: a transform is not the code that it was, or the data is of another version of the engine.
        """
        try:
            views = tuple(view_from_data(each) for each in data["views"])
            transforms = tuple(_transform(each["path"], each["digest"]) for each in data["transforms"])
            return cls(views, transforms, tuple(data["feature_names"]), str(data["digest"]))
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"definitions of a model: {error!r}: no such part here; train it anew"
            ) from error


def view_from_data(data: Mapping[str, Any]) -> ViewSpec:
    """A view from ``to_data``, with the code that its derived columns need.

    Raises:
        TypeError: the data is of another version of the engine. ValueError: the code is not what it was, or not there.
    """
    spec: ViewSpec = from_data(ViewSpec, data)
    for each in with_bases([spec]):
        for column in each.derived:
            if column.transform[0]:
                _transform(*column.transform)
    return spec


def with_bases(specs: Iterable[ViewSpec]) -> tuple[ViewSpec, ...]:
    """The views and, after them, those that their derived columns are computed from; each state once."""
    found: dict[tuple[str, str], ViewSpec] = {}
    waiting = list(specs)
    while waiting:
        spec = waiting.pop(0)
        if (spec.view, spec.state_digest) not in found:
            found[spec.view, spec.state_digest] = spec
            waiting += [base for column in spec.derived for base in column.views]
    return tuple(found.values())


def resolve_service(store: FeatureStore, feature_service: str) -> Resolved:
    """Resolve a FeatureService of the registry.

    Raises:
        ValueError: it holds something that a plan cannot serve: a plain view, an on-demand view not declared as a
            ``Transform``, or an alias. ``get_online_features`` still answers for those.
    """
    service = store.get_feature_service(feature_service)
    wanted: dict[str, None] = {}
    transforms: list[Transform] = []
    for projection in service.feature_view_projections:
        if projection.name_alias or projection.join_key_map:
            raise ValueError(
                f"{feature_service}: view {projection.name!r} is renamed; the plan serves views by their names"
            )
        view = store.registry.get_any_feature_view(projection.name, store.project)
        if isinstance(view, OnDemandFeatureView):
            declared = declared_transform(view)
            if declared is None:
                raise ValueError(
                    f"{feature_service}: on-demand view {view.name!r} is no Transform; declare it with @transform"
                )
            transforms.append(declared)
            wanted |= dict.fromkeys(source.name for source in view.source_feature_view_projections.values())
        else:
            wanted[view.name] = None
    return Resolved(
        tuple(_view(store, name) for name in wanted),
        tuple(transforms),
        service_features(service),
        definitions_digest(store, feature_service),
    )


def _transform(path: str, digest: str) -> Transform:
    try:
        found = resolve(path)
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(
            f"transform {path}: it is not there any more: {error}; train the model anew"
        ) from error
    if found.digest != digest:
        raise ValueError(
            f"transform {path}: its code is not that of the model; give the new formula a name of its own, or train anew"
        )
    return found


def _view(store: FeatureStore, name: str) -> ViewSpec:
    view = store.registry.get_any_feature_view(name, store.project)
    if not is_windowed(view):
        raise ValueError(
            f"view {name!r} is not windowed; the plan serves windowed views, get_online_features serves all"
        )
    return view_spec(view, [store.get_entity(entity) for entity in view.entities])
