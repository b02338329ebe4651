"""``fraud keys``, and what other verbs make of keys: where the service may listen, and what the replay sends."""

import re

import pytest
from typer.testing import CliRunner

from bento.api_keys import KEY_PATTERN, load_keys
from pipelines.cli import main
from pipelines.keys import sent_key


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAUD_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("FRAUD_API_KEYS", raising=False)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(main, [str(each) for each in arguments])


def test_a_key_is_printed_once_alone_and_then_listed_by_name(home):
    made = run(
        "keys", "create", "shop", "--scope", "score", "--scope", "record", "--expires", "90d", "--rate", 50
    )
    assert made.exit_code == 0, made.output
    key = made.stdout.strip()
    assert re.fullmatch(KEY_PATTERN, key)
    listed = run("keys", "list").output
    assert re.search(
        r"shop +[0-9a-f]{8} +record score +\d{4}-\d\d-\d\d +\d{4}-\d\d-\d\d \d\d:\d\d UTC +50/s", listed
    )
    assert key not in listed
    assert "never" in run("keys", "create", "till", "--scope", "score").output + run("keys", "list").output
    assert run("keys", "revoke", "shop").exit_code == 0
    assert [each.name for each in load_keys(home / "api-keys.json").values()] == ["till"]


def test_no_key_is_said_to_be_none(home):
    assert "the service answers its own machine only" in run("keys", "list").output


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("create", "shop", "--scope", "scoring"), "scope 'scoring' is unknown"),
        (("create", "shop", "--scope", "score", "--expires", "2020-01-01"), "that is past"),
        (("create", "shop", "--scope", "score", "--expires", "soon"), "time 'soon'"),
        (("revoke", "shop"), "API key shop: there is none"),
    ],
)
def test_what_cannot_be_done_is_one_message(arguments, why):
    result = run("keys", *arguments)
    assert (result.exit_code, result.output.count("error ")) == (2, 1)
    assert why in result.output


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "203.0.113.7", "scorer.example"])  # noqa: S104
def test_without_a_key_the_service_listens_to_this_machine_only(host):
    result = run("serve", "--host", host)
    assert result.exit_code == 2
    assert f"host {host}: others could call the service, and no API key is configured" in result.output
    assert "fraud keys create NAME --scope score" in result.output


def test_an_error_on_the_command_line_shows_no_password(monkeypatch):
    monkeypatch.setenv("FRAUD_RATE_PER_KEY", "redis:6379,password=hunter2-of-ours")
    result = run("keys", "list")
    assert result.exit_code == 2
    assert "hunter2" not in result.output
    assert "[redacted]" in result.output


def test_verbs_that_call_a_service_send_the_key_of_the_environment(monkeypatch):
    monkeypatch.delenv("FRAUD_API_KEY", raising=False)
    assert sent_key() == {}
    monkeypatch.setenv("FRAUD_API_KEY", "fraud_x")
    assert sent_key() == {"Authorization": "Bearer fraud_x"}
