"""The feature store of this repository, opened and applied from Python as from Feast's command line."""

from pathlib import Path

from feast import FeatureService, FeatureStore

from feature_repo.settings import settings
from feature_repo.sources import place
from feature_repo.windows.digest import definitions_digest, service_features

__all__ = [
    "REPO",
    "apply_definitions",
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


def apply_definitions(store: FeatureStore) -> None:
    """Register everything that ``definitions.py`` names: ``feast apply`` without its prints."""
    from feature_repo import definitions

    # The definitions may have been imported under another FRAUD_HOME.
    place(definitions.transactions, settings().lake)
    place(definitions.chargebacks, settings().lake)
    store.apply([getattr(definitions, name) for name in definitions.__all__])
