"""FRAUD_HOME for the length of a test or a module, and the Valkey server in it."""

from contextlib import contextmanager

import pytest
import redis

from feature_repo.windows import embedded


@contextmanager
def fraud_home(path):
    """This process's FRAUD_HOME is the folder ``path``, with a Valkey server and an MLflow of its own; yields ``path``.

    On leaving, the environment is as before and the server, if one was started, has ended. Its files stay.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAUD_HOME", str(path))
        patch.delenv("FRAUD_REDIS", raising=False)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        try:
            yield path
        finally:
            embedded.stop(path)


def client_of(home):
    """A client of the home's Valkey server, which is started unless it runs."""
    return redis.Redis(unix_socket_path=str(embedded.ensure_running(home)))
