"""A deployment of its own for each test that needs one: folders, registry and a real Valkey server."""

import os
from pathlib import Path

# The kernel is compiled with bounds checks in tests: an index out of range is an error, not a silent read. Such code is kept
# apart: numba's cache does not tell it from code without them.
os.environ.setdefault("NUMBA_BOUNDSCHECK", "1")
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parents[1] / "build" / "checked"))
# Services of several tests may run side by side.
os.environ.setdefault("FRAUD_PROCESSOR", "any")

import pytest

from feature_repo.store import apply_definitions, open_store
from tests.homes import fraud_home


@pytest.fixture
def home(tmp_path):
    """An empty FRAUD_HOME; its Valkey server, if one was started, ends with the test."""
    with fraud_home(tmp_path):
        yield tmp_path


@pytest.fixture(scope="module")
def module_home(tmp_path_factory):
    """A FRAUD_HOME, and the Valkey server in it, for all tests of a module."""
    with fraud_home(tmp_path_factory.mktemp("home")) as path:
        yield path


@pytest.fixture
def folder(module_home, tmp_path):
    """An empty folder for a project in the module's home."""
    return tmp_path


@pytest.fixture
def store(home):
    """The project's feature store with its definitions applied, in an empty home."""
    feature_store = open_store()
    apply_definitions(feature_store)
    return feature_store
