"""FRAUD_HOME for the length of a test or a module."""

from contextlib import contextmanager

import pytest

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
