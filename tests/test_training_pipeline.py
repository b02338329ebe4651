"""``fraud train``: from a lake to the champion, on simulated events."""

from dataclasses import replace
from datetime import timedelta

import pytest

from feature_repo.settings import settings
from pipelines.simulate import run
from pipelines.train import known_until, labelled_fold, train_model
from tests.training_events import DAY, START, chargeback, transaction, write_lake
from training import registry
from training.dataset import rebuild
from training.splits import Fold

WEEK = timedelta(days=7)
HOUR = timedelta(hours=1)


def lake_of(days, *, reported_after=WEEK):
    transactions = [transaction(i, START + i * DAY + HOUR) for i in range(days)]
    write_lake(settings().lake, transactions, [chargeback(transactions[-1], reported_after)])
    return settings().lake


def test_the_lake_is_known_until_just_after_its_last_event(home):
    lake = lake_of(3)
    assert known_until(lake) == START + 2 * DAY + HOUR + WEEK + timedelta(microseconds=1)


def test_the_test_part_ends_with_the_last_event_if_its_label_is_mature(home):
    lake = lake_of(30)
    found = labelled_fold(lake, START + 40 * DAY, WEEK, train_days=None, test_days=7)
    assert found == Fold(START + HOUR, START + 16 * DAY, START + 23 * DAY, START + 30 * DAY)


def test_a_day_that_is_mature_only_in_part_is_left_for_later(home):
    lake = lake_of(30)
    found = labelled_fold(lake, START + 30.5 * DAY, WEEK, train_days=5, test_days=4)
    assert found == Fold(START + 7 * DAY, START + 12 * DAY, START + 19 * DAY, START + 23 * DAY)


def test_a_lake_without_enough_history_is_refused(home):
    with pytest.raises(ValueError, match="too short for 7 days of test"):
        labelled_fold(lake_of(12), START + 40 * DAY, WEEK, train_days=None, test_days=7)


def test_an_empty_home_says_how_to_load_events(home):
    with pytest.raises(FileNotFoundError, match="fraud ingest, or fraud simulate"):
        train_model()


def test_the_champion_of_simulated_events_beats_its_baselines_and_can_be_made_again(store):
    run(40_000, 60, 5, "2025-01-01", settings().lake)
    told = []
    result = train_model(progress=lambda *step: told.append(step), threads=1, train_days=28)
    precision = {name: report.evaluation.average_precision for name, report in result.reports.items()}
    assert precision["catboost"] > max(precision["rules"], 3 * result.test_frauds / result.test_rows)
    better, worse = result.reports["catboost"], result.reports["rules"]
    assert replace(result, reports={"catboost": better, "rules": worse}).outdone_by == []
    assert replace(result, reports={"catboost": worse, "rules": better}).outdone_by == ["rules"]
    bundle, version = registry.load_champion()
    assert version == result.version
    assert (bundle.folder / "profile.json").exists()
    assert told[0] == ("training set", 0, 1)
    assert told[-1] == ("training", 6, 6)
    manifest = bundle.spec.training["dataset"]
    assert rebuild(manifest, store).manifest == manifest
