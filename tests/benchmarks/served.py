"""A deployment that serves: the Handbook's transactions up to some day as history and state, a champion, and those after it
as requests.

The requests carry no known time, so they are known when the service records them, as live ones are: what one request sees of
another is then a matter of the service's own clock, however they overtake each other, and parity must hold to the last value.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb
from deltalake import write_deltalake

from feature_repo.lake import literal
from feature_repo.settings import settings
from feature_repo.store import apply_definitions, open_store
from pipelines.serve import running_service
from pipelines.train import train_model
from tests.benchmarks.bench import Bench
from tests.benchmarks.events import Lake, handbook
from tests.benchmarks.load import Load, Requests, closed_loop, open_loop
from tests.benchmarks.measure import in_own_process, median
from tests.deployments import registered
from training.bundle import Bundle
from training.registry import promote, register
from training.tracking import connect, experiment_id

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
# Ten weeks of history, more than any window and delay of the features; eleven weeks of requests.
_SERVED_FROM, _SERVED_FROM_SMALL = (datetime(2018, 6, 17, tzinfo=UTC), datetime(2018, 4, 5, tzinfo=UTC))
_MATURITY = timedelta(days=7)
_START_S, _STOP_S = 90.0, 15.0
CLOSED_CONNECTIONS, OPEN_CONNECTIONS = 8, 64
ROUNDS, ROUND_S = (9, 1), (3, 1)
"""Servers that are compared are asked in turns, each for a short while; the whole benchmark, and the small one of the tests.

A virtual machine's speed may halve for half a minute: that must fall on all that is compared.
"""
WHOLE = b'"degraded":null'
"""What an answer of the service contains that was made from features and by the model."""


def ratio(over: Sequence[Load], under: Sequence[Load]) -> float:
    """One server's rate to another's in the same round, the median of all rounds."""
    return median([one.rate / other.rate for one, other in zip(over, under, strict=True)])


@dataclass(frozen=True)
class Deployment:
    """What there is to serve with, under FRAUD_HOME: ``bundle`` is the champion's folder, ``bodies`` the requests."""

    bundle: Path
    bodies: Path


class Sender:
    """Sends a deployment's requests to servers, each once, from processes of its own."""

    def __init__(self, deployment: Deployment) -> None:
        self._bodies, self._start = deployment.bodies, 0

    def closed(self, url: str, seconds: float, expected: bytes = b"") -> Load:
        """As fast as they are answered."""
        return self._sent(closed_loop, url, expected, CLOSED_CONNECTIONS, seconds)

    def open(self, url: str, rate: float, seconds: float, expected: bytes = b"") -> Load:
        """At a rate, whatever the answers."""
        return self._sent(open_loop, url, expected, OPEN_CONNECTIONS, rate, seconds)

    def _sent(self, loop: Any, url: str, expected: bytes, *how: float) -> Load:
        address = urlsplit(url)
        requests = Requests(
            str(address.hostname), address.port or 80, "/v1/score", self._bodies, self._start, expected
        )
        load: Load = in_own_process(loop, requests, *how).value
        self._start = load.end
        if load.others:
            raise RuntimeError(
                f"{url}: {load.others} answers by status were not what was expected; see its log"
            )
        return load


def deploy(bench: Bench) -> Deployment:
    """Make the deployment in FRAUD_HOME: lake, definitions, champion, online state."""
    lake = handbook(bench)
    since = _SERVED_FROM_SMALL if bench.small else _SERVED_FROM
    bench.step(f"history until {since:%Y-%m-%d}, requests from then on")
    for table, day in (("transactions", "event_day"), ("chargebacks", "event_day")):
        _write_until(lake, table, since, day)
    bodies = bench.home / "bodies.jsonl"
    _write_bodies(lake, since, bodies)
    store = open_store()
    apply_definitions(store)
    bundle = _champion(bench, store, since)
    bench.step("materializing")
    store.materialize(_BEGINNING, since)
    return Deployment(bundle, bodies)


@contextmanager
def service(bench: Bench) -> Iterator[str]:
    """The service as ``fraud serve`` runs it; yields its address."""
    with running_service(bench.home) as url:
        yield url


@contextmanager
def bare(bench: Bench) -> Iterator[str]:
    """The endpoint that returns a constant."""
    port = _free_port()
    with _process(
        bench.home / "bare.log", [sys.executable, "-m", "tests.benchmarks.bare", str(port)], port
    ) as url:
        yield url


@contextmanager
def usual(bench: Bench, deployment: Deployment) -> Iterator[str]:
    """The usual way, over the same state and the same model."""
    port = _free_port()
    command = [sys.executable, "-m", "bentoml", "serve", "tests.benchmarks.usual:Usual", "--port", str(port)]
    own = {"USUAL_MODEL": str(deployment.bundle), "BENTOML_HOME": str(bench.home / "usual")}
    with _process(bench.home / "usual.log", command, port, **own) as url:
        yield url


def _write_until(lake: Lake, table: str, end: datetime, day: str) -> None:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        rows = connection.sql(
            f"SELECT * FROM {lake.sql(table)} WHERE created_timestamp < $1", params=[end]
        ).to_arrow_reader()
        write_deltalake(str(settings().lake / table), rows, partition_by=[day])


def _write_bodies(lake: Lake, start: datetime, path: Path) -> None:
    """Transactions from ``start`` on in order of time, a JSON object a line, without known times."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(
            "COPY (SELECT transaction_id, customer_id, terminal_id, "
            "strftime(event_timestamp AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ') AS event_timestamp, "
            "CAST(CAST(amount AS DECIMAL(18, 2)) AS VARCHAR) AS amount, currency "
            f"FROM {lake.sql('transactions')} t WHERE t.event_timestamp >= $1 ORDER BY t.event_timestamp, transaction_id) "
            f"TO {literal(str(path))} (FORMAT json)",
            [start],
        )


def _champion(bench: Bench, store: Any, since: datetime) -> Path:
    """Register and promote a model of what was known then; trained once for all benchmarks of a run."""
    kept = bench.data / "served-bundle"
    if bench.small:
        # Six days cannot be trained on: trees over noise cost as much to ask.
        promote(registered(bench.home / "bundle", store))
        return bench.home / "bundle"
    if not kept.exists():
        bench.step("training")
        result = train_model(as_of=since, maturity=_MATURITY)
        shutil.copytree(result.bundle.folder, kept)
        return kept
    client = connect()
    run = client.create_run(experiment_id(client))
    promote(register(kept, run.info.run_id))
    return Bundle.load(kept).folder


@contextmanager
def _process(log: Path, command: Sequence[str], port: int, **environment: str) -> Iterator[str]:
    """A server in a process group of its own; yields its address once it answers."""
    environment = {**os.environ, "BENTOML_DO_NOT_TRACK": "true", **environment}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        _wait(process, log, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def _wait(process: subprocess.Popen[bytes], log: Path, port: int) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status < 500:
                return
        except (OSError, HTTPException):
            pass
        finally:
            connection.close()
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"port {port}: no answer; its log ends: {log.read_bytes()[-1000:]!r}")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
