"""The service as it is deployed: built into a Bento, served from it by two workers, scraped by a real Prometheus."""

import math
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import yaml
from numba.core.caching import UserProvidedCacheLocator

from bento.api_keys import create_key
from feature_repo.settings import PROJECT_ROOT
from feature_repo.windows.plan import OnlinePlan
from pipelines import serve
from pipelines.serve import running_service
from tests import deployments
from tests.deploy_files import DEPLOY, LOCK, RULES, queries
from tests.deployments import (
    PATIENCE_S,
    SERVICE,
    after_load,
    deployed,
    events,
    registered,
    wait_for,
)
from tests.exposition import samples
from tests.ports import free_port
from training.registry import promote

TRANSACTIONS, CHARGEBACKS = events(seed=9, count=300)
LATER = after_load(TRANSACTIONS)[0]
WORKERS = 2

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed: apt-get install prometheus"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A deployment with a champion and a key for each who calls."""
    folder = tmp_path_factory.mktemp("deployed")
    with deployed(folder, TRANSACTIONS, CHARGEBACKS) as store:
        promote(registered(folder / "model", store))
        OnlinePlan.compile(
            store, SERVICE
        ).warm()  # on a fresh clone, its kernels are compiled once, not by each worker
        yield folder


@pytest.fixture(scope="module")
def bento(home):
    """The folder of a Bento that was built of this repository."""
    built = subprocess.run(
        [sys.executable, "-m", "bentoml", "build", "--output", "tag"],
        env=serve._environment(home),
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    name, version = built.stdout.strip().removeprefix("__tag__:").split(":")
    return home / "bentoml" / "bentos" / name / version


@pytest.fixture(scope="module")
def keys(home):
    """A header for each scope."""
    made = {
        scope: create_key(home / "api-keys.json", scope, frozenset({scope}), datetime.now(UTC))
        for scope in ("score", "record", "metrics")
    }
    return {scope: {"authorization": f"Bearer {key}"} for scope, key in made.items()}


@pytest.fixture(scope="module")
def url(home, bento, keys):
    """A service from the Bento, with two workers; nothing of this repository is where it looks for code."""
    with pytest.MonkeyPatch.context() as patch, compiled(bento):
        patch.setattr(serve, "SERVICE", str(bento))
        patch.setattr(serve, "PROJECT_ROOT", home)
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        with running_service(home, workers=WORKERS, start_s=300) as base:
            wait_for(lambda: shown(base, keys).get(("fraud_ready_workers",)) == WORKERS, 120)
            yield base


@contextmanager
def compiled(bento):
    """The kernels of the Bento are compiled as far as those of the repository are: the same code, at another place.

    To compile them takes a minute of a CPU, for each worker. What numba keeps it keeps by folder and by time of the source.
    """
    cache, windows = Path(os.environ["NUMBA_CACHE_DIR"]), Path("feature_repo", "windows")
    here, there = (
        cache / UserProvidedCacheLocator.get_suitable_cache_subpath(str(root / windows / "kernel.py"))
        for root in (PROJECT_ROOT, bento / "src")
    )
    for source in (PROJECT_ROOT / windows).glob("*.py"):
        shutil.copystat(source, bento / "src" / windows / source.name)
    shutil.copytree(here, there, dirs_exist_ok=True)
    yield
    shutil.rmtree(there)


def shown(url, keys):
    """One scrape, by whichever worker takes the connection: samples by name and labels."""
    return samples(httpx.get(f"{url}/metrics", headers=keys["metrics"]).text)


def fresh(**changes):
    return deployments.fresh(LATER, **changes)


def scored(url, keys, request=None):
    """Over a connection of its own, so that any worker may take it."""
    return httpx.post(f"{url}/v1/score", json=request or fresh(), headers=keys["score"])


def test_the_bento_has_the_code_and_its_tables_and_nothing_else(bento):
    inside = {str(path.relative_to(bento / "src")) for path in (bento / "src").rglob("*") if path.is_file()}
    packages = ("bento", "feature_repo", "monitoring", "pipelines", "training")
    tracked = subprocess.run(
        ["git", "ls-files", *packages], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    )
    needed = {each for each in tracked.stdout.split() if not each.startswith("bento/deploy/")}
    assert needed <= inside
    extra = {each for each in inside - needed if each.split("/")[0] in packages and ".pyc" not in each}
    assert {Path(each).suffix for each in extra} <= {".py"}
    assert {each.split("/")[0] for each in inside} == {*packages, "bentofile.yaml"}


def test_the_bento_installs_the_locked_packages_by_their_hashes(bento):
    text = (bento / "env" / "python" / "requirements.txt").read_text()
    pinned = [line.split(" ")[0] for line in text.splitlines() if "==" in line]
    assert {each.partition("==")[0] for each in pinned} == set(LOCK)
    assert f"bentoml=={LOCK['bentoml']}" in pinned
    assert text.count("--hash=sha256:") == (PROJECT_ROOT / "requirements.lock").read_text().count("--hash")


def test_the_image_runs_as_a_user_who_owns_the_folder_of_its_state(bento):
    dockerfile = (bento / "env" / "docker" / "Dockerfile").read_text()
    assert "FROM docker.io/library/python:3.11" in dockerfile
    assert dockerfile.splitlines().index("USER bentoml") > dockerfile.splitlines().index(
        "COPY --chown=bentoml:bentoml . ./"
    )
    assert "ENV FRAUD_HOME=$FRAUD_HOME" in dockerfile
    assert "BENTO_USER_UID=1034" in dockerfile  # as Compose and Kubernetes files have it
    scripts = [path.read_text() for path in (bento / "env" / "docker").glob("script__*")]
    assert scripts == [(DEPLOY / "setup.sh").read_text()]


def test_the_service_runs_the_code_of_the_bento(url, keys, bento):
    answer = scored(url, keys)
    assert (answer.status_code, answer.json()["degraded"]) == (200, None)
    assert list((bento / "src" / "bento" / "__pycache__").glob("scoring.*.pyc"))


def test_a_scrape_is_the_same_whichever_worker_answers(url, keys):
    before = shown(url, keys)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: scored(url, keys), range(40)))
    assert {answer.status_code for answer in answers} == {200}
    scrapes = [shown(url, keys) for _ in range(20)]
    for name in (("fraud_answers_total", "200", "score"), ("fraud_stage_seconds_count", "total")):
        assert {scrape[name] - before.get(name, 0) for scrape in scrapes} == {40}
    assert {scrape["fraud_ready_workers",] for scrape in scrapes} == {WORKERS}
    decisions = [name for name in scrapes[0] if name[0] == "fraud_decisions_total"]
    assert sum(scrapes[0][name] - before.get(name, 0) for name in decisions) == 40


def test_probes_need_no_key(url):
    assert httpx.get(f"{url}/livez").json() == {"alive": True}
    assert httpx.get(f"{url}/readyz").json() == {"ready": True}


@contextmanager
def traffic(url, keys):
    """Requests of every sort, all the while."""
    over = threading.Event()

    def send():
        while not over.is_set():
            request = fresh()
            scored(url, keys, request)
            scored(url, keys, request)
            scored(url, keys, fresh(amount="-1"))
            chargeback = {"transaction_id": request["transaction_id"], "reason_code": "10.4"}
            httpx.post(f"{url}/v1/chargebacks", json=chargeback, headers=keys["record"])
            over.wait(0.2)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture(scope="module")
def prometheus(url, keys, home):
    """A Prometheus that scrapes the service each second, by the deployment's own configuration; the address of its API."""
    folder = home / "prometheus"
    folder.mkdir()
    shutil.copy(DEPLOY / "alerts.yml", folder)
    (folder / "metrics_api_key").write_text(keys["metrics"]["authorization"].removeprefix("Bearer "))
    address = f"127.0.0.1:{free_port()}"
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    jobs["fraud"]["static_configs"] = [{"targets": [url.removeprefix("http://")]}]
    jobs["fraud"]["authorization"] = {"credentials_file": str(folder / "metrics_api_key")}
    jobs["prometheus"]["static_configs"] = [{"targets": [address]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    subprocess.run(
        ["promtool", "check", "config", folder / "prometheus.yml"], check=True, capture_output=True
    )
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (folder / "log").open("wb") as log, traffic(url, keys):
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(lambda: up(address))
            yield f"http://{address}/api/v1"
        finally:
            process.terminate()
            process.wait(20)


def up(address):
    try:
        return httpx.get(f"http://{address}/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def numbers(prometheus, query):
    """What a query answers, but for what is no number."""
    answer = httpx.get(f"{prometheus}/query", params={"query": query}).json()
    assert answer["status"] == "success", (query, answer)
    values = [float(each["value"][1]) for each in answer["data"]["result"]]
    return [value for value in values if math.isfinite(value)]


@needs_prometheus
def test_prometheus_reaches_every_target(prometheus):
    wait_for(lambda: numbers(prometheus, "up") == [1, 1])


@needs_prometheus
def test_every_query_of_the_dashboard_and_every_recorded_one_returns_data(prometheus):
    asked = [*queries(), *(rule["record"] for rule in RULES if "record" in rule)]
    lacking = [query.replace("$__rate_interval", "10s") for query in asked]
    deadline = time.monotonic() + PATIENCE_S
    while lacking and time.monotonic() < deadline:
        lacking = [query for query in lacking if not numbers(prometheus, query)]
        time.sleep(0.2)
    assert lacking == []


@needs_prometheus
def test_every_rule_is_evaluated_and_a_healthy_service_raises_no_alert(prometheus):
    def rules():
        groups = httpx.get(f"{prometheus}/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    wait_for(lambda: {rule["health"] for rule in rules()} == {"ok"})
    assert len(rules()) == len(RULES)
    assert [rule["name"] for rule in rules() if rule.get("state") == "firing"] == []
