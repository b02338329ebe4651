"""Wrong input on the command line ends as one message that names it, before anything is started."""

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


def test_a_replay_to_an_address_where_nobody_listens_names_it(home):
    fill_lake(settings().lake, *events(count=50))
    stretch = ("--start", "2025-03-01", "--end", "2025-04-20")
    message = said("replay", *stretch, "--url", "http://127.0.0.1:9")
    assert "service http://127.0.0.1:9: does not answer: Connection refused" in message


@pytest.mark.parametrize("url", ["nonsense", "https://127.0.0.1:9"])
def test_a_replay_to_what_is_no_address_of_a_service_names_it(home, url):
    fill_lake(settings().lake, *events(count=50))
    assert repr(url) in said("replay", "--start", "2025-03-01", "--end", "2025-04-20", "--url", url)
