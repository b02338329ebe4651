"""The journal into the lake while it is written: each event and decision once, whatever is killed and whoever loads beside."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys

import duckdb
import pytest
from deltalake import DeltaTable

from feature_repo.journal import Journal, read_decisions
from feature_repo.journal_loader import JournalLoader
from feature_repo.journal_rows import lake_decisions
from feature_repo.lake import TABLES, snapshot
from feature_repo.lake_writer import position
from feature_repo.windows.scalars import to_microseconds
from tests.journals import START, assert_loaded, decision, ids, transaction, write


@pytest.fixture
def journal(tmp_path):
    opened = Journal(tmp_path / "journal", lambda: to_microseconds(START))
    yield opened
    opened.close()


@pytest.fixture
def lake(tmp_path):
    return tmp_path / "lake"


@pytest.mark.parametrize("batch_bytes", [1, 1000, 10**6])
def test_what_comes_is_loaded_and_only_that(journal, lake, batch_bytes):
    loader = JournalLoader(journal.folder, lake, batch_bytes)
    write(journal, range(5))
    assert loader.behind() > 0
    assert loader.load().added == {"chargebacks": 2, "transactions": 5, "decisions": 5}
    assert loader.behind() == 0
    versions = [snapshot(lake / table).version for table in TABLES]
    assert loader.load().added == JournalLoader(journal.folder, lake).load().added == {}
    assert [snapshot(lake / table).version for table in TABLES] == versions
    write(journal, range(5, 8))
    assert loader.load().added == {"chargebacks": 1, "transactions": 3, "decisions": 3}
    assert_loaded(lake, range(8))


def test_an_empty_journal_makes_nothing(tmp_path, lake):
    loader = JournalLoader(tmp_path / "absent", lake)
    assert (loader.load().added, loader.behind()) == ({}, 0)
    assert not lake.exists()


def test_decisions_come_back_from_the_lake_as_the_journal_had_them(journal, lake):
    shadow = {"model_version": "8", "score": 0.25, "features": [1, None]}
    journal.decision(decision(1, features={"inf": math.inf, "tiny": 5e-324, "pi": math.pi, "none": None}))
    journal.decision(
        decision(2, features={}, score=None, model_name=None, degraded="no-model", state_seen={})
    )
    journal.decision(decision(3, shadow=shadow, reasons=["R1"], customer_id="ü"))
    JournalLoader(journal.folder, lake).load()
    assert list(lake_decisions(lake)) == list(read_decisions(journal.folder))


def test_decisions_can_be_asked_in_sql(journal, lake):
    write(journal, range(4))
    JournalLoader(journal.folder, lake).load()
    with duckdb.connect() as connection:
        rows = snapshot(lake / "decisions").sql
        query = f"SELECT sum(features['c']), max(state_seen['customer_activity']) FROM {rows}"
        assert connection.execute(query).fetchone() == (4 * (0.1 + 0.2), 3)


def test_how_far_it_came_is_committed_with_the_rows(journal, lake):
    """Another loader goes on from there: it does not even read what is before."""
    write(journal, range(6))
    JournalLoader(journal.folder, lake).load()
    for path in journal.folder.glob("*.jsonl"):
        kind = path.name.partition("-")[0]
        size = path.stat().st_size
        assert position(lake, "transactions" if kind == "events" else "decisions", path.name) == size
        path.write_bytes(b"x" * (size - 1) + b"\n")
    write(journal, range(6, 8))
    report = JournalLoader(journal.folder, lake).load()
    assert (report.damaged, report.added["decisions"]) == (0, 2)
    assert_loaded(lake, range(8))


def test_a_half_written_last_line_waits_for_its_rest(journal, lake):
    write(journal, [1])
    place = journal.decision(decision(2))
    path = journal.folder / place.file
    whole = path.read_bytes()
    loader = JournalLoader(journal.folder, lake)
    for cut in (place.length - 1, place.length // 2, 2):
        path.write_bytes(whole[:-cut])
        loader.load()
        assert ids(lake, "decisions") == ["t1"]
        assert loader.behind() == 0
    path.write_bytes(whole)
    assert loader.behind() == 2
    assert loader.load().damaged == 0
    assert ids(lake, "decisions") == ["t1", "t2"]


def test_a_line_that_only_lacks_its_newline_counts_once(journal, lake):
    place = journal.decision(decision(1))
    path = journal.folder / place.file
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    for _ in range(2):
        JournalLoader(journal.folder, lake).load()
        assert ids(lake, "decisions") == ["t1"]
    path.write_bytes(whole + Journal.line(decision(2)))
    JournalLoader(journal.folder, lake).load()
    assert ids(lake, "decisions") == ["t1", "t2"]


def test_a_damaged_line_is_skipped_and_reported(journal, lake, caplog):
    """As a process leaves it that was killed while writing, when another with its id has gone on."""
    place = journal.decision(decision(1))
    path = journal.folder / place.file
    path.write_bytes(path.read_bytes()[:-30] + b"\n" + Journal.line(decision(2)))
    report = JournalLoader(journal.folder, lake).load()
    assert (report.damaged, report.added) == (1, {"decisions": 1})
    assert "damaged" in caplog.text


def test_a_lake_that_is_removed_is_loaded_again(journal, lake):
    write(journal, range(5))
    JournalLoader(journal.folder, lake).load()
    shutil.rmtree(lake)
    JournalLoader(journal.folder, lake).load()
    assert_loaded(lake, range(5))


def test_another_file_of_the_same_name_is_loaded_from_its_start(journal, lake):
    write(journal, range(9))
    JournalLoader(journal.folder, lake).load()
    journal.close()
    for path in journal.folder.glob("*.jsonl"):
        path.unlink()
    write(journal, range(7, 11))
    JournalLoader(journal.folder, lake).load()
    assert_loaded(lake, range(11))


def test_a_row_that_comes_twice_is_there_once_and_a_difference_is_counted(journal, lake):
    loader = JournalLoader(journal.folder, lake)
    write(journal, [3])
    loader.load()
    write(journal, [3])
    journal.decision(decision(3, decision="decline"))
    report = loader.load()
    assert (report.added, report.differing) == ({}, {"decisions": 1})
    assert_loaded(lake, [3])
    assert loader.behind() == 0
    assert JournalLoader(journal.folder, lake).load().differing == {}


def test_an_event_that_does_not_fit_keeps_no_decision_back(journal, lake):
    journal.event("transactions", transaction(1) | {"colour": "red"})
    journal.decision(decision(1))
    loader = JournalLoader(journal.folder, lake)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"has columns \['colour'\]"):
            loader.load()
    assert ids(lake, "decisions") == ["t1"]
    assert loader.behind() > 0


def test_a_decision_that_does_not_fit_is_named(journal, lake):
    journal.decision(decision(1, decision=None))
    with pytest.raises(ValueError, match="decision t1: decision is null"):
        JournalLoader(journal.folder, lake).load()
    assert not (lake / "decisions").exists()


def test_many_small_files_are_put_together_and_every_version_stays(journal, lake, monkeypatch):
    monkeypatch.setattr("feature_repo.lake_writer._FILES_A_DAY", 8)
    loader = JournalLoader(journal.folder, lake)
    for number in range(0, 40 * 12, 40):  # each on the first day
        journal.decision(decision(number))
        loader.load()
    table = DeltaTable(str(lake / "decisions"))
    assert len(table.file_uris()) < 6
    assert len(ids(lake, "decisions")) == 12
    before = snapshot(lake / "decisions", 5)
    assert len(before.files) == 6
    assert all(os.path.exists(path) for path in before.files)


# Loads in small batches, and kills itself at the nth call of one of the functions on the way to a commit.
KILLED = """
import os, signal, sys
from pathlib import Path
from feature_repo import journal_loader, lake_merge, lake_writer
journal, lake, where, nth = sys.argv[1:]
module = {"merge": journal_loader, "append": lake_merge, "write_deltalake": lake_writer, "tidy": journal_loader}[where]
real, calls = getattr(module, where), []
def counted(*args, **more):
    calls.append(where)
    if len(calls) == int(nth):
        if where != "write_deltalake":
            os.kill(os.getpid(), signal.SIGKILL)
        next(iter(args[1]))  # some rows were taken
        os.kill(os.getpid(), signal.SIGKILL)
    done = real(*args, **more)
    if len(calls) == -int(nth):
        os.kill(os.getpid(), signal.SIGKILL)
    return done
setattr(module, where, counted)
journal_loader.JournalLoader(Path(journal), Path(lake), 4000).load()
"""


def test_a_loader_that_is_killed_anywhere_loses_nothing_and_doubles_nothing(journal, lake):
    """Before a commit, while writing it, right after it, between the tables of one batch, before tidying up."""
    rng = random.Random(3)
    points = [
        ("merge", 2),
        ("write_deltalake", 1),
        ("append", -1),
        ("append", -3),
        ("append", -4),
        ("tidy", 1),
    ]
    for number, (where, nth) in enumerate(points):
        write(journal, range(number * 20, number * 20 + 20))
        journal.close()
        command = [sys.executable, "-c", KILLED, str(journal.folder), str(lake), where, str(nth)]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL, where
        path = rng.choice(sorted(journal.folder.glob("*.jsonl")))
        with path.open("ab") as file:  # the service died too, in the middle of a line
            file.write(b'{"transaction_id": "half')
    JournalLoader(journal.folder, lake, 4000).load()
    assert_loaded(lake, range(20 * len(points)))


FOLLOWS = """
import sys
from pathlib import Path
from feature_repo.journal_loader import JournalLoader
loader = JournalLoader(Path(sys.argv[1]), Path(sys.argv[2]), 10_000)
print("ready", flush=True)
while not Path(sys.argv[1], "done").exists() or loader.behind():
    loader.load()
"""


def test_two_loaders_at_once_load_each_line_once(journal, lake):
    command = [sys.executable, "-c", FOLLOWS, str(journal.folder), str(lake)]
    loaders = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    for each in loaders:
        assert each.stdout.readline() == b"ready\n"
    write(journal, range(150))
    (journal.folder / "done").touch()
    assert [each.wait(120) for each in loaders] == [0, 0]
    for each in loaders:
        each.stdout.close()
    assert_loaded(lake, range(150))


def test_the_tables_are_read_by_their_declared_schemas(journal, lake):
    write(journal, range(3))
    JournalLoader(journal.folder, lake).load()
    for table, schema in TABLES.items():
        found = json.loads(DeltaTable(str(lake / table)).schema().to_json())
        assert [column["name"] for column in found["fields"]] == schema.names
        assert [column["nullable"] for column in found["fields"]] == [column.nullable for column in schema]
