"""A view changes under a running service: the old model is served by its own definitions, the new state fills beside it."""

import json
import shutil
from datetime import datetime, timedelta

import pytest

from bento.champion import Champions
from bento.kept import KeptChampion
from bento.serving import Serving
from feature_repo import activity
from feature_repo.entities import customer
from feature_repo.journal import read_decisions
from feature_repo.settings import settings
from feature_repo.sources import place, transactions
from feature_repo.store import apply_definitions, definitions_digest, open_store
from feature_repo.windows.live import incomplete, read_live
from feature_repo.windows.recorder import windowed_specs
from feature_repo.windows.resolve import resolve_service
from feature_repo.windows.state import to_microseconds
from feature_repo.windows.view import windowed_view
from pipelines.load_journal import load_journal
from tests import deployments
from tests.deployments import (
    LOADED_UNTIL,
    SERVICE,
    START,
    body_of,
    deployed,
    events,
    fill_lake,
    make_bundle,
    send,
)
from tests.homes import fraud_home
from tests.windows_project import online_client

ROWS, CHARGEBACKS = events(count=900)
BEFORE = [row for row in ROWS if row["created_timestamp"] < LOADED_UNTIL]
# Each arrives as it happens, in order: what the service sees is what offline retrieval sees.
LATER = [
    {**row, "created_timestamp": row["event_timestamp"]}
    for row in sorted(ROWS, key=lambda row: row["event_timestamp"])
    if row["event_timestamp"] >= LOADED_UNTIL
]
COUNT = "customer_transactions_count_30d"


def wider():
    """The customer's view with one aggregate more, for which it keeps 60 days: every feature of before is the same."""
    more = {("min", activity.AMOUNT): ["60d"]}
    return _customer_view({**_aggregates(), **more})


def other():
    """The customer's view of another meaning: the last day does not count."""
    return _customer_view(_aggregates(), delay="1d")


def _aggregates():
    found = {}
    for each in activity.customer_activity.aggregations:
        found.setdefault((each.function, each.column), []).append(f"{int(each.time_window.total_seconds())}s")
    return found


def _customer_view(aggregates, **options):
    place(transactions, settings().lake)
    view = activity.customer_activity
    return windowed_view(
        view.name, prefix="customer", entities=[activity.customer], source=transactions,
        event_id="transaction_id", aggregates=aggregates, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A lake, definitions, forty days of state, and a bundle with its definitions in ``v1``: a home, and a copy of its files."""
    folder = tmp_path_factory.mktemp("change")
    reported = [row for row in CHARGEBACKS if row["created_timestamp"] < LOADED_UNTIL]
    with deployed(folder / "home", BEFORE, reported) as store:
        make_bundle(folder / "home" / "v1", store, definitions=resolve_service(store, SERVICE).as_data())
    shutil.copytree(folder / "home", folder / "copy")
    return folder


@pytest.fixture
def home(prepared):
    """The home as it was prepared."""
    shutil.rmtree(prepared / "home")
    shutil.copytree(prepared / "copy", prepared / "home")
    with fraud_home(prepared / "home") as path:
        yield path


@pytest.fixture
def deployment(home):
    return open_store()


def opened(home, version="v1"):
    return deployments.opened(home, version, version, kept=KeptChampion(home / "serving"))


def score(serving, rows):
    for row in rows:
        deployments.score(serving, body_of(row))


def journalled(home):
    return {line["transaction_id"]: line for line in read_decisions(home / "journal")}


def expected(store, rows, feature):
    """What offline retrieval says of each row, from everything that is in the lake."""
    import pandas as pd

    frame = pd.DataFrame(
        [{"customer_id": row["customer_id"], "event_timestamp": row["event_timestamp"]} for row in rows]
    )
    answer = store.get_historical_features(frame, [f"customer_activity:{feature}"]).to_df()
    return answer[feature].tolist()


def test_the_old_model_is_served_by_its_definitions_before_and_after_a_restart(deployment, home):
    store = deployment
    serving = opened(home)
    score(serving, LATER[:20])
    load_journal(home / "journal", settings().lake)
    store.apply([other()])
    assert definitions_digest(store, SERVICE) != serving.champions.current.bundle.definitions_digest
    serving.following.look()
    score(serving, LATER[20:30])
    serving.close()
    again = opened(home)
    assert (again.champions.current.version, again.champions.refused) == ("v1", None)
    score(again, LATER[30:40])
    again.close()
    load_journal(home / "journal", settings().lake)
    apply_definitions(store)
    seen = journalled(home)
    assert all(line["degraded"] is None for line in seen.values())
    assert [seen[row["transaction_id"]]["features"][COUNT] for row in LATER[:40]] == expected(
        store, LATER[:40], COUNT
    )


def test_a_changed_view_is_right_online_after_one_load_though_the_service_went_on(deployment, home):
    store = deployment
    serving = opened(home)
    score(serving, LATER[:10])
    store.apply([other()])
    score(serving, LATER[10:20])
    serving.following.look()
    score(serving, LATER[20:30])
    (new,) = [spec for spec in windowed_specs(store) if spec.view == "customer_activity"]
    assert incomplete(online_client(store), store.project, [new]) == ["customer_activity"]
    load_journal(home / "journal", settings().lake)
    end = LATER[29]["event_timestamp"] + timedelta(microseconds=1)
    store.materialize(START - timedelta(days=1), end, feature_views=["customer_activity"])
    score(serving, LATER[30:40])
    serving.close()
    load_journal(home / "journal", settings().lake)
    rows = LATER[40:60]
    online = store.get_online_features(
        [f"customer_activity:{COUNT}"],
        [{"customer_id": row["customer_id"], "event_timestamp": row["event_timestamp"]} for row in rows],
    ).to_dict()
    assert online[COUNT] == expected(store, rows, COUNT)
    assert all(line["degraded"] is None for line in journalled(home).values())


def unreachable(bundle, version):
    raise ConnectionError("the store is away")


def test_a_model_whose_features_stay_moves_over_to_the_new_state_once_it_is_loaded(deployment, home, caplog):
    store = deployment
    serving = opened(home)
    champions = serving.champions
    old = champions.current.plan.views
    store.apply([wider()])
    serving.following.look()
    assert definitions_digest(store, SERVICE) == champions.current.bundle.definitions_digest
    prepare = champions._prepare
    champions._prepare = unreachable
    assert not any(champions.refresh() for _ in range(20))
    champions._prepare = prepare
    assert caplog.text.count("goes on with the state that it reads: the store is away") == 1
    assert not any(champions.refresh() for _ in range(20))
    assert champions.current.plan.views == old
    load_journal(home / "journal", settings().lake)
    store.materialize(START - timedelta(days=1), LOADED_UNTIL, feature_views=["customer_activity"])
    assert any(champions.refresh() for _ in range(20))
    assert champions.current.plan.views != old
    assert not any(champions.refresh() for _ in range(20))
    score(serving, LATER[:20])
    serving.close()
    load_journal(home / "journal", settings().lake)
    seen = journalled(home)
    assert [seen[row["transaction_id"]]["features"][COUNT] for row in LATER[:20]] == expected(
        store, LATER[:20], COUNT
    )


def test_a_model_without_definitions_of_its_own_is_refused_after_a_change(deployment, home):
    make_bundle(home / "v0", deployment)
    deployment.apply([other()])
    serving = opened(home, "v0")
    serving.close()
    assert serving.champions.current is None
    assert "are applied here" in serving.champions.refused


def test_a_registry_that_cannot_be_read_is_said_once_and_recording_goes_on(deployment, home, caplog):
    serving = opened(home)
    registry = home / "registry.db"
    registry.rename(home / "moved.db")
    for _ in range(3):
        serving.following.look()
    assert caplog.text.count("cannot be followed") == 1
    score(serving, LATER[:3])
    (home / "moved.db").rename(registry)
    serving.following.look()
    serving.close()
    assert len(journalled(home)) == 3
    assert not serving.following.thread.runs


@pytest.fixture
def empty(tmp_path):
    with fraud_home(tmp_path) as path:
        yield path


def test_an_event_that_no_view_reads_is_kept_all_the_same_and_missed_by_a_view_of_later(empty):
    store = open_store()
    fill_lake(settings().lake, ROWS[:5], [])
    store.apply([customer, transactions, activity.customer_activity])
    serving = Serving.open(Champions(alias=lambda: None))
    chargeback = {
        "transaction_id": "told", "reason_code": "10.4", "customer_id": "c", "terminal_id": "t", "amount_usd_cents": 100,
        "event_timestamp": ROWS[0]["event_timestamp"].isoformat(),
    }  # fmt: skip
    told = json.loads(send(serving, "chargeback", chargeback).body)
    assert load_journal(empty / "journal", settings().lake).added["chargebacks"] == 1
    apply_definitions(store)
    serving.following.look()
    missed = read_live(online_client(store), store.project).missed
    serving.close()
    (name,) = (name for name in missed if name.startswith("customer_fraud:"))
    assert missed[name] == to_microseconds(datetime.fromisoformat(told["created_timestamp"]))
