"""A real BentoML process whose model reads a derived column: what it served, recorded, and what the lake gives are one."""

from datetime import UTC, datetime, timedelta

import duckdb
import httpx
import pandas as pd
import pytest
from feast import FeatureService

from feature_repo.activity import customer_activity, customer_settled
from feature_repo.entities import customer
from feature_repo.journal import read_decisions
from feature_repo.lake import snapshot
from feature_repo.on_demand import spending
from feature_repo.settings import settings
from feature_repo.sources import transactions
from feature_repo.store import apply_definitions, open_store
from feature_repo.windows import embedded
from feature_repo.windows.derived import derive
from feature_repo.windows.view import windowed_view
from pipelines.load_journal import load_journal
from pipelines.parity import parity
from pipelines.serve import running_service
from tests.deployments import START, body_of, events, fill_lake, make_bundle
from training.registry import promote, register
from training.tracking import connect, experiment_id

TRANSACTIONS, CHARGEBACKS = events(seed=11, count=120)
SERVICE, LARGEST, TOTAL = "surprised", "surprise_surprise_max_7d", "surprise_surprise_sum_7d"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def definitions():
    """What a customer spends against what was the mean of thirty days when it was scored."""
    surprise = derive(
        "surprise", [customer_activity, customer_settled], [customer], "amount_to_mean_30d", 4,
        transform=spending, as_of="scored_timestamp",
    )  # fmt: skip
    view = windowed_view(
        "surprise", prefix="surprise", entities=[customer], source=transactions, event_id="transaction_id",
        aggregates={("max", "surprise"): ["7d"], ("sum", "surprise"): ["7d"], ("mean", "large"): ["7d"]},
        conditions={"large": "surprise > 2"}, derived=[surprise],
    )  # fmt: skip
    return [view, FeatureService(name=SERVICE, features=[customer_activity, view])]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with a lake, its state, and a champion that reads the derived column."""
    folder = tmp_path_factory.mktemp("derived")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAUD_HOME", str(folder))
        patch.delenv("FRAUD_REDIS", raising=False)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        store = open_store()
        fill_lake(settings().lake, TRANSACTIONS, CHARGEBACKS)
        apply_definitions(store)
        store.apply(definitions())
        store.materialize(START - timedelta(days=1), datetime.now(UTC))
        client = connect()
        run = client.create_run(experiment_id(client))
        promote(register(make_bundle(folder / "model", store, service=SERVICE), run.info.run_id))
        yield folder
    embedded.stop(folder)


@pytest.fixture(scope="module")
def decisions(home):
    """Five transactions of a new customer, each scored seconds after it happened; two of another replayed, then one live.

    Of the two, the second happened before the first was known.
    """
    now = datetime.now(UTC)
    plain = {**TRANSACTIONS[0], "terminal_id": "new", "amount": 50, "created_timestamp": None}
    rows = {}
    for name, happened, known in (("replayed0", 24, 23), ("replayed1", 23.5, 22), ("last", 0.01, None)):
        times = {"event_timestamp": now - timedelta(hours=happened)}
        times["created_timestamp"] = None if known is None else now - timedelta(hours=known)
        rows[name] = {**plain, "customer_id": "replayed", **times}
    for number, (ago, cents) in enumerate([(9, 1_000), (8, 5_000), (7, 2_500), (3, 7_500), (1, 100)]):
        own = {"event_timestamp": now - timedelta(seconds=ago), "amount": cents / 100}
        rows[f"live{number}"] = {**plain, "customer_id": "new", **own}
    with running_service(home) as base, httpx.Client(base_url=base) as client:
        for name, row in rows.items():
            answer = client.post("/v1/score", json=body_of(row, transaction_id=name)).json()
            assert answer["degraded"] is None, answer
    load_journal(home / "journal", settings().lake)
    return {line["transaction_id"]: line for line in read_decisions(home / "journal")}


def test_features_of_derived_columns_are_recomputed_from_the_lake_to_the_bit(home, decisions):
    run = parity()
    assert (run.report.decisions, run.report.mismatches) == (len(decisions), 0)
    # The second of the replayed as of when it happened, when the first was not known: there was nothing to compare it with.
    assert decisions["last"]["features"][LARGEST] is None
    assert decisions["last"]["features"]["customer_transactions_count_7d"] == 2
    served = decisions["live4"]["features"]
    # Each as of when it was scored, seconds after it happened: all that were scored before it were known.
    ratios = [5_000 / 1_000, 2_500 / 3_000, round(7_500 / (8_500 / 3), 4)]
    assert served[LARGEST] == 50_000
    assert served[TOTAL] == sum(round(each * 10_000) for each in ratios)


def test_the_lake_keeps_as_of_when_a_transaction_was_scored(home, decisions):
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        query = (
            f"SELECT transaction_id, scored_timestamp FROM {snapshot(settings().lake / 'transactions').sql}"
        )
        kept = dict(connection.execute(query).fetchall())
    for name, line in decisions.items():
        scored = EPOCH + timedelta(microseconds=line["known_as_of_us"])
        assert kept[name] == (None if name.startswith("replayed") else scored)
    assert [kept[row["transaction_id"]] for row in TRANSACTIONS] == [None] * len(TRANSACTIONS)


def test_what_the_service_recorded_is_what_a_load_of_the_lake_gives(home, decisions):
    now, store = datetime.now(UTC), open_store()
    service = store.get_feature_service(SERVICE)
    row = {"customer_id": "new", "event_timestamp": now}
    names = [LARGEST, TOTAL]

    def online():
        found = store.get_online_features(service, [row]).to_dict()
        return [found[name][0] for name in names]

    recorded = online()
    table = store.get_historical_features(pd.DataFrame([row]), service).to_arrow()
    assert [table[name][0].as_py() for name in names] == recorded
    assert None not in recorded
    store._get_provider().online_store._get_client(store.config.online_store).flushdb()
    store.materialize(START - timedelta(days=1), now + timedelta(seconds=1))
    assert online() == recorded
