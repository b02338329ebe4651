"""Which processors the worker of a service, its store and what works beside them run on."""

import asyncio
import os
from pathlib import Path

import httpx
import pytest

from bento import processor
from pipelines.serve import ServiceError, running_service
from tests.deployments import after_load, deployed, events, fresh, wait_for, worker_pid
from tests.faults import kill, pid_of

ALL = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
several = pytest.mark.skipif(len(ALL) < 2, reason="needs Linux and two processors")


@pytest.fixture
def kept():
    """Whatever this thread is kept to, afterwards it may run anywhere again."""
    yield
    if ALL:
        os.sched_setaffinity(0, ALL)


def followers(worker):
    """Processes that load the lake for a worker."""
    children = Path(f"/proc/{worker}/task").glob("*/children")
    pids = {int(pid) for each in children for pid in each.read_text().split()}
    return [pid for pid in pids if b"lake_follower" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@several
def test_a_lone_worker_and_its_embedded_store_share_a_processor_which_the_loader_leaves(
    tmp_path, monkeypatch
):
    monkeypatch.delenv("FRAUD_PROCESSOR")
    one = {min(ALL)}
    rows = events(seed=5, count=50)
    with deployed(tmp_path, *rows):
        with running_service(tmp_path, without_champion=True) as url:
            assert httpx.post(f"{url}/v1/score", json=fresh(after_load(rows[0])[0])).status_code == 200
            worker = worker_pid(tmp_path)
            assert os.sched_getaffinity(worker) == one
            assert os.sched_getaffinity(pid_of(tmp_path)) == one
            wait_for(lambda: [os.sched_getaffinity(pid) & one for pid in followers(worker)] == [set()])
            kill(tmp_path)
            wait_for(lambda: os.sched_getaffinity(pid_of(tmp_path)) == one)
        assert os.sched_getaffinity(pid_of(tmp_path)) == ALL


@several
def test_only_a_lone_worker_over_an_embedded_store_has_reason_to_keep_to_one(monkeypatch):
    monkeypatch.delenv("FRAUD_REDIS", raising=False)
    assert (processor.chosen(1), processor.chosen(2)) == (min(ALL), None)
    monkeypatch.setenv("FRAUD_REDIS", "127.0.0.1:9")
    assert processor.chosen(1) is None


@several
def test_what_is_done_beside_requests_may_run_anywhere(monkeypatch, kept):
    last = max(ALL)
    monkeypatch.setenv("FRAUD_PROCESSOR", str(last))
    processor.keep_to_one()
    assert os.sched_getaffinity(0) == {last}
    assert asyncio.run(processor.beside(os.sched_getaffinity, 0)) == ALL
    assert os.sched_getaffinity(0) == {last}
    assert processor.others() == ALL - {last}


def test_with_any_the_thread_is_kept_to_none(monkeypatch, kept):
    monkeypatch.setenv("FRAUD_PROCESSOR", "any")
    processor.keep_to_one()
    assert processor.others() == ALL
    assert not ALL or os.sched_getaffinity(0) == ALL


@several
@pytest.mark.parametrize(
    ("given", "why"),
    [("first", "named by its number"), ("-1", "named by its number"), ("4096", "may run on")],
)
def test_a_service_does_not_start_on_a_processor_that_there_is_not(home, monkeypatch, given, why):
    monkeypatch.setenv("FRAUD_PROCESSOR", given)
    with pytest.raises(ValueError, match=f"FRAUD_PROCESSOR.*{given}.*{why}"):
        processor.check()
    with pytest.raises(ServiceError, match=f"FRAUD_PROCESSOR.*{given}.*{why}"), running_service(home):
        pass
