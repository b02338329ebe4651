"""``feast serve``, a real process on this repository: windowed views over HTTP, now and at an instant."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from feature_repo.settings import PROJECT_ROOT
from feature_repo.store import apply_definitions, open_store
from feature_repo.windows.recorder import EventRecorder
from tests.deployments import END, LOADED_UNTIL, START, events, fill_lake

COUNT, MEAN = "customer_transactions_count_7d", "customer_amount_usd_cents_mean_7d"
FEATURES = [
    f"customer_activity:{COUNT}",
    f"customer_activity:{MEAN}",
    "pair_activity:pair_transactions_count_30d",
]
PLACES = {
    name: [1.0] for name in ("customer_latitude", "customer_longitude", "terminal_latitude", "terminal_longitude")
}  # fmt: skip


@pytest.fixture(scope="module")
def store(module_home):
    """The project's store over a small lake, with its state loaded and recorded."""
    transactions, chargebacks = events(count=300)
    early = [row for row in transactions if row["created_timestamp"] < LOADED_UNTIL]
    fill_lake(module_home / "lake", early, chargebacks)
    opened = open_store()
    apply_definitions(opened)
    opened.materialize(START - timedelta(days=1), LOADED_UNTIL)
    late = [row for row in transactions if row["created_timestamp"] >= LOADED_UNTIL]
    recorder = EventRecorder.compile(opened)
    recorder.record("transactions", late)
    now = datetime.now(UTC)
    recorder.record(
        "transactions",
        [{**early[0], "transaction_id": "now", "event_timestamp": now, "created_timestamp": now}],
    )
    return opened


@pytest.fixture(scope="module")
def ask(store, tmp_path_factory):
    """Posts a request to the running server; returns the answer's status and body."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("serve")
    command = [
        Path(sys.executable).parent / "feast",
        "-c",
        PROJECT_ROOT / "feature_repo",
        "serve",
        "-h",
        "127.0.0.1",
    ]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "-p", str(port), "--no-access-log"],
            cwd=folder, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "FEAST_USAGE": "False"},
        )  # fmt: skip

    def post(path, body):
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            # The first answer waits for the kernel, which may have to be compiled.
            with urllib.request.urlopen(request, timeout=300) as answer:  # noqa: S310
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    try:
        _wait(server, port, folder / "log")
        yield post
    finally:
        server.terminate()
        server.wait(30)


def _wait(server, port, log):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
    raise AssertionError(log.read_text())


def columns(answer):
    """An answer's values and statuses by name."""
    names = answer["metadata"]["feature_names"]
    return {
        name: (vector["values"], vector["statuses"])
        for name, vector in zip(names, answer["results"], strict=True)
    }


def test_at_an_instant_it_answers_what_the_store_answers(store, ask):
    keys = {"customer_id": ["c1", "c2", "nobody"], "terminal_id": ["m1", "m2", "m1"]}
    instants = [END - timedelta(days=1), START + timedelta(days=38, microseconds=7), END]
    entities = {**keys, "event_timestamp": [instant.isoformat() for instant in instants]}
    status, answer = ask("/get-online-features", {"features": FEATURES, "entities": entities})
    assert status == 200
    got = columns(answer)
    expected = store.get_online_features(FEATURES, {**keys, "event_timestamp": instants}).to_dict()
    assert {name: got[name][0] for name in expected} == expected
    assert got[COUNT][0][0] > 0
    assert got[COUNT][0][2] == 0
    assert got[COUNT][1] == ["PRESENT"] * 3
    assert got[MEAN] == (expected[MEAN], ["PRESENT", "PRESENT", "NULL_VALUE"])


def test_without_an_instant_it_answers_for_now(ask):
    row = events(count=300)[0][0]
    entities = {"customer_id": [row["customer_id"]], "terminal_id": [row["terminal_id"]]}
    status, answer = ask("/get-online-features", {"features": FEATURES, "entities": entities})
    assert status == 200
    assert columns(answer)[COUNT] == ([1], ["PRESENT"])
    assert columns(answer)["pair_transactions_count_30d"] == ([1], ["PRESENT"])


def test_a_feature_service_with_transforms_is_answered(store, ask):
    entities = {
        "customer_id": ["c1"], "terminal_id": ["m1"], "amount_usd_cents": [1234], **PLACES,
        "event_timestamp": [(END - timedelta(days=1)).isoformat()],
    }  # fmt: skip
    body = {"feature_service": "fraud_v1", "entities": entities, "full_feature_names": True}
    status, answer = ask("/get-online-features", body)
    assert status == 200
    got = {name: values for name, (values, _) in columns(answer).items()}
    rows = {**entities, "event_timestamp": [END - timedelta(days=1)]}
    expected = store.get_online_features(
        store.get_feature_service("fraud_v1"), rows, full_feature_names=True
    ).to_dict()
    expected.pop("event_timestamp", None)
    got.pop("event_timestamp", None)
    assert got == expected


def test_no_rows_are_answered_with_no_rows(ask):
    status, answer = ask(
        "/get-online-features", {"features": FEATURES, "entities": {"customer_id": [], "terminal_id": []}}
    )
    assert status == 200
    assert columns(answer)[COUNT] == ([], [])


def test_what_is_no_instant_is_an_error_and_the_server_goes_on(ask):
    entities = {"customer_id": ["c1"], "terminal_id": ["m1"], "event_timestamp": ["yesterday"]}
    status, _ = ask("/get-online-features", {"features": FEATURES, "entities": entities})
    assert status >= 400
    entities["event_timestamp"] = [END.isoformat()]
    assert ask("/get-online-features", {"features": FEATURES, "entities": entities})[0] == 200
