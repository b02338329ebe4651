"""What the service makes of a request's body: a typed transaction, or a problem that names the field."""

import json
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bento.problem import KINDS, Problem
from bento.request import (
    CLOCK_SKEW_US,
    MAX_AMOUNT_USD_CENTS,
    parse_chargeback,
    parse_json,
    parse_transaction,
)
from feature_repo.currency import to_usd_cents
from tests.bodies import CHARGEBACK, FULL, NOW, NOW_US, SMALLEST


def transaction(**changes):
    return parse_transaction(json.dumps({**SMALLEST, **changes}).encode(), NOW_US)


def problem_of(body, parse=parse_transaction):
    with pytest.raises(Problem) as raised:
        parse(body if isinstance(body, bytes) else json.dumps(body).encode(), NOW_US)
    return raised.value


def outcome(parse):
    """(result, None) or (None, problem); any other exception passes through."""
    try:
        return parse(), None
    except Problem as error:
        return None, error


def refused(field, value):
    """The kind of problem that one value of one field makes; it must name the field, and say more."""
    found = problem_of({**SMALLEST, field: value})
    assert found.field == field
    assert found.detail.startswith(f"{field}: ")
    assert ";" in found.detail or "must" in found.detail or "outside" in found.detail
    return found.kind


def test_smallest_request_defaults_to_us_dollars_and_knows_nothing_else():
    got = transaction()
    assert (got.currency, got.amount, got.amount_usd_cents) == ("USD", Decimal("12.5000"), 1250)
    assert got.event_timestamp_us == NOW_US - 3_600_000_000
    assert (got.status, got.channel, got.category, got.customer_latitude) == (None, None, None, None)
    assert (got.created_timestamp, got.created_timestamp_us) == (None, None)


def test_full_request_is_read_field_by_field():
    got = parse_transaction(json.dumps(FULL).encode(), NOW_US)
    assert got.amount_usd_cents == to_usd_cents(Decimal("12.5"), "EUR", NOW.date())
    assert (got.channel, got.category, got.status) == ("online", "books", "approved")
    assert (got.customer_latitude, got.customer_longitude) == (52.5, 13.4)
    assert (got.terminal_latitude, got.terminal_longitude) == (-33.0, -0.25)
    assert isinstance(got.terminal_latitude, float)
    assert got.created_timestamp_us == got.event_timestamp_us + 1_500_000


def test_null_in_an_optional_field_is_the_field_left_out():
    optional = set(FULL) - set(SMALLEST)
    assert transaction(**dict.fromkeys(optional)) == transaction()


@pytest.mark.parametrize("field", sorted(SMALLEST))
def test_each_required_field_is_asked_for(field):
    found = problem_of({name: value for name, value in SMALLEST.items() if name != field})
    assert (found.kind, found.field) == ("missing-field", field)
    assert "send" in found.detail


@pytest.mark.parametrize("field", sorted(SMALLEST))
def test_null_in_a_required_field_is_a_wrong_type(field):
    assert refused(field, None) == "wrong-type"


@pytest.mark.parametrize("field", ["transaction_id", "customer_id", "terminal_id", "channel", "category"])
@pytest.mark.parametrize("value", [5, 1.5, True, [], {}])
def test_text_must_be_text(field, value):
    assert refused(field, value) == "wrong-type"


@pytest.mark.parametrize("field", ["transaction_id", "customer_id", "terminal_id", "channel", "category"])
@pytest.mark.parametrize("value", ["", "x" * 129, " x", "x ", " ", "a\nb", "a\x00", "\ud800", "\u200b"])
def test_text_must_be_1_to_128_printable_characters(field, value):
    assert refused(field, value) == "invalid-value"


def test_ids_of_128_characters_and_of_other_scripts_are_fine():
    assert transaction(customer_id="x" * 128).customer_id == "x" * 128
    assert transaction(customer_id="Kundin Ä ж 客").customer_id == "Kundin Ä ж 客"


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("2026-11-21T09:00:00Z", 0),
        ("2026-11-21t09:00:00z", 0),
        ("2026-11-21 09:00:00Z", 0),
        ("2026-11-21T10:00:00+01:00", 0),
        ("2026-11-21T03:30:00-05:30", 0),
        ("2026-11-21T09:00:00.5Z", 500_000),
        ("2026-11-21T09:00:00.000001Z", 1),
        ("2026-11-21T09:00:00.000001999Z", 1),
    ],
)
def test_rfc_3339_times_are_read_to_the_microsecond(text, microseconds):
    assert transaction(event_timestamp=text).event_timestamp_us == NOW_US - 3_600_000_000 + microseconds


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-21",
        "2026-11-21T09:00Z",
        "20261121T090000Z",
        "2026-W47-6T09:00:00Z",
        "2026-02-30T09:00:00Z",
        "2026-11-21T24:00:00Z",
        "2026-11-21T09:00:60Z",
        "2026-11-21T09:00:00+99:00",
        "0001-01-01T00:00:00+10:00",
        "1969-12-31T23:59:59Z",
        "yesterday",
        "",
        "1795251600",
    ],
)
def test_other_times_are_refused(text):
    assert refused("event_timestamp", text) == "invalid-value"


def test_a_time_without_a_zone_is_told_to_add_one():
    found = problem_of({**SMALLEST, "event_timestamp": "2026-11-21T09:00:00"})
    assert "no time zone" in found.detail
    assert "add Z" in found.detail


@pytest.mark.parametrize("value", [1795251600, 1.5, True, {}])
def test_a_time_must_be_text(value):
    assert refused("event_timestamp", value) == "wrong-type"


@pytest.mark.parametrize("field", ["event_timestamp", "created_timestamp"])
def test_five_seconds_ahead_are_clock_skew_and_more_is_the_future(field):
    allowed = NOW + timedelta(microseconds=CLOCK_SKEW_US)
    assert getattr(transaction(**{field: allowed.isoformat()}), field) == allowed
    found = problem_of({**SMALLEST, field: (allowed + timedelta(microseconds=1)).isoformat()})
    assert (found.kind, found.field, found.status) == ("in-the-future", field, 422)
    assert "5 s are allowed" in found.detail


def test_nothing_is_known_before_it_happens_but_for_clock_skew():
    assert transaction(created_timestamp="2026-11-21T08:59:55Z").created_timestamp is not None
    assert refused("created_timestamp", "2026-11-21T08:59:54Z") == "invalid-value"


@pytest.mark.parametrize(
    ("amount", "cents"),
    [
        (0, 0),
        (-0.0, 0),
        ("-0", 0),
        (12, 1200),
        (12.5, 1250),
        ("12.5", 1250),
        ("0.005", 0),
        ("0.015", 2),
        (0.1 + 0.2, 30),
        (1e3, 100_000),
        ("1000000000", MAX_AMOUNT_USD_CENTS),
    ],
)
def test_amounts_become_whole_cents_exactly(amount, cents):
    assert transaction(amount=amount).amount_usd_cents == cents


@pytest.mark.parametrize(
    "amount", [-1, -0.01, "-5", 10**14, 1e300, "1000000000.01", float("nan"), float("inf")]
)
def test_amounts_out_of_range_are_refused(amount):
    assert refused("amount", amount) == "invalid-value"


@pytest.mark.parametrize(
    "amount", ["", "12,50", "1e5", "NaN", "Infinity", " 5", "+5", "1_000", "٣", "0x10", "5."]
)
def test_amounts_as_text_must_be_plain_decimals(amount):
    assert refused("amount", amount) == "invalid-value"


@pytest.mark.parametrize("amount", [True, [], {}])
def test_amounts_of_other_types_are_refused(amount):
    assert refused("amount", amount) == "wrong-type"


@pytest.mark.parametrize("currency", ["QQQ", "usd", "dollars"])
def test_an_unknown_currency_is_told_the_known_ones(currency):
    found = problem_of({**SMALLEST, "currency": currency})
    assert (found.kind, found.field) == ("invalid-value", "currency")
    assert "EUR" in found.detail


@pytest.mark.parametrize("field", ["customer_latitude", "terminal_latitude"])
@pytest.mark.parametrize("value", [90.001, -91, 1e400, float("nan")])
def test_latitudes_lie_within_90_degrees(field, value):
    assert refused(field, value) == "invalid-value"


@pytest.mark.parametrize("field", ["customer_longitude", "terminal_longitude"])
@pytest.mark.parametrize("value", [180.5, -181])
def test_longitudes_lie_within_180_degrees(field, value):
    assert refused(field, value) == "invalid-value"


@pytest.mark.parametrize("value", ["52.5", True, []])
def test_coordinates_are_numbers(value):
    assert refused("customer_latitude", value) == "wrong-type"


def test_status_is_one_of_three():
    assert refused("status", "maybe") == "invalid-value"


def test_an_unknown_field_is_named_with_the_one_that_was_meant():
    found = problem_of({**SMALLEST, "amout": 5})
    assert (found.kind, found.field) == ("unknown-field", "amout")
    assert "did you mean 'amount'?" in found.detail
    assert "known are transaction_id" in problem_of({**SMALLEST, "z": 5}).detail


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"t1"',
        b"5",
        b"\xff\xfe",
        b"{'transaction_id': 1}",
        b"{} {}",
        b"[" * 60_000,
        b'{"amount": ' + b"9" * 5000 + b"}",
        b'{"amount": 1, "amount": 2}',
    ],
)
def test_what_is_not_one_json_object_is_a_400(body):
    found = problem_of(body)
    assert (found.kind, found.status) == ("invalid-json", 400)


def test_a_chargeback_may_leave_its_transaction_to_the_journal():
    got = parse_chargeback(json.dumps(CHARGEBACK).encode(), NOW_US)
    assert (got.transaction_id, got.reason_code) == ("t1", "10.4")
    assert (got.customer_id, got.event_timestamp, got.amount_usd_cents, got.created_timestamp) == (None,) * 4


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("reason_code", None, "wrong-type"),
        ("reason_code", 10.4, "wrong-type"),
        ("reason_code", "no such code", "invalid-value"),
        ("amount_usd_cents", -1, "invalid-value"),
        ("amount_usd_cents", 1.0, "wrong-type"),
        ("amount_usd_cents", "5", "wrong-type"),
        ("amount_usd_cents", True, "wrong-type"),
        ("created_timestamp", "2026-11-22T00:00:00Z", "in-the-future"),
        ("event_timestamp", "2026-11-22T00:00:00Z", "in-the-future"),
        ("amount", "5", "unknown-field"),
    ],
)
def test_a_malformed_chargeback_is_refused(field, value, kind):
    found = problem_of({**CHARGEBACK, field: value}, parse_chargeback)
    assert (found.kind, found.field) == (kind, field)


def test_a_chargeback_is_not_reported_before_its_transaction():
    body = {
        **CHARGEBACK,
        "event_timestamp": "2026-11-20T00:00:00Z",
        "created_timestamp": "2026-11-19T00:00:00Z",
    }
    assert problem_of(body, parse_chargeback).field == "created_timestamp"


def test_entity_row_has_nan_where_coordinates_are_unknown_and_the_known_time_only_if_given():
    row = transaction(terminal_latitude=1).entity_row()
    assert row["terminal_latitude"] == 1.0
    assert row["customer_latitude"] != row["customer_latitude"]
    assert "known_as_of_us" not in row
    late = transaction(created_timestamp="2026-11-21T09:30:00Z").entity_row()
    assert late["known_as_of_us"] == late["event_timestamp_us"] + 1_800_000_000


def test_a_status_that_is_given_outweighs_the_decision():
    assert transaction().event("declined")["status"] == "declined"
    assert transaction(status="approved").event("declined")["status"] == "approved"


def test_a_problem_document_has_the_members_of_rfc_9457():
    document = problem_of({**SMALLEST, "amount": -1}).document()
    assert document == {
        "type": "/problems/invalid-value",
        "title": KINDS["invalid-value"].title,
        "status": 422,
        "detail": "amount: -1 is negative; an amount is 0 or more",
        "field": "amount",
    }


GENERATED = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@GENERATED
@given(st.dictionaries(st.sampled_from([*FULL, "other"]), JSON_VALUES), st.sampled_from([SMALLEST, FULL, {}]))
def test_any_values_give_a_transaction_or_a_problem_and_nothing_else(values, base):
    body = json.dumps({**base, **values}).encode()
    got, found = outcome(lambda: parse_transaction(body, NOW_US))
    if found is None:
        assert 0 <= got.amount_usd_cents <= MAX_AMOUNT_USD_CENTS
    else:
        assert found.field is not None
        assert json.loads(found.body())["status"] in (400, 422)


@GENERATED
@given(st.binary(max_size=50))
def test_any_bytes_give_a_value_or_a_problem(body):
    _, found = outcome(lambda: parse_json(body))
    assert found is None or found.kind == "invalid-json"


@GENERATED
@given(st.floats(-180, 180))
def test_coordinates_keep_their_bits(value):
    assert transaction(customer_longitude=value).customer_longitude == value


@GENERATED
@given(st.decimals(0, 10**9, places=4))
def test_amounts_as_text_and_as_number_are_one(amount):
    as_number = parse_transaction(
        json.dumps(SMALLEST).encode().replace(b'"12.50"', str(amount).encode()), NOW_US
    )
    assert as_number == transaction(amount=f"{amount:f}")
