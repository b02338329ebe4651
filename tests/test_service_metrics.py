"""What the service counts: by the library's own histogram as oracle, and over several worker processes."""

import logging
import subprocess
import sys
import tempfile
from contextlib import contextmanager

import prometheus_client
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bento.cells import Cells, service_folder, shared_cells
from bento.counting import Meters
from bento.metrics import STAGES, Metrics
from tests.exposition import shown

BOUNDS = (0.1, 0.5, 1.0)
# Feast has the library keep its values in files, so what one registry counted is in the next one of the same names.
PARTS = iter(range(10**6))

# A worker beside this one: counts, says so, and lives until it is killed.
WORKER = """
import sys, time
from pathlib import Path
from bento.cells import Cells
from bento.metrics import STAGES, Metrics
metrics = Metrics(Cells(Path(sys.argv[1])))
metrics.decisions.labels("approve", "no").inc(int(sys.argv[2]))
metrics.backlog.set(7)
metrics.serves("fraud", "1")
metrics.stages([0], [number * 10**6 for number in range(1, len(STAGES))])
print("counted", flush=True)
time.sleep(60)
"""


@contextmanager
def worker(folder, count):
    """A process that has counted, until it is killed with no time to tidy up."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), str(count)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "counted\n"
        yield
    finally:
        process.kill()
        process.communicate()


@given(st.lists(st.floats(-2, 2)))
@settings(max_examples=50, deadline=None)
def test_a_histogram_counts_as_the_library_does(values):
    ours, theirs, part = Meters(Cells()), prometheus_client.CollectorRegistry(), str(next(PARTS))
    mine = ours.histogram("seconds", "About.", BOUNDS, ["part"]).labels(part)
    other = prometheus_client.Histogram("seconds", "About.", ["part"], buckets=BOUNDS, registry=theirs)
    other = other.labels(part)
    for value in values:
        mine.observe(value)
        other.observe(value)
    text = prometheus_client.generate_latest(theirs).decode()
    expected = [line for line in text.splitlines() if "_created" not in line]
    assert ours.exposition()[0].decode().splitlines() == expected


def test_a_value_on_a_bound_lies_below_it():
    meters = Meters(Cells())
    meters.histogram("seconds", "About.", BOUNDS).observe(0.5)
    assert shown(meters)["seconds_bucket", "0.5"] == 1
    assert shown(meters)["seconds_bucket", "0.1"] == 0


def test_labels_that_are_missing_are_refused():
    meters = Meters(Cells())
    with pytest.raises(ValueError, match=r"things: labels \('a',\): it has 2"):
        meters.counter("things", "About.", ["one", "two"]).labels("a")


def test_a_gauge_that_was_never_set_is_not_shown():
    meters = Meters(Cells())
    gauge = meters.gauge("state", "About.", ["of"])
    assert shown(meters) == {}
    gauge.labels("a").set(0)
    assert shown(meters) == {("state", "a"): 0}


def test_labels_that_never_end_are_refused_and_spoil_nothing():
    cells = Cells()
    counter = Meters(cells).counter("things", "About.", ["id"])
    counted = iter(range(10**6))
    with pytest.raises(ValueError, match="no room to count more"):
        all(counter.labels(str(number)).inc() is None for number in counted)
    assert sum(run.values[0] for run in cells.read()) == next(counted) - 1


def test_a_request_is_counted_by_its_stages():
    metrics = Metrics()
    metrics.stages([0], [10**9 * end for end in range(1, len(STAGES))])
    found = shown(metrics)
    assert [found["fraud_stage_seconds_count", stage] for stage in STAGES] == [1] * len(STAGES)
    assert found["fraud_stage_seconds_sum", "total"] == len(STAGES) - 1


def test_requests_decided_together_share_all_stages_but_the_first():
    metrics = Metrics()
    metrics.stages([0, 5 * 10**8], [10**9 * end for end in range(1, len(STAGES))])
    found = shown(metrics)
    counts = {stage: found["fraud_stage_seconds_count", stage] for stage in STAGES}
    assert counts == {stage: 2 if stage in ("parse", "total") else 1 for stage in STAGES}
    assert found["fraud_stage_seconds_sum", "parse"] == 1.5
    assert found["fraud_stage_seconds_sum", "total"] == 2 * (len(STAGES) - 1) - 0.5
    assert found["fraud_stage_seconds_sum", "read"] == 1


def test_none_decided_is_counted_in_no_stage():
    metrics = Metrics()
    metrics.stages([], [10**9 * end for end in range(1, len(STAGES))])
    found = shown(metrics)
    assert {found["fraud_stage_seconds_count", stage] for stage in STAGES} == {0}


def test_a_scrape_covers_all_workers_whichever_answers_it(tmp_path):
    mine = Metrics(Cells(tmp_path))
    mine.decisions.labels("approve", "no").inc(1)
    mine.serves("fraud", "1")
    mine.serves("fraud", "2")
    mine.backlog.set(1)
    with worker(tmp_path, 10), worker(tmp_path, 100):
        found = shown(mine)
        assert found["fraud_decisions_total", "approve", "no"] == 111
        assert found["fraud_backlog_events",] == 15
        assert found["fraud_model_info", "fraud", "1"] == 1
        assert found["fraud_model_info", "fraud", "2"] == 1
        assert found["fraud_stage_seconds_bucket", "0.001", "parse"] == 2
    mine.cells.close()


def test_what_a_killed_worker_counted_stays_and_what_it_showed_goes(tmp_path):
    mine = Metrics(Cells(tmp_path))
    with worker(tmp_path, 10):
        pass
    found = shown(mine)
    assert found["fraud_decisions_total", "approve", "no"] == 10
    assert found["fraud_backlog_events",] == 0
    assert ("fraud_model_info", "fraud", "1") not in found


def test_the_next_worker_goes_on_where_a_killed_one_ended(tmp_path):
    mine = Metrics(Cells(tmp_path))
    for _ in range(3):
        with worker(tmp_path, 10):
            assert shown(mine)["fraud_backlog_events",] == 7
    assert len(list(tmp_path.iterdir())) == 2
    next_one = Metrics(Cells(tmp_path))
    next_one.decisions.labels("approve", "no").inc(5)
    found = shown(mine)
    assert found["fraud_decisions_total", "approve", "no"] == 35
    assert found["fraud_backlog_events",] == 0


def test_a_histogram_with_other_bounds_counts_anew(tmp_path):
    with worker(tmp_path, 1):
        pass
    new = Meters(Cells(tmp_path))
    new.histogram("fraud_stage_seconds", "About.", BOUNDS, ["stage"]).labels("parse").observe(0.2)
    assert shown(new)["fraud_stage_seconds_count", "parse"] == 1
    new.cells.close()


def test_the_last_worker_leaves_nothing_behind(tmp_path):
    first, last = Cells(tmp_path), Cells(tmp_path)
    first.run("things", ())
    first.close()
    assert [(run.metric, run.alive) for run in last.read()] == [("things", False)]
    last.close()
    assert not tmp_path.exists()


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_workers_of_one_service_share_a_folder_that_only_their_user_reads(temporary):
    folder = service_folder()
    assert folder == service_folder()
    assert (folder.parent, folder.stat().st_mode & 0o777) == (temporary, 0o700)


def test_what_a_service_left_that_was_killed_is_removed_by_the_next(temporary):
    name = service_folder().name.rsplit("-", 1)[0]
    killed, running, starting = (temporary / f"{name}-{each}" for each in ("killed", "running", "starting"))
    for each in (killed, running, starting):
        each.mkdir()
    with worker(killed, 1):
        pass
    with worker(running, 1):
        service_folder()
        assert [each.exists() for each in (killed, running, starting)] == [False, True, True]


def test_a_folder_that_someone_else_laid_there_is_not_used(temporary, caplog):
    folder = service_folder()
    folder.rmdir()
    (temporary / "elsewhere").mkdir()
    folder.symlink_to(temporary / "elsewhere")
    with caplog.at_level(logging.WARNING):
        shared_cells().run("things", ())
    assert "metrics cover one worker alone" in caplog.text
    assert not list((temporary / "elsewhere").iterdir())


def test_a_worker_without_room_for_its_file_counts_for_itself(temporary):
    """As on a disk that is nearly full: the file can be begun, and not be finished."""
    program = (
        "import resource, tempfile; tempfile.tempdir = %r; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); "
        "from bento.cells import shared_cells; cells = shared_cells(); cells.values[0] = 1.0; print(cells.folder)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program % str(temporary)], capture_output=True, text=True, check=True
    )
    assert found.stdout == "None\n"
    assert "metrics cover one worker alone" in found.stderr
    assert [path.name for folder in temporary.iterdir() for path in folder.iterdir()] == []
