"""The feature store of this repository, opened and applied from Python as from Feast's command line."""

from pathlib import Path

from feast import FeatureService, FeatureStore

from feature_repo.settings import settings
from feature_repo.sources import place
from feature_repo.windows.digest import definitions_digest, service_features

__all__ = [
    "REPO",
    "apply_definitions",
    "declared_store",
    "defined_service",
    "definitions_digest",
    "open_store",
    "service_features",
]

REPO = Path(__file__).resolve().parent


def open_store() -> FeatureStore:
    """The store of ``feature_repo`` under the current settings (see ``feature_repo.settings``)."""
    return FeatureStore(repo_path=str(REPO))


def defined_service(name: str) -> FeatureService:
    """The FeatureService of this name, as ``definitions.py`` has it, registered or not.

    Raises:
        ValueError: there is none.
    """
    from feature_repo import definitions

    objects = [getattr(definitions, each) for each in definitions.__all__]
    services = {each.name: each for each in objects if isinstance(each, FeatureService)}
    if name not in services:
        raise ValueError(f"feature service {name!r}: not defined; there are {', '.join(sorted(services))}")
    return services[name]


def declared_store(folder: Path) -> FeatureStore:
    """The store as ``feast apply`` would leave it, with a registry of its own in ``folder``; the deployment's is not touched.

    For history only: what is online knows nothing of it.
    """
    config = open_store().config
    # Feast has resolved its registry's settings by now, and keeps them beside what the file says.
    config.registry_config = str(folder / "declared.db")
    config._registry = None
    store = FeatureStore(config=config)
    apply_definitions(store)
    return store


def apply_definitions(store: FeatureStore) -> None:
    """Register everything that ``definitions.py`` names: ``feast apply`` without its prints."""
    from feature_repo import definitions

    # The definitions may have been imported under another FRAUD_HOME.
    place(definitions.transactions, settings().lake)
    place(definitions.chargebacks, settings().lake)
    store.apply([getattr(definitions, name) for name in definitions.__all__])
