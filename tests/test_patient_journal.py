"""A journal whose disk is full: lines wait in their order, a bounded many, and are counted when they are lost."""

import logging
import os
from contextlib import ExitStack, closing

import pytest

from bento.patient_journal import IN_MEMORY, LOST, RETRY_S, LineLostError, PatientJournal, in_memory
from bento.seen import Entry, Seen
from feature_repo.journal import read_decisions, read_events
from tests.clocks import Clock
from tests.faults import full_disk

NOON_US = 20_000 * 86_400_000_000 + 43_200_000_000


@pytest.fixture
def time():
    return Clock()


@pytest.fixture
def changes():
    return []


@pytest.fixture
def journal(tmp_path, time, changes):
    with closing(
        PatientJournal(
            tmp_path / "journal",
            lambda: NOON_US,
            limit=2000,
            monotonic=time,
            on_change=lambda *change: changes.append(change),
        )
    ) as one:
        yield one


def decision(number, **more):
    return {"transaction_id": f"d{number}", "degraded": None, **more}


def ids(folder):
    return [line["transaction_id"] for line in read_decisions(folder)]


def test_lines_that_the_disk_does_not_take_wait_and_are_written_in_their_order(journal, time):
    journal.decision(decision(1))
    with full_disk():
        places = [journal.decision(decision(number)) for number in (2, 3)]
        journal.event("transactions", {"transaction_id": "e4"})
        assert journal.trouble == IN_MEMORY
        assert all(map(in_memory, places))
        assert [journal.read(place)["transaction_id"] for place in places] == ["d2", "d3"]
        assert ids(journal.folder) == ["d1"]
    time.now += RETRY_S
    journal.decision(decision(5))
    assert journal.trouble is None
    assert ids(journal.folder) == ["d1", "d2", "d3", "d5"]
    assert [line["transaction_id"] for line in read_events(journal.folder)] == ["e4"]
    assert [journal.read(place)["transaction_id"] for place in places] == ["d2", "d3"]
    assert journal.read(journal.moved(places[0]))["transaction_id"] == "d2"


def test_a_full_disk_is_tried_again_only_after_a_while(journal, time):
    with full_disk():
        journal.decision(decision(1))
    # It takes lines by now, but that is not known yet; and none comes before another.
    journal.decision(decision(2))
    assert ids(journal.folder) == []
    assert not journal.settle()
    time.now += RETRY_S
    assert journal.settle()
    assert ids(journal.folder) == ["d1", "d2"]


def test_a_decision_that_waits_says_so_and_keeps_another_reason(journal, time):
    own, other = decision(1), decision(2, degraded="state-lost")
    with full_disk():
        journal.decision(own)
        journal.decision(other)
    assert (own["degraded"], other["degraded"]) == (IN_MEMORY, "state-lost")
    time.now += RETRY_S
    journal.settle()
    assert [line["degraded"] for line in read_decisions(journal.folder)] == [IN_MEMORY, "state-lost"]


def test_what_memory_cannot_take_either_is_counted_as_lost_and_says_so(journal, time, changes):
    with full_disk():
        kept = [journal.decision(decision(number, text="x" * 800)) for number in range(2)]
        lost = decision(2, text="x" * 800)
        with pytest.raises(LineLostError, match="2000 bytes wait in memory"):
            journal.decision(lost)
        assert (lost["degraded"], journal.trouble, journal.lost) == (LOST, LOST, 1)
        with pytest.raises(LineLostError):
            journal.event("transactions", {"transaction_id": "e", "text": "x" * 800})
        # A short one still has room.
        journal.decision(decision(3))
        assert journal.trouble == IN_MEMORY
    assert changes == [(1, 0), (2, 0), (2, 1), (2, 1), (3, 0)]
    time.now += RETRY_S
    assert journal.settle()
    assert changes[-1] == (0, 0)
    assert ids(journal.folder) == ["d0", "d1", "d3"]
    assert journal.read(kept[1])["transaction_id"] == "d1"


def test_a_line_is_written_whole_or_waits_whole(journal, time):
    journal.decision(decision(1))
    (path,) = journal.folder.glob("decisions-*")
    size = path.stat().st_size
    with full_disk(at=size + 10):
        journal.decision(decision(2))
        assert path.stat().st_size == size
    time.now += RETRY_S
    journal.settle()
    assert ids(journal.folder) == ["d1", "d2"]


def test_lines_of_some_are_written_at_once_or_as_far_as_the_disk_takes_them(journal, time, monkeypatch):
    first = journal.decisions([decision(1), decision(2)])
    assert [journal.read(place)["transaction_id"] for place in first] == ["d1", "d2"]
    (path,) = journal.folder.glob("decisions-*")
    size = path.stat().st_size
    records = [decision(number) for number in (3, 4, 5)]
    cut = []
    monkeypatch.setattr(
        os, "ftruncate", lambda fd, at, cutting=os.ftruncate: (cut.append(at), cutting(fd, at))
    )
    with full_disk(at=size + 60):
        places = journal.decisions(records)
        # What is whole is never taken back: it may be in the lake by then.
        assert min(cut) == places[0].offset + places[0].length
        assert ids(journal.folder) == ["d1", "d2", "d3"]
    assert [in_memory(place) for place in places] == [False, True, True]
    assert [record["degraded"] for record in records] == [None, IN_MEMORY, IN_MEMORY]
    time.now += RETRY_S
    assert journal.settle()
    assert ids(journal.folder) == ["d1", "d2", "d3", "d4", "d5"]


def test_what_cannot_be_cut_off_is_no_part_of_the_next_line(journal, time, monkeypatch, caplog):
    journal.decision(decision(1))
    (path,) = journal.folder.glob("decisions-*")

    def refused(fd, at):
        raise OSError("not now")

    with monkeypatch.context() as broken, full_disk(at=path.stat().st_size + 60):
        broken.setattr(os, "ftruncate", refused)
        journal.decisions([decision(number) for number in (2, 3)])
    time.now += RETRY_S
    assert journal.settle()
    place = journal.decision(decision(4))
    assert ids(journal.folder) == ["d1", "d2", "d3", "d4"]
    assert journal.read(place)["transaction_id"] == "d4"
    assert "line 3: not JSON" in caplog.text


def test_of_some_lines_those_that_are_lost_have_no_place(journal):
    rows = [
        {"transaction_id": f"e{number}", "text": "x" * size} for number, size in enumerate((900, 1900, 9))
    ]
    with full_disk():
        places = journal.events([journal.event_record("transactions", row) for row in rows])
    assert [place is None for place in places] == [False, True, False]
    assert journal.lost == 1


def test_nothing_to_write_is_no_trouble_of_the_disk(journal, caplog):
    assert (journal.events([]), journal.decisions([])) == ([], [])
    assert not caplog.text
    with full_disk():
        journal.decision(decision(1))
    assert "lines wait in memory" in caplog.text


def test_closing_tries_once_more_and_says_what_is_lost(tmp_path, caplog):
    journal = PatientJournal(tmp_path, lambda: NOON_US)
    with full_disk():
        journal.decision(decision(1))
    journal.close()
    assert ids(tmp_path) == ["d1"]
    journal = PatientJournal(tmp_path, lambda: NOON_US)
    with full_disk(), caplog.at_level(logging.CRITICAL):
        journal.decision(decision(2))
        journal.close()
    assert "ends without 1 lines" in caplog.text
    assert ids(tmp_path) == ["d1"]


def test_the_index_waits_with_the_journal_and_is_whole_after_it(journal, time):
    with closing(Seen(journal.folder, journal)) as seen:
        seen.add("d1", "decision", "one", journal.decision(decision(1)))
        with full_disk():
            place = journal.decision(decision(2))
            seen.add("d2", "decision", "two", place)
            # Recorded elsewhere on a disk that takes it; only the index cannot be written.
            seen.add(
                "d3", "transactions", "three", journal.moved(place) or seen.find("d1")["decision"].location
            )
            assert seen.find("d2")["decision"].digest == "two"
            assert seen.find("d3")["transactions"].digest == "three"
            assert journal.read(seen.find("d2")["decision"].location)["transaction_id"] == "d2"
        time.now += RETRY_S
        assert journal.settle()
        seen._save_at = 0.0
        found = seen.find("d2")["decision"]
        assert not in_memory(found.location)
        assert journal.read(found.location)["transaction_id"] == "d2"
    with closing(Seen(journal.folder)) as again:
        assert {key: set(again.find(key)) for key in ("d1", "d2", "d3")} == {
            "d1": {"decision"},
            "d2": {"decision"},
            "d3": {"transactions"},
        }


def test_a_process_that_is_killed_as_the_disk_takes_lines_again_leaves_no_hole_in_the_index(journal, time):
    seen = Seen(journal.folder, journal)
    with full_disk():
        seen.add("d1", "decision", "one", journal.decision({**decision(1), "content": "one"}))
        seen.find("d1")  # a try to save it, and none for a while
    time.now += RETRY_S
    seen.add("d2", "decision", "two", journal.decision({**decision(2), "content": "two"}))
    seen._db.close()  # what is in memory is gone
    with closing(Seen(journal.folder)) as again:
        assert [again.find(key)["decision"].digest for key in ("d1", "d2")] == ["one", "two"]


def test_an_index_that_cannot_be_closed_in_order_is_made_again_from_the_journal(journal, time):
    seen = Seen(journal.folder, journal)
    with full_disk():
        place = journal.decision({**decision(1), "content": "one"})
        seen.add("d1", "decision", "one", place)
        seen.close()
    time.now += RETRY_S
    journal.settle()
    with closing(Seen(journal.folder)) as again:
        assert again.find("d1")["decision"].digest == "one"


def test_an_index_that_finds_its_disk_full_is_kept_in_memory(journal):
    place = journal.decision({**decision(1), "content": "one"})
    with full_disk(), closing(Seen(journal.folder, journal)) as seen:
        assert seen.find("d1")["decision"].location == place
        seen.add("d2", "decision", "two", place)
        assert seen.find("d2")["decision"].digest == "two"


def test_a_line_that_waited_within_its_own_batch_is_found_in_the_index(journal, time, monkeypatch):
    """The disk takes lines again between the first and the second of them, while older ones wait to be indexed."""
    decide = journal.decision
    with closing(Seen(journal.folder, journal)) as seen, ExitStack() as disk:
        disk.enter_context(full_disk())
        seen.add("d0", "decision", "0", decide(decision(0)))

        def then_free(record):
            place = decide(record)
            disk.close()
            time.now += RETRY_S
            return place

        monkeypatch.setattr(journal, "decision", then_free)
        places = journal.decisions([decision(i) for i in (1, 2, 3)])
        assert [in_memory(place) for place in places] == [True, False, False]
        seen._save_at = 0.0
        seen.add_all([(f"d{i}", "decision", Entry(str(i), place)) for i, place in enumerate(places, start=1)])
        assert journal.read(seen.find("d1")["decision"].location)["transaction_id"] == "d1"
        assert not seen._unsaved


def test_some_are_indexed_and_found_at_once(journal):
    with closing(Seen(journal.folder, journal)) as seen:
        places = journal.decisions([decision(1), decision(2)])
        seen.add_all([(f"d{i}", "decision", Entry(str(i), place)) for i, place in enumerate(places, start=1)])
        seen.add_all(
            [("d1", "decision", Entry("another", places[1])), ("d1", "other", Entry("1", places[0]))]
        )
        found = seen.find_all(["d1", "d2", "d3"])
    assert {key: set(kinds) for key, kinds in found.items()} == {
        "d1": {"decision", "other"}, "d2": {"decision"}, "d3": set()
    }  # fmt: skip
    assert found["d1"]["decision"] == Entry("1", places[0])


def test_what_is_indexed_at_once_is_in_memory_as_one_when_the_disk_is_full(journal):
    with closing(Seen(journal.folder, journal)) as seen:
        place = journal.decision(decision(1))
        with full_disk():
            seen.add_all([(f"d{i}", "decision", Entry("one", place)) for i in range(3)])
        assert set(seen._unsaved) == {"d0", "d1", "d2"}
        assert set(seen.find_all(["d0", "d2"])) == {"d0", "d2"}
