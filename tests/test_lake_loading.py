"""The process beside the service that takes the journal into the lake: told, killed, doubled, left behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from bento.lake_follower import follow
from bento.lake_loading import COMMAND, LakeLoading
from bento.metrics import Metrics
from feature_repo.journal import Journal
from feature_repo.journal_loader import JournalLoader
from feature_repo.lake_writer import version_of
from feature_repo.settings import PROJECT_ROOT
from tests.clocks import Clock
from tests.deployments import wait_for
from tests.exposition import shown
from tests.journals import assert_loaded, ids, write

# A follower as it is, but for the time between its loads: that is held to a clock below.
SOON = (
    sys.executable,
    "-c",
    "from bento import lake_follower; lake_follower.PAUSE_S = 0.1; lake_follower.main()",
)


@pytest.fixture
def journal(home):
    opened = Journal(home / "journal")
    yield opened
    opened.close()


@pytest.fixture
def metrics():
    return Metrics()


def loaded(home, count):
    """Whether so many decisions are in the lake."""
    there = version_of(home / "lake", "decisions") is not None
    return there and len(ids(home / "lake", "decisions")) == count


def follower():
    """The process that runs below this one as a follower, or None."""
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            with open(f"/proc/{pid}/stat") as stat, open(f"/proc/{pid}/cmdline") as command:
                parent = int(stat.read().rpartition(")")[2].split()[1])
                if parent == os.getpid() and "lake_follower" in command.read():
                    return pid
        except (FileNotFoundError, ProcessLookupError):
            continue
    return None


def test_what_is_journalled_reaches_the_lake_by_itself(home, journal, metrics):
    write(journal, range(4))
    loading = LakeLoading(metrics, SOON)
    loading.start()
    try:
        wait_for(lambda: loaded(home, 4))
        write(journal, range(4, 6))
        wait_for(lambda: loaded(home, 6))
        wait_for(lambda: shown(metrics.meters).get(("fraud_journal_lag_bytes",)) == 0)
    finally:
        loading.stop()
    assert follower() is None
    assert_loaded(home / "lake", range(6))


def test_a_killed_follower_is_started_again(home, journal, metrics):
    loading = LakeLoading(metrics, restart_s=0.1)
    loading.start()
    try:
        wait_for(lambda: follower() is not None)
        first = follower()
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: follower() not in (None, first))
        write(journal, range(3))
        wait_for(lambda: loaded(home, 3))
    finally:
        loading.stop()
    assert_loaded(home / "lake", range(3))


def test_a_report_that_goes_wrong_does_not_keep_the_lake_from_being_loaded(
    home, journal, metrics, monkeypatch
):
    loading = LakeLoading(metrics, SOON, restart_s=0.1)
    wrong = [IndexError("as of two threads")]
    report = loading.lag.report
    monkeypatch.setattr(
        loading.lag, "report", lambda behind: _raise(wrong.pop()) if wrong else report(behind)
    )
    loading.start()
    try:
        wait_for(lambda: not wrong)
        write(journal, range(3))
        wait_for(lambda: loaded(home, 3))
    finally:
        loading.stop()
    assert_loaded(home / "lake", range(3))


def _raise(error):
    raise error


# A worker that starts its follower, journals, and is gone at once: nobody told the follower to end.
DIES = """
import os, signal, time
from bento.lake_loading import LakeLoading
from bento.metrics import Metrics
from feature_repo.journal import Journal
from feature_repo.lake_writer import version_of
from feature_repo.settings import settings
from tests.journals import write
LakeLoading(Metrics()).start()
write(Journal(settings().journal), range(3))
while version_of(settings().lake, "decisions") is None:
    time.sleep(0.05)
write(Journal(settings().journal), range(3, 5))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_worker_has_journalled_is_loaded_after_its_end(home):
    worker = subprocess.run([sys.executable, "-c", DIES], cwd=PROJECT_ROOT, check=False)
    assert worker.returncode == -signal.SIGKILL
    wait_for(lambda: loaded(home, 5))
    assert_loaded(home / "lake", range(5))


def test_of_two_followers_one_loads_and_the_other_takes_over(home, journal):
    def started():
        ours, theirs = socket.socketpair()
        with theirs:
            return ours, subprocess.Popen(COMMAND, stdin=theirs.fileno(), cwd=PROJECT_ROOT)

    write(journal, range(2))
    channels, processes = zip(started(), started(), strict=True)
    wait_for(lambda: loaded(home, 2))
    for channel in channels:
        channel.settimeout(2)
    told = [channel for channel in channels if _hears(channel)]
    assert len(told) == 1
    first = channels.index(told[0])
    processes[first].kill()
    write(journal, range(2, 4))
    wait_for(lambda: loaded(home, 4))
    for channel in channels:
        channel.close()
    assert processes[1 - first].wait(30) == 0
    assert processes[first].wait(30) == -signal.SIGKILL
    assert_loaded(home / "lake", range(4))


def _hears(channel):
    try:
        return bool(channel.recv(1))
    except TimeoutError:
        return False


@contextmanager
def followed(home, journal):
    """A follower in a thread, by a clock that stands still: gives the clock, and how to wait for what it tells."""
    ours, theirs = socket.socketpair()
    clock = Clock()
    loader = JournalLoader(journal.folder, home / "lake")
    thread = threading.Thread(target=follow, args=(loader, theirs, 0.01, clock))
    thread.start()
    with ours, theirs, ours.makefile("r") as reports:

        def until(condition):
            for _ in range(3000):
                if condition(json.loads(reports.readline())):
                    return
            pytest.fail("it was not told in time")

        try:
            until(lambda report: report == {"bytes": 0})
            yield clock, until
        finally:
            ours.shutdown(socket.SHUT_WR)
            thread.join()


def test_it_loads_every_ten_seconds_and_says_how_far_the_lake_is_behind(home, journal):
    with followed(home, journal) as (clock, until):
        write(journal, range(2))
        size = sum(path.stat().st_size for path in journal.folder.glob("*.jsonl"))
        until(lambda report: report["bytes"] == size)
        clock.now = 9.0
        for _ in range(3):
            until(lambda report: report == {"bytes": size})
        assert not (home / "lake").exists()
        clock.now = 10.0
        until(lambda report: report == {"bytes": 0})
        assert_loaded(home / "lake", range(2))


def test_what_is_left_is_loaded_at_the_end_whenever_that_is(home, journal):
    with followed(home, journal) as (_, until):
        write(journal, range(3))
        until(lambda report: report["bytes"])
    assert_loaded(home / "lake", range(3))


def test_what_goes_wrong_is_said_once_and_tried_again(home, journal, caplog):
    with followed(home, journal) as (clock, until):
        write(journal, range(2))
        (path,) = journal.folder.glob("events-*.jsonl")
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b'"currency"', b'"currenci"', 1))
        until(lambda report: report["bytes"])
        for now in (100.0, 200.0, 300.0):
            clock.now = now
            for _ in range(3):  # it has looked again since
                until(lambda report: report["bytes"])
        assert caplog.text.count("cannot be loaded into the lake") == 1
        path.write_bytes(whole)
        clock.now = 400.0
        until(lambda report: report == {"bytes": 0})
    assert_loaded(home / "lake", range(2))
