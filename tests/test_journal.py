"""The journal: every line survives, a torn one spoils nothing, values keep their bits."""

import json
import math
import os
import signal
import struct
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.journal import (
    Journal,
    derived_of_event,
    read_decisions,
    read_events,
    read_lines,
    row_of_event,
)
from tests.clocks import Clock

DAY_US = 86_400_000_000
NOON_US = 20_000 * DAY_US + DAY_US // 2
NOON = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=NOON_US)

EVENT = {
    "transaction_id": "t1",
    "event_timestamp": NOON - timedelta(microseconds=1),
    "amount": Decimal("12.5000"),
    "amount_usd_cents": 1250,
    "channel": None,
    "customer_latitude": 0.1,
    "created_timestamp": NOON,
}


@pytest.fixture
def journal(tmp_path):
    opened = Journal(tmp_path / "journal", lambda: NOON_US)
    yield opened
    opened.close()


def damage_of(folder):
    """What a reader of the decisions reports, as (file name, line)."""
    reports = []
    read = list(
        read_decisions(folder, on_damage=lambda path, line, what: reports.append((path.name, line, what)))
    )
    return read, reports


def test_an_absent_folder_has_no_lines(tmp_path):
    assert list(read_decisions(tmp_path / "nothing")) == []
    assert list(read_events(tmp_path / "nothing")) == []


def test_files_are_named_by_day_machine_and_process(journal):
    journal.decision({"transaction_id": "t1"})
    journal.event("transactions", EVENT)
    of = f"{NOON.date().isoformat()}-{os.uname().nodename}-{os.getpid()}"
    assert sorted(path.name for path in journal.folder.iterdir()) == [
        f"decisions-{of}.jsonl",
        f"events-{of}.jsonl",
    ]


def test_a_line_is_readable_before_the_journal_is_closed(journal):
    journal.decision({"transaction_id": "t1"})
    assert [line["transaction_id"] for line in read_decisions(journal.folder)] == ["t1"]


def test_an_event_comes_back_as_the_row_it_was_but_for_the_amount_as_text(journal):
    journal.event("transactions", EVENT)
    (line,) = read_events(journal.folder)
    assert line["event_timestamp_us"] == NOON_US - 1
    assert row_of_event(line) == ("transactions", {**EVENT, "amount": "12.5000"})


def test_derived_columns_come_back_exact_and_are_no_column_of_the_row(journal):
    derived = {"ratio:1": Decimal("0.1000"), "ratio:2": None, "many:3": Decimal("9007199254740991E-15")}
    location = journal.event("transactions", EVENT, derived)
    line = journal.read(location)
    assert derived_of_event(line) == derived
    assert row_of_event(line) == ("transactions", {**EVENT, "amount": "12.5000"})
    assert derived_of_event(journal.read(journal.event("transactions", EVENT))) == {}


def test_a_new_day_begins_a_new_file(tmp_path):
    clock = Clock(NOON_US)
    journal = Journal(tmp_path, clock)
    journal.decision({"n": 1})
    clock.now += DAY_US // 2 - 1
    journal.decision({"n": 2})
    clock.now += 1
    journal.decision({"n": 3})
    journal.close()
    files = sorted(tmp_path.iterdir())
    assert [[json.loads(line)["n"] for _, line in read_lines(path)] for path in files] == [[1, 2], [3]]
    assert [line["n"] for line in read_decisions(tmp_path)] == [1, 2, 3]


def test_a_new_day_whose_file_cannot_be_made_is_tried_again_and_touches_no_other_file(tmp_path, monkeypatch):
    clock = Clock(NOON_US)
    journal = Journal(tmp_path / "journal", clock)
    journal.decision({"n": 1})
    clock.now += DAY_US

    def full(*given):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", full)
        with pytest.raises(OSError, match="No space"):
            journal.decision({"n": 2})
    with (tmp_path / "other").open("w") as other:  # it gets the number of the file of the day before
        journal.decision({"n": 3})
        other.write("still open")
    journal.close()
    assert [line["n"] for line in read_decisions(journal.folder)] == [1, 3]


def test_a_location_leads_back_to_its_line(journal):
    places = [journal.decision({"n": n, "text": "ü" * n}) for n in range(5)]
    journal.close()
    places += [journal.decision({"n": 5})]
    assert [journal.read(place)["n"] for place in places] == list(range(6))


@settings(derandomize=True, deadline=None)
@given(st.floats(allow_nan=False))
def test_floats_keep_their_bits(tmp_path_factory, value):
    journal = Journal(tmp_path_factory.mktemp("bits"), lambda: NOON_US)
    place = journal.decision({"value": value})
    read = journal.read(place)["value"]
    journal.close()
    assert struct.pack("d", read) == struct.pack("d", value)


def test_any_text_comes_back_and_takes_one_line(journal):
    record = {"transaction_id": 'a"b\\c\n\r\x00\x7f\u2028é\U0001f600', "large": 2**70}
    location = journal.decision(record)
    assert journal.read(location) == record
    assert [line for _, line in read_lines(journal.folder / location.file)] == [journal.line(record)]


def test_infinities_and_nulls_come_back(journal):
    place = journal.decision({"values": [math.inf, -math.inf, None, 5e-324]})
    assert journal.read(place)["values"] == [math.inf, -math.inf, None, 5e-324]


def test_a_half_written_last_line_is_skipped_and_reported(journal):
    journal.decision({"n": 1})
    place = journal.decision({"n": 2, "text": "ü"})
    journal.close()
    path = journal.folder / place.file
    for cut in range(1, place.length - 1):
        os.truncate(path, place.offset + place.length - 1 - cut)
        read, reports = damage_of(journal.folder)
        assert [line["n"] for line in read] == [1]
        if cut < place.length - 1 and os.path.getsize(path) > place.offset:
            ((name, line, what),) = reports
            assert (name, line) == (place.file, 2)
            assert "half-written" in what


def test_a_half_written_line_is_a_warning_when_nobody_asks(journal, caplog):
    place = journal.decision({"n": 1})
    journal.close()
    os.truncate(journal.folder / place.file, place.length - 3)
    assert list(read_decisions(journal.folder)) == []
    assert "half-written" in caplog.text


def test_a_writer_ends_the_half_line_that_it_finds_and_goes_on(journal):
    journal.decision({"n": 1})
    place = journal.decision({"n": 2})
    journal.close()
    os.truncate(journal.folder / place.file, place.offset + 4)
    assert journal.read(journal.decision({"n": 3})) == {"n": 3}
    read, reports = damage_of(journal.folder)
    assert [line["n"] for line in read] == [1, 3]
    assert [(name, line) for name, line, _ in reports] == [(place.file, 2)]


def test_a_line_that_is_only_missing_its_newline_counts(journal):
    place = journal.decision({"n": 1})
    journal.close()
    os.truncate(journal.folder / place.file, place.length - 1)
    assert damage_of(journal.folder) == ([{"n": 1}], [])
    journal.decision({"n": 2})
    assert damage_of(journal.folder) == ([{"n": 1}, {"n": 2}], [])


LIMITED = """
import resource, sys
from pathlib import Path
from feature_repo.journal import Journal
journal = Journal(Path(sys.argv[1]), lambda: 0)
first = journal.decision({"n": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (first.length + 10, -1))
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    journal.decision({"n": 2, "text": "too long for what is left"})
except OSError as error:
    assert "only 10 of" in str(error), error
else:
    raise SystemExit("the write that did not fit was not noticed")
resource.setrlimit(resource.RLIMIT_FSIZE, (first.length * 2, -1))
assert journal.read(journal.decision({"n": 3})) == {"n": 3}
"""


def test_a_full_disk_is_an_error_and_leaves_no_part_of_the_line(tmp_path):
    subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], check=True)
    assert [line["n"] for line in read_decisions(tmp_path)] == [1, 3]


WRITER = """
import sys
from pathlib import Path
from feature_repo.journal import Journal
journal = Journal(Path(sys.argv[1]))
for n in range(10**9):
    journal.decision({"n": n, "text": "x" * 500})
    if n == 1000:
        print("going", flush=True)
"""


def test_a_killed_writer_leaves_every_line_whole_but_perhaps_the_last(tmp_path):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"going\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    read, reports = damage_of(tmp_path)
    assert [line["n"] for line in read] == list(range(len(read)))
    assert len(read) > 1000
    assert len(reports) <= 1
