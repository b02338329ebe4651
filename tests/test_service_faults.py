"""Faults under load, on a real service, a real Valkey and real processes: it goes on answering, and forgets nothing it answered.

One service lives through all of it, in the order of this file. At the end every decision that it took is compared with history.
"""

import os
import signal
import threading
import time
from collections import Counter
from contextlib import closing

import duckdb
import httpx
import pytest

from feature_repo.journal import now_us, read_decisions, read_events
from feature_repo.lake import snapshot
from feature_repo.settings import settings
from feature_repo.store import open_store
from pipelines.backfill import backfill
from pipelines.parity import parity
from pipelines.serve import running_service
from tests import deployments
from tests.deployments import after_load, deployed, events, opened, ready, registered, wait_for, worker_pid
from tests.exposition import samples
from tests.faults import full_disk, kill, pid_of, standing_still
from tests.journals import all_counted
from training.registry import promote
from training.rollout import Rollout
from training.rollout_registry import RolloutRegistry

TRANSACTIONS, CHARGEBACKS = events(seed=6, count=300)
ROW = after_load(TRANSACTIONS)[0]
HOUR_US = 3_600_000_000


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    with deployed(folder, TRANSACTIONS, CHARGEBACKS) as store:
        promote(registered(folder / "first", store))
        yield folder


@pytest.fixture(scope="module")
def url(home):
    with running_service(home) as base:
        yield base


def live(customer, **changes):
    return deployments.live(ROW, customer_id=customer, **changes)


class Load:
    """Transactions of a few customers, sent one after the other; ``answers`` has what came back, in its order."""

    def __init__(self, url, name):
        self.answers, self.requests, self.unanswered = [], {}, {}
        self.customers = [f"{name}{number}" for number in range(3)]
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        self.until(lambda answers: len(answers) >= 5)
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def until(self, condition):
        """Wait until it is true of the answers."""
        wait_for(lambda: condition(self.answers))

    def until_degraded(self, reason):
        self.until(lambda answers: any(answer["degraded"] == reason for answer in answers))

    def until_well(self):
        """Wait until three answers from now on, one after the other, were as ever."""
        before = len(self.answers)
        self.until(
            lambda answers: (
                len(answers) >= before + 3 and {answer["degraded"] for answer in answers[-3:]} == {None}
            )
        )

    def _run(self):
        with httpx.Client(base_url=self._url, timeout=10) as client:
            while not self._stop.is_set():
                request = live(self.customers[len(self.requests) % len(self.customers)])
                self.requests[request["transaction_id"]] = request
                try:
                    answer = client.post("/v1/score", json=request)
                except httpx.TransportError:
                    self.unanswered[request["transaction_id"]] = request
                    time.sleep(0.2)
                    continue
                assert answer.status_code == 200, answer.text
                self.answers.append(answer.json())
                time.sleep(0.005)

    @property
    def degraded(self):
        return Counter(answer["degraded"] for answer in self.answers if answer["degraded"])

    def check(self, home):
        """Every answer is journalled once, as it was given, and nothing degraded was decided by the model's score."""
        ids = {answer["transaction_id"] for answer in self.answers}
        lines = [line for line in read_decisions(home / "journal") if line["transaction_id"] in ids]
        assert len(lines) == len(ids)
        by_id = {line["transaction_id"]: line for line in lines}
        for answer in self.answers:
            line = by_id[answer["transaction_id"]]
            assert {name: line[name] for name in ("decision", "score", "degraded")} == {
                name: answer[name] for name in ("decision", "score", "degraded")
            }
            if answer["degraded"] not in (None, "journal-in-memory"):
                assert answer["score"] is None
        recorded = Counter(
            event["transaction_id"]
            for event in read_events(home / "journal")
            if event["transaction_id"] in ids
        )
        assert recorded == Counter(ids)


def counted(home, url, *customers):
    """The next transaction of each counts all that were answered before it; returns the fewest that were."""
    found = []
    for customer in customers:
        answer = httpx.post(f"{url}/v1/score", json=live(customer)).json()
        assert answer["degraded"] is None
        found.append(all_counted(home, answer))
    return min(found)


def loaded_again():
    """Whether ``fraud backfill`` has loaded history; it refuses until the recorders have said what they recorded without it."""
    try:
        backfill()
    except ValueError as error:
        if "materialize until after that time" not in str(error):
            raise
        return False
    return True


def test_valkey_is_killed_and_comes_back_with_its_file(home, url):
    with Load(url, "killed") as load:
        os.kill(pid_of(home), signal.SIGKILL)
        # The service starts its embedded server again, which has its file.
        load.until_degraded("features-unavailable")
        load.until_well()
    load.check(home)
    assert not load.unanswered
    assert set(load.degraded) <= {"features-unavailable", "store-catching-up"}
    assert counted(home, url, *load.customers)


def test_valkey_stands_still_for_five_seconds(home, url):
    with Load(url, "hung") as load:
        with standing_still(pid_of(home)):
            load.until_degraded("features-unavailable")
            time.sleep(5)
            # It has not waited for the store at each of them.
            assert load.degraded["features-unavailable"] > 50
        load.until_well()
    load.check(home)
    assert not load.unanswered
    assert counted(home, url, *load.customers)


def test_the_service_is_killed_while_events_wait_for_the_store(home, url):
    with Load(url, "mown") as load:
        with standing_still(pid_of(home)):
            load.until_degraded("features-unavailable")
            load.until(lambda answers: sum(a["degraded"] is not None for a in answers) > 20)
            os.kill(worker_pid(home), signal.SIGKILL)
            wait_for(lambda: load.unanswered)
        # The supervisor starts another worker, which takes up what the killed one has left.
        wait_for(lambda: ready(url), patience_s=120)
        load.until_well()
    load.check(home)
    assert counted(home, url, *load.customers)
    # What was not answered may be sent again: it is decided once, whatever became of the first try.
    for request in list(load.unanswered.values())[:3]:
        first, again = (httpx.post(f"{url}/v1/score", json=request) for _ in range(2))
        assert first.status_code == 200
        assert again.content == first.content


def test_the_journal_s_disk_is_full(home, url):
    pid = worker_pid(home)
    with Load(url, "full") as load:
        with full_disk(pid=pid):
            load.until_degraded("journal-in-memory")
            load.until(lambda answers: sum(a["degraded"] == "journal-in-memory" for a in answers) > 20)
            recorded = httpx.post(f"{url}/v1/transactions", json=live("full0"))
            assert (recorded.status_code, recorded.headers["retry-after"]) == (503, "1")
            assert samples(httpx.get(f"{url}/metrics").text)["fraud_journal_waiting_lines",] > 20
        load.until_well()
    load.check(home)
    assert set(load.degraded) == {"journal-in-memory"}


def damaged_version(home, name, seed):
    """A version of the registry whose model was cut short after it was registered."""
    version = registered(home / name, open_store(), seed=seed)
    whole = (home / name / "model.onnx").read_bytes()
    copies = [path for path in (home / "mlartifacts").rglob("model.onnx") if path.read_bytes() == whole]
    assert copies
    for path in copies:
        path.write_bytes(whole[:1000])
    return version


def test_the_artifact_of_a_new_champion_is_damaged(home, url):
    with Load(url, "damaged") as load:
        promote(damaged_version(home, "damaged champion", seed=3))
        wait_for(lambda: httpx.get(f"{url}/v1/model").json()["refused"] is not None)
        assert "model.onnx: its digest is" in httpx.get(f"{url}/v1/model").json()["refused"]
        load.until_well()
        promote("1")
    load.check(home)
    assert not load.degraded
    assert {answer["model"]["version"] for answer in load.answers} == {"1"}


def test_the_artifact_of_a_challenger_is_damaged(home, url):
    with Load(url, "dared") as load:
        version = damaged_version(home, "damaged challenger", seed=4)
        RolloutRegistry().write(Rollout("damaged", 1, "canary", version, share=0.5))
        wait_for(lambda: httpx.get(f"{url}/v1/model").json()["rollout"]["refused"] is not None)
        about = httpx.get(f"{url}/v1/model").json()["rollout"]
        assert "model.onnx: its digest is" in about["refused"]
        load.until_well()
        RolloutRegistry().write(Rollout("alone", 2))
    load.check(home)
    assert not load.degraded
    assert {answer["model"]["version"] for answer in load.answers} == {"1"}


@pytest.fixture
def beside(home):
    """A second process's work, done in this one, by a clock that can be set: ``beside.score(customer)``, ``beside.ahead_us``."""

    class Beside:
        ahead_us = 0

        def score(self, customer, count=1, **changes):
            """The reasons for which each of so many transactions was degraded, or None."""
            requests = [live(customer, **changes) for _ in range(count)]
            return [deployments.score(self.serving, request)["degraded"] for request in requests]

    one = Beside()
    with closing(opened(home, "first", "1", clock_us=lambda: now_us() + one.ahead_us)) as one.serving:
        yield one


def test_two_processes_write_the_same_keys_while_the_clock_of_one_jumps(home, url, beside):
    with Load(url, "shared") as load:
        for beside.ahead_us in (0, HOUR_US, 0, -HOUR_US, 0):
            for customer in load.customers:
                assert beside.score(customer, 8) == [None] * 8
    load.check(home)
    assert not load.unanswered
    assert not load.degraded
    assert counted(home, url, *load.customers) > 40


def test_a_clock_jumps_while_the_store_stands_still(home, url, beside):
    """Events that wait are known by the store's clock as it went on: what is read after them counts them, and nothing before."""
    keys = {"customer": "clocked", "terminal_id": "clocked"}
    assert beside.score(count=3, **keys) == [None] * 3
    with standing_still(pid_of(home)):
        for beside.ahead_us in (0, -HOUR_US, HOUR_US):
            assert set(beside.score(count=3, **keys)) == {"features-unavailable"}
    wait_for(lambda: beside.score(**keys) == [None])
    beside.ahead_us = 0
    assert beside.score(count=3, **keys) == [None] * 3
    assert counted(home, url, "clocked")


def test_valkey_is_started_again_without_its_file(home, url):
    with Load(url, "emptied") as load:
        kill(home, and_its_file=True)
        load.until_degraded("state-lost")
        assert httpx.get(f"{url}/v1/model").json()["version"] == "1"
        wait_for(loaded_again)
        load.until_well()
    load.check(home)
    assert not load.unanswered
    assert {"state-lost"} <= set(load.degraded) <= {"features-unavailable", "state-lost", "store-catching-up"}
    assert counted(home, url, "emptied0", "killed0", "mown0")


def test_at_the_end_every_decision_is_what_history_says(home, url):
    run = parity()
    report = run.report
    assert report.decisions > 200
    assert report.without_features > 50
    assert (report.mismatches, report.score_mismatches) == (0, 0), run.summary()
    answered = {line["transaction_id"] for line in read_decisions(home / "journal")}
    with duckdb.connect() as connection:
        query = f"SELECT transaction_id, count(*) FROM {snapshot(settings().lake / 'transactions').sql} GROUP BY ALL"
        in_lake = dict(connection.execute(query).fetchall())
    assert answered <= set(in_lake)
    assert set(in_lake.values()) == {1}
