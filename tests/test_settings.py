"""Folders and files of customer data are their owner's alone, unless the owner made them otherwise."""

import os
import stat

import pytest

from feature_repo.journal import Journal
from feature_repo.lake_writer import lake_lock
from feature_repo.settings import make_private, settings
from feature_repo.store import open_store
from training.tracking import connect


@pytest.fixture(autouse=True)
def usual_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def open_registry():
    assert open_store().registry is not None


def write_to_lake():
    with lake_lock(settings().lake):
        pass


def write_to_journal():
    journal = Journal(settings().journal)
    journal.decision({"transaction_id": "t"})
    journal.close()


@pytest.mark.parametrize("first", [open_registry, connect, write_to_lake, write_to_journal])
def test_whoever_makes_the_home_makes_it_private(tmp_path, monkeypatch, first):
    monkeypatch.setenv("FRAUD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    first()
    assert mode(tmp_path / "home") == 0o700


def test_the_journals_files_are_private(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAUD_HOME", str(tmp_path))
    write_to_journal()
    assert [mode(path) for path in (tmp_path / "journal").iterdir()] == [0o600]


def test_a_folder_that_is_there_keeps_its_mode(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine").chmod(0o755)
    assert make_private(tmp_path / "mine" / "new") == tmp_path / "mine" / "new"
    assert (mode(tmp_path / "mine"), mode(tmp_path / "mine" / "new")) == (0o755, 0o700)
    make_private(tmp_path / "mine")
    assert mode(tmp_path / "mine") == 0o755
