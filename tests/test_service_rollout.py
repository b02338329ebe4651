"""A challenger beside the champion, within one process: real engine, real Valkey, real journal; the registry is a shelf."""

import json
from contextlib import closing, contextmanager
from datetime import timedelta

import numpy as np
import pytest

from bento.case import Case
from bento.champion import Champions
from bento.kept import KeptChampion
from bento.rollout import Rollouts
from bento.serving import Serving
from feature_repo.journal import read_decisions
from feature_repo.settings import settings
from feature_repo.windows import reading
from feature_repo.windows.keys import loaded_key, state_key, view_prefix
from feature_repo.windows.plan import OnlinePlan
from feature_repo.windows.wire import exchange
from monitoring.beside import record_beside
from monitoring.parity import audit
from pipelines.load_journal import load_journal
from tests import deployments
from tests.deployments import (
    LOADED_UNTIL,
    after_load,
    body_of,
    deployed,
    events,
    fresh,
    make_bundle,
    report_of,
    send,
)
from tests.exposition import shown
from tests.journals import line_of
from tests.windows_project import online_client
from training.bundle import Bundle
from training.ledger import Ledger
from training.policy import Policy
from training.rollout import Guards, Rollout, position
from training.rollout_registry import look_of

TRANSACTIONS, CHARGEBACKS = events()
LATER = after_load(TRANSACTIONS)
OTHER = "published_v1"
# So wide that two models made of noise do not end a rollout.
WIDE = Guards(max_score_psi=1e9, max_decline_ratio=1e9, max_p99_ms=1e9)
DECLINING = Policy(false_decline_cents=0.0, false_decline_share=0.0)
IDS = iter(range(10**6))


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    """Definitions, forty days of state, a champion of ``fraud_v1`` and challengers of it and of another FeatureService."""
    home = tmp_path_factory.mktemp("rollout")
    with deployed(home, TRANSACTIONS, CHARGEBACKS) as store:
        make_bundle(home / "champion", store)
        make_bundle(home / "alike", store, seed=1)
        make_bundle(home / "other", store, seed=2, service=OTHER)
        yield store


class Shelf:
    """Stands where the model registry stands: aliases, tags, and bundles by version."""

    def __init__(self, home):
        self.folders = {"1": home / "champion", "2": home / "alike", "3": home / "other"}
        self.aliases, self.tags, self.away = {"champion": "1"}, {}, False

    def put(self, mode, challenger=None, **more):
        more = {"id": f"r{next(IDS)}", "seed": "seed", "guards": WIDE, **more}
        document = Rollout(mode=mode, challenger=challenger, **more)
        self.tags["rollout"] = document.as_text()
        return document

    def latest(self):
        if self.away:
            raise ConnectionError("the registry is away")
        return look_of(self.aliases, self.tags)

    def champion(self):
        return self.latest().champion

    def load(self, version):
        if self.away:
            raise ConnectionError("the registry is away")
        return Bundle.load(self.folders[version])

    def say_ended(self, rollout_id, about):
        self.latest()
        self.tags.setdefault(f"rollout.ended.{rollout_id}", json.dumps(about))

    def say_refused(self, rollout_id, where, why):
        self.tags.pop(f"rollout.refused.{rollout_id}.{where}", None)
        if why is not None:
            self.tags[f"rollout.refused.{rollout_id}.{where}"] = why


@pytest.fixture
def shelf(deployment):
    return Shelf(settings().home)


@contextmanager
def service(shelf, folder=None):
    """A service that follows the shelf when it is told to."""
    kept = None if folder is None else KeptChampion(folder)
    champions = Champions(shelf.champion, load=shelf.load, kept=kept)
    ledger = None if folder is None else Ledger(folder)
    rollouts = Rollouts(champions, shelf, folder=folder, load=shelf.load, ledger=ledger)
    with closing(Serving.open(champions, rollouts=rollouts)) as opened:
        yield opened


def score(serving, row=LATER[0], **changes):
    """A request like the row's, under an id never used, and its answer and line."""
    answer = deployments.score(serving, fresh(row, **changes))
    return answer, line_of(settings().home, answer["transaction_id"])


def scored_by(folder, line):
    """What the bundle says of the features in a line."""
    bundle = Bundle.load(folder)
    values = [line["features"][name] for name in bundle.feature_names]
    found = float(bundle.score(np.array([[np.nan if v is None else v for v in values]]))[0])
    return found, bundle.decide(found, line["request"]["amount_usd_cents"])


def test_the_champion_alone_has_lines_as_ever(deployment, shelf):
    with service(shelf) as serving:
        assert serving.rollouts.current is None
        answer, line = score(serving)
        assert answer["model"]["version"] == "1"
        assert {"rollout", "beside", "exploration"}.isdisjoint(line)
        assert serving.model()["rollout"]["mode"] == "champion"


@pytest.mark.parametrize("challenger", ["2", "3"])
def test_a_shadow_is_scored_and_journalled_and_not_acted_upon(deployment, shelf, challenger):
    document = shelf.put("shadow", challenger)
    with service(shelf) as serving:
        answer, line = score(serving)
        assert serving.model()["rollout"]["guards"]["both"] == 1
    assert answer["model"]["version"] == line["model_version"] == "1"
    assert line["rollout"] == {"id": document.id, "mode": "shadow", "arm": "champion", "share": 0}
    assert (answer["score"], answer["decision"]) == scored_by(shelf.folders["1"], line)
    beside = line["beside"]
    assert (beside["role"], beside["model_version"], beside["degraded"]) == ("challenger", challenger, None)
    whole = record_beside(line)
    assert (beside["score"], beside["decision"]) == scored_by(shelf.folders[challenger], whole)
    # Of the same FeatureService nothing is written twice.
    assert (beside["features"] == {}) == (challenger == "2")
    assert set(beside["features"]).isdisjoint(line["features"])


def test_a_challenger_of_other_features_is_read_in_the_champion_s_round_trip(deployment, shelf, monkeypatch):
    shelf.put("shadow", "3")
    trips = []

    def count(client, commands):
        trips.append(commands)
        return exchange(client, commands)

    monkeypatch.setattr(reading, "exchange", count)
    with service(shelf) as serving:
        trips.clear()
        for _ in range(5):
            score(serving)
        assert len(trips) == 5
        views = {spec.view for spec in serving.reads}
        assert {"terminal_fraud", "pair_activity"} <= views
        assert {"terminal_fraud", "pair_activity"} <= {
            spec.view for spec in serving.recording._recorder.specs
        }


@pytest.mark.parametrize("challenger", ["2", "3"])
def test_those_decided_together_are_scored_by_both_models_with_one_call_each(
    deployment, shelf, monkeypatch, challenger
):
    shelf.put("shadow", challenger)
    with service(shelf) as serving:
        trial, calls = serving.rollouts.current.trial, []

        def counted(model):
            score = model.bundle.score

            def noted(values):
                calls.append((model.version, len(values)))
                return score(values)

            monkeypatch.setattr(model.bundle, "score", noted)

        counted(trial.champion), counted(trial.challenger)
        cases = [
            Case(serving._transaction_in(fresh(LATER[0], customer_id=f"g{i}", terminal_id=f"gt{i}")), 0)
            for i in range(4)
        ]
        serving._scorer.decide(cases)
        assert calls == [("1", 4), (challenger, 4)]
        bundle = trial.challenger.bundle
        for case in cases:
            features = record_beside(case.record)["features"]
            values = [np.nan if features[name] is None else features[name] for name in bundle.feature_names]
            alone = bundle.score(np.array([values]))
            assert case.record["beside"]["score"] == alone[0]


def test_a_group_is_timed_once_whichever_of_it_the_challenger_decides(deployment, shelf):
    shelf.put("canary", "2", share=0.5)
    with service(shelf) as serving:
        rollout = serving.rollouts.current.rollout
        names = sorted((f"k{i}" for i in range(20)), key=rollout.decides)
        taking = sum(map(rollout.decides, names))
        assert 0 < taking < 20
        for times in (1, 2):
            requests = (fresh(LATER[0], customer_id=name, terminal_id=f"{name}-{times}") for name in names)
            serving._scorer.decide([Case(serving._transaction_in(each), times) for each in requests])
            guards = serving.model()["rollout"]["guards"]
            assert (guards["taken"], guards["timed"]) == (taking * times, times)


def test_those_that_the_challenger_can_only_score_one_by_one_are_timed_one_by_one(deployment, shelf, caplog):
    shelf.put("shadow", "2")
    with service(shelf) as serving:
        bundle = serving.rollouts.current.trial.challenger.bundle
        score_some = bundle.score

        def single(values):
            if len(values) > 1:
                raise RuntimeError("no more than one")
            return score_some(values)

        bundle.score = single
        requests = (fresh(LATER[0], customer_id=f"o{i}", terminal_id=f"ot{i}") for i in range(4))
        cases = [Case(serving._transaction_in(each), 0) for each in requests]
        serving._scorer.decide(cases)
        guards = serving.model()["rollout"]["guards"]
        assert (guards["taken"], guards["timed"]) == (4, 4)
        assert all(case.record["beside"]["score"] is not None for case in cases)
    assert "cannot score several at once" in caplog.text


@pytest.mark.parametrize("mode", ["canary", "ab"])
def test_customers_are_shared_between_the_models_by_a_sticky_hash(deployment, shelf, mode):
    shelf.put(mode, "3", share=0.3)
    customers = [f"c{number}" for number in range(20)]
    theirs = {customer for customer in customers if position("3", customer) < 0.3}
    assert theirs
    assert theirs != set(customers)
    with service(shelf) as serving:
        lines = [score(serving, customer_id=customer)[1] for customer in customers]
        found = shown(serving.metrics)
    counted = [value for (name, *_), value in found.items() if name == "fraud_arm_decisions_total"]
    assert sum(counted) == len(customers)
    for customer, line in zip(customers, lines, strict=True):
        version, arm = ("3", "challenger") if customer in theirs else ("1", "champion")
        assert (line["model_version"], line["rollout"]["arm"]) == (version, arm)
        assert (line["score"], line["decision"]) == scored_by(shelf.folders[version], line)
        if arm == "champion":
            assert "beside" not in line
        else:
            assert line["beside"]["role"] == "champion"
            whole = record_beside(line)
            assert (whole["score"], whole["decision"]) == scored_by(shelf.folders["1"], whole)
            assert line["feature_service"] == OTHER


def test_parity_holds_for_both_models_whoever_decided(tmp_path):
    """In order of known time, in a home of its own: in shadow, half and half, then a model of the same features."""
    reported = [row for row in CHARGEBACKS if row["created_timestamp"] >= LOADED_UNTIL]
    arrivals = sorted([*LATER, *reported], key=lambda row: row["created_timestamp"])[:240]
    stages = {0: ("shadow", "3", 0), 80: ("ab", "3", 0.5), 160: ("ab", "2", 0.5)}
    with deployed(tmp_path, TRANSACTIONS, CHARGEBACKS) as store:
        for name, seed, read in (("champion", 0, "fraud_v1"), ("alike", 1, "fraud_v1"), ("other", 2, OTHER)):
            make_bundle(tmp_path / name, store, seed=seed, service=read)
        shelf = Shelf(tmp_path)
        with service(shelf) as serving:
            for at, row in enumerate(arrivals):
                if at in stages:
                    mode, challenger, share = stages[at]
                    shelf.put(mode, challenger, share=share)
                    assert serving.rollouts.refresh()
                if "reason_code" in row:
                    send(serving, "chargeback", report_of(row))
                else:
                    answer = score(serving, row, transaction_id=row["transaction_id"])[0]
                    assert answer["degraded"] is None
        load_journal(tmp_path / "journal", settings().lake)
        report = audit(store, tmp_path / "journal", bundle_loader=lambda name, version: shelf.load(version))
        lines = list(read_decisions(tmp_path / "journal"))
    beside = [line for line in lines if "beside" in line]
    assert (report.mismatches, report.score_mismatches, report.holds) == (0, 0, True)
    assert report.decisions == report.scores_compared == len(lines) > 150
    assert report.beside.scores_compared == len(beside) > 100
    assert report.beside.values_compared > 60 * 12
    assert {line["model_version"] for line in lines} == {"1", "2", "3"}


def test_a_shadow_s_wrong_feature_or_score_is_a_mismatch_of_its_own(deployment, shelf, tmp_path):
    shelf.put("shadow", "3")
    later = LATER[-1]["created_timestamp"] + timedelta(seconds=1)
    with service(shelf) as serving:
        line = score(
            serving,
            customer_id="c-wrong",
            terminal_id="m-wrong",
            event_timestamp=later,
            created_timestamp=later,
        )[1]
    load_journal(settings().journal, settings().lake)
    name = next(iter(line["beside"]["features"]))
    line["beside"]["features"][name] = 77.0
    line["beside"]["score"] = 0.125
    (tmp_path / "decisions-2026-01-01-1.jsonl").write_text(json.dumps(line) + "\n")
    report = audit(deployment, tmp_path, bundle_loader=lambda name, version: shelf.load(version))
    assert (report.mismatches, report.score_mismatches, report.holds) == (0, 0, False)
    assert (report.beside.by_feature, report.beside.score_mismatches) == ({name: 1}, 1)


def test_a_share_of_declines_is_approved_and_flagged_with_its_probability(deployment, shelf, tmp_path):
    shelf.folders["1"] = make_bundle(tmp_path / "declines", deployment, policy=DECLINING)
    document = shelf.put("champion", explore=0.1, explore_up_to_usd_cents=60_000)
    with service(shelf) as serving:
        lines = [score(serving, amount="12.50")[1] for _ in range(80)]
        above = score(serving, amount="600.01")[1]
        request = body_of(LATER[0], transaction_id=lines[0]["transaction_id"], amount="12.50")
        assert send(serving, "score", request).repeated
    for line in lines:
        draw = line["exploration"]
        assert draw["draw"] == position(document.seed, line["transaction_id"])
        assert (draw["decision"], draw["probability"], draw["rollout"]) == ("decline", 0.1, document.id)
        assert draw["approved"] == (draw["draw"] < 0.1)
        assert line["decision"] == ("approve" if draw["approved"] else "decline")
    assert 0 < sum(line["exploration"]["approved"] for line in lines) < 30
    assert (above["exploration"]["probability"], above["decision"]) == (0.0, "decline")


def test_what_rules_decide_is_never_let_through(deployment, shelf, tmp_path):
    shelf.folders["1"] = make_bundle(tmp_path / "declines", deployment, policy=DECLINING)
    shelf.put("champion", explore=0.1)
    early = min(TRANSACTIONS, key=lambda row: row["event_timestamp"])
    with service(shelf) as serving:
        line = score(serving, early)[1]
    assert line["degraded"] == "history-dropped"
    assert "exploration" not in line


def failing(serving):
    """From here on the challenger's model fails."""

    def fail(values):
        raise RuntimeError("the graph is gone")

    serving.rollouts.current.trial.challenger.bundle.score = fail


def test_a_challenger_that_fails_costs_nothing_and_ends_its_rollout(deployment, shelf, tmp_path):
    document = shelf.put("ab", "3", share=0.999)
    with service(shelf, tmp_path / "one") as serving, service(shelf, tmp_path / "one") as beside:
        failing(serving)
        answers = [score(serving) for _ in range(5)]
        assert {answer["model"]["version"] for answer, _ in answers} == {"1"}
        assert {answer["degraded"] for answer, _ in answers} == {None}
        line = answers[0][1]
        assert (line["rollout"]["arm"], line["beside"]["degraded"]) == ("challenger", "model-failed")
        # At once, before the registry is told.
        assert serving.rollouts.current is None
        assert "rollout" not in score(serving)[1]
        assert beside.rollouts.current is not None
        assert serving.rollouts.refresh() is False
        ended = look_of({}, shelf.tags)
        assert (ended.ended["guard"], ended.rollout().mode) == ("error rate", "champion")
        assert beside.rollouts.refresh()
        assert beside.rollouts.current is None
        assert beside.model()["rollout"]["ended"]["guard"] == "error rate"
        found = shown(serving.metrics)
        assert found["fraud_rollout_ended_total", "error rate"] == 1
        assert found["fraud_challenger_errors_total",] == 5
        assert found["fraud_rollout_info", "", "champion"] == 1
    (entry,) = Ledger(tmp_path / "one").entries()
    assert (entry["id"], entry["change"]) == (f"ended:{document.id}", "rollback")
    assert (entry["from"]["mode"], entry["from"]["challenger"], entry["to"]["mode"]) == (
        "ab",
        "3",
        "champion",
    )
    assert entry["evidence"]["counts"]["failed"] == 5
    assert "error rate" in entry["why"]
    assert "guard rail" in entry["who"]


def test_two_processes_that_end_one_rollout_leave_one_line(deployment, shelf, tmp_path):
    shelf.put("shadow", "2")
    with service(shelf, tmp_path / "one") as one, service(shelf, tmp_path / "one") as two:
        for each in (one, two):
            failing(each)
            for _ in range(5):
                score(each)
        for each in (one, two):
            each.rollouts.refresh()
    assert len(Ledger(tmp_path / "one").entries()) == 1


def test_an_end_does_not_touch_the_next_rollout(deployment, shelf, tmp_path):
    shelf.put("shadow", "2")
    with service(shelf, tmp_path / "one") as serving:
        failing(serving)
        for _ in range(5):
            score(serving)
        shelf.put("shadow", "3")
        assert serving.rollouts.refresh()
        assert serving.rollouts.current.trial.challenger.version == "3"
        assert "beside" in score(serving)[1]


def test_a_broken_artifact_is_refused_and_said_and_comes_in_when_it_is_mended(deployment, shelf, tmp_path):
    shelf.folders["4"] = tmp_path / "four"
    make_bundle(tmp_path / "four", deployment, seed=4)
    whole = (tmp_path / "four" / "model.onnx").read_bytes()
    (tmp_path / "four" / "model.onnx").write_bytes(b"broken")
    document = shelf.put("canary", "4", share=0.5)
    with service(shelf) as serving:
        assert serving.rollouts.current is None
        assert score(serving)[0]["model"]["version"] == "1"
        page = serving.model()["rollout"]
        assert (page["mode"], page["challenger"]) == ("champion", "4")
        assert "model.onnx" in page["refused"]
        assert list(look_of({}, shelf.tags).refused) == [serving.rollouts.where]
    # A process that has ended refuses nothing.
    assert look_of({}, shelf.tags).refused == {}
    with service(shelf) as serving:
        assert shown(serving.metrics)["fraud_rollout_refused",] == 1
        (tmp_path / "four" / "model.onnx").write_bytes(whole)
        assert any(serving.rollouts.refresh() for _ in range(20))
        assert serving.rollouts.current.rollout == document
        assert look_of({}, shelf.tags).refused == {}
        assert shown(serving.metrics)["fraud_rollout_refused",] == 0


def test_a_challenger_without_history_is_refused(deployment, shelf):
    (spec,) = (s for s in OnlinePlan.compile(deployment, OTHER).views if s.view == "terminal_fraud")
    client, key = online_client(deployment), loaded_key(deployment.project, spec)
    loaded = client.get(key)
    client.delete(key)
    shelf.put("shadow", "3")
    try:
        with service(shelf) as serving:
            assert serving.rollouts.current is None
            assert "terminal_fraud" in serving.rollouts.refused
            assert score(serving)[0]["degraded"] is None
    finally:
        client.set(key, loaded)


def test_whatever_breaks_in_a_trial_costs_no_decision(deployment, shelf, monkeypatch, caplog):
    shelf.put("shadow", "2")
    with service(shelf) as serving:
        monkeypatch.setattr(serving.rollouts.current.trial.guard, "check", lambda: 1 / 0)
        answer, line = score(serving)
    assert (answer["degraded"], answer["model"]["version"]) == (None, "1")
    assert line["beside"]["score"] is not None
    assert "ZeroDivisionError" in caplog.text


def test_a_state_that_only_the_challenger_reads_never_hurts_the_champion(deployment, shelf):
    (spec,) = (s for s in OnlinePlan.compile(deployment, OTHER).views if s.view == "terminal_fraud")
    shelf.put("ab", "3", share=0.999)
    with service(shelf) as serving:
        online_client(deployment).set(
            state_key(view_prefix(deployment.project, spec), ["m-damaged"]), b"\xff" * 40
        )
        answer, line = score(serving, terminal_id="m-damaged", customer_id="c-new")
    assert (answer["degraded"], answer["model"]["version"]) == (None, "1")
    assert (line["beside"]["degraded"], line["beside"]["features"]) == ("features-unavailable", None)
    assert record_beside(line)["features"] == {}


def test_a_challenger_that_has_lost_its_state_never_hurts_the_champion(deployment, shelf):
    shelf.put("ab", "3", share=0.999)
    with service(shelf) as serving:
        plan = serving.rollouts.current.trial.challenger.plan
        online_client(deployment).delete(*plan.marks)
        for _ in range(2):
            serving.recording.catching_up.look()
            answer, line = score(serving)
            assert (answer["degraded"], answer["model"]["version"]) == (None, "1")
            assert line["beside"]["degraded"] == "features-unavailable"
        plan.watch()
        assert score(serving)[0]["model"]["version"] == "3"


def test_what_the_champion_may_not_read_the_challenger_may_not_either(deployment, shelf):
    shelf.put("ab", "3", share=0.999)
    with service(shelf) as serving:
        serving.recording.catching_up.suspect()
        answer, line = score(serving)
    assert (answer["degraded"], answer["model"]["version"], answer["score"]) == (
        "store-catching-up",
        "1",
        None,
    )
    assert "beside" not in line
    assert line["rollout"]["arm"] == "challenger"


def test_a_rollout_goes_on_through_a_restart_while_the_registry_is_away(deployment, shelf, tmp_path):
    document = shelf.put("shadow", "2")
    with service(shelf, tmp_path / "one"):
        pass
    shelf.away = True
    with service(shelf, tmp_path / "one") as serving:
        assert serving.rollouts.current.rollout == document
        failing(serving)
        for _ in range(5):
            score(serving)
        assert not serving.rollouts.refresh()
    # The end is known after another restart, though nobody could be told.
    with service(shelf, tmp_path / "one") as serving:
        assert serving.rollouts.current is None
        shelf.away = False
        serving.rollouts.refresh()
        assert serving.rollouts.current is None
    assert look_of({}, shelf.tags).ended["guard"] == "error rate"
    assert len(Ledger(tmp_path / "one").entries()) == 1


def test_an_end_that_nobody_was_told_is_known_after_a_restart_though_the_registry_answers_again(
    deployment, shelf, tmp_path
):
    shelf.put("shadow", "2")
    with service(shelf, tmp_path / "one") as serving:
        shelf.away = True
        failing(serving)
        for _ in range(5):
            score(serving)
        assert serving.rollouts.current is None
    shelf.away = False
    with service(shelf, tmp_path / "one") as serving:
        assert serving.rollouts.current is None
    assert look_of({}, shelf.tags).ended["guard"] == "error rate"
    assert len(Ledger(tmp_path / "one").entries()) == 1


def test_while_the_registry_is_away_a_process_knows_what_another_one_has_ended(deployment, shelf, tmp_path):
    shelf.put("shadow", "2")
    with service(shelf, tmp_path / "one") as one, service(shelf, tmp_path / "one") as two:
        shelf.away = True
        failing(one)
        for _ in range(5):
            score(one)
        assert two.rollouts.current is not None
        assert two.rollouts.refresh()
        assert two.rollouts.current is None


@pytest.mark.parametrize("text", ["{", "{}", '{"document": "{}", "ended": {}, "told": []}'])
def test_what_was_kept_and_is_damaged_leaves_the_champion_alone(deployment, shelf, tmp_path, caplog, text):
    shelf.put("shadow", "2")
    with service(shelf, tmp_path / "one"):
        pass
    (tmp_path / "one" / "rollout.json").write_text(text)
    shelf.away = True
    with service(shelf, tmp_path / "one") as serving:
        assert serving.rollouts.current is None
        assert score(serving)[0]["degraded"] is None
    assert "the rollout that was kept cannot be read" in caplog.text


def test_a_document_that_cannot_be_read_leaves_the_champion_alone_and_says_so(deployment, shelf):
    shelf.put("shadow", "2")
    with service(shelf) as serving:
        for text in ("{", '{"schema": 9}'):
            shelf.tags["rollout"] = text
            serving.rollouts.refresh()
            assert serving.rollouts.current is None
            assert "the document is" in serving.model()["rollout"]["refused"]
        del shelf.tags["rollout"]
        serving.rollouts.refresh()
        assert serving.rollouts.refused is None


def test_the_thread_outlives_a_registry_that_makes_no_sense(deployment, shelf, caplog):
    shelf.put("shadow", "2")
    with service(shelf) as serving:
        shelf.latest = lambda: None
        assert not any(serving.rollouts.refresh() for _ in range(3))
        assert "beside" in score(serving)[1]
    assert caplog.text.count("the rollout cannot be followed") == 1


def test_a_challenger_that_has_become_champion_is_tried_no_more(deployment, shelf):
    shelf.put("canary", "2", share=0.5)
    with service(shelf) as serving:
        shelf.aliases["champion"] = "2"
        serving.champions.refresh()
        # Between the two looks the trial is about another champion.
        assert "beside" not in score(serving)[1]
        assert serving.rollouts.refresh()
        assert (serving.rollouts.current, serving.rollouts.refused) == (None, None)
        assert score(serving)[0]["model"]["version"] == "2"


def test_a_larger_share_is_taken_up_without_loading_anything_anew(deployment, shelf):
    shelf.put("canary", "2", share=0.05)
    with service(shelf) as serving:
        before = serving.rollouts.current.trial
        shelf.put("canary", "2", share=0.1)
        assert serving.rollouts.refresh()
        after = serving.rollouts.current.trial
        assert (after.challenger, after.joint, after.rollout.share) == (before.challenger, before.joint, 0.1)
        assert not serving.rollouts.refresh()


def test_what_is_scored_after_waiting_for_the_champion_keeps_the_instants(deployment, shelf):
    """Both models answer as of the same instant, and know the same."""
    shelf.put("shadow", "3")
    later = LATER[0]["created_timestamp"] + timedelta(seconds=1)
    with service(shelf) as serving:
        line = score(serving, event_timestamp=later, created_timestamp=later)[1]
        (row,) = [dict(line["request"]) | {name: line[name] for name in ("customer_id", "terminal_id")}]
        asked = row | {name: line[name] for name in ("event_timestamp_us", "known_as_of_us")}
        asked = {name: np.nan if value is None else value for name, value in asked.items()}
        plan = serving.rollouts.current.trial.challenger.plan
        alone = plan.read([asked]).values[0].tolist()
    whole = record_beside(line)["features"]
    assert [whole[name] for name in plan.feature_names] == [None if v != v else v for v in alone]
