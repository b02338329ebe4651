"""The connection to MLflow: SQLite and files under ``FRAUD_HOME``, or the server that the environment names.

MLflow is imported here alone and late: the import takes seconds. Its telemetry and its chatter are off, and
nothing is logged automatically.
"""

import logging
import os
import warnings
from typing import Any, Final

from feature_repo.settings import settings

__all__ = ["EXPERIMENT", "connect", "experiment_id"]

EXPERIMENT: Final = "fraud"

_QUIET: Final = ("mlflow", "alembic")


def connect() -> Any:
    """An ``MlflowClient`` for the present settings; MLflow's fluent functions point to the same place."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    here = settings()
    here.home.mkdir(parents=True, exist_ok=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # MLflow's own table definitions use what SQLAlchemy 2.1 deprecates.
        warnings.simplefilter("ignore")
        import mlflow

        mlflow.set_tracking_uri(here.tracking_uri)
        mlflow.set_registry_uri(here.tracking_uri)
        return mlflow.MlflowClient()


def experiment_id(client: Any) -> str:
    """The project's experiment, made on first use; its artifacts lie under ``FRAUD_HOME`` unless a server
    keeps them.
    """
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    here = settings()
    location = None if here.mlflow_uri else here.artifacts.resolve().as_uri()
    return str(client.create_experiment(EXPERIMENT, artifact_location=location))
