"""FRAUD_HOME for the length of a test or a module, and the Valkey server in it."""

import os
import tempfile
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest
import redis

from feature_repo.windows import embedded
from training.tracking import connect


@contextmanager
def fraud_home(path, redis_at=None):
    """This process's FRAUD_HOME is the folder ``path``, with a Valkey server and an MLflow of its own; yields ``path``.

    On leaving, the environment is as before and the server, if one was started, has ended. Its files stay.

    Args:
        redis_at: the address of the server to use instead of its own, as in FRAUD_REDIS.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAUD_HOME", str(path))
        if redis_at is None:
            patch.delenv("FRAUD_REDIS", raising=False)
        else:
            patch.setenv("FRAUD_REDIS", redis_at)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        try:
            yield path
        finally:
            embedded.stop(path)


def client_of(home):
    """A client of the home's Valkey server, which is started unless it runs."""
    return redis.Redis(unix_socket_path=str(embedded.ensure_running(home)))


def with_mlflow(home):
    """Lay an empty MLflow database in a home that has none: to make its tables takes seconds, so that is done once."""
    made = home / f"mlflow.db-{os.getpid()}"
    made.write_bytes(_empty_mlflow())
    with suppress(FileExistsError):  # a service that runs there may have made its own
        os.link(made, home / "mlflow.db")
    made.unlink()


@cache
def _empty_mlflow():
    with tempfile.TemporaryDirectory() as folder, fraud_home(Path(folder)) as home:
        connect()
        return (home / "mlflow.db").read_bytes()
