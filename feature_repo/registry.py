"""Feast's file registry, kept in the deployment's home."""

from pathlib import Path

from feast.infra.registry.file import FileRegistryStore
from feast.repo_config import RegistryConfig

from feature_repo.settings import settings


class HomeRegistryStore(FileRegistryStore):
    """A file registry whose relative path starts at ``FRAUD_HOME``, not at the definitions."""

    def __init__(self, registry_config: RegistryConfig, repo_path: Path) -> None:
        home = settings().home
        home.mkdir(parents=True, exist_ok=True)
        super().__init__(registry_config, home)
