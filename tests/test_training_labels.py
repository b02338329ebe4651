"""Labels mature: known strictly before the instant, or not used at all."""

import tempfile
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training_events import DAY, START, chargeback, snapshots, transaction, write_lake
from training.instants import instant_us
from training.labels import UNLABELLED, as_known_at, labels

MATURITY = timedelta(days=7)
MICROSECOND = timedelta(microseconds=1)
FRAUD, GOODS = "10.4", "13.1"


def labelled(tmp_path, transactions, chargebacks, as_of, maturity=MATURITY):
    write_lake(tmp_path, transactions, chargebacks)
    table = labels(*snapshots(tmp_path), START, START + 100 * DAY, as_of=as_of, maturity=maturity)
    return dict(zip(table["transaction_id"].to_pylist(), table["label"].to_pylist(), strict=True)), table


def one(tmp_path, chargebacks=(), *, as_of, **options):
    tx = transaction(1, START + DAY, **options)
    found, _ = labelled(
        tmp_path,
        [tx],
        [chargeback(tx, *c) if isinstance(c, tuple) else chargeback(tx, c) for c in chargebacks],
        as_of,
    )
    return found["tx000001"]


def test_a_reported_fraud_is_fraud_at_once(tmp_path):
    assert one(tmp_path, [2 * DAY], as_of=START + 3 * DAY + MICROSECOND) == 1


def test_a_fraud_reported_at_the_instant_is_not_known_yet(tmp_path):
    assert one(tmp_path, [2 * DAY], as_of=START + 3 * DAY) is None


def test_silence_is_genuine_only_after_the_maturity_period(tmp_path):
    assert one(tmp_path, as_of=START + DAY + MATURITY + MICROSECOND) == 0


def test_silence_that_ends_the_maturity_period_at_the_instant_says_nothing_yet(tmp_path):
    assert one(tmp_path, as_of=START + DAY + MATURITY) is None


def test_a_dispute_about_goods_is_not_fraud(tmp_path):
    tx = transaction(1, START + DAY)
    found, _ = labelled(tmp_path, [tx], [chargeback(tx, DAY, reason=GOODS)], START + 30 * DAY)
    assert found == {"tx000001": 0}


def test_a_fraud_reported_after_the_maturity_period_is_fraud_once_known(tmp_path):
    assert one(tmp_path, [20 * DAY], as_of=START + 30 * DAY) == 1


def test_a_fraud_reported_after_the_maturity_period_looked_genuine_before(tmp_path):
    assert one(tmp_path, [20 * DAY], as_of=START + 15 * DAY) == 0


def test_the_silence_of_a_declined_transaction_says_nothing(tmp_path):
    assert one(tmp_path, as_of=START + 90 * DAY, status="declined") is None


def test_a_transaction_that_arrives_after_the_instant_is_no_row(tmp_path):
    tx = transaction(1, START + DAY, late=40 * DAY)
    found, _ = labelled(tmp_path, [tx, transaction(2, START + DAY)], [], START + 30 * DAY)
    assert found == {"tx000002": 0}


def test_the_first_of_several_reports_is_the_known_time(tmp_path):
    tx = transaction(1, START + DAY)
    _, table = labelled(tmp_path, [tx], [chargeback(tx, 9 * DAY), chargeback(tx, 3 * DAY)], START + 30 * DAY)
    assert table["label_known_timestamp"].to_pylist() == [START + 4 * DAY]
    assert table.num_rows == 1


def test_a_lake_without_chargebacks_has_only_genuine_and_unlabelled_rows(tmp_path):
    found, _ = labelled(
        tmp_path, [transaction(1, START), transaction(2, START + 29 * DAY)], [], START + 30 * DAY
    )
    assert found == {"tx000001": 0, "tx000002": None}


def test_an_instant_without_a_zone_is_refused(tmp_path):
    write_lake(tmp_path, [transaction(1, START)], [])
    with pytest.raises(ValueError, match=r"as_of: .* has no time zone"):
        labels(*snapshots(tmp_path), START, START + DAY, as_of=START.replace(tzinfo=None), maturity=MATURITY)


def test_an_empty_range_is_refused(tmp_path):
    write_lake(tmp_path, [transaction(1, START)], [])
    with pytest.raises(ValueError, match="is not after start"):
        labels(*snapshots(tmp_path), START, START, as_of=START, maturity=MATURITY)


def test_an_empty_table_of_transactions_is_refused(tmp_path):
    write_lake(tmp_path, [], [])
    with pytest.raises(ValueError, match="the table of transactions is empty"):
        labels(*snapshots(tmp_path), START, START + DAY, as_of=START, maturity=MATURITY)


HOURS = st.integers(0, 24 * 12).map(lambda hours: timedelta(hours=hours))


@st.composite
def lakes(draw):
    transactions, chargebacks = [], []
    for number in range(draw(st.integers(1, 8))):
        tx = transaction(
            number,
            START + draw(HOURS),
            status=draw(st.sampled_from(["approved", "approved", "pending", "declined"])),
            late=draw(st.sampled_from([timedelta(0), timedelta(0), timedelta(hours=30)])),
        )
        transactions.append(tx)
        for _ in range(draw(st.integers(0, 2))):
            chargebacks.append(
                chargeback(tx, draw(HOURS), reason=draw(st.sampled_from([FRAUD, FRAUD, GOODS])))
            )
    return transactions, chargebacks


def oracle(transactions, chargebacks, as_of, maturity):
    """Plain loops: (label, known) by id of what was known at ``as_of``."""
    found = {}
    for tx in transactions:
        if not tx["created_timestamp"] < as_of:
            continue
        reports = [
            c["created_timestamp"]
            for c in chargebacks
            if c["transaction_id"] == tx["transaction_id"]
            and c["reason_code"] == FRAUD
            and c["created_timestamp"] < as_of
        ]
        if reports:
            found[tx["transaction_id"]] = (1, min(reports))
        elif tx["status"] != "declined" and tx["event_timestamp"] + maturity < as_of:
            found[tx["transaction_id"]] = (0, tx["event_timestamp"] + maturity)
        else:
            found[tx["transaction_id"]] = (None, None)
    return found


@settings(max_examples=30, deadline=None)
@given(lake=lakes(), as_of=HOURS, later=HOURS, maturity=st.sampled_from([timedelta(0), DAY, 3 * DAY]))
def test_labels_are_those_of_plain_loops_at_every_instant(lake, as_of, later, maturity):
    transactions, chargebacks = lake
    with tempfile.TemporaryDirectory() as folder:
        write_lake(Path(folder), transactions, chargebacks)
        tables = [
            labels(*snapshots(Path(folder)), START, START + 100 * DAY, as_of=instant, maturity=maturity)
            for instant in (START + as_of, START + as_of + later)
        ]
    for table, instant in zip(tables, (START + as_of, START + as_of + later), strict=True):
        columns = (table[name].to_pylist() for name in ("transaction_id", "label", "label_known_timestamp"))
        found = {name: (label, known) for name, label, known in zip(*columns, strict=True)}
        assert found == oracle(transactions, chargebacks, instant, maturity)
    assert_later_labels_answer_for_the_earlier_instant(transactions, *tables, START + as_of, maturity)


def assert_later_labels_answer_for_the_earlier_instant(transactions, before, after, as_of, maturity):
    declined = {tx["transaction_id"] for tx in transactions if tx["status"] == "declined"}
    told = as_known_at(
        after["label"].fill_null(UNLABELLED).to_numpy(),
        after["label_known_timestamp"].cast("int64").fill_null(0).to_numpy(),
        after["event_timestamp"].cast("int64").to_numpy(),
        at_us=instant_us("as_of", as_of),
        maturity_us=maturity // MICROSECOND,
    )
    told = dict(zip(after["transaction_id"].to_pylist(), told.tolist(), strict=True))
    known = zip(
        before["transaction_id"].to_pylist(), before["label"].fill_null(UNLABELLED).to_pylist(), strict=True
    )
    assert all(told[name] == label for name, label in known if name not in declined)


def test_a_label_from_after_the_instant_is_never_used():
    told = as_known_at(
        np.array([1, 1, 0, UNLABELLED], np.int8),
        np.array([50, 200, 70, 0]),
        np.array([40, 10, 60, 10]),
        at_us=100,
        maturity_us=30,
    )
    assert told.tolist() == [1, 0, 0, UNLABELLED]
    assert (
        as_known_at(np.array([1], np.int8), np.array([100]), np.array([99]), at_us=100, maturity_us=30)[0]
        == UNLABELLED
    )
