"""States that several processes write, compact and read at once, in any order, some of them killed at it."""

import random
import socket
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import redis

from feature_repo.windows.compaction import Compactor
from feature_repo.windows.embedded import ensure_running
from feature_repo.windows.keys import distinct_key, parts_key, state_key, view_prefix
from feature_repo.windows.reading import StateReader, StateView
from feature_repo.windows.recorder import EventRecorder
from feature_repo.windows.scripts import script
from tests import oracle
from tests.deliveries import CORRECTED, DAY, PLAIN, SPECS, TINY, rows_of, steady, to_deliver
from tests.kernel_rows import plain
from tests.state_bytes import content_of, sealed_of
from tests.timelines import SECOND


@pytest.fixture(scope="module")
def address(module_home):
    return str(ensure_running(module_home))


@pytest.fixture(scope="module")
def client(address):
    return redis.Redis(unix_socket_path=address)


def key_of(project, spec):
    return state_key(view_prefix(project, spec), ["a"])


@contextmanager
def processes(address, project, *tasks):
    """One process for each task, all of them ready."""
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.deliveries", address, project, task, str(seed)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for seed, task in enumerate(tasks)
    ]  # fmt: skip
    try:
        for child in children:
            assert child.stdout.readline() == "ready\n"
        yield children
    finally:
        for child in children:
            child.kill()
            child.communicate()


def go(child):
    child.stdin.write("go\n")
    child.stdin.flush()


def answers(client, project, spec, wanted):
    reader = StateReader(client, [StateView(spec, project, ("key",))])
    instants, known = (np.array([ask[i] for ask in wanted], dtype=np.int64) for i in (0, 1))
    ((results, _),), *_ = reader.read([{"key": "a"}] * len(wanted), instants, known)
    return [plain(spec, row) for row in results]


def truth(spec, events, wanted):
    """The oracle's answers, of events that come in versions."""
    return [
        oracle.aggregates(
            spec, [e for e in oracle.newest(events, known) if passes(spec, e)], instant, known, "a"
        )
        for instant, known in wanted
    ]


def passes(spec, event):
    return not spec.where or (event["amount"] or 0) > 0


def test_processes_that_deliver_compact_and_read_at_once_agree_in_the_end(client, address):
    with processes(address, "together", "deliver", "deliver", "read") as children:
        for child in children:
            go(child)
        assert [child.wait(60) for child in children] == [0, 0, 0]
    for kind, spec in SPECS.items():
        events = list(to_deliver(kind))
        wanted = [(e["time"] + 1, e["time"] + late) for e in events[::12] for late in (1, 60 * SECOND)]
        assert answers(client, "together", spec, wanted) == truth(spec, events, wanted)
        EventRecorder.of(client, "alone", [spec], TINY).record(spec.source, rows_of(events))
        keys = [key_of(project, spec) for project in ("together", "alone")]
        Compactor(client, spec, TINY).compact(keys)
        together, alone = (content_of(client, key, ["number", "code"]) for key in keys)
        assert together == alone


@pytest.mark.parametrize("end", ["killed", "late"])
def test_a_compaction_that_never_ends_or_ends_late_loses_nothing(client, address, end):
    events, key = list(steady(240)), key_of(end, PLAIN)
    recorder, compactor = EventRecorder.of(client, end, [PLAIN]), Compactor(client, PLAIN, TINY)
    recorder.record(PLAIN.source, rows_of(events[:150]))
    with processes(address, end, "halt") as (child,):
        go(child)
        assert child.stdout.readline() == "halted\n"
        recorder.record(PLAIN.source, rows_of([*events[150:], *events[:20]]))
        if end == "late":
            assert compactor.compact([key]) == 1
            go(child)
            assert child.wait(60) == 0
        else:
            child.kill()
            assert child.wait(60) != 0
            assert compactor.compact([key]) == 1
    wanted = [(e["time"] + 1, e["time"] + DAY) for e in events[::15]]
    assert answers(client, end, PLAIN, wanted) == truth(PLAIN, events, wanted)


def test_a_commit_that_is_cut_off_on_its_way_changes_nothing(client, address):
    project, key = "cut", key_of("cut", PLAIN)
    events = list(steady(60))
    EventRecorder.of(client, project, [PLAIN]).record(PLAIN.source, rows_of(events))
    compactor = Compactor(client, PLAIN, TINY)
    script("commit").send(client, [])
    commit = compactor._commit(key, client.get(key))
    everything = [key, parts_key(key), distinct_key(key, 0)]
    before = [client.dump(each) for each in everything]
    for size in (1, len(commit) // 2, len(commit) - 1):
        with socket.socket(socket.AF_UNIX) as wire:
            wire.connect(address)
            wire.sendall(commit[:size])
        client.ping()
        assert [client.dump(each) for each in everything] == before
    assert compactor.compact([key]) == 1
    assert sealed_of(client.get(key))
    # What was worked out of the state as it stood before comes too late.
    assert script("commit").send(client, [commit]) == [0]
    wanted = [(e["time"] + 1, e["time"] + DAY) for e in events[::7]]
    assert answers(client, project, PLAIN, wanted) == truth(PLAIN, events, wanted)


@pytest.mark.parametrize("spec", [PLAIN, CORRECTED], ids=SPECS)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_kept_is_the_same_after_any_order_of_deliveries_and_compactions(client, spec, seed):
    rng = random.Random(seed)
    kind = "corrected" if spec.corrected else "plain"
    events = list(to_deliver(kind))[:150]
    # Of an event delivered twice the delivery known first counts; of a corrected one, each is a version.
    events += [{**e, "known": e["known"] + 5 * SECOND} for e in rng.sample(events, 30)]
    kept = []
    for n in range(3):
        project = f"order-{kind}-{seed}-{n}"
        recorder, compactor = EventRecorder.of(client, project, [spec], TINY), Compactor(client, spec, TINY)
        arrivals = rng.sample(events, len(events)) + rng.sample(events, 20)
        while arrivals:
            size = rng.randint(1, 40)
            recorder.record(spec.source, rows_of(arrivals[:size]))
            arrivals = arrivals[size:]
            if rng.random() < 0.3:
                compactor.compact([key_of(project, spec)])
        compactor.compact([key_of(project, spec)])
        kept.append(content_of(client, key_of(project, spec), ["number", "code"]))
    assert kept[0] == kept[1] == kept[2]
    assert len(kept[0]) == (150 if spec is PLAIN else len({(e["id"], e["known"]) for e in events}))
