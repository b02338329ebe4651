"""The rollout's document, its sticky choice of customers, its draws, and the ledger of its changes."""

import json
import math
import subprocess
import sys
from itertools import pairwise

import pytest

from training.ledger import Ledger
from training.rollout import ALONE, MAX_EXPLORE, Exploration, Guards, Rollout, position
from training.rollout_registry import look_of

CUSTOMERS = [f"customer-{number}" for number in range(20_000)]


def canary(share, challenger="5", **more):
    return Rollout(id="a", mode="canary", challenger=challenger, share=share, **more)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_the_share_of_customers_is_the_one_asked_for(share):
    chosen = sum(canary(share).decides(customer) for customer in CUSTOMERS)
    deviation = math.sqrt(len(CUSTOMERS) * share * (1 - share))
    assert abs(chosen - len(CUSTOMERS) * share) < 4 * deviation


def test_a_growing_canary_keeps_its_customers():
    shares = [0.01, 0.05, 0.1, 0.5, 0.99]
    chosen = [{customer for customer in CUSTOMERS if canary(share).decides(customer)} for share in shares]
    assert all(small < large for small, large in pairwise(chosen))


def test_a_canary_that_becomes_an_ab_test_keeps_its_customers():
    both = canary(0.1), Rollout(id="b", revision=9, mode="ab", challenger="5", share=0.1, seed="other")
    assert all(both[0].decides(each) == both[1].decides(each) for each in CUSTOMERS[:2000])


def test_another_challenger_is_tried_on_other_customers():
    one, other = ({each for each in CUSTOMERS if canary(0.1, name).decides(each)} for name in ("5", "6"))
    assert len(one & other) < 0.2 * len(one)


def test_another_process_chooses_the_same_customers():
    told = "from training.rollout import Rollout; r = Rollout(mode='canary', challenger='5', share=.1)"
    code = f"{told}; print([r.decides(f'customer-{{n}}') for n in range(200)])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == str([canary(0.1).decides(each) for each in CUSTOMERS[:200]])


def test_positions_are_spread_evenly_and_never_reach_one():
    places = sorted(position("salt", customer) for customer in CUSTOMERS)
    assert 0 <= places[0] < places[-1] < 1
    assert max(abs(place - (i + 0.5) / len(places)) for i, place in enumerate(places)) < 0.02


def test_a_draw_is_made_again_from_the_document_and_the_id_and_from_nothing_else():
    rollout = Rollout(explore=0.02, seed="s", explore_up_to_usd_cents=10_000)
    draws = [rollout.draw(customer, 100) for customer in CUSTOMERS]
    assert draws == [rollout.draw(customer, 9_999) for customer in CUSTOMERS]
    assert {draw.probability for draw in draws} == {0.02}
    assert 0.015 < sum(draw.approved for draw in draws) / len(draws) < 0.025
    assert rollout.draw("x", 10_001).probability == 0
    assert not Exploration(0.0, 0.0).approved
    other = Rollout(explore=0.02, seed="t")
    assert [other.draw(each, 1).draw for each in CUSTOMERS[:9]] != [draw.draw for draw in draws[:9]]


def test_a_document_is_read_back_as_it_was():
    document = canary(0.05, explore=0.01, seed="s", revision=3, guards=Guards(max_p99_ms=20), who="me")
    assert Rollout.from_text(document.as_text()) == document
    assert document.ended() == Rollout(
        id="a", explore=0.01, seed="s", revision=3, guards=Guards(max_p99_ms=20), who="me"
    )
    assert Rollout.from_text(ALONE.as_text()) == ALONE


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mode": "blue"}, "blue"),
        ({"mode": "canary", "challenger": "5"}, "more than 0%"),
        ({"mode": "canary", "challenger": "5", "share": 1.0}, "less than 100%"),
        ({"mode": "canary", "share": 0.1}, "name a version"),
        ({"mode": "champion", "challenger": "5"}, "name a version"),
        ({"mode": "shadow", "challenger": "5", "share": 0.1}, "must be 0"),
        ({"explore": MAX_EXPLORE * 1.01}, "0 to 0.1"),
        ({"explore": -0.1}, "0 to 0.1"),
        ({"explore": 0.1, "explore_up_to_usd_cents": 0}, "above 0"),
        ({"explore": "much"}, "damaged"),
        ({"guards": {"max_p99_ms": 0}}, "max_p99_ms is 0"),
        ({"guards": {"max_error_rate": 2}}, "a share"),
        ({"guards": {"max_fun": 1}}, "damaged"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_way_out(given, said):
    with pytest.raises(ValueError, match="rollout") as raised:
        Rollout.from_text(json.dumps({"schema": 1, **given}))
    assert said in str(raised.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 2}', "{}"])
def test_a_document_that_is_none_or_of_a_later_schema_is_refused(text):
    with pytest.raises(ValueError, match="rollout: the document is"):
        Rollout.from_text(text)


def test_an_end_concerns_the_rollout_that_it_names_and_no_other():
    document = canary(0.05)
    tags = {"rollout": document.as_text(), "rollout.ended.other": "{}", "rollout.refused.other.h-1": "no"}
    found = look_of({"champion": "3", "challenger": "5"}, tags)
    assert (found.champion, found.challenger, found.ended, found.refused) == ("3", "5", None, {})
    assert found.rollout() == document
    tags |= {"rollout.ended.a": '{"why": "slow"}', "rollout.refused.a.h-1": "broken"}
    found = look_of({}, tags)
    assert (found.ended, found.refused) == ({"why": "slow"}, {"h-1": "broken"})
    assert found.rollout() == document.ended()
    assert look_of({}, {}).rollout() == ALONE


def entry(number):
    return {"id": f"c{number}", "change": "shadow", "who": "me"}


def test_the_ledger_keeps_every_line_and_adds_each_change_once(tmp_path):
    ledger = Ledger(tmp_path / "rollout")
    assert ledger.entries() == []
    assert [ledger.append(entry(n)) for n in (1, 2, 1)] == [True, True, False]
    assert ledger.entries() == [entry(1), entry(2)]
    assert ledger.path.read_text().count("\n") == 2
    assert ledger.path.stat().st_mode & 0o777 == 0o600


def test_a_line_cut_short_by_a_crash_spoils_nothing_after_it(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.append(entry(1))
    with ledger.path.open("ab") as file:
        file.write(b'{"id": "c2", "cha')
    assert ledger.append(entry(3))
    assert ledger.entries() == [entry(1), entry(3)]


def test_several_processes_write_one_ledger(tmp_path):
    code = """
import sys
from pathlib import Path
from training.ledger import Ledger
for number in range(20):
    Ledger(Path(sys.argv[1])).append({"id": f"c{number}"})
"""
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(2)]
    assert [each.wait() for each in writers] == [0, 0]
    assert sorted(found["id"] for found in Ledger(tmp_path).entries()) == sorted(f"c{n}" for n in range(20))
