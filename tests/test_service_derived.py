"""A real BentoML process whose model reads derived columns: what it served, recorded, and what the lake gives are one.

One of them is taken over by chargebacks: confirmed frauds at a terminal that a high amount does not explain.
"""

import json
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import duckdb
import httpx
import pandas as pd
import pytest
from feast import FeatureService

from bento.online import online_client
from bento.patient_journal import LOST
from bento.problem import HistoryNeededError, Problem
from bento.recording import PAUSE_S
from bento.replaying import Replaying
from bento.serving import Serving
from feature_repo.activity import customer_activity, customer_settled
from feature_repo.entities import customer, terminal
from feature_repo.journal import Journal, derived_of_event, read_decisions, read_events
from feature_repo.lake import snapshot
from feature_repo.lake_writer import lake_lock
from feature_repo.on_demand import spending
from feature_repo.settings import settings
from feature_repo.sources import chargebacks, transactions
from feature_repo.store import open_store
from feature_repo.windows.derived import derive
from feature_repo.windows.live_recorder import LiveRecorder
from feature_repo.windows.view import windowed_view
from monitoring.parity import audit
from pipelines.load_journal import load_journal
from pipelines.parity import parity
from pipelines.replay import replay
from pipelines.serve import running_service
from tests import deployments
from tests.deployments import END, LOADED_UNTIL, START, body_of, deployed, events, live, registered, send
from tests.faults import full_disk, pid_of, standing_still
from tests.timelines import moment
from training.registry import promote

TRANSACTIONS, CHARGEBACKS = events(seed=11, count=120)
REPLAYED = [row for row in TRANSACTIONS if row["event_timestamp"] >= LOADED_UNTIL]
SERVICE, LARGEST, TOTAL = "surprised", "surprise_surprise_max_7d", "surprise_surprise_sum_7d"
CHARGED = {row["transaction_id"] for row in CHARGEBACKS}
# As it was journalled before there were derived columns.
OLDER = {name: value for name, value in TRANSACTIONS[0].items() if name != "event_day"} | {
    "transaction_id": "older", "customer_id": "older", "terminal_id": "older",
}  # fmt: skip
FRAUDS, FRAUD_TOTAL = "explained_chargebacks_count_730d", "explained_surprise_sum_730d"


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
    explained = windowed_view(
        "explained", prefix="explained", entities=[terminal], source=chargebacks, event_id="transaction_id",
        aggregates={("count", ""): ["730d"], ("sum", "surprise"): ["730d"]},
        where="surprise < 3", derived=[replace(surprise, source="transactions")],
    )  # fmt: skip
    return [view, explained, FeatureService(name=SERVICE, features=[customer_activity, view, explained])]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with a lake, forty days of state, a champion that reads derived columns, and an event from before there were any."""
    folder = tmp_path_factory.mktemp("derived")
    with deployed(folder, TRANSACTIONS, CHARGEBACKS, more=definitions) as store:
        with closing(Journal(folder / "journal")) as journal:
            journal.event("transactions", OLDER)
        say_that_it_is_recorded(store, folder / "journal")
        promote(registered(folder / "model", store, service=SERVICE))
        yield folder


def say_that_it_is_recorded(store, journal):
    """As a service does that has recorded what stands in the journal: the next one need not record it again."""
    with closing(LiveRecorder.open(store)) as recorder:
        replaying = Replaying(online_client(store), recorder, journal)
        replaying.mark(replaying.ends())


def live_rows():
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
    return rows


def afterwards():
    """A transaction at each terminal."""
    row = {**TRANSACTIONS[0], "customer_id": "afterwards", "created_timestamp": None}
    names = sorted({"new", *(row["terminal_id"] for row in TRANSACTIONS)})
    return {
        f"after {name}": {**row, "terminal_id": name, "event_timestamp": datetime.now(UTC)} for name in names
    }


def score(client, rows):
    for name, row in rows.items():
        answer = client.post("/v1/score", json=body_of(row, transaction_id=name)).json()
        assert answer["degraded"] is None, answer


def report(client, name, **row):
    """A chargeback; ``row`` where the service cannot know the transaction."""
    return client.post(
        "/v1/chargebacks", json={"transaction_id": name, "reason_code": "10.4", **row}, timeout=60
    )


@pytest.fixture(scope="module")
def reported(home):
    """What the service answers to chargebacks, by transaction; before and after them it scores.

    History is replayed first, with chargebacks of transactions that only the lake has.
    """
    folder, lake, answers = home / "journal", settings().lake, {}
    in_lake = next(row for row in TRANSACTIONS if row["transaction_id"] not in CHARGED)
    columns = ("customer_id", "terminal_id", "event_timestamp", "amount_usd_cents")
    known = {name: in_lake[name] for name in columns} | {
        "event_timestamp": in_lake["event_timestamp"].isoformat()
    }
    # Held for now: the service loads the journal into the lake by itself, and waits until nobody else writes there.
    with ExitStack() as held, ExitStack() as service:
        held.enter_context(lake_lock(lake))
        base = service.enter_context(running_service(home))
        client = service.enter_context(httpx.Client(base_url=base))
        replayed = replay(base, lake, LOADED_UNTIL, END + timedelta(days=10))
        assert (replayed.errors, replayed.degraded, replayed.scored) == (0, {}, len(REPLAYED)), replayed
        score(client, live_rows())
        for name in ("live1", "live2", "live3", "replayed1", "live2"):
            answers.setdefault(name, []).append(report(client, name))
        answers["stranger"] = [report(client, "stranger", **{**known, "terminal_id": "new"})]
        answers["in lake"] = [report(client, in_lake["transaction_id"], **known)]
        answers["older"] = [report(client, "older")]
        held.close()
        load_journal(folder, lake)
        answers["older"].append(report(client, "older"))
        score(client, afterwards())
    load_journal(folder, lake)
    return answers


@pytest.fixture(scope="module")
def decisions(home, reported):
    """Everything that was scored."""
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


def test_a_difference_in_what_a_filter_on_a_derived_column_lets_pass_is_told(home, decisions, tmp_path):
    line = decisions["after new"]
    altered = {**line, "features": {**line["features"], FRAUDS: 3}}
    with closing(Journal(tmp_path / "journal")) as journal:
        journal.decision(altered)
    report = audit(open_store(), tmp_path / "journal")
    assert (report.mismatches, report.attributed) == (1, {"missing_in_lake": 1})


def test_a_chargeback_takes_over_what_was_computed_when_its_transaction_was_recorded(home, decisions):
    served = decisions["after new"]["features"]
    # Of live1 the amount is five times the mean, replayed1 and the stranger have none: not what is counted.
    assert (served[FRAUDS], served[FRAUD_TOTAL]) == (2, 8_333 + 26_471)
    lines = [e for e in read_events(home / "journal") if e["table"] == "transactions"]
    computed = {e["transaction_id"]: derived_of_event(e) for e in lines}
    assert [*computed["live1"].values()] == [Decimal("5")]
    assert [*computed["replayed1"].values()] == [None]


def test_a_chargeback_of_what_only_the_lake_has_is_recorded_as_history_has_it(decisions, reported):
    assert any(row["transaction_id"] in CHARGED for row in REPLAYED)
    assert any(row["event_timestamp"] < LOADED_UNTIL <= row["created_timestamp"] for row in CHARGEBACKS)
    counted = [line["features"][FRAUDS] for name, line in decisions.items() if name.startswith("after m")]
    assert sum(counted) > 1


def test_a_chargeback_is_refused_until_what_its_transaction_has_is_in_the_lake(reported):
    before, after = reported.pop("older")
    assert (before.status_code, before.json()["type"]) == (409, "/problems/history-not-loaded")
    assert "fraud parity does at once), then send this again" in before.json()["detail"]
    assert after.status_code == 200
    assert {answer.status_code for answers in reported.values() for answer in answers} == {200}
    first, again = reported["live2"]
    assert (first.content, again.headers["idempotent-replayed"]) == (again.content, "true")


def test_the_lake_keeps_as_of_when_a_transaction_was_scored(home, decisions):
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        query = (
            f"SELECT transaction_id, scored_timestamp FROM {snapshot(settings().lake / 'transactions').sql}"
        )
        kept = dict(connection.execute(query).fetchall())
    for name, line in decisions.items():
        scored = moment(line["known_as_of_us"])
        assert kept[name] == (None if name.startswith(("replayed", "t")) else scored)
    assert [kept[row["transaction_id"]] for row in TRANSACTIONS] == [None] * len(TRANSACTIONS)


def test_what_the_service_recorded_is_what_a_load_of_the_lake_gives(home, decisions):
    now, store = datetime.now(UTC), open_store()
    service = store.get_feature_service(SERVICE)
    row = {"customer_id": "new", "terminal_id": "new", "event_timestamp": now}
    names = [LARGEST, TOTAL, FRAUDS, FRAUD_TOTAL]

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


@pytest.fixture
def serving(home, decisions):
    one = Serving.open()
    yield one
    one.close()


def chargeback(serving, name):
    return send(serving, "chargeback", {"transaction_id": name, "reason_code": "10.4"})


def test_what_waited_for_the_store_is_taken_over_too(home, serving):
    """And without its index the journal tells the same."""
    row = {**TRANSACTIONS[0], "created_timestamp": None, "event_timestamp": datetime.now(UTC)}
    first, second = (body_of(row, transaction_id=name) for name in ("waits", "next"))
    with standing_still(pid_of(home)):
        assert deployments.score(serving, first)["degraded"] == "features-unavailable"
    with pytest.raises(Problem, match="nothing was done; send the same again"):
        chargeback(serving, "waits")
    time.sleep(PAUSE_S)
    with pytest.raises(HistoryNeededError) as needed:
        chargeback(serving, "waits")
    body = json.dumps({"transaction_id": "waits", "reason_code": "10.4"}).encode()
    with pytest.raises(Problem, match="transaction 'waits' was recorded without a column"):
        serving.answer("chargeback", body, 0, needed.value.look_up())
    deployments.score(serving, second)
    lines = [e for e in read_events(home / "journal") if e["transaction_id"] == "waits"]
    assert [list(derived_of_event(line).values()) for line in lines] == [[], [None]]
    serving.close()
    (home / "journal" / "seen.db").unlink()
    with closing(Serving.open()) as again:
        assert not chargeback(again, "waits").repeated
        assert chargeback(again, "waits").repeated


def test_what_is_computed_of_an_event_that_waited_and_finds_no_room_in_the_journal_is_no_fault_of_the_store(
    home, serving, monkeypatch
):
    row = {**TRANSACTIONS[0], "customer_id": "no room"}
    with standing_still(pid_of(home)):
        assert deployments.score(serving, live(row))["degraded"] == "features-unavailable"
    time.sleep(PAUSE_S)
    monkeypatch.setattr(serving.recording.journal, "_limit", 0)
    with full_disk():
        answer = deployments.score(serving, live(row))
    assert (answer["degraded"], answer["score"] is None) == (LOST, False)
