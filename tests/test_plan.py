"""``fraud plan`` says what an apply would change and touches nothing; ``fraud backfill`` loads what then lacks history."""

import hashlib
import json
import threading
from datetime import timedelta

import pytest
from typer.testing import CliRunner

from feature_repo import activity, definitions
from feature_repo.settings import settings
from feature_repo.sources import place, transactions
from feature_repo.store import apply_definitions, open_store
from feature_repo.windows.derived import derive
from feature_repo.windows.durations import format_duration
from feature_repo.windows.live import incomplete
from feature_repo.windows.live_recorder import LiveRecorder
from feature_repo.windows.recorder import windowed_specs
from feature_repo.windows.resolve import resolve_service
from feature_repo.windows.view import windowed_view
from pipelines.backfill import backfill
from pipelines.cli import main
from pipelines.plan import plan
from pipelines.plan_table import tables
from tests.deployments import SERVICE, events, make_bundle
from tests.deployments import deployed as deployment
from tests.homes import with_mlflow
from tests.windows_project import online_client
from training.registry import register, set_alias
from training.tracking import connect, experiment_id

ROWS, CHARGEBACKS = events(count=400)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """A home with a lake, applied definitions, and a champion of ``fraud_v1`` in the model registry."""
    home = tmp_path_factory.mktemp("plan")
    with deployment(home, ROWS, CHARGEBACKS, loaded_until=None) as store:
        with_mlflow(home)
        for version, kept in (("1", None), ("2", resolve_service(store, SERVICE).as_data())):
            bundle = make_bundle(home / "bundles" / version, store, definitions=kept)
            client = connect()
            run = client.create_run(experiment_id(client)).info.run_id
            client.log_param(run, "dataset.feature_service", SERVICE)
            assert register(bundle, run) == version
        set_alias("challenger", "1")
        set_alias("champion", "2")
        yield home


@pytest.fixture
def edited(monkeypatch):
    """Replaces a view in ``definitions.py`` for the test."""

    def edit(aggregates, view=activity.customer_activity, prefix="customer", **options):
        place(transactions, settings().lake)
        changed = windowed_view(
            view.name, prefix=prefix, entities=[activity.customer], source=transactions,
            event_id="transaction_id", aggregates=aggregates, **options,
        )  # fmt: skip
        monkeypatch.setattr(definitions, view.name, changed)

    return edit


def aggregates():
    """Those of ``customer_activity``, as its constructor takes them."""
    found = {}
    for each in activity.customer_activity.aggregations:
        found.setdefault((each.function, each.column), []).append(format_duration(each.time_window))
    return found


def footprint(home):
    """Every file of a deployment with its content; MLflow marks in its own folder what was loaded of it."""
    own = ("mlflow.db", "mlartifacts", "valkey")
    files = [path for path in sorted(home.rglob("*")) if path.is_file()]
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if not path.relative_to(home).parts[0].startswith(own)
    }


def test_definitions_that_are_registered_change_nothing(deployed):
    planned = plan()
    assert not planned.changes
    assert [str(line) for line in tables(planned)] == [
        "Nothing would change: every feature means what is registered."
    ]


def test_a_changed_delay_is_told_with_its_services_models_state_and_values(deployed, edited):
    edited(aggregates(), delay="1d")
    before = footprint(deployed)
    planned = plan(rows=20)
    assert footprint(deployed) == before
    changed = {change.feature: change for change in planned.features}
    told = changed["customer_transactions_count_7d"]
    assert (told.change, told.was.delay, told.now.delay) == ("changed", "", "1d")
    # The transforms that read the view change with it; nothing else does.
    assert {change.view for change in planned.features} == {"customer_activity", "spending_features"}
    assert [(s.name, s.change) for s in planned.services] == [
        ("fraud_v1", "changed"),
        ("published_v1", "changed"),
    ]
    champion, challenger = planned.models
    assert (champion.version, champion.aliases) == ("2", ("champion",))
    assert "by its own definitions" in champion.afterwards
    assert "no definitions of its own" in challenger.afterwards
    (state,) = planned.rebuilt
    assert (state.view, state.keys) == ("customer_activity", 20)
    values = {column.feature: column for column in planned.sample.columns}
    assert values["customer_transactions_count_1d"].differing > 0
    newest = sorted(ROWS, key=lambda row: (row["event_timestamp"], row["transaction_id"]))[-20:]
    assert [name for name, _ in planned.sample.rows] == [row["transaction_id"] for row in newest]


def test_the_samples_values_are_what_each_definition_counts(deployed, edited):
    edited(aggregates(), delay="1d")
    (column,) = [c for c in plan(rows=5).sample.columns if c.feature == "customer_transactions_count_7d"]
    newest = sorted(ROWS, key=lambda row: (row["event_timestamp"], row["transaction_id"]))[-5:]
    for row, was, now in zip(newest, column.was, column.now, strict=True):
        ages = [
            row["event_timestamp"] - other["event_timestamp"]
            for other in ROWS
            if other["customer_id"] == row["customer_id"]
            and other["created_timestamp"] < row["created_timestamp"]
        ]
        day, week = timedelta(days=1), timedelta(days=7)
        assert was == sum(timedelta(0) < age <= week for age in ages)
        assert now == sum(day < age <= day + week for age in ages)


def test_an_added_and_a_removed_feature_are_told_and_a_state_that_serves_them_stays(deployed, edited):
    less = {key: windows for key, windows in aggregates().items() if key[0] != "seconds_since_last"}
    edited({**less, ("min", activity.AMOUNT): ["7d"]})
    planned = plan(rows=3)
    told = {(change.feature, change.change) for change in planned.features}
    assert told == {
        ("customer_amount_usd_cents_min_7d", "added"),
        ("customer_transactions_seconds_since_last_30d", "removed"),
    }
    assert planned.rebuilt == ()
    columns = {column.feature: column for column in planned.sample.columns}
    assert columns["customer_amount_usd_cents_min_7d"].was == (None,) * 3
    assert columns["customer_transactions_seconds_since_last_30d"].now == (None,) * 3


def test_a_reworded_formula_is_a_change(deployed, monkeypatch):
    odd = definitions.request_features
    monkeypatch.setitem(odd.tags, "transform.digest", "0" * 64)
    assert {change.view for change in plan(rows=0).features} == {"request_features"}


def test_before_the_first_apply_everything_is_new_and_nothing_is_written(home):
    planned = plan()
    assert planned.first
    assert {change.change for change in planned.features} == {"added"}
    assert planned.models == ()
    assert {state.keys for state in planned.rebuilt} == {0}
    assert list(home.iterdir()) == []


def test_the_verb_prints_tables_json_and_an_exit_code_on_request(deployed, edited):
    runner = CliRunner()
    assert runner.invoke(main, ["plan", "--exit-code"]).exit_code == 0
    edited(aggregates(), delay="1d")
    shown = runner.invoke(main, ["plan", "--sample", "2"])
    assert shown.exit_code == 0, shown.output
    for part in (
        "Features",
        "FeatureServices",
        "Models",
        "Online state to be loaded",
        "Values for the newest 2",
    ):
        assert part in shown.output
    given = runner.invoke(main, ["plan", "--json", "--exit-code"])
    assert given.exit_code == 1
    document = json.loads(given.stdout)
    assert document["changes"]
    assert document["rebuilt"][0]["view"] == "customer_activity"


def test_what_was_planned_is_about_what_is_loaded(deployed, edited):
    edited(aggregates(), delay="1d")
    store = open_store()
    (state,) = plan(rows=0).rebuilt
    apply_definitions(store)
    try:
        assert set(backfill().views) == {view.name for view in store.list_stream_feature_views()}
        client = online_client(store)
        keys = client.keys(b"window:fraud:customer_activity:*:*:c*")
        used = sum(client.memory_usage(key) for key in keys)
        assert len(keys) == state.keys
        assert state.bytes / 2 < used < state.bytes * 2
        assert backfill().end is None
        assert backfill(["customer_activity"]).views == ("customer_activity",)
        with pytest.raises(ValueError, match="not a registered windowed view"):
            backfill(["nope"])
    finally:
        definitions.customer_activity = activity.customer_activity
        apply_definitions(store)


def surprise_of(view):
    """A view of what was computed from another's mean."""
    mean = derive("mean_then", [view], [activity.customer], "customer_amount_usd_cents_mean_7d", 4)
    return windowed_view(
        "a_surprise", prefix="surprise", entities=[activity.customer], source=transactions, event_id="transaction_id",
        aggregates={("max", "mean_then"): ["7d"]}, derived=[mean],
    )  # fmt: skip


def test_a_view_is_loaded_after_what_it_is_computed_from_while_a_recorder_runs(deployed, edited):
    store = open_store()
    apply_definitions(store)
    backfill()
    recorder, stop = LiveRecorder.open(store), threading.Event()
    edited(aggregates(), delay="2d")
    added = surprise_of(definitions.customer_activity)
    apply_definitions(store)
    store.apply([added])

    def follow():
        while not stop.wait(0.1):
            recorder.follow([])

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        assert backfill().views == ("customer_activity", "a_surprise")
        assert incomplete(online_client(store), store.project, windowed_specs(store)) == []
    finally:
        stop.set()
        thread.join()
        recorder.close()
        store.apply([], objects_to_delete=[added], partial=False)


def test_a_base_that_is_not_registered_as_it_is_computed_from_is_named(deployed, edited):
    store = open_store()
    apply_definitions(store)
    edited(aggregates(), delay="3d")
    added = surprise_of(definitions.customer_activity)
    store.apply([added])
    try:
        with pytest.raises(
            ValueError, match="'customer_activity': columns of other views are computed from it"
        ):
            backfill()
    finally:
        store.apply([], objects_to_delete=[added], partial=False)
