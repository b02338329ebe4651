"""Requests that wait together are decided together, and each is answered as if it had been alone."""

import asyncio
import json
from contextlib import closing
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from bento.case import Case, Reply
from bento.deadline import Deadline
from bento.patient_journal import IN_MEMORY
from bento.request import parse_transaction
from bento.score_batch import MOST_TOGETHER
from bento.together import Together
from bento.tracing import Trace, current_trace
from feature_repo.journal import now_us
from pipelines.parity import parity
from tests import deployments
from tests.asgi import app_over, client_over
from tests.clocks import Clock
from tests.deployments import LOADED_UNTIL, body_of, events, opened, with_bundle
from tests.faults import full_disk
from tests.homes import client_of
from tests.journals import line_of
from training.bundle import Bundle

TRANSACTIONS, CHARGEBACKS = events(seed=7, count=600)
# History is what is known before; what comes after it is sent as if it happened now, and must not be in the lake twice.
BEFORE, REPORTED = (
    [row for row in rows if row["created_timestamp"] < LOADED_UNTIL] for rows in (TRANSACTIONS, CHARGEBACKS)
)
LATER = [row for row in TRANSACTIONS if row["event_timestamp"] >= LOADED_UNTIL]
COUNT = "customer_transactions_count_1d"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ahead")
    with with_bundle(folder, BEFORE, REPORTED):
        yield folder


@pytest.fixture
def serving(home):
    with closing(opened(home, version="1")) as one:
        yield one


@pytest.fixture
def reads(serving, monkeypatch):
    """How many rows each read of the champion's plan has had."""
    plan, sizes = serving.champions.current.plan, []
    read = plan.read

    def noted(rows, ends_ns=None):
        sizes.append(len(rows))
        return read(rows, ends_ns)

    monkeypatch.setattr(plan, "read", noted)
    return sizes


def live(customer, terminal, **changes):
    return deployments.live(LATER[0], customer_id=customer, terminal_id=terminal, **changes)


def together(serving, requests):
    """The answers to requests that arrive at once, in their order."""
    app = app_over(serving)
    (route,) = [each.app for each in app.routes if each.path == "/v1/score"]

    async def ask(request):
        sent, body = [], json.dumps(request).encode()

        async def receive():
            return {"type": "http.request", "body": body}

        async def send(message):
            sent.append(message)

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "path": "/v1/score", "headers": headers, "app": app}
        await route(scope, receive, send)
        return json.loads(sent[1]["body"])

    async def asking():
        return await asyncio.gather(*map(ask, requests))

    return asyncio.run(asking())


def test_strangers_to_each_other_are_read_in_one_go(serving, reads):
    answers = together(serving, [live(f"s{i}", f"t{i}") for i in range(6)])
    assert {answer["degraded"] for answer in answers} == {None}
    assert reads == [6]


def test_who_shares_a_key_with_one_before_sees_it(serving, reads, home):
    """c is at b's terminal, and e at c's, who waits for b: neither is read before those."""
    requests = [
        live("a", "at0"), live("b", "at1"), live("a", "at2"), live("c", "at1"), live("d", "at3"), live("e", "at1"),
    ]  # fmt: skip
    answers = together(serving, requests)
    assert reads == [3, 2, 1]
    counts = [line_of(home, answer["transaction_id"])["features"] for answer in answers]
    assert [each[COUNT] for each in counts] == [0, 0, 1, 0, 0, 0]
    assert [each["terminal_transactions_count_1h"] for each in counts] == [0, 0, 0, 1, 0, 2]


def test_history_that_comes_with_its_known_time_is_read_alone(serving, reads):
    known = datetime.now(UTC).isoformat()
    requests = [live(f"h{i}", f"u{i}", created_timestamp=known) for i in range(3)]
    together(serving, [*requests, live("h3", "u3"), live("h4", "u4")])
    assert reads == [1, 1, 1, 2]


def test_one_that_cannot_be_read_does_not_keep_the_others_from_it(serving, reads):
    old = (LATER[0]["event_timestamp"] - timedelta(days=300)).isoformat()
    requests = [live("o0", "v0"), live(LATER[0]["customer_id"], "v1", event_timestamp=old), live("o2", "v2")]
    answers = together(serving, requests)
    assert [answer["degraded"] for answer in answers] == [None, "history-dropped", None]
    assert reads == [3, 1, 1, 1]


def test_more_than_are_read_at_once_take_another_go(serving, reads):
    together(serving, [live(f"m{i}", f"w{i}") for i in range(MOST_TOGETHER + 5)])
    assert reads == [MOST_TOGETHER, 5]


def test_one_sent_twice_at_once_is_decided_once(serving, home):
    request = live("twice", "x")
    first, second = together(serving, [request, request])
    assert first == second
    line_of(home, first["transaction_id"])


def test_a_refused_one_is_forgotten(serving, reads):
    first = live("r0", "y0")
    together(serving, [first, {**first, "amount": "1"}, live("r1", "y1")])
    assert serving._together._waiting == []
    assert sum(reads) <= 3


def test_what_was_read_together_is_recomputed_to_the_bit(serving, reads, home):
    rows = [{**row, "created_timestamp": None} for row in LATER]
    for first in range(0, len(rows), 16):
        group = [body_of(row, transaction_id=f"p{row['transaction_id']}") for row in rows[first : first + 16]]
        together(serving, group)
    assert max(reads) > 4
    report = parity(bundle_loader=lambda name, version: Bundle.load(home / "bundle")).report
    assert report.decisions > len(rows)
    assert (report.mismatches, report.score_mismatches) == (0, 0), report.examples


def test_what_is_decided_together_is_in_the_trace_of_none_and_each_knows_its_own():
    found = []

    def decide(cases):
        found.append((current_trace(), [case.trace for case in cases]))
        for case in cases:
            case.reply = Reply(b"")

    async def asking():
        waiting, trace = Together(decide), Trace("a" * 32, "b" * 16)
        transactions = [
            parse_transaction(json.dumps(live(f"n{i}", f"nt{i}")).encode(), now_us()) for i in range(2)
        ]
        with trace:
            first = asyncio.create_task(waiting.decided(transactions[0], 0))
        await asyncio.gather(first, waiting.decided(transactions[1], 0))
        return trace

    trace = asyncio.run(asking())
    assert found == [(None, [trace, None])]


class PanicError(BaseException):
    """As Rust's, which are no Exceptions."""


@pytest.mark.parametrize("fault", [RuntimeError("broken"), PanicError("broken"), StopIteration("broken")])
def test_a_fault_that_concerns_all_is_told_to_each_and_the_next_are_decided(fault):
    groups = []

    def decide(cases):
        groups.append(len(cases))
        cases[0].reply = Reply(b"decided")
        if len(groups) == 1:
            raise fault

    async def asking():
        waiting = Together(decide)
        terminals = ["one", "two", "three", "one"]
        bodies = [json.dumps(live(f"x{i}", terminal)).encode() for i, terminal in enumerate(terminals)]
        asked = [waiting.decided(parse_transaction(body, now_us()), 0) for body in bodies]
        return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)

    first, *others, last = asyncio.run(asking())
    assert first.body == last.body == b"decided"
    assert ["broken" in str(each) for each in others] == [True, True]
    assert groups == [3, 1]


def transactions(count, terminal=None):
    bodies = [json.dumps(live(f"y{i}", terminal or f"yt{i}")).encode() for i in range(count)]
    return [parse_transaction(body, now_us()) for body in bodies]


def deciding(decided, meanwhile=lambda: None):
    def decide(cases):
        meanwhile()
        for case in cases:
            decided.append(case.transaction.customer_id)
            case.reply = Reply(b"")

    return decide


def test_who_waited_too_long_for_others_is_refused_and_not_decided():
    decided, clock = [], Clock()

    def takes_long():
        clock.now += 1

    async def asking():
        waiting = Together(deciding(decided, takes_long))
        asked = [waiting.decided(each, 0, Deadline(clock(), 1.5, clock)) for each in transactions(4, "one")]
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = asyncio.run(asking())
    assert decided == ["y0", "y1"]
    assert [getattr(each, "kind", None) for each in answers] == [
        None,
        None,
        "deadline-passed",
        "deadline-passed",
    ]


def test_who_has_gone_is_not_decided():
    decided = []

    async def asking():
        waiting = Together(deciding(decided))
        first, second = (asyncio.create_task(waiting.decided(each, 0)) for each in transactions(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first, second])
        assert first.cancelled()

    asyncio.run(asking())
    assert decided == ["y1"]


def test_batches_take_turns_so_that_none_else_waits_for_all_of_them(serving):
    batches, together = 3, serving._together.decided
    waiting, most = [0], [0]

    async def counted(*asked):
        waiting[0] += 1
        most[0] = max(most[0], waiting[0])
        try:
            return await together(*asked)
        finally:
            waiting[0] -= 1

    serving._together.decided = counted

    async def asking():
        transport = httpx.ASGITransport(app_over(serving))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            bodies = [[live(f"w{i}-{n}", f"wt{i}-{n}") for n in range(40)] for i in range(batches)]
            answers = await asyncio.gather(*(client.post("/v1/score/batch", json=body) for body in bodies))
            return [len(answer.json()) for answer in answers]

    assert asyncio.run(asking()) == [40] * batches
    assert most == [MOST_TOGETHER]


def test_a_lost_state_is_told_to_all_that_were_read_together(serving, reads, home):
    plan = serving.champions.current.plan
    with client_of(home) as client:
        client.delete(*plan.marks)
    answers = together(serving, [live(f"z{i}", f"zt{i}") for i in range(3)])
    assert [answer["degraded"] for answer in answers] == ["state-lost"] * 3
    assert reads == [3]
    plan.watch()


def test_an_event_that_waits_is_logged_under_the_trace_of_its_own_request(serving, monkeypatch, caplog):
    def away(*_):
        raise ConnectionError("away")

    told = []
    monkeypatch.setattr(serving.recording._recorder, "write_each", away)
    monkeypatch.setattr(serving.recording, "_keep", lambda *_: told.append(current_trace()))
    trace = Trace("a" * 32, "b" * 16)
    serving._scorer.decide(
        [Case(each, 0, own) for each, own in zip(transactions(2), (trace, None), strict=True)]
    )
    assert told == [trace, None]
    serving.recording._ask_again_at = 0.0


def test_what_waited_and_no_view_can_take_does_not_keep_the_others_waiting(serving, monkeypatch, caplog):
    def away(*_):
        raise ConnectionError("away")

    with monkeypatch.context() as broken:
        broken.setattr(serving.recording._recorder, "write_each", away)
        together(serving, [live(f"v{i}", f"vt{i}") for i in range(2)])
    serving.recording._backlog[0]["event_timestamp"] = datetime(2025, 1, 1)
    serving.recording._ask_again_at = 0.0
    assert serving.recording.caught_up()
    assert serving.recording.idle
    assert "no view can take an event" in caplog.text
    (after,) = together(serving, [live("v1", "vt-other")])
    assert line_of(serving.recording.journal.folder.parent, after["transaction_id"])["features"][COUNT] == 1


def test_elements_of_a_batch_are_decided_together(serving, reads, home):
    batch = [live(f"b{i}", f"bt{i}") for i in range(MOST_TOGETHER + 3)]
    answers = client_over(serving).post("/v1/score/batch", json=batch).json()
    assert reads == [MOST_TOGETHER, 3]
    assert [answer["transaction_id"] for answer in answers] == [sent["transaction_id"] for sent in batch]


def test_while_the_store_is_away_each_is_decided_and_kept_for_it(serving, home, monkeypatch):
    def away(*_):
        raise ConnectionError("away")

    with monkeypatch.context() as broken:
        broken.setattr(serving.recording._recorder, "write_each", away)
        answers = together(serving, [live(f"k{i}", f"kt{i}") for i in range(3)])
    assert {answer["degraded"] for answer in answers} == {None}
    assert len(serving.recording._backlog) == 3
    serving.recording._ask_again_at = 0.0
    (after,) = together(serving, [live("k1", "kt-other")])
    assert line_of(home, after["transaction_id"])["features"][COUNT] == 1
    assert serving.recording.idle


def test_a_model_that_fails_on_one_decides_on_the_others(serving, monkeypatch):
    bundle = serving.champions.current.bundle
    score, asked = bundle.score, []

    def picky(values):
        asked.append(len(values))
        if len(asked) in (1, 3):  # the whole, then the second alone
            raise ValueError("not this one")
        return score(values)

    monkeypatch.setattr(bundle, "score", picky)
    answers = together(serving, [live(f"q{i}", f"qt{i}") for i in range(3)])
    assert asked == [3, 1, 1, 1]
    assert [answer["degraded"] for answer in answers] == [None, "model-failed", None]


def test_a_full_disk_marks_each_of_those_decided_together(serving, home):
    with full_disk():
        answers = together(serving, [live(f"f{i}", f"ft{i}") for i in range(3)])
    assert {answer["degraded"] for answer in answers} == {IN_MEMORY}
    assert serving.recording.journal.settle(now=True)
    assert [line_of(home, answer["transaction_id"])["degraded"] for answer in answers] == [IN_MEMORY] * 3
