"""What the definitions would change in what is registered: features and FeatureServices, by their meaning."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from feast import Entity, FeatureStore, FeatureView
from feast.on_demand_feature_view import OnDemandFeatureView

from feature_repo.windows.digest import Digests
from feature_repo.windows.recorder import windowed_specs
from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.transform import DIGEST_TAG
from pipelines.features_table import FeatureRow, view_rows

__all__ = [
    "NOTHING",
    "Change",
    "FeatureChange",
    "Meanings",
    "ServiceChange",
    "changes",
    "meanings",
    "to_rebuild",
]

Change = Literal["added", "removed", "changed"]
Name = tuple[str, str]
"""A feature: (view, name)."""


@dataclass(frozen=True)
class Meaning:
    """What one feature is: for a person, and as a digest; the digest of its formula too if it is a transform's."""

    row: FeatureRow
    digest: str
    formula: str = ""


@dataclass(frozen=True)
class Meanings:
    """What a registry holds.

    Attributes:
        features: by (view, name). services: the features of each FeatureService, in its order.
        specs: the windowed views by name.
    """

    features: Mapping[Name, Meaning]
    services: Mapping[str, tuple[Name, ...]]
    specs: Mapping[str, ViewSpec]


@dataclass(frozen=True)
class FeatureChange:
    """A feature that comes, goes or means something else; ``was`` and ``now`` are None where it is not."""

    view: str
    feature: str
    change: Change
    was: FeatureRow | None
    now: FeatureRow | None

    @property
    def name(self) -> Name:
        """The feature."""
        return self.view, self.feature


@dataclass(frozen=True)
class ServiceChange:
    """A FeatureService that comes, goes, or whose features do; ``features`` are those of the changed that it has or had."""

    name: str
    change: Change
    features: tuple[str, ...]


NOTHING = Meanings({}, {}, {})
"""What is registered before the first ``feast apply``."""


def meanings(store: FeatureStore) -> Meanings:
    """Everything that a store's registry holds, resolved."""
    every = store.registry.list_all_feature_views(store.project)
    views = {view.name: view for view in every if isinstance(view, FeatureView | OnDemandFeatureView)}
    entities: dict[str, Entity] = {entity.name: entity for entity in store.list_entities()}
    features, digests = {}, Digests(store)
    for name, view in views.items():
        formula = view.tags.get(DIGEST_TAG, "")
        # Feast lists a registered view's keys among its features.
        keys = {column.name for column in getattr(view, "entity_columns", ())}
        names = [field.name for field in view.features if field.name not in keys]
        for row in view_rows(views, entities, name, names):
            features[name, row.feature] = Meaning(row, digests.feature(view, row.feature), formula)
    services = {
        service.name: tuple(
            (projection.name, field.name)
            for projection in service.feature_view_projections
            for field in projection.features
        )
        for service in store.list_feature_services()
    }
    return Meanings(features, services, {spec.view: spec for spec in windowed_specs(store)})


def changes(was: Meanings, now: Meanings) -> tuple[list[FeatureChange], list[ServiceChange]]:
    """What is different now, in order of view and name; features that mean the same are left out."""
    features = [
        FeatureChange(*name, change, _row(was, name), _row(now, name))
        for name in sorted({*was.features, *now.features})
        if (change := _change(was.features.get(name), now.features.get(name)))
    ]
    touched = {each.name for each in features}
    services = [
        ServiceChange(name, change, tuple(f for view, f in _all(was, now, name) if (view, f) in touched))
        for name in sorted({*was.services, *now.services})
        if (change := _service_change(was.services.get(name), now.services.get(name), touched))
    ]
    return features, services


def to_rebuild(was: Meanings, now: Meanings) -> list[ViewSpec]:
    """The views whose state starts empty under the new definitions, by name."""
    return [
        spec
        for name, spec in sorted(now.specs.items())
        if name not in was.specs or was.specs[name].state_digest != spec.state_digest
    ]


def _change(was: Meaning | None, now: Meaning | None) -> Change | None:
    if was is None or now is None:
        return "added" if was is None else "removed"
    # A registry of before formulas were noted says nothing of them.
    reworded = bool(was.formula and now.formula) and was.formula != now.formula
    return "changed" if was.digest != now.digest or reworded else None


def _service_change(
    was: tuple[Name, ...] | None, now: tuple[Name, ...] | None, touched: set[Name]
) -> Change | None:
    if was is None or now is None:
        return "added" if was is None else "removed"
    return "changed" if was != now or touched & set(now) else None


def _row(meanings: Meanings, name: Name) -> FeatureRow | None:
    found = meanings.features.get(name)
    return None if found is None else found.row


def _all(was: Meanings, now: Meanings, service: str) -> list[Name]:
    return list(dict.fromkeys([*was.services.get(service, ()), *now.services.get(service, ())]))
