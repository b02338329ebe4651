"""Feast's own command line on this repository, as a person runs it: in an empty home, then on a small lake."""

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from feature_repo.settings import PROJECT_ROOT
from feature_repo.store import open_store
from feature_repo.windows.plan import OnlinePlan
from pipelines.simulate import run
from tests.homes import client_of, fraud_home

VIEWS = {
    "customer_activity",
    "customer_fraud",
    "customer_settled",
    "pair_activity",
    "terminal_activity",
    "terminal_fraud",
    "terminal_ordinary_fraud",
    "terminal_settled",
}
TRANSFORMS = {"request_features", "spending_features", "terminal_risk_features"}
SERVICES = {"fraud_v1", "published_v1"}


def feast(folder, *arguments):
    """Start ``feast -c feature_repo ...`` in ``folder``."""
    command = [Path(sys.executable).parent / "feast", "-c", PROJECT_ROOT / "feature_repo", *arguments]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
    )


def output(started):
    """What a command said, both streams, once it has ended well."""
    said, _ = started.communicate(timeout=180)
    assert started.returncode == 0, said
    assert "Traceback" not in said
    assert "Warning" not in said
    return said.replace("\x1b[1m", "").replace("\x1b[32m", "").replace("\x1b[0m", "")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with fraud_home(tmp_path_factory.mktemp("cli") / "home") as path:
        yield path


@pytest.fixture(scope="module")
def said(home):
    """What each command said, one after the other where one needs what another did, from a folder of no meaning."""
    elsewhere = home.parent
    planned = feast(elsewhere, "plan")
    run(4_000, days=60, seed=5, start="2025-01-01", lake=home / "lake")
    plan = output(planned)
    apply = output(feast(elsewhere, "apply"))
    listing = feast(elsewhere, "feature-views", "list")
    materialize = output(feast(elsewhere, "materialize", "2025-01-01T00:00:00", "2025-02-20T00:00:00"))
    incremental = feast(elsewhere, "materialize-incremental", "2025-03-02T00:00:00")
    unchanged = feast(elsewhere, "plan")
    return {
        "plan": plan,
        "apply": apply,
        "list": output(listing),
        "materialize": materialize,
        "materialize-incremental": output(incremental),
        "plan again": output(unchanged),
    }


def named_in(text):
    return {word.strip(",:;'\"()[]{}") for word in text.split()}


def test_plan_in_an_empty_home_names_everything_it_would_make(said):
    assert named_in(said["plan"]) >= VIEWS | TRANSFORMS | SERVICES | {"customer", "terminal"}


def test_apply_makes_all_of_it(said):
    store = open_store()
    assert {view.name for view in store.list_stream_feature_views()} == VIEWS
    assert {view.name for view in store.list_on_demand_feature_views()} == TRANSFORMS
    assert {service.name for service in store.list_feature_services()} == SERVICES
    assert {entity.name for entity in store.list_entities()} == {"customer", "terminal"}


def test_on_demand_views_are_listed_with_the_entities_behind_them(said):
    rows = {line.split()[0]: named_in(line) for line in said["list"].splitlines()}
    assert rows.keys() >= TRANSFORMS
    assert "customer" in rows["spending_features"]
    assert "terminal" in rows["terminal_risk_features"]


@pytest.mark.parametrize("command", ["materialize", "materialize-incremental"])
def test_materializing_shows_each_view_and_its_progress(said, command):
    assert named_in(said[command]) >= VIEWS
    assert said[command].count("100%") >= len(VIEWS)


def test_what_was_materialized_is_what_history_says(said):
    store = open_store()
    plan = OnlinePlan.compile(store, "fraud_v1")
    assert plan.missing_state() == []
    instant = datetime(2025, 3, 2, tzinfo=UTC)
    keys = {"customer_id": "c0000003", "terminal_id": "m0000002"}
    places = dict.fromkeys(
        ["customer_latitude", "customer_longitude", "terminal_latitude", "terminal_longitude"], 1.0
    )
    request = {**keys, **places, "amount_usd_cents": 1234}
    micros = int(instant.timestamp()) * 1_000_000
    answer = plan.read([{**request, "event_timestamp_us": micros, "known_as_of_us": micros}])
    frame = f"""
        SELECT 'c0000003' AS customer_id, 'm0000002' AS terminal_id, 1234 AS amount_usd_cents,
        1.0::DOUBLE AS customer_latitude, 1.0::DOUBLE AS customer_longitude,
        1.0::DOUBLE AS terminal_latitude, 1.0::DOUBLE AS terminal_longitude,
        make_timestamptz({micros}) AS event_timestamp
    """
    service = store.get_feature_service("fraud_v1")
    offline = store.get_historical_features(frame, service).to_arrow().to_pylist()[0]
    served = {
        n: None if v != v else v for n, v in zip(plan.feature_names, answer.values[0].tolist(), strict=True)
    }
    assert served == {name: offline[name] for name in plan.feature_names}
    assert served["customer_transactions_count_30d"] > 0


def test_a_plan_of_what_is_applied_says_that_nothing_changes(said):
    assert "No changes to registry" in said["plan again"]
    assert not re.search("Created|Updated|Deleted", said["plan again"])


def test_delete_and_teardown_leave_nothing_in_redis(said, home):
    """The last test: it ends what the others read."""
    client = client_of(home)
    assert client.keys("window:fraud:pair_activity:*")
    assert "Deleted" in output(feast(home.parent, "delete", "pair_activity"))
    assert client.keys("window:fraud:pair_activity:*") == []
    assert client.keys("window:fraud:customer_activity:*")
    output(feast(home.parent, "teardown"))
    assert client.keys("*") == []
