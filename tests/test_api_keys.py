"""API keys in their file: what is kept of them, who may read it, and how a running service takes up a change."""

import json
import os
import stat
import threading
from datetime import timedelta

import pytest

from bento.api_keys import create_key, load_keys, revoke_key
from bento.keyring import LOOK_EVERY_S, Keyring
from bento.problem import Problem
from tests.bodies import NOW
from tests.clocks import Clock


@pytest.fixture
def path(tmp_path):
    return tmp_path / "home" / "api-keys.json"


def create(path, name="shop", scopes=("score",), **how):
    return create_key(path, name, frozenset(scopes), NOW, **how)


def holder(keyring, key):
    return keyring.holder(b"Bearer " + key.encode()).name


def refusal(keyring, authorization):
    with pytest.raises(Problem) as raised:
        keyring.holder(authorization)
    return raised.value


def test_the_file_keeps_no_key_and_is_its_owner_s_alone(path):
    key = create(path, rate=5.0, expires=NOW + timedelta(days=1))
    text = path.read_text()
    assert key not in text
    assert key.split("_", 2)[2] not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    (kept,) = load_keys(path).values()
    assert (kept.name, kept.scopes, kept.rate) == ("shop", {"score"}, 5.0)
    assert (kept.created, kept.expires) == (NOW, NOW + timedelta(days=1))


def test_a_file_that_others_were_let_read_stays_so(path):
    create(path)
    path.chmod(0o640)
    create(path, "till")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_keys_made_at_once_are_all_there(path):
    threads = [threading.Thread(target=create, args=(path, f"k{number}")) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in load_keys(path).values()} == {f"k{number}" for number in range(8)}
    assert sorted(each.name for each in path.parent.iterdir()) == ["api-keys.json", "api-keys.json.lock"]


@pytest.mark.parametrize(
    ("name", "how", "why"),
    [
        ("shop", {}, "there is one; revoke it"),
        ("a b", {}, "a name has 1 to 64 letters"),
        ("new", {"scopes": ["scoring"]}, "scope 'scoring' is unknown; give one or more of score, record"),
        ("new", {"scopes": []}, "it would be good for nothing"),
        ("new", {"expires": NOW}, "that is past"),
        ("new", {"rate": 0.0}, "requests a second above 0"),
    ],
)
def test_what_makes_no_key_is_refused_and_changes_nothing(path, name, how, why):
    create(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=why):
        create(path, name, **how)
    assert path.read_bytes() == before


def test_a_key_that_is_not_there_cannot_be_revoked(path):
    create(path)
    with pytest.raises(LookupError, match=r"API key till: there is none in .*; there are: shop"):
        revoke_key(path, "till")


def test_a_file_that_others_may_write_to_is_no_use(path):
    create(path)
    path.chmod(0o622)
    with pytest.raises(ValueError, match=r"others may write to it \(mode 622\); chmod 600"):
        load_keys(path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda kept: "[",
        lambda kept: "{}",
        lambda kept: json.dumps([{"name": "x"}]),
        lambda kept: json.dumps([{**kept, "scopes": []}]),
        lambda kept: json.dumps([{**kept, "sha256": "00"}]),
        lambda kept: json.dumps([{**kept, "expires": "2027-01-01T00:00:00"}]),
        lambda kept: json.dumps([kept, kept]),
    ],
)
def test_a_damaged_file_is_no_use_to_a_start_and_leaves_a_running_service_as_it_was(path, spoil, caplog):
    key, clock = create(path), Clock(NOW.timestamp())
    keyring = Keyring(path, clock, clock)
    path.write_text(spoil(json.loads(path.read_text())[0]))
    with pytest.raises(ValueError, match=f"API keys: {path}"):
        Keyring(path, clock, clock)
    for _ in range(3):
        clock.now += LOOK_EVERY_S
        assert keyring.required
        assert holder(keyring, key) == "shop"
    assert caplog.text.count("the keys stay as they were") == 1


def test_keys_rotate_without_a_gap(path):
    old, clock = create(path, "shop-1"), Clock(NOW.timestamp())
    keyring = Keyring(path, clock, clock)
    new = create(path, "shop-2")
    clock.now += LOOK_EVERY_S
    assert keyring.required
    assert (holder(keyring, old), holder(keyring, new)) == ("shop-1", "shop-2")
    revoke_key(path, "shop-1")
    clock.now += LOOK_EVERY_S
    assert keyring.required
    assert holder(keyring, new) == "shop-2"
    assert refusal(keyring, b"Bearer " + old.encode()).kind == "unauthorized"


def test_a_service_that_had_no_key_asks_for_one_once_there_is_one(path):
    clock = Clock(NOW.timestamp())
    keyring = Keyring(path, clock, clock)
    assert not keyring.required
    key = create(path)
    clock.now += LOOK_EVERY_S
    assert keyring.required
    assert holder(keyring, key) == "shop"


@pytest.mark.parametrize("end", [lambda path: revoke_key(path, "shop"), os.unlink])
def test_without_the_last_key_nobody_may_call_not_everybody(path, end, caplog):
    key, clock = create(path), Clock(NOW.timestamp())
    keyring = Keyring(path, clock, clock)
    end(path)
    for _ in range(3):
        clock.now += LOOK_EVERY_S
        assert keyring.required
    if path.exists():
        assert refusal(keyring, b"Bearer " + key.encode()).kind == "unauthorized"
        assert Keyring(path, clock, clock).required
    else:
        assert holder(keyring, key) == "shop"
        assert caplog.text.count("is gone; the keys stay as they were") == 1


def test_an_expired_key_is_good_for_nothing(path):
    key, clock = create(path, expires=NOW + timedelta(minutes=1)), Clock(NOW.timestamp())
    keyring = Keyring(path, clock, clock)
    assert holder(keyring, key) == "shop"
    clock.now += 60
    refused = refusal(keyring, b"Bearer " + key.encode())
    assert "the API key shop expired 2026-11-21T10:01:00+00:00" in refused.detail


def test_what_is_no_key_is_refused_and_not_quoted(path):
    key, clock = create(path), Clock(NOW.timestamp())
    keyring = Keyring(path, clock, clock)
    known = key.encode()
    wrong = [
        known[:-1],
        known + b"x",
        known[:-1] + (b"A" if known[-1:] != b"A" else b"B"),
        b"",
        b"x" * 100_000,
    ]
    for presented in wrong:
        refused = refusal(keyring, b"Bearer " + presented)
        assert dict(refused.headers)[b"www-authenticate"] == b'Bearer realm="fraud", error="invalid_token"'
        assert known[15:50].decode() not in refused.detail
    for header in (None, b"Basic " + known, known, b"\xff"):
        assert dict(refusal(keyring, header).headers)[b"www-authenticate"] == b'Bearer realm="fraud"'
    assert holder(keyring, f" {key} ") == "shop"
    assert keyring.holder(b"BEARER " + known).name == "shop"
