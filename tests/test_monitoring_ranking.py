"""Weighted ranking metrics: the evaluation's with weights of one, those of copied rows with whole weights."""

import numpy as np
import pytest

from monitoring import ranking
from training import evaluation

METRICS = {
    "average_precision": (ranking.average_precision, evaluation.average_precision),
    "recall_first_decile": (ranking.recall_first_decile, evaluation.recall_first_decile),
}


def draw(
    seed: int, rows: int = 900, distinct: int = 60
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores with many ties, labels that they half explain, customers, days."""
    rng = np.random.default_rng(seed)
    score = rng.integers(0, distinct, rows) / distinct
    label = (rng.random(rows) < 0.02 + 0.3 * score**4).astype(np.int8)
    return score, label, rng.integers(0, rows // 5, rows), rng.integers(100, 104, rows)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", METRICS)
def test_with_weights_of_one_a_metric_is_that_of_the_evaluation(name: str, seed: int) -> None:
    score, label, customer, day = draw(seed)
    ours, theirs = METRICS[name]
    rows = ranking.rank(score, label.astype(float), customer, day)
    assert ours(rows)(np.ones(len(rows))) == pytest.approx(theirs(label, score), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_auc_and_card_precision_too(seed: int) -> None:
    score, label, customer, day = draw(seed)
    expected = evaluation.evaluate(label, score, customers=customer, days=day)
    rows = ranking.rank(score, label.astype(float), customer, day)
    ones = np.ones(len(rows))
    assert ranking.auc_roc(rows)(ones) == pytest.approx(expected.auc_roc, abs=1e-12)
    assert ranking.card_precision(rows)(ones) == pytest.approx(expected.card_precision_100, abs=1e-12)


@pytest.mark.parametrize("metric", [ranking.average_precision, ranking.auc_roc])
def test_a_row_of_weight_three_is_three_rows(metric: object) -> None:
    score, label, customer, day = draw(9)
    times = np.random.default_rng(1).integers(0, 4, len(score))
    once = ranking.rank(score, label.astype(float), np.arange(len(score)), day)
    copied = ranking.rank(*(np.repeat(x, times) for x in (score, label.astype(float), customer, day)))
    weights = times[once.customer].astype(float)
    assert metric(once)(weights) == pytest.approx(metric(copied)(np.ones(len(copied))), abs=1e-12)  # type: ignore[operator]


def test_a_drawn_customer_takes_places_among_the_top_as_often_as_it_is_drawn() -> None:
    # By rank: fraud (drawn twice), genuine, fraud. Of two places the first customer takes both.
    rows = ranking.rank(
        np.array([0.9, 0.8, 0.7]), np.array([1.0, 0, 1]), np.array([0, 1, 2]), np.array([1, 1, 1])
    )
    metric = ranking.card_precision(rows, top=2)
    assert metric(np.array([1.0, 1, 1])) == 0.5
    assert metric(np.array([2.0, 1, 1])) == 1.0
    assert metric(np.array([0.0, 1, 1])) == 0.5


def test_a_customer_found_on_one_day_makes_room_on_the_next() -> None:
    # Day 1 finds customer 0; on day 2 its higher score no longer takes the only place from customer 1.
    rows = ranking.rank(
        np.array([0.9, 0.9, 0.5]), np.array([1.0, 1, 1]), np.array([0, 0, 1]), np.array([1, 2, 2])
    )
    assert ranking.card_precision(rows, top=1)(np.ones(3)) == 1.0


def test_an_interval_holds_its_estimate_and_narrows_with_more_customers() -> None:
    def width(rows: int) -> float:
        score, label, customer, day = draw(4, rows=rows, distinct=10_000)
        ranked = ranking.rank(score, label.astype(float), customer, day)
        found = ranking.bootstrap(ranked, ranking.average_precision, seed=1)
        assert found is not None
        assert found.low < found.value < found.high
        return found.high - found.low

    assert width(20_000) < width(1_000) / 2


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    truth_score, truth_label, customer, day = draw(77, rows=400_000, distinct=10_000)
    truth = evaluation.average_precision(truth_label, truth_score)
    covered = 0
    for seed in range(60):
        score, label, customer, day = draw(1000 + seed, rows=2_000, distinct=10_000)
        found = ranking.bootstrap(
            ranking.rank(score, label.astype(float), customer, day), ranking.average_precision, seed=seed
        )
        assert found is not None
        covered += found.low <= truth <= found.high
    assert covered >= 50


def test_the_same_seed_gives_the_same_interval() -> None:
    score, label, customer, day = draw(5)
    ranked = ranking.rank(score, label.astype(float), customer, day)
    first, second = (ranking.bootstrap(ranked, ranking.auc_roc, seed=3) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("label", [[0.0, 0.0], [1.0, 1.0]])
def test_one_class_has_no_auc(label: list[float]) -> None:
    ranked = ranking.rank(np.array([0.2, 0.1]), np.array(label), np.array([0, 1]), np.array([1, 1]))
    assert ranking.bootstrap(ranked, ranking.auc_roc, seed=1) is None


def test_no_rows_have_no_interval() -> None:
    empty = np.empty(0)
    ranked = ranking.rank(empty, empty, np.empty(0, np.int64), np.empty(0, np.int64))
    assert ranking.bootstrap(ranked, ranking.average_precision, seed=1) is None
