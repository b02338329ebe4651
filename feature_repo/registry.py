"""Feast's file registry, kept in the deployment's home."""

from pathlib import Path

from feast import FeatureView
from feast.errors import FeatureViewNotFoundException
from feast.infra.registry.file import FileRegistryStore
from feast.infra.registry.registry import Registry
from feast.repo_config import RegistryConfig

from feature_repo.settings import make_private, settings


class HomeRegistryStore(FileRegistryStore):
    """A file registry whose relative path starts at ``FRAUD_HOME``, not at the definitions."""

    def __init__(self, registry_config: RegistryConfig, repo_path: Path) -> None:
        super().__init__(registry_config, make_private(settings().home))


_get_plain_view = Registry.get_feature_view


def _get_view(self: Registry, name: str, project: str, allow_cache: bool = False) -> FeatureView:
    """As Feast's, and a stream view where there is no plain one.

    ``feast feature-views list`` looks up the views behind an on-demand view by this, and Feast 0.67 finds plain ones only: a
    repository with on-demand views over stream views could not be listed.
    """
    try:
        return _get_plain_view(self, name, project, allow_cache)
    except FeatureViewNotFoundException:
        return self.get_stream_feature_view(name, project, allow_cache)


Registry.get_feature_view = _get_view
