"""``fraud rollout`` on a real registry: every verb, its line in the ledger, and what a running service makes of it."""

import json
import time
from contextlib import closing

import httpx
import pytest
from typer.testing import CliRunner

from bento.serving import Serving
from feature_repo.settings import settings
from pipelines.cli import main
from pipelines.rollout import LEAST_SCORED, Desk
from pipelines.serve import running_service
from tests.deployments import after_load, body_of, deployed, events, registered, score, wait_for
from training.ledger import Ledger
from training.registry import MODEL_NAME, alias_version, promote, set_alias
from training.rollout import position
from training.rollout_registry import RolloutRegistry
from training.tracking import connect

TRANSACTIONS, CHARGEBACKS = events(count=900)
LATER = after_load(TRANSACTIONS)
TRAINING = {"dataset": {"maturity_us": 7 * 86_400_000_000}}
# Two models made of noise have little in common, which is not what these tests are about.
WIDE = ["--max-score-psi", "1e9", "--max-decline-ratio", "1e9", "--max-p99-ms", "1e9"]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    """Three versions: 1 and 2 of one FeatureService, 3 of another; 1 is the champion."""
    home = tmp_path_factory.mktemp("rollout")
    with deployed(home, TRANSACTIONS, CHARGEBACKS) as store:
        for number, service in ((0, "fraud_v1"), (1, "fraud_v1"), (2, "published_v1")):
            registered(home / "made" / str(number), store, seed=number, service=service, training=TRAINING)
        yield home


@pytest.fixture
def home(deployment):
    """The registry and ledger as at first."""
    registry = RolloutRegistry()
    promote("1")
    set_alias("challenger", "2")
    Ledger().path.unlink(missing_ok=True)
    Desk("setup").rollback("1")
    Ledger().path.unlink()
    assert registry.look().rollout().mode == "champion"
    return deployment


def fraud(*arguments):
    result = CliRunner().invoke(main, ["rollout", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments):
    result = CliRunner().invoke(main, ["rollout", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.output


def in_force():
    return RolloutRegistry().look().rollout()


def changes():
    return [(each["change"], each["to"]["champion"], each["to"]["mode"]) for each in Ledger().entries()]


def test_the_steps_of_a_rollout_each_leave_a_line(home):
    assert "shadow" in fraud("shadow", "--who", "ann")
    assert (in_force().mode, in_force().challenger) == ("shadow", "2")
    assert "decides for 5% of the customers" in fraud("canary", 5, "--max-p99-ms", 20)
    assert (in_force().share, in_force().guards.max_p99_ms, in_force().guards.min_scored) == (0.05, 20, 200)
    fraud("canary", 12.5)
    fraud("ab", 50, 3)
    assert (in_force().challenger, in_force().guards.max_p99_ms, alias_version("challenger")) == (
        "3",
        20,
        "3",
    )
    assert "1% of the declines" in fraud("explore", 0.01, "--up-to", 200)
    assert (in_force().mode, in_force().explore_up_to_usd_cents) == ("ab", 20_000)
    seed = in_force().seed
    fraud("rollback", "--why", "enough")
    assert (in_force().mode, in_force().explore, in_force().seed) == ("champion", 0.01, seed)
    fraud("explore", 0)
    assert changes() == [
        (verb, "1", mode)
        for verb, mode in [
            ("shadow", "shadow"), ("canary", "canary"), ("canary", "canary"), ("ab", "ab"),
            ("explore", "ab"), ("rollback", "champion"), ("explore", "champion"),
        ]
    ]  # fmt: skip
    first, second = Ledger().entries()[:2]
    assert (first["who"], first["from"]["mode"]) == ("ann", "champion")
    assert "@" in second["who"]
    assert second["from"] == first["to"]
    assert Ledger().entries()[-2]["why"] == "enough"
    assert len({each["id"] for each in Ledger().entries()}) == 7


def journal_of(count, customers=20):
    """Score so many transactions by a service in this process; returns its answers."""
    with closing(Serving.open()) as serving:
        answers = []
        for number in range(count):
            request = body_of(
                LATER[number % 100], transaction_id=f"x{time.time_ns()}", customer_id=f"c{number % customers}"
            )
            answers.append((request["customer_id"], score(serving, request)["model"]["version"]))
    return answers


def test_a_promotion_rests_on_what_both_did_and_can_be_taken_back(home):
    assert "no challenger is tried" in refused("promote")
    fraud("shadow", 3, *WIDE)
    assert "have both scored 0 transactions" in refused("promote")
    assert {version for _, version in journal_of(LEAST_SCORED + 5)} == {"1"}
    said = fraud("status")
    assert f"scored by both: {LEAST_SCORED + 5}" in said
    assert "they decide alike on" in said
    assert f"scored by both: {LEAST_SCORED + 5}" in fraud("promote", "--why", "it is better")
    assert (alias_version("champion"), in_force().mode, in_force().challenger) == ("3", "champion", None)
    promotion = Ledger().entries()[-1]
    comparison = promotion["evidence"]["comparison"]
    assert (promotion["from"]["champion"], promotion["to"]["champion"]) == ("1", "3")
    assert (comparison["asked"], comparison["failed"], comparison["scored"]) == (105, 0, 105)
    assert 0 <= comparison["agreement"] <= 1
    assert comparison["score_psi"] > 0
    assert {version for _, version in journal_of(2)} == {"3"}
    assert "now:    champion 1" in fraud("rollback")
    assert alias_version("champion") == "1"
    assert "nothing is rolled out" in refused("rollback")
    assert "champion 3" in fraud("rollback", 3)


def test_a_canary_s_customers_are_those_of_the_hash(home):
    fraud("canary", 30, 2, *WIDE)
    answers = journal_of(40)
    assert answers == [(customer, "2" if position("2", customer) < 0.3 else "1") for customer, _ in answers]
    found = json.loads(fraud("status", "--json"))
    arms = found["comparison"]["arms"]
    assert arms["champion"]["decisions"] + arms["challenger"]["decisions"] == 40
    assert found["comparison"]["scored"] == arms["challenger"]["decisions"] > 0


def test_matured_labels_are_part_of_the_evidence(home):
    fraud("shadow", 2, *WIDE)
    with closing(Serving.open()) as serving:
        for row in LATER[:LEAST_SCORED]:
            score(serving, body_of(row))
    fraud("promote")
    matured = Ledger().entries()[-1]["evidence"]["matured"]
    assert matured["rows"] > 20
    assert matured["frauds"] > 0
    assert matured["reason"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("shadow", 9), "has no version '9'"),
        (("shadow", 1), "version 1 is the champion already"),
        (("canary", 0), "more than 0%"),
        (("ab", 100), "less than 100%"),
        (("explore", 0.5), "0 to 0.1"),
        (("rollback", 9), "has no version '9'"),
        (("canary", 5, "--max-p99-ms", 0), "max_p99_ms is 0"),
    ],
)
def test_what_cannot_be_is_refused_with_a_way_out_and_changes_nothing(home, arguments, said):
    before = RolloutRegistry().look()
    assert said in refused(*arguments)
    assert RolloutRegistry().look() == before
    assert Ledger().entries() == []


def test_an_end_said_by_a_service_elsewhere_is_shown_and_comes_into_the_ledger(home):
    fraud("canary", 5)
    name = in_force().id
    about = {"at": "2025-01-01", "who": "guard rail of h-1", "why": "error rate: too high", "guard": "error rate",
             "champion": "1", "challenger": "2", "mode": "canary", "share": 0.05}  # fmt: skip
    RolloutRegistry().say_ended(name, about)
    RolloutRegistry().say_ended(name, {**about, "why": "said again"})
    RolloutRegistry().say_refused(name, "h-2", "its artifact is broken")
    said = fraud("status")
    assert "ended 2025-01-01 by guard rail of h-1: error rate: too high" in said
    assert "refused by h-2: its artifact is broken" in said
    fraud("status")
    assert changes() == [("canary", "1", "canary"), ("rollback", "1", "champion")]
    fraud("shadow", 2)
    assert in_force().mode == "shadow"
    assert "ended" not in fraud("status").split("ledger:")[0]


def test_a_damaged_document_is_said_and_written_anew_by_a_rollback(home):
    connect().set_registered_model_tag(MODEL_NAME, "rollout", "{")
    assert "the document is no JSON" in fraud("status")
    assert "fraud rollout rollback" in refused("shadow", 2)
    fraud("rollback")
    assert in_force().mode == "champion"
    assert changes() == [("rollback", "1", "champion")]


def test_a_champion_that_was_changed_by_hand_stands_in_the_ledger_too(home):
    fraud("explore", 0.01)
    set_alias("champion", "3")
    fraud("status")
    assert changes() == [("explore", "1", "champion"), ("outside", "3", "champion")]


def test_without_a_champion_the_way_to_one_is_told(home):
    connect().delete_registered_model_alias(MODEL_NAME, "champion")
    for verb in (("shadow",), ("explore", 0.01), ("promote",), ("rollback",)):
        assert "fraud train" in refused(*verb)
    assert "champion None" in fraud("status")


def test_a_registry_that_is_away_is_named(home, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert "model registry http://127.0.0.1:9: it does not answer" in refused("status")


def test_a_running_service_follows_every_change_without_a_restart(home):
    def shown(url):
        page = httpx.get(f"{url}/v1/model").json()
        return page["version"], page["rollout"]["mode"], page["rollout"]["share"]

    with running_service(home) as url:
        assert shown(url) == ("1", "champion", 0)
        for arguments, expected in [
            (("shadow", 3), ("1", "shadow", 0)),
            (("canary", 5), ("1", "canary", 0.05)),
            (("promote", "--force"), ("3", "champion", 0)),
            (("rollback",), ("1", "champion", 0)),
        ]:
            fraud(*arguments, *(WIDE if arguments[0] in ("shadow", "canary") else ()))
            wait_for(lambda expected=expected: shown(url) == expected, patience_s=20)
        metrics = httpx.get(f"{url}/metrics").text
        assert 'fraud_rollout_info{challenger="3",mode="canary"} 0.0' in metrics
    assert (settings().home / "serving" / "rollout.json").is_file()
