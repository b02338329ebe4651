"""The routes over the real engine, within one process: batches, features and decisions to look at."""

import asyncio
import json
from contextlib import closing
from datetime import datetime, timedelta
from urllib.parse import quote

import httpx
import pytest

from bento.explanations import Explanations
from bento.reasons import reasons_of
from bento.score_batch import MAX_BATCH, MAX_BATCH_BYTES
from feature_repo.decision_reasons import REASONS
from feature_repo.journal import read_decisions, read_events
from feature_repo.store import open_store
from tests import deployments
from tests.asgi import JSON, client_over, kind_of, problem_of
from tests.deployments import SERVICE, after_load, body_of, events, opened, with_bundle
from tests.journals import line_of
from training.bundle import Bundle
from training.policy import Policy

TRANSACTIONS, CHARGEBACKS = events(seed=3, count=400)
LATER = after_load(TRANSACTIONS)
ROW = LATER[0]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("routes")
    with with_bundle(folder, TRANSACTIONS, CHARGEBACKS):
        yield folder


@pytest.fixture(scope="module")
def serving(home):
    with closing(opened(home)) as one:
        yield one


@pytest.fixture
def client(serving):
    return client_over(serving)


def fresh(row=ROW, **changes):
    return deployments.fresh(row, **changes)


def journalled(home):
    return sum(1 for _ in read_decisions(home / "journal")) + sum(1 for _ in read_events(home / "journal"))


# --- /v1/score/batch


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_batch_decides_records_and_journals_each_in_order(client, home, wrapped):
    """One customer's transactions: each sees those before it, as when they are sent one by one."""
    instants = [ROW["created_timestamp"] + timedelta(seconds=second) for second in range(4)]
    customer = f"of a batch {wrapped}"
    batch = [fresh(customer_id=customer, event_timestamp=at, created_timestamp=at) for at in instants]
    answers = client.post("/v1/score/batch", json={"transactions": batch} if wrapped else batch)
    assert answers.headers["content-type"] == "application/json"
    assert [answer["transaction_id"] for answer in answers.json()] == [
        each["transaction_id"] for each in batch
    ]
    lines = [line for line in read_decisions(home / "journal") if line["customer_id"] == customer]
    assert [line["features"]["customer_transactions_count_7d"] for line in lines] == [0, 1, 2, 3]
    assert [line["score"] for line in lines] == [answer["score"] for answer in answers.json()]
    recorded = [event for event in read_events(home / "journal") if event["customer_id"] == customer]
    assert [event["transaction_id"] for event in recorded] == [each["transaction_id"] for each in batch]


def test_an_element_that_is_refused_keeps_no_other_from_being_decided(client, home):
    good = [fresh(), fresh(), fresh()]
    wrong = [{**fresh(), "amount": -1}, 7, {**good[0], "amount": "1"}, {**fresh(), "amout": 1}]
    before = journalled(home)
    answers = client.post("/v1/score/batch", json=[good[0], *wrong[:2], good[1], *wrong[2:], good[2]]).json()
    decided = [answers[place] for place in (0, 3, 6)]
    refused = [answers[place] for place in (1, 2, 4, 5)]
    assert [answer["transaction_id"] for answer in decided] == [each["transaction_id"] for each in good]
    assert [kind_of(each) for each in refused] == [
        "invalid-value",
        "invalid-json",
        "conflict",
        "unknown-field",
    ]
    assert [each.get("field") for each in refused] == ["amount", None, "transaction_id", "amout"]
    assert journalled(home) == before + 2 * len(good)


def test_a_batch_sent_again_gets_the_first_answers(client, home):
    batch = [fresh() for _ in range(3)]
    first = client.post("/v1/score/batch", json=[*batch, batch[0]])
    before = journalled(home)
    assert first.json()[3] == first.json()[0]
    again = client.post("/v1/score/batch", json=[*batch, batch[0]])
    assert again.content == first.content
    alone = client.post("/v1/score", json=batch[1])
    assert (alone.json(), alone.headers["idempotent-replayed"]) == (first.json()[1], "true")
    assert journalled(home) == before


@pytest.mark.parametrize(
    ("body", "kind", "field"),
    [
        (b"{bad", "invalid-json", None),
        (b"", "invalid-json", None),
        (b"7", "invalid-json", None),
        (b"{}", "missing-field", "transactions"),
        (b'{"transactions": null}', "wrong-type", "transactions"),
        (b'{"transactions": [{}], "more": 1}', "unknown-field", "more"),
        (b"[]", "invalid-value", "transactions"),
        (json.dumps([{}] * (MAX_BATCH + 1)).encode(), "invalid-value", "transactions"),
        (b" " * (MAX_BATCH_BYTES + 1), "body-too-large", None),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)
def test_what_is_no_batch_is_refused_whole(client, home, body, kind, field):
    before = journalled(home)
    answer = client.post("/v1/score/batch", content=body, headers=JSON)
    found, document = problem_of(answer)
    assert (found, document.get("field")) == (kind, field)
    assert journalled(home) == before


def test_a_batch_must_be_declared_as_json(client):
    assert problem_of(client.post("/v1/score/batch", content=b"[{}]"))[0] == "media-type"


def test_other_requests_are_answered_between_the_elements_of_a_batch(client):
    async def both():
        order = []
        async with httpx.AsyncClient(transport=client.transport, base_url="http://service") as one:

            async def ask(name, path, body):
                await one.post(path, json=body)
                order.append(name)

            batch = ask("batch", "/v1/score/batch", [fresh() for _ in range(20)])
            await asyncio.gather(batch, ask("alone", "/v1/score", fresh()))
        return order

    assert asyncio.run(both()) == ["alone", "batch"]


def test_a_failure_inside_is_told_of_its_element_alone(client, serving, monkeypatch, caplog):
    settle = serving._scorer._settle
    wanted = fresh()

    def fail(case, group):
        if case.transaction.transaction_id == wanted["transaction_id"]:
            raise RuntimeError("the secret")
        settle(case, group)

    monkeypatch.setattr(serving._scorer, "_settle", fail)
    answers = client.post("/v1/score/batch", json=[fresh(), wanted, fresh()])
    assert ["type" in answer for answer in answers.json()] == [False, True, False]
    assert kind_of(answers.json()[1]) == "internal-error"
    assert "the secret" not in answers.text
    assert "the secret" in caplog.text


# --- /v1/features


def asked(row=ROW, **changes):
    """The question about a transaction: the same fields but for its id, outcome and content."""
    not_asked = ("transaction_id", "status", "channel", "category")
    return {name: value for name, value in body_of(row).items() if name not in not_asked} | changes


def test_features_are_those_that_a_decision_at_that_instant_sees(client, home):
    request = fresh()
    before = journalled(home)
    answer = client.post("/v1/features", json=asked())
    assert journalled(home) == before
    client.post("/v1/score", json=request)
    line = line_of(home, request["transaction_id"])
    shown = answer.json()
    assert shown["features"] == line["features"]
    assert shown["state_seen"] == line["state_seen"]
    assert shown["model"] == {"name": "fraud", "version": "7"}
    assert (shown["feature_service"], shown["definitions_digest"]) == (SERVICE, line["definitions_digest"])
    assert datetime.fromisoformat(shown["event_timestamp"]) == ROW["event_timestamp"]
    assert datetime.fromisoformat(shown["known_as_of"]) == ROW["created_timestamp"]


def test_without_an_instant_it_is_now_and_what_is_not_given_is_null(client):
    answer = client.post("/v1/features", json={"customer_id": "nobody", "terminal_id": "nowhere"}).json()
    now = datetime.now(ROW["event_timestamp"].tzinfo)
    assert timedelta(0) <= now - datetime.fromisoformat(answer["event_timestamp"]) < timedelta(minutes=1)
    assert answer["features"]["customer_transactions_count_7d"] == 0
    assert answer["features"]["customer_amount_usd_cents_mean_7d"] is None
    assert answer["features"]["amount_log"] is None
    assert answer["features"]["distance_km"] is None


@pytest.mark.parametrize(
    ("change", "kind", "field"),
    [
        ({"terminal_id": None}, "missing-field", "terminal_id"),
        ({"customer_id": 7}, "wrong-type", "customer_id"),
        ({"transaction_id": "t1"}, "unknown-field", "transaction_id"),
        ({"currency": "QQQ"}, "invalid-value", "currency"),
        ({"event_timestamp": "2125-01-01T00:00:00Z"}, "in-the-future", "event_timestamp"),
        ({"created_timestamp": "1999-01-01T00:00:00Z"}, "invalid-value", "created_timestamp"),
        ({"event_timestamp": "2025-03-01T00:00:01Z", "created_timestamp": None}, "history-dropped", None),
    ],
)
def test_a_question_that_cannot_be_answered_names_the_field(client, change, kind, field):
    found, document = problem_of(client.post("/v1/features", json=asked(**change)))
    assert (found, document.get("field")) == (kind, field)


def test_without_a_champion_there_are_no_features_to_ask_for(client, serving, monkeypatch):
    monkeypatch.setattr(serving.champions, "current", None)
    answer = client.post("/v1/features", json=asked())
    assert (problem_of(answer)[0], answer.headers["retry-after"]) == ("unavailable", "1")


# --- /v1/decisions


def test_a_decision_is_shown_with_all_it_was_made_from(client, home):
    request = fresh(transaction_id="a decision/with ü")
    answer = client.post("/v1/score", json=request).json()
    shown = client.get(f"/v1/decisions/{quote(request['transaction_id'], safe='')}").json()
    line = line_of(home, request["transaction_id"])
    assert {name: shown[name] for name in answer if name != "reasons"} == {
        name: answer[name] for name in answer if name != "reasons"
    }
    for name in ("features", "request", "state_seen", "definitions_digest", "customer_id", "terminal_id"):
        assert shown[name] == line[name]
    assert shown["policy"] == Policy().as_dict() == Bundle.load(home / "bundle").spec.policy.as_dict()
    for name in ("event_timestamp", "known_as_of", "created_timestamp", "decided_at"):
        instant = datetime.fromisoformat(shown[name])
        assert instant == datetime.fromtimestamp(0, instant.tzinfo) + timedelta(
            microseconds=line[f"{name}_us"]
        )


def test_a_decision_without_a_model_is_shown_as_such(client, serving, monkeypatch):
    monkeypatch.setattr(serving.champions, "current", None)
    request = fresh()
    client.post("/v1/score", json=request)
    shown = client.get(f"/v1/decisions/{request['transaction_id']}").json()
    assert (shown["degraded"], shown["model"], shown["policy"], shown["features"]) == (
        "no-model",
        None,
        None,
        {},
    )
    assert [each["code"] for each in shown["reasons"]] == ["NO_MODEL"]


def test_a_decline_says_why_and_an_approval_is_explained_when_asked(client, home):
    found = {}
    for row in LATER[:20]:
        for amount in ("0.01", str(row["amount"])):
            answer = client.post("/v1/score", json=fresh(row, amount=amount)).json()
            found.setdefault(answer["decision"], answer)
    bundle = Bundle.load(home / "bundle")
    lines = {line["transaction_id"]: line for line in read_decisions(home / "journal")}
    for decision, answer in found.items():
        line = lines[answer["transaction_id"]]
        assert answer["reasons"] == line["reasons"]
        shown = client.get(f"/v1/decisions/{answer['transaction_id']}").json()["reasons"]
        expected = reasons_of(bundle, line["features"], decision, line["request"]["amount_usd_cents"])
        assert shown == json.loads(json.dumps([each.as_dict() for each in expected]))
        assert shown
        if decision == "approve":
            assert answer["reasons"] == []
            assert {each["direction"] for each in shown} == {"lowers"}
        else:
            assert answer["reasons"] == [each["code"] for each in shown]
    assert set(found) == {"approve", "review", "decline"}


def test_a_decision_of_an_earlier_version_is_explained_by_that_version(client, serving, home, monkeypatch):
    request = fresh()
    client.post("/v1/score", json=request)
    path = f"/v1/decisions/{request['transaction_id']}"
    before = client.get(path).json()["reasons"]
    asked = []

    def load(version):
        asked.append(version)
        return Bundle.load(home / "bundle")

    monkeypatch.setattr(serving, "explanations", Explanations(lambda: None, load))
    assert [client.get(path).json()["reasons"] for _ in range(2)] == [before, before]
    assert asked == ["7"]


def test_of_a_model_that_is_gone_the_journalled_codes_are_left(client, serving, monkeypatch):
    answer = next(
        answer
        for row in LATER
        if (answer := client.post("/v1/score", json=fresh(row)).json())["decision"] != "approve"
    )

    def gone(version):
        raise LookupError(f"no version {version}")

    monkeypatch.setattr(serving, "explanations", Explanations(lambda: None, gone))
    shown = client.get(f"/v1/decisions/{answer['transaction_id']}").json()["reasons"]
    assert [each["code"] for each in shown] == answer["reasons"]
    assert [each["sentence"] for each in shown] == [REASONS[code].sentence for code in answer["reasons"]]
    assert {each["contribution"] for each in shown} == {None}


@pytest.mark.parametrize("transaction_id", ["unheard of", "%ED%A0%80", "%00", "x" * 5000])
def test_a_decision_that_is_not_known_is_not_found(client, transaction_id):
    answer = client.get(f"/v1/decisions/{transaction_id}")
    assert (answer.status_code, problem_of(answer)[0]) == (404, "unknown-decision")


def test_what_was_only_recorded_has_no_decision(client):
    request = fresh()
    client.post("/v1/transactions", json=request)
    assert problem_of(client.get(f"/v1/decisions/{request['transaction_id']}"))[0] == "unknown-decision"


def test_a_journal_that_cannot_be_read_is_said_so(client, home):
    request = fresh()
    client.post("/v1/score", json=request)
    (path,) = (home / "journal").glob("decisions-*.jsonl")
    path.rename(path.with_suffix(".away"))
    try:
        found = problem_of(client.get(f"/v1/decisions/{request['transaction_id']}"))[0]
    finally:
        path.with_suffix(".away").rename(path)
    assert found == "unavailable"


def test_the_same_features_are_served_by_feast(client):
    answer = client.post("/v1/features", json=asked()).json()["features"]
    store = open_store()
    row = {
        name: ROW[name] for name in ("customer_id", "terminal_id", "event_timestamp", "created_timestamp")
    } | {
        name: ROW[name]
        for name in (
            *("amount_usd_cents", "customer_latitude", "customer_longitude"),
            *("terminal_latitude", "terminal_longitude"),
        )
    }
    found = store.get_online_features(store.get_feature_service(SERVICE), [row]).to_dict()
    for name, value in answer.items():
        assert found[name] == [value], name
