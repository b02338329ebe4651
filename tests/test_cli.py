"""Wrong input on the command line ends as one message that names it, before anything is started."""

from datetime import timedelta

import pytest
from typer.testing import CliRunner

from feature_repo.settings import settings
from pipelines.cli import main
from tests.deployments import events, fill_lake


def said(*arguments):
    """What a refused command says; it must say it in one message."""
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert result.output.count("error ") == 1
    return result.output


@pytest.mark.parametrize(
    "command", [("features",), ("train", "--service"), ("parity", "--feature-service")], ids=" ".join
)
def test_an_unknown_feature_service_is_named_with_those_that_are_known(home, command):
    message = said(*command, "nope")
    assert "feature service 'nope': not defined; there are fraud_v1, published_v1" in message


@pytest.mark.parametrize("command", ["train", "retrain --force", "monitor"])
def test_an_instant_without_zone_is_refused(home, command):
    assert "it has no zone; add Z for UTC" in said(*command.split(), "--as-of", "2025-03-01T12:00")


def test_a_transaction_of_today_beside_history_of_long_ago_can_be_left_out_of_training(home):
    old = events(count=2_000)
    today = {**old[0][-1], "transaction_id": "today"}
    for name in ("event_timestamp", "created_timestamp"):
        today[name] += timedelta(days=500)
    today["event_day"] = today["event_timestamp"].date()
    fill_lake(settings().lake, [*old[0], today], *old[1:])
    assert "no transaction with a label" in said("train", "--test-days", "4")
    done = CliRunner().invoke(main, ["train", "--test-days", "4", "--as-of", "2025-04-20"])
    assert done.exit_code == 0, done.output
    assert "is champion" in done.output


def test_a_replay_to_an_address_where_nobody_listens_names_it(home):
    fill_lake(settings().lake, *events(count=50))
    stretch = ("--start", "2025-03-01", "--end", "2025-04-20")
    message = said("replay", *stretch, "--url", "http://127.0.0.1:9")
    assert "service http://127.0.0.1:9: does not answer: Connection refused" in message


@pytest.mark.parametrize("url", ["nonsense", "https://127.0.0.1:9"])
def test_a_replay_to_what_is_no_address_of_a_service_names_it(home, url):
    fill_lake(settings().lake, *events(count=50))
    assert repr(url) in said("replay", "--start", "2025-03-01", "--end", "2025-04-20", "--url", url)
