"""The service's work within one process: real engine, real Valkey, real journal; only HTTP is left out."""

import json
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
import redis

from bento import online
from bento.champion import Champions
from bento.metrics import STAGES
from bento.patient_journal import RETRY_S
from bento.problem import Problem
from bento.recording import PAUSE_S
from bento.serving import MAX_BATCH, Serving
from feature_repo.journal import read_decisions, read_events
from feature_repo.settings import settings
from feature_repo.store import open_store
from feature_repo.windows import embedded
from feature_repo.windows.plan import OnlinePlan
from feature_repo.windows.wire import command, exchange
from pipelines.load_journal import load_journal
from tests import deployments
from tests.deployments import (
    LOADED_UNTIL,
    SERVICE,
    after_load,
    body_of,
    events,
    opened,
    report_of,
    score,
    send,
    wait_for,
    with_bundle,
)
from tests.exposition import shown
from tests.faults import full_disk, pid_of, standing_still
from tests.journals import line_of
from training.bundle import Bundle
from training.policy import Policy

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
COORDINATES = ("customer_latitude", "customer_longitude", "terminal_latitude", "terminal_longitude")
TRANSACTIONS, CHARGEBACKS = events()
LATER = after_load(TRANSACTIONS)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    home = tmp_path_factory.mktemp("scoring")
    with with_bundle(home, TRANSACTIONS, CHARGEBACKS):
        yield home


@pytest.fixture
def serving(deployment):
    with closing(opened(deployment)) as one:
        yield one


def fresh(row=LATER[0], **changes):
    return deployments.fresh(row, **changes)


def problem_of(serving, verb, request):
    with pytest.raises(Problem) as raised:
        send(serving, verb, request)
    return raised.value


def events_of(home, transaction_id):
    return [line for line in read_events(home / "journal") if line["transaction_id"] == transaction_id]


def test_a_decision_is_the_model_s_on_the_features_that_the_journal_holds(serving, deployment):
    request = fresh()
    answer = score(serving, request)
    line = line_of(deployment, request["transaction_id"])
    bundle = Bundle.load(deployment / "bundle")
    values = np.array([[np.nan if v is None else v for v in line["features"].values()]])
    assert tuple(line["features"]) == bundle.feature_names
    assert bundle.score(values)[0] == line["score"] == answer["score"]
    assert answer["decision"] == bundle.decide(line["score"], line["request"]["amount_usd_cents"])
    assert answer["model"] == {"name": "fraud", "version": "7"}
    assert answer["feature_service"] == SERVICE
    assert answer["degraded"] is None
    assert (line["model_name"], line["model_version"]) == ("fraud", "7")
    assert line["definitions_digest"] == bundle.definitions_digest


def test_served_features_are_the_offline_ones_to_the_bit(tmp_path):
    """The whole stretch in order of known time, chargebacks between, each transaction recorded after scoring."""
    reported = [row for row in CHARGEBACKS if row["created_timestamp"] >= LOADED_UNTIL]
    arrivals = sorted([*LATER, *reported], key=lambda row: row["created_timestamp"])
    # In a home of its own: afterwards its states no longer reach back to where the other tests score.
    with with_bundle(tmp_path, TRANSACTIONS, CHARGEBACKS), closing(opened(tmp_path)) as serving:
        for row in arrivals:
            if "reason_code" in row:
                send(serving, "chargeback", report_of(row))
            else:
                assert score(serving, body_of(row))["degraded"] is None
        load_journal(tmp_path / "journal", settings().lake)
        lines = list(read_decisions(tmp_path / "journal"))
        assert len(lines) == len(LATER)
        assert any(line["state_seen"]["customer_activity"] for line in lines)
        store = open_store()
        offline = store.get_historical_features(asked_of(lines), store.get_feature_service(SERVICE)).to_df()
    for name in lines[0]["features"]:
        served = [np.nan if line["features"][name] is None else line["features"][name] for line in lines]
        recomputed = offline[name].to_numpy(np.float64, na_value=np.nan)
        np.testing.assert_array_equal(np.array(served).view(np.int64), recomputed.view(np.int64), name)


def asked_of(lines):
    """The entity frame that asks again what the journalled decisions asked."""
    times = {"event_timestamp": "event_timestamp_us", "created_timestamp": "known_as_of_us"}
    return pd.DataFrame(
        {name: [line[name] for line in lines] for name in ("customer_id", "terminal_id")}
        | {name: [EPOCH + timedelta(microseconds=line[us]) for line in lines] for name, us in times.items()}
        | {name: pd.Series([line["request"][name] for line in lines], dtype=float) for name in COORDINATES}
        | {"amount_usd_cents": [line["request"]["amount_usd_cents"] for line in lines]}
    )


def test_a_transaction_never_sees_itself_but_the_next_one_sees_it(serving, deployment):
    first = fresh(customer_id="newcomer")
    assert score(serving, first)["degraded"] is None
    later = LATER[0]["event_timestamp"] + timedelta(seconds=1)
    known = LATER[0]["created_timestamp"] + timedelta(seconds=1)
    second = fresh(customer_id="newcomer", event_timestamp=later, created_timestamp=known)
    score(serving, second)
    before, after = (line_of(deployment, request["transaction_id"]) for request in (first, second))
    assert before["features"]["customer_transactions_count_7d"] == 0
    assert after["features"]["customer_transactions_count_7d"] == 1
    assert (before["state_seen"]["customer_activity"], after["state_seen"]["customer_activity"]) == (0, 1)


def test_a_customer_and_a_terminal_never_seen_are_no_error(serving):
    assert score(serving, fresh(customer_id="nobody", terminal_id="nowhere"))["degraded"] is None


def test_the_known_time_of_a_live_transaction_is_the_store_s_clock(serving, deployment):
    before = time.time_ns() // 1000 - 1_000_000
    request = fresh(created_timestamp=None)
    score(serving, request)
    line = line_of(deployment, request["transaction_id"])
    (event,) = events_of(deployment, request["transaction_id"])
    assert before < line["known_as_of_us"] <= event["created_timestamp_us"] == line["created_timestamp_us"]
    assert line["created_timestamp_us"] < time.time_ns() // 1000 + 1_000_000


@pytest.mark.parametrize(("given", "recorded"), [("declined", "declined"), (None, None)])
def test_a_scored_transaction_is_recorded_with_its_outcome(serving, deployment, given, recorded):
    request = fresh(status=given)
    answer = score(serving, request)
    outcomes = {"approve": "approved", "review": "pending", "decline": "declined"}
    (event,) = events_of(deployment, request["transaction_id"])
    assert event["status"] == (recorded or outcomes[answer["decision"]])
    assert event["amount"] == f"{LATER[0]['amount']:.4f}"
    assert event["table"] == "transactions"


def test_the_same_request_again_gives_the_first_answer_and_is_recorded_once(serving, deployment):
    request = fresh()
    first, second = (send(serving, "score", request) for _ in range(2))
    assert (first.repeated, second.repeated) == (False, True)
    assert first.body == second.body
    line_of(deployment, request["transaction_id"])
    assert len(events_of(deployment, request["transaction_id"])) == 1


def test_the_same_transaction_written_otherwise_is_the_same(serving):
    request = fresh(amount="12.50")
    first = send(serving, "score", request)
    again = {**request, "amount": 12.5, "currency": "USD", "created_timestamp": None, "status": "declined"}
    assert send(serving, "score", again).body == first.body


@pytest.mark.parametrize("change", [{"amount": "99.99"}, {"customer_id": "other"}, {"channel": "phone"}])
def test_an_id_with_other_content_is_a_conflict(serving, deployment, change):
    request = fresh()
    score(serving, request)
    for verb in ("score", "transaction"):
        found = problem_of(serving, verb, {**request, **change})
        assert (found.status, found.field) == (409, "transaction_id")
    line_of(deployment, request["transaction_id"])


def test_another_process_knows_what_was_answered_before_it(serving, deployment):
    request = fresh()
    first = send(serving, "score", request)
    after = opened(deployment)
    try:
        again = send(after, "score", request)
        assert (again.body, again.repeated) == (first.body, True)
        assert problem_of(after, "score", {**request, "amount": "1"}).status == 409
    finally:
        after.close()


def test_without_its_index_the_journal_is_read_again(serving, deployment):
    request, recorded = fresh(), fresh()
    first = send(serving, "score", request)
    send(serving, "transaction", recorded)
    for path in (deployment / "journal").glob("seen.db*"):
        path.unlink()
    after = opened(deployment)
    try:
        assert send(after, "score", request).body == first.body
        assert send(after, "transaction", recorded).repeated
        assert problem_of(after, "transaction", {**recorded, "amount": "1"}).status == 409
    finally:
        after.close()


def test_a_damaged_index_is_made_again(deployment):
    one = opened(deployment)
    request = fresh()
    first = send(one, "score", request)
    one.close()
    for path in (deployment / "journal").glob("seen.db-*"):
        path.unlink()
    (deployment / "journal" / "seen.db").write_bytes(b"not a database" * 1000)
    after = opened(deployment)
    try:
        assert send(after, "score", request).body == first.body
    finally:
        after.close()


def test_a_recorded_transaction_counts_but_has_no_decision(serving, deployment):
    request = fresh(customer_id="recorded")
    answer = json.loads(send(serving, "transaction", request).body)
    assert answer["created_timestamp"] == LATER[0]["created_timestamp"].isoformat()
    assert send(serving, "transaction", request).repeated
    (event,) = events_of(deployment, request["transaction_id"])
    assert event["status"] == LATER[0]["status"]
    later = LATER[0]["created_timestamp"] + timedelta(seconds=1)
    asked = fresh(customer_id="recorded", event_timestamp=later, created_timestamp=later)
    score(serving, asked)
    assert line_of(deployment, asked["transaction_id"])["features"]["customer_transactions_count_7d"] == 1


def test_a_transaction_may_be_recorded_first_and_scored_after(serving):
    request = fresh()
    send(serving, "transaction", request)
    answer = send(serving, "score", request)
    assert not answer.repeated
    assert send(serving, "score", request).body == answer.body


def test_a_chargeback_of_a_scored_transaction_needs_only_its_code(serving, deployment):
    request = fresh()
    score(serving, request)
    chargeback = {"transaction_id": request["transaction_id"], "reason_code": "10.4"}
    answer = send(serving, "chargeback", chargeback)
    assert send(serving, "chargeback", chargeback).repeated
    assert json.loads(answer.body)["table"] == "chargebacks"
    line = line_of(deployment, request["transaction_id"])
    event = next(e for e in events_of(deployment, request["transaction_id"]) if e["table"] == "chargebacks")
    assert {name: event[name] for name in ("customer_id", "terminal_id", "event_timestamp_us")} == {
        name: line[name] for name in ("customer_id", "terminal_id", "event_timestamp_us")
    }
    assert event["amount_usd_cents"] == line["request"]["amount_usd_cents"]
    other = {**chargeback, "reason_code": "13.1"}
    found = problem_of(serving, "chargeback", other)
    assert (found.status, "what was reported first stands" in found.detail) == (409, True)


def test_a_chargeback_of_an_unknown_transaction_asks_for_its_columns(serving):
    found = problem_of(serving, "chargeback", {"transaction_id": "unheard of", "reason_code": "10.4"})
    assert (found.kind, found.field, found.status) == ("unknown-transaction", "customer_id", 422)
    assert "amount_usd_cents" in found.detail


def test_a_chargeback_that_contradicts_its_transaction_is_a_conflict(serving):
    request = fresh()
    score(serving, request)
    chargeback = {"transaction_id": request["transaction_id"], "reason_code": "10.4", "customer_id": "other"}
    found = problem_of(serving, "chargeback", chargeback)
    assert (found.status, found.field) == (409, "customer_id")


def test_a_chargeback_before_its_transaction_is_refused(serving):
    request = fresh()
    score(serving, request)
    early = (LATER[0]["event_timestamp"] - timedelta(days=1)).isoformat()
    chargeback = {
        "transaction_id": request["transaction_id"],
        "reason_code": "10.4",
        "created_timestamp": early,
    }
    assert problem_of(serving, "chargeback", chargeback).field == "created_timestamp"


def test_rules_decide_when_the_store_hangs_and_the_events_are_recorded_when_it_answers(serving, deployment):
    requests = [fresh(customer_id="through the outage") for _ in range(450)]
    with standing_still(pid_of(deployment)):
        began = time.monotonic()
        answers = [score(serving, request) for request in requests]
        # One try in a second is all that a hung store may cost: the payments behind it must not wait.
        took = time.monotonic() - began
        assert took < 2 + 3 * online.STORE_TIMEOUT_S * (1 + took / PAUSE_S)
        assert {(each["degraded"], each["score"]) for each in answers} == {("features-unavailable", None)}
        assert {answer["decision"] for answer in answers} <= {"approve", "review"}
        line = line_of(deployment, requests[0]["transaction_id"])
        assert (line["features"], line["state_seen"]) == ({}, {})
        reported = {**report_of(CHARGEBACKS[0]), "transaction_id": "x1"}
        assert problem_of(serving, "chargeback", reported).status == 503
    time.sleep(PAUSE_S)
    later = LATER[0]["created_timestamp"] + timedelta(seconds=1)
    asked = [
        fresh(customer_id="through the outage", event_timestamp=later, created_timestamp=later)
        for _ in range(3)
    ]
    assert [score(serving, request)["degraded"] for request in asked] == ["store-catching-up"] * 2 + [None]
    last = line_of(deployment, asked[-1]["transaction_id"])
    assert last["features"]["customer_transactions_count_7d"] == len(requests)
    assert all(
        len(events_of(deployment, r["transaction_id"])) == 1 for r in (requests[0], requests[-1], *asked)
    )


def test_a_high_amount_is_for_review_when_only_the_rules_can_decide(serving, deployment):
    with standing_still(pid_of(deployment)):
        assert score(serving, fresh(amount="450"))["decision"] == "review"


def test_without_a_champion_everything_is_for_review_and_says_why(deployment):
    serving = Serving.open(Champions(alias=lambda: None))
    try:
        request = fresh()
        answer = score(serving, request)
        assert not serving.ready
        assert (answer["decision"], answer["degraded"], answer["model"]) == ("review", "no-model", None)
        assert "fraud train" in serving.model()["refused"]
        assert len(events_of(deployment, request["transaction_id"])) == 1
        assert send(serving, "score", request).repeated
    finally:
        serving.close()


class _Broken:
    """A bundle whose model fails; the rest of it works."""

    def __init__(self, bundle):
        self.__dict__.update(vars(bundle))
        self.bundle = bundle

    def __getattr__(self, name):
        return getattr(self.bundle, name)

    def score(self, values):
        raise RuntimeError("the graph is gone")


def test_rules_decide_when_the_model_fails_and_the_features_are_journalled(serving, deployment):
    champion = serving.champions.current
    serving.champions.current = type(champion)(_Broken(champion.bundle), champion.version, champion.plan)
    request = fresh()
    answer = score(serving, request)
    assert (answer["degraded"], answer["score"]) == ("model-failed", None)
    assert len(line_of(deployment, request["transaction_id"])["features"]) == len(champion.plan.feature_names)


class _Speechless(_Broken):
    """A bundle whose rules fail too."""

    def decide_without_model(self, row):
        raise RuntimeError("the rules are gone")


def test_where_the_rules_fail_too_the_policy_s_default_decides(serving, deployment, monkeypatch):
    champion = serving.champions.current
    bundle = _Speechless(champion.bundle)
    bundle.spec = replace(bundle.spec, policy=Policy(default="decline"))
    monkeypatch.setattr(serving.champions, "current", replace(champion, bundle=bundle))
    answer = score(serving, fresh(amount="0.01"))
    assert (answer["decision"], answer["score"], answer["degraded"]) == ("decline", None, "rules-failed")
    assert answer["reasons"] == ["RULE_NONE"]


class _Refusing:
    """A recorder into views of which none can take the event."""

    def __init__(self, recorder):
        self.recorder = recorder

    def __getattr__(self, name):
        return getattr(self.recorder, name)

    def write_each(self, source, events, taken=()):
        return [ValueError("a value that no window can hold") for _ in events]


def test_an_event_that_no_view_can_take_is_decided_and_reaches_history(
    serving, deployment, monkeypatch, caplog
):
    monkeypatch.setattr(serving.recording, "_recorder", _Refusing(serving.recording._recorder))
    request = fresh()
    assert score(serving, request)["degraded"] is None
    assert "no view can take an event" in caplog.text
    assert len(events_of(deployment, request["transaction_id"])) == 1
    line_of(deployment, request["transaction_id"])


def test_a_store_that_hangs_is_asked_once(deployment):
    client = online.online_client(online.open_serving_store())
    with redis.Redis(unix_socket_path=str(embedded.socket_path(deployment))) as other:
        client.ping()
        with standing_still(int(other.info("server")["process_id"])), pytest.raises(redis.TimeoutError):
            exchange(client, [command("INCR", "asked")])
        wait_for(lambda: other.get("asked") is not None)
        assert int(other.get("asked")) == 1
        other.delete("asked")


def test_while_the_journal_s_disk_is_full_payments_are_decided_and_what_is_only_recorded_is_refused(
    serving, deployment
):
    before, request, recorded = fresh(), fresh(), fresh()
    score(serving, before)
    with full_disk():
        first = send(serving, "score", request)
        answer = json.loads(first.body)
        assert (answer["degraded"], answer["model"]["version"]) == ("journal-in-memory", "7")
        assert answer["score"] is not None
        again = send(serving, "score", request)
        assert (again.body, again.repeated) == (first.body, True)
        assert problem_of(serving, "score", {**request, "amount": "1"}).status == 409
        assert problem_of(serving, "transaction", recorded).status == 503
        assert shown(serving.metrics)["fraud_journal_waiting_lines",] == 2
    time.sleep(RETRY_S)
    assert score(serving, fresh())["degraded"] is None
    assert send(serving, "score", request).body == first.body
    assert not send(serving, "transaction", recorded).repeated
    assert line_of(deployment, request["transaction_id"])["degraded"] == "journal-in-memory"
    for each in (before, request, recorded):
        assert len(events_of(deployment, each["transaction_id"])) == 1
    assert shown(serving.metrics)["fraud_journal_waiting_lines",] == 0


def test_a_batch_asks_and_leaves_no_trace(serving, deployment):
    lines_before = sum(1 for _ in read_decisions(deployment / "journal"))
    asked = [fresh(customer_id="asked about"), fresh(customer_id="asked about", created_timestamp=None)]
    answers = serving.what_if(asked)
    assert [a["transaction_id"] for a in answers] == [r["transaction_id"] for r in asked]
    assert all(0 <= a["score"] <= 1 for a in answers)
    assert sum(1 for _ in read_decisions(deployment / "journal")) == lines_before
    assert not any(events_of(deployment, r["transaction_id"]) for r in asked)
    assert score(serving, asked[0])["score"] == answers[0]["score"]


def test_an_instant_before_the_state_s_history_is_left_to_the_rules(serving, deployment):
    early = min(TRANSACTIONS, key=lambda row: row["event_timestamp"])
    request = fresh(early)
    assert score(serving, request)["degraded"] == "history-dropped"
    assert line_of(deployment, request["transaction_id"])["features"] == {}
    with pytest.raises(Problem) as raised:
        serving.what_if([request])
    assert (raised.value.kind, raised.value.status) == ("history-dropped", 422)


def test_a_batch_names_the_row_and_field_that_is_wrong(serving):
    with pytest.raises(Problem) as raised:
        serving.what_if([fresh(), fresh(amount="-1")])
    assert raised.value.field == "transactions[1].amount"
    for wrong in ([], [fresh()] * (MAX_BATCH + 1)):
        with pytest.raises(Problem) as raised:
            serving.what_if(wrong)
        assert raised.value.field == "transactions"


def test_the_model_page_says_what_serves(serving, deployment):
    page = serving.model()
    plan = OnlinePlan.compile(open_store(), SERVICE)
    assert (page["ready"], page["refused"], page["version"]) == (True, None, "7")
    assert tuple(page["features"]) == plan.feature_names
    assert page["definitions_digest"] == plan.digest


def test_metrics_count_decisions_and_stages(serving):
    score(serving, fresh())
    request = fresh()
    before = shown(serving.metrics)
    score(serving, request)
    score(serving, request)
    after = shown(serving.metrics)
    risen = {name: after[name] - before.get(name, 0) for name in after}
    counts = {stage: risen.get(("fraud_stage_seconds_count", stage)) for stage in STAGES}
    assert counts == dict.fromkeys(STAGES, 1)
    seconds = {stage: risen["fraud_stage_seconds_sum", stage] for stage in STAGES}
    assert all(seconds.values())
    assert sum(seconds.values()) - seconds["total"] == pytest.approx(seconds["total"])
    assert sum(risen[name] for name in risen if name[0] == "fraud_decisions_total") == 1
    assert risen["fraud_repeats_total",] == 1
    assert after["fraud_model_info", "fraud", "7"] == 1
