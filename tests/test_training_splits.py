"""Splits by time: nothing of the training part, and no label used in it, is from after the test began."""

from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import pytest

from tests.training_events import DAY, HANDBOOK, NO_HANDBOOK, START
from training.instants import instant_us
from training.labels import UNLABELLED
from training.splits import DAY_US, PROTOCOLS, Fold, Rows, split, time_fold

T0 = instant_us("start", START)
MATURITY_US = 7 * DAY_US


def rows(days, labels, known_days=None, customers=None):
    """Rows at the given days (fractions allowed) after START."""
    event = T0 + (np.array(days, np.float64) * DAY_US).astype(np.int64)
    known = (
        event + MATURITY_US if known_days is None else T0 + (np.array(known_days) * DAY_US).astype(np.int64)
    )
    return Rows(
        event_us=event,
        customers=np.array(customers if customers is not None else range(len(days)), np.int64),
        amounts_usd_cents=np.full(len(days), 100, np.int64),
        labels=np.array(labels, np.int8),
        label_known_us=known.astype(np.int64),
        maturity_us=MATURITY_US,
    )


def fold(remove_known_cards=False):
    return Fold(START, START + 7 * DAY, START + 14 * DAY, START + 21 * DAY, remove_known_cards)


def test_rows_on_the_left_ends_are_in_and_on_the_right_ends_are_out():
    parts = split(rows([0, 3, 7, 13, 14, 20.9, 21], [1, 0, 1, 1, 1, 0, 1]), fold())
    assert parts.train.tolist() == [0, 1]
    assert parts.test.tolist() == [4, 5]


def test_a_fraud_reported_only_after_the_test_began_is_genuine_in_training_and_fraud_in_test():
    parts = split(rows([0, 1, 2, 15, 16], [1, 0, 1, 1, 0], known_days=[7, 8, 30, 40, 23]), fold())
    assert parts.train_labels.tolist() == [1, 0, 0]
    assert parts.test_labels.tolist() == [1, 0]


def test_training_rows_that_were_not_mature_when_the_test_began_are_left_out():
    late = Fold(START, START + 14 * DAY, START + 14 * DAY, START + 21 * DAY)
    parts = split(rows([0, 1, 10, 15, 16], [1, 0, 0, 1, 0]), late)
    assert parts.train.tolist() == [0, 1]


def test_unlabelled_test_rows_are_left_out():
    parts = split(rows([0, 1, 15, 16, 17], [1, 0, 1, 0, UNLABELLED]), fold())
    assert parts.test.tolist() == [2, 3]


def test_a_card_is_removed_from_the_day_after_its_fraud_became_known():
    # Card 5's fraud of day 8.5 becomes known on day 15.5: its rows of day 15 stay, those of day 16 go.
    table = rows([0, 1, 8.5, 15.1, 15.9, 16.1, 16.2], [1, 0, 1, 1, 0, 1, 0], customers=[1, 2, 5, 5, 5, 5, 9])
    assert split(table, fold(remove_known_cards=True)).test.tolist() == [3, 4, 6]


def test_a_fraud_before_the_training_part_removes_no_card():
    table = rows([-1, 0, 1, 15, 16], [1, 1, 0, 1, 0], customers=[5, 1, 2, 5, 5])
    assert split(table, fold(remove_known_cards=True)).test.tolist() == [3, 4]


def test_a_part_of_one_class_is_refused():
    with pytest.raises(ValueError, match=r"the test part .* has 2 labelled rows with 0 frauds"):
        split(rows([0, 1, 15, 16], [1, 0, 0, 0]), fold())


def test_a_fold_whose_test_starts_before_its_training_ends_is_refused():
    with pytest.raises(ValueError, match="training ends before the test starts"):
        Fold(START, START + 7 * DAY, START + 6 * DAY, START + 14 * DAY)


def test_time_fold_takes_whole_last_days_as_test_and_leaves_the_delay():
    found = time_fold(START + timedelta(hours=5), START + 29.5 * DAY, test_days=7, delay=5 * DAY)
    assert found == Fold(START + timedelta(hours=5), START + 18 * DAY, START + 23 * DAY, START + 30 * DAY)


def test_time_fold_limits_training_to_its_last_days():
    assert time_fold(START, START + 60 * DAY, test_days=7, train_days=10).train_start == START + 36 * DAY


def test_time_fold_refuses_a_range_that_leaves_no_training():
    with pytest.raises(ValueError, match="too short for 14 days of test"):
        time_fold(START, START + 20 * DAY)


def test_the_published_protocols_have_a_week_of_each_part():
    for folds in PROTOCOLS.values():
        for one in folds:
            assert one.train_end - one.train_start == one.test_start - one.train_end == 7 * DAY
            assert one.test_end - one.test_start == 7 * DAY
    assert PROTOCOLS["week"][0].test_start == datetime(2018, 8, 8, tzinfo=UTC)


@pytest.mark.skipif(not HANDBOOK.exists(), reason=NO_HANDBOOK)
def test_the_published_counts_of_the_week_protocol_are_met_exactly():
    sql = (
        "SELECT epoch_us(TX_DATETIME) AS us, CUSTOMER_ID AS customer, TX_FRAUD AS fraud "
        f"FROM '{HANDBOOK}' WHERE TX_DATETIME >= '2018-07-01' AND TX_DATETIME < '2018-08-20' ORDER BY us"
    )
    with duckdb.connect() as connection:
        data = connection.execute(sql).fetchnumpy()
    us = data["us"].astype(np.int64)
    table = Rows(
        us,
        data["customer"].astype(np.int64),
        us,
        data["fraud"].astype(np.int8),
        us + MATURITY_US,
        MATURITY_US,
    )
    parts = split(table, PROTOCOLS["week"][0])
    assert (len(parts.train), int(parts.train_labels.sum())) == (67_240, 598)
    assert (len(parts.test), int(parts.test_labels.sum())) == (58_264, 385)
