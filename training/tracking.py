"""The connection to MLflow: SQLite and files under ``FRAUD_HOME``, or the server that the environment names.

MLflow is imported here alone and late: the import takes seconds. Its telemetry and its chatter are off, and
nothing is logged automatically.
"""

import logging
import os
import warnings
from typing import Any, Final

from feature_repo.settings import make_private, settings

__all__ = ["EXPERIMENT", "connect", "experiment_id", "impatient", "pyfunc"]

EXPERIMENT: Final = "fraud"

_QUIET: Final = {
    "mlflow": logging.WARNING,
    "mlflow.utils.requirements_utils": logging.ERROR,
    "alembic": logging.WARNING,
}
_TRACKING_URI: Final = "MLFLOW_TRACKING_URI"


def connect() -> Any:
    """An ``MlflowClient`` for the present settings; MLflow's fluent functions point to the same place."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    here = settings()
    make_private(here.home)
    with warnings.catch_warnings():
        # MLflow's own table definitions use what SQLAlchemy 2.1 deprecates.
        warnings.simplefilter("ignore")
        import mlflow

        # The import sets up logging anew, so it is quietened after it.
        for name, level in _QUIET.items():
            logging.getLogger(name).setLevel(level)
        _point_to(mlflow, here.tracking_uri)
        return mlflow.MlflowClient()


def impatient() -> None:
    """For a process that asks again anyway: a server that does not answer is given up after seconds, not after minutes."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


def pyfunc() -> Any:
    """MLflow's module of generic models; call ``connect`` first. Its import warns about its own types."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.pyfunc

        return mlflow.pyfunc


def _point_to(mlflow: Any, uri: str) -> None:
    """Set both addresses, and take back the environment variable that MLflow leaves behind.

    The variable would say of an unset address that someone named a server (``feature_repo.settings``).
    """
    before = os.environ.get(_TRACKING_URI)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    if before is None:
        os.environ.pop(_TRACKING_URI, None)
    else:
        os.environ[_TRACKING_URI] = before


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
