"""Feast's file registry, kept in the deployment's home."""

from pathlib import Path

from feast.infra.registry.file import FileRegistryStore
from feast.repo_config import RegistryConfig

from feature_repo.settings import make_private, settings
from feature_repo.windows import amendments


class HomeRegistryStore(FileRegistryStore):
    """A file registry whose relative path starts at ``FRAUD_HOME``, not at the definitions."""

    def __init__(self, registry_config: RegistryConfig, repo_path: Path) -> None:
        super().__init__(registry_config, make_private(settings().home))


amendments.install()
