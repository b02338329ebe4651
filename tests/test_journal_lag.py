"""The lag between journal and lake, against a history of who was journalled and loaded when."""

import random

from bento.journal_lag import JournalLag
from bento.metrics import Metrics
from tests.exposition import shown


class Journal:
    """A journal that grows and is loaded, and a clock."""

    def __init__(self, folder):
        self.folder, self.now, self.loaded = folder, 100.0, 0
        self.metrics = Metrics()
        self.lag = JournalLag(folder, self.metrics, lambda: self.now)

    @property
    def size(self):
        return sum(path.stat().st_size for path in self.folder.glob("*.jsonl"))

    def grow(self, size, name="events-1"):
        with (self.folder / f"{name}.jsonl").open("ab") as file:
            file.write(b"x" * size)

    def look(self):
        self.lag.report(self.size - self.loaded)
        found = shown(self.metrics.meters, "fraud_journal_lag")
        return found["fraud_journal_lag_bytes",], found["fraud_journal_lag_seconds",]


def test_a_journal_that_is_loaded_whole_has_no_lag(tmp_path):
    journal = Journal(tmp_path)
    assert journal.look() == (0, 0)
    journal.grow(10)
    journal.loaded = 10
    assert journal.look() == (0, 0)


def test_the_lag_is_that_of_the_oldest_byte_that_is_not_loaded(tmp_path):
    journal = Journal(tmp_path)
    journal.grow(10)
    assert journal.look() == (10, 0)
    journal.now += 5
    journal.grow(7, "decisions-1")
    assert journal.look() == (17, 5)
    journal.now += 5
    journal.loaded = 9
    assert journal.look() == (8, 10)
    journal.loaded = 10
    assert journal.look() == (7, 5)
    journal.loaded = 17
    assert journal.look() == (0, 0)


def test_a_lake_that_stands_still_for_long_is_told_from_its_beginning_in_bounded_memory(tmp_path):
    journal = Journal(tmp_path)
    journal.lag.report(0)
    for _ in range(5_000):
        journal.grow(1)
        journal.now += 1
        journal.lag.show()
    assert journal.look() == (5_000, 4_999)
    assert len(journal.lag._marks) <= 4096


def test_a_loader_that_reports_no_more_is_seen_by_a_lag_that_grows(tmp_path):
    journal = Journal(tmp_path)
    journal.lag.show()
    assert ("fraud_journal_lag_bytes",) not in shown(journal.metrics.meters)
    assert journal.look() == (0, 0)
    for _ in range(3):
        journal.now += 5
        journal.grow(2)
        journal.lag.show()
    found = shown(journal.metrics.meters)
    assert (found["fraud_journal_lag_bytes",], found["fraud_journal_lag_seconds",]) == (6, 10)


def test_whatever_comes_and_goes_the_lag_is_never_less_than_it_is(tmp_path):
    rng, journal, written = random.Random(3), Journal(tmp_path), []
    for _ in range(300):
        journal.now += rng.random()
        if rng.random() < 0.6:
            journal.grow(rng.randrange(1, 20))
        written += [journal.now] * (journal.size - len(written))
        journal.loaded = (
            max(journal.loaded, rng.randrange(journal.size + 1)) if rng.random() < 0.3 else journal.loaded
        )
        oldest = written[journal.loaded] if journal.loaded < len(written) else journal.now
        found = journal.look()
        assert found[0] == journal.size - journal.loaded
        assert abs(found[1] - (journal.now - oldest)) < 1e-9
