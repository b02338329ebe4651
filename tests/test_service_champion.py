"""Which champion serves: what is brought in, what is refused, and that the old one goes on."""

from datetime import timedelta

import pytest

from bento.champion import Champions, prepare
from bento.kept import KeptChampion
from tests.deployments import START, deployed, events, make_bundle, wait_for
from training.bundle import Bundle


@pytest.fixture(scope="module")
def applied(tmp_path_factory):
    """A home with a lake and definitions, and nothing in the online state."""
    with deployed(tmp_path_factory.mktemp("champion"), *events(count=50), loaded_until=None) as store:
        yield store


@pytest.fixture(scope="module")
def loaded(applied):
    applied.materialize(START - timedelta(days=1), START + timedelta(days=50))
    return applied


class Shelf:
    """Stands where the registry stands: folders by version, and an alias."""

    def __init__(self, **folders):
        self.folders, self.alias = folders, None

    def champions(self, **how):
        return Champions(
            alias=lambda: self.alias, load=lambda version: Bundle.load(self.folders[version]), **how
        )


def test_without_history_in_the_state_a_champion_is_refused(applied, tmp_path):
    shelf = Shelf(v1=make_bundle(tmp_path / "v1", applied))
    shelf.alias = "v1"
    champions = shelf.champions()
    assert not champions.refresh()
    assert champions.current is None
    assert "feast materialize" in champions.refused


def test_a_champion_is_brought_in_and_replaced(loaded, tmp_path):
    shelf = Shelf(v1=make_bundle(tmp_path / "v1", loaded), v2=make_bundle(tmp_path / "v2", loaded, seed=1))
    champions, changes = shelf.champions(), []
    champions.on_change = lambda champion: changes.append(champion.version)
    assert not champions.refresh()
    assert "fraud train" in champions.refused
    for version in ("v1", "v2", "v1"):
        shelf.alias = version
        assert champions.refresh()
        assert (champions.current.version, champions.refused) == (version, None)
        assert not champions.refresh()
    assert changes == ["v1", "v2", "v1"]


def test_a_champion_of_other_definitions_is_refused_and_the_old_one_goes_on(loaded, tmp_path, caplog):
    shelf = Shelf(
        v1=make_bundle(tmp_path / "v1", loaded), v2=make_bundle(tmp_path / "v2", loaded, digest="f" * 64)
    )
    champions = shelf.champions()
    for version in ("v1", "v2"):
        shelf.alias = version
        champions.refresh()
    assert champions.current.version == "v1"
    assert "trained on definitions ffffffffffff" in champions.refused
    assert "version v1 serves on" in caplog.text


@pytest.mark.parametrize("name", ["bundle.json", "model.onnx"])
def test_a_broken_champion_is_refused_and_said_once(loaded, tmp_path, caplog, name):
    shelf = Shelf(v1=make_bundle(tmp_path / "v1", loaded), v2=make_bundle(tmp_path / "v2", loaded, seed=1))
    champions = shelf.champions()
    shelf.alias = "v1"
    champions.refresh()
    (tmp_path / "v2" / name).write_bytes(b"{")
    shelf.alias = "v2"
    for _ in range(30):
        assert not champions.refresh()
    assert champions.current.version == "v1"
    assert name in champions.refused
    assert caplog.text.count("cannot serve") == 1


def test_a_refused_version_that_is_mended_comes_in_later(loaded, tmp_path):
    shelf = Shelf(v1=tmp_path / "v1")
    shelf.alias = "v1"
    champions = shelf.champions()
    champions.refresh()
    assert champions.current is None
    make_bundle(tmp_path / "v1", loaded)
    assert any(champions.refresh() for _ in range(20))


def test_back_to_the_serving_version_clears_the_refusal(loaded, tmp_path):
    shelf = Shelf(v1=make_bundle(tmp_path / "v1", loaded), v2=tmp_path / "nothing")
    champions = shelf.champions()
    for version in ("v1", "v2", "v1"):
        shelf.alias = version
        champions.refresh()
    assert (champions.current.version, champions.refused) == ("v1", None)


def test_a_registry_that_does_not_answer_leaves_the_champion(loaded, tmp_path):
    shelf = Shelf(v1=make_bundle(tmp_path / "v1", loaded))
    shelf.alias = "v1"
    champions = shelf.champions()
    champions.refresh()
    champions._alias = lambda: 1 / 0
    assert not champions.refresh()
    assert champions.current.version == "v1"
    assert "does not answer" in champions.refused


def test_the_thread_follows_the_alias_until_it_is_stopped(loaded, tmp_path):
    shelf = Shelf(v1=make_bundle(tmp_path / "v1", loaded))
    champions = shelf.champions(poll_s=0.01)
    champions.start()
    try:
        shelf.alias = "v1"
        wait_for(lambda: champions.current is not None)
        assert champions.current.version == "v1"
    finally:
        champions.stop()
    assert not champions.thread.runs


def test_definitions_that_change_while_a_champion_is_prepared_are_taken_up_afterwards(loaded, tmp_path):
    shelf = Shelf(v1=make_bundle(tmp_path / "v1", loaded))
    shelf.alias, prepared = "v1", []

    def preparing(bundle, version):
        prepared.append(version)
        champion = prepare(bundle, version)
        if len(prepared) == 2:
            champions.definitions_changed()
        return champion

    champions = shelf.champions(prepare=preparing)
    champions.refresh()
    champions.definitions_changed()
    for looks in (2, 3, 3):
        for _ in range(20):
            champions.refresh()
        assert len(prepared) == looks


def test_after_a_restart_the_kept_champion_serves_when_the_new_one_cannot(loaded, tmp_path):
    shelf = Shelf(v1=make_bundle(tmp_path / "v1", loaded), v2=tmp_path / "nothing")
    kept = KeptChampion(tmp_path / "kept")
    shelf.alias = "v1"
    shelf.champions(kept=kept).refresh()
    shelf.alias = "v2"
    restarted = shelf.champions(kept=kept)
    assert restarted.refresh()
    assert restarted.current.version == "v1"
    assert "version v2" in restarted.refused
    assert not restarted.refresh()


def test_after_a_restart_the_kept_champion_serves_when_the_registry_is_down(loaded, tmp_path):
    shelf = Shelf(v1=make_bundle(tmp_path / "v1", loaded), v2=make_bundle(tmp_path / "v2", loaded, seed=1))
    kept = KeptChampion(tmp_path / "kept")
    for version in ("v1", "v2"):
        shelf.alias = version
        shelf.champions(kept=kept).refresh()
    restarted = Champions(alias=lambda: 1 / 0, load=lambda version: 1 / 0, kept=kept)
    assert restarted.refresh()
    assert restarted.current.version == "v2"
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["bundle-v2", "version"]


def test_a_kept_champion_of_other_definitions_does_not_serve(loaded, tmp_path, caplog):
    kept = KeptChampion(tmp_path / "kept")
    kept.keep(Bundle.load(make_bundle(tmp_path / "v1", loaded, digest="f" * 64)), "v1")
    restarted = Champions(alias=lambda: None, kept=kept)
    assert not restarted.refresh()
    assert restarted.current is None
    assert "the rules decide" in caplog.text
