"""Where this deployment keeps its state: read once from the environment, typed, loud when wrong.

=========================  ==================================================================
``FRAUD_HOME``             folder of the lake, registry, journal, models (default ``.fraud`` beside the packages)
``FRAUD_REDIS``            ``host:port[,db=0][,ssl=true]...`` of a Redis; unset: an embedded Valkey server
``MLFLOW_TRACKING_URI``    an MLflow server; unset: SQLite and files in ``FRAUD_HOME``
=========================  ==================================================================
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Settings:
    """The deployment as paths and addresses; every path lies under ``home``. Addresses may hold passwords: none is shown."""

    home: Path
    redis: str | None = field(repr=False)
    mlflow_uri: str | None = field(repr=False)

    @property
    def lake(self) -> Path:
        """Folder of the Delta tables, one sub-folder a table."""
        return self.home / "lake"

    @property
    def journal(self) -> Path:
        """Folder in which the service writes the journal of its decisions."""
        return self.home / "journal"

    @property
    def tracking_uri(self) -> str:
        """MLflow's tracking and registry address."""
        return self.mlflow_uri or f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        """Folder of MLflow's artifacts when no MLflow server is named."""
        return self.home / "mlartifacts"


def make_private(folder: Path) -> Path:
    """Make a folder of customer data, and its missing parents, for its owner alone (mode 0700); returns it.

    A folder that is there already is its owner's business and keeps its mode.
    """
    for missing in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    return folder


def settings() -> Settings:
    """Read the environment.

    Raises:
        ValueError: ``FRAUD_HOME`` names a file.
    """
    home = Path(os.environ.get("FRAUD_HOME") or PROJECT_ROOT / ".fraud").expanduser().resolve()
    if home.is_file():
        raise ValueError(f"FRAUD_HOME is {home}, which is a file; name a folder")
    return Settings(
        home=home,
        redis=os.environ.get("FRAUD_REDIS") or None,
        mlflow_uri=os.environ.get("MLFLOW_TRACKING_URI") or None,
    )
