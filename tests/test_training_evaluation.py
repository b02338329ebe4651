"""Measures, each against a calculation that one can follow by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.evaluation import (
    Evaluation,
    LeakError,
    average_precision,
    card_precision,
    evaluate,
    guard_against_leak,
    mean_evaluation,
    recall_first_decile,
)
from training.splits import PROTOCOLS

WEEK = PROTOCOLS["week"][0]


def arrays(labels, scores, customers=None, days=None):
    n = len(labels)
    return (
        np.array(labels, np.int8),
        np.array(scores, np.float64),
        np.array(customers if customers is not None else range(n), np.int64),
        np.array(days if days is not None else [0] * n, np.int64),
    )


def test_average_precision_is_the_mean_precision_at_each_fraud():
    # Ranked: fraud, genuine, fraud, genuine: precisions 1/1 and 2/3 at the two frauds.
    labels, scores, *_ = arrays([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1])
    assert average_precision(labels, scores) == pytest.approx((1 + 2 / 3) / 2)


def test_equal_scores_are_one_step_whatever_the_order_of_rows():
    labels, scores, *_ = arrays([1, 0, 0, 1], [0.5, 0.5, 0.5, 0.5])
    assert average_precision(labels, scores) == average_precision(labels[::-1], scores) == 0.5


def test_recall_of_the_first_decile_counts_frauds_in_the_top_tenth():
    labels = np.zeros(20, np.int8)
    labels[[0, 5]] = 1
    scores = np.linspace(1, 0, 20)
    assert recall_first_decile(labels, scores) == 0.5


def test_rows_tied_at_the_decile_count_by_their_mean():
    labels = np.zeros(20, np.int8)
    labels[:4] = 1
    # The first row is sure; nineteen tie for the one place left, three of them frauds.
    assert recall_first_decile(labels, np.array([1.0] + [0.5] * 19)) == pytest.approx((1 + 3 / 19) / 4)


def test_card_precision_counts_cards_by_their_highest_score_of_the_day():
    # Card 1 is fraudulent by its second row; card 2 ranks first by its first.
    labels, scores, customers, days = arrays(
        [0, 1, 0, 0], [0.1, 0.8, 0.9, 0.2], customers=[1, 1, 2, 3], days=[0, 0, 0, 0]
    )
    assert card_precision(labels, scores, customers=customers, days=days, top=2) == 0.5
    assert card_precision(labels, scores, customers=customers, days=days, top=1) == 0.0


def test_a_card_found_on_one_day_is_not_looked_at_again():
    labels, scores, customers, days = arrays(
        [1, 0, 1, 1], [0.9, 0.1, 0.9, 0.8], customers=[1, 2, 1, 3], days=[0, 0, 1, 1]
    )
    # Day 0 finds card 1; on day 1 its fraud is out, so that card 3 is first.
    assert card_precision(labels, scores, customers=customers, days=days, top=1) == 1.0


def test_a_day_of_fewer_cards_than_asked_is_still_measured_over_those_asked():
    labels, scores, customers, days = arrays([1, 0], [0.9, 0.1])
    assert card_precision(labels, scores, customers=customers, days=days) == 0.01


def naive_card_precision(labels, scores, customers, days, top):
    found, precisions = set(), []
    for day in sorted(set(days)):
        cards = {}
        for label, score, card, its_day in zip(labels, scores, customers, days, strict=True):
            if its_day == day and card not in found:
                best, fraud = cards.get(card, (-1.0, 0))
                cards[card] = (max(best, score), max(fraud, label))
        ranked = sorted(cards, key=lambda card: (-cards[card][0], card))[:top]
        detected = [card for card in ranked if cards[card][1]]
        found |= set(detected)
        precisions.append(len(detected) / top)
    return sum(precisions) / len(precisions)


ROWS = st.lists(
    st.tuples(
        st.integers(0, 1), st.sampled_from([0.0, 0.25, 0.5, 0.75]), st.integers(0, 5), st.integers(0, 3)
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(rows=ROWS, top=st.integers(1, 4))
def test_card_precision_is_that_of_plain_loops(rows, top):
    labels, scores, customers, days = arrays(*(list(column) for column in zip(*rows, strict=True)))
    found = card_precision(labels, scores, customers=customers, days=days, top=top)
    expected = naive_card_precision(*(c.tolist() for c in (labels, scores, customers, days)), top)
    assert found == pytest.approx(expected, abs=1e-12)


def test_scores_that_are_not_numbers_are_refused():
    labels, scores, customers, days = arrays([1, 0], [0.1, float("nan")])
    with pytest.raises(ValueError, match="1 scores are not finite"):
        evaluate(labels, scores, customers=customers, days=days)


def test_rows_of_one_class_are_refused():
    labels, scores, customers, days = arrays([0, 0], [0.1, 0.2])
    with pytest.raises(ValueError, match="2 rows of one class"):
        evaluate(labels, scores, customers=customers, days=days)


def test_a_perfect_ranking_measures_one_in_everything_that_can():
    labels, scores, customers, days = arrays([1] + [0] * 19, [0.99] + [0.01] * 19)
    found = evaluate(labels, scores, customers=customers, days=days)
    assert (found.auc_roc, found.average_precision, found.recall_first_decile) == (1, 1, 1)
    assert found.brier == pytest.approx(0.0001)


def evaluation(value):
    return Evaluation(10, 2, 0.9, value, 0.3, 0.8, 0.01, 0.02)


def test_a_result_above_what_an_honest_model_can_know_is_refused():
    with pytest.raises(LeakError, match="a feature knows the label"):
        guard_against_leak(WEEK, evaluation(0.7901))


def test_a_result_at_the_ceiling_and_any_on_other_rows_is_accepted():
    guard_against_leak(WEEK, evaluation(0.79))
    guard_against_leak(PROTOCOLS["prequential"][0], evaluation(0.95))


def test_the_prequential_protocol_is_guarded_on_the_same_test_week():
    assert WEEK in PROTOCOLS["prequential"]


def test_the_mean_over_folds_is_plain():
    assert mean_evaluation([evaluation(0.2), evaluation(0.4)]).average_precision == pytest.approx(0.3)
