"""Card numbers in requests are refused by field and never shown; ids that only look alike are let through."""

import json
import random
import uuid

import pytest

from bento.card_numbers import holds_card_number, masked
from bento.problem import Problem
from bento.request import parse_chargeback, parse_question, parse_transaction
from bento.score_batch import elements
from tests.bodies import CHARGEBACK, FULL, NOW_US

# The networks' own test numbers.
NUMBERS = {
    "visa": "4111111111111111",
    "visa of 13": "4222222222222",
    "mastercard": "5555555555554444",
    "mastercard of the new range": "2223003122003222",
    "american express": "378282246310005",
    "discover": "6011111111111117",
    "diners": "30569309025904",
    "jcb": "3530111333300000",
    "unionpay": "6200000000000005",
    "maestro": "6759649826438453",
}


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
def test_a_number_of_every_network_is_found(number):
    assert holds_card_number(number)
    assert not holds_card_number(number[:-1] + str((int(number[-1]) + 1) % 10))
    assert masked(f"a{number[0]} {number}.") == f"a{number[0]} [card number]."


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "4111 - 1111 - 1111 - 1111",
        "4111\u20131111\u20131111\u20131111",
        "3782 822463 10005",
        "card: 4111111111111111, 12/29",
        "4111 1111 1111 1111 12 29",
        "PAN4111111111111111",
        "c4111111111111111",
        "tx-4111111111111111",
        "４１１１１１１１１１１１１１１１",
    ],
)
def test_it_is_found_however_it_is_written(text):
    assert holds_card_number(text)
    assert "1111 1111" not in masked(text)
    assert "11111111" not in masked(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "411111111111",  # 12 digits
        "00004111111111111111",  # part of a longer run
        "1763750000123456",  # a time in microseconds: no issuer's range
        "9f4111111111111111c0",
        "txn_5cc4111111111111111b0e",
        "2026-11-21T10:00:00.123456+00:00",
        "4.111111111111111",
        "4111111111111111111111",
        "4111 1111 1111 x 1111",
        "45556677-4111-4111-9111-111111111111",
    ],
)
def test_what_is_no_card_number_is_left_alone(text):
    assert not holds_card_number(text)
    assert masked(text) == text


def test_ids_as_systems_make_them_are_no_card_numbers():
    """UUIDs and hexadecimal ids are common: one refused in thousands would be a payment undecided every minute."""
    rng = random.Random(1)
    for _ in range(20_000):
        bits = rng.getrandbits(128)
        for text in (str(uuid.UUID(int=bits)), f"{bits:032x}", f"txn_{bits:032x}"):
            assert not holds_card_number(text)


@pytest.mark.parametrize(
    "field", ["transaction_id", "customer_id", "terminal_id", "channel", "category", "currency", "status"]
)
def test_a_text_field_that_holds_one_is_refused_by_name_and_not_quoted(field):
    body = json.dumps({**FULL, field: "x 4111 1111 1111 1111"}).encode()
    with pytest.raises(Problem) as raised:
        parse_transaction(body, NOW_US)
    assert (raised.value.kind, raised.value.status, raised.value.field) == ("card-number", 422, field)
    assert b"1111" not in raised.value.body()


def test_chargebacks_and_questions_are_read_as_strictly():
    for parse, given in (
        (parse_chargeback, {**CHARGEBACK, "customer_id": "4111111111111111"}),
        (parse_chargeback, {**CHARGEBACK, "reason_code": "4111111111111111"}),
        (parse_question, {"customer_id": "4111111111111111"}),
    ):
        with pytest.raises(Problem) as raised:
            parse(json.dumps(given).encode(), NOW_US)
        assert raised.value.kind == "card-number"


@pytest.mark.parametrize(
    "change",
    [
        {"event_timestamp": "4111 1111 1111 1111"},
        {"event_timestamp": "4111\n1111\n1111\n1111"},
        {"amount": "4111 1111 1111 1111"},
        {"customer_id": "4111\t1111\t1111\t1111"},
        {"category": " 4111111111111111"},
        {"4111111111111111": "x"},
        {"pan": "4111111111111111"},
    ],
)
def test_no_refusal_quotes_one(change):
    with pytest.raises(Problem) as raised:
        parse_transaction(json.dumps({**FULL, **change}).encode(), NOW_US)
    assert raised.value.status == 422
    assert b"1111" not in raised.value.body()
    assert "1111" not in str(raised.value)


def test_a_batch_s_unknown_field_is_not_quoted_either():
    with pytest.raises(Problem) as raised:
        elements({"4111 1111 1111 1111": []})
    assert b"1111" not in raised.value.body()


def test_a_deployment_may_say_that_its_ids_only_look_alike(monkeypatch):
    given = {**FULL, "customer_id": "4111111111111111"}
    with pytest.raises(Problem, match="name customer_id in FRAUD_NUMERIC_IDS"):
        parse_transaction(json.dumps(given).encode(), NOW_US)
    monkeypatch.setenv("FRAUD_NUMERIC_IDS", "customer_id, terminal_id")
    assert parse_transaction(json.dumps(given).encode(), NOW_US).customer_id == "4111111111111111"
    with pytest.raises(Problem) as raised:
        parse_transaction(json.dumps({**given, "transaction_id": "4111111111111111"}).encode(), NOW_US)
    assert raised.value.field == "transaction_id"


def test_only_ids_can_be_excused(monkeypatch):
    monkeypatch.setenv("FRAUD_NUMERIC_IDS", "category")
    with pytest.raises(ValueError, match="FRAUD_NUMERIC_IDS: 'category': 'category' is no id field"):
        parse_transaction(json.dumps({**FULL, "customer_id": "4111111111111111"}).encode(), NOW_US)
