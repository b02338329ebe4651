"""Recorded events become rows of the lake exactly once."""

from datetime import date, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake import Field as DeltaField

from feature_repo.journal import Journal
from feature_repo.lake import TRANSACTIONS, snapshot
from pipelines.load_journal import load_journal
from tests.journals import START, chargeback, ids, transaction


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal", clock_us=lambda: 1_740_000_000_000_000)


def test_events_arrive_once_however_often_they_are_journalled_and_loaded(
    journal: Journal, tmp_path: Path
) -> None:
    for number in (1, 2, 1, 3, 2):
        journal.event("transactions", transaction(number))
    journal.event("chargebacks", chargeback(2))
    first = load_journal(journal.folder, tmp_path / "lake")
    second = load_journal(journal.folder, tmp_path / "lake")
    assert (first.read, first.added) == (
        {"transactions": 5, "chargebacks": 1},
        {"transactions": 3, "chargebacks": 1},
    )
    assert second.added == {"transactions": 0, "chargebacks": 0}
    assert ids(tmp_path / "lake", "transactions") == ["t1", "t2", "t3"]
    assert DeltaTable(str(tmp_path / "lake" / "transactions")).version() == 0


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_the_size_of_batches_changes_nothing(journal: Journal, tmp_path: Path, batch: int) -> None:
    for number in (1, 2, 1, 30, 31):
        journal.event("transactions", transaction(number))
    assert load_journal(journal.folder, tmp_path / "lake", batch=batch).added["transactions"] == 4
    assert ids(tmp_path / "lake", "transactions") == ["t1", "t2", "t30", "t31"]


def test_values_arrive_to_the_bit(journal: Journal, tmp_path: Path) -> None:
    journal.event("transactions", transaction(1))
    load_journal(journal.folder, tmp_path / "lake")
    table = DeltaTable(str(tmp_path / "lake" / "transactions")).to_pyarrow_table()
    (row,) = table.select(TRANSACTIONS.names).to_pylist()
    assert row == transaction(1) | {"event_day": date(2025, 3, 1)}


def test_an_event_of_the_lake_is_left_as_it_is_and_a_difference_is_counted(
    journal: Journal, tmp_path: Path
) -> None:
    path = tmp_path / "lake" / "transactions"
    rows = [transaction(n) | {"event_day": transaction(n)["event_timestamp"].date()} for n in (1, 2)]
    write_deltalake(str(path), pa.Table.from_pylist(rows, TRANSACTIONS), partition_by=["event_day"])
    journal.event("transactions", transaction(1, amount_usd_cents=99))
    journal.event("transactions", transaction(2, category="travel"))
    journal.event("transactions", transaction(3))
    report = load_journal(journal.folder, tmp_path / "lake")
    assert (report.added["transactions"], report.differing["transactions"]) == (1, 1)
    found = DeltaTable(str(path)).to_pyarrow_table().sort_by("transaction_id")
    assert found["amount_usd_cents"].to_pylist() == [transaction(n)["amount_usd_cents"] for n in (1, 2, 3)]
    assert found["category"].to_pylist() == ["grocery"] * 3


def test_of_one_id_with_two_contents_the_first_line_counts(journal: Journal, tmp_path: Path) -> None:
    journal.event("transactions", transaction(1))
    journal.event("transactions", transaction(1, amount_usd_cents=99))
    report = load_journal(journal.folder, tmp_path / "lake")
    assert (report.added["transactions"], report.differing["transactions"]) == (1, 1)
    found = DeltaTable(str(tmp_path / "lake" / "transactions")).to_pyarrow_table()
    assert found["amount_usd_cents"].to_pylist() == [transaction(1)["amount_usd_cents"]]


def test_a_half_written_last_line_is_counted_and_waits_for_the_next_load(
    journal: Journal, tmp_path: Path
) -> None:
    journal.event("transactions", transaction(1))
    location = journal.event("transactions", transaction(2))
    path = journal.folder / location.file
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    report = load_journal(journal.folder, tmp_path / "lake")
    assert (report.added["transactions"], report.damaged) == (1, 1)
    path.write_bytes(whole)
    assert load_journal(journal.folder, tmp_path / "lake").added["transactions"] == 1


def test_no_journal_is_no_error_and_makes_no_table(tmp_path: Path) -> None:
    report = load_journal(tmp_path / "absent", tmp_path / "lake")
    assert report.added == {"transactions": 0, "chargebacks": 0}
    assert not (tmp_path / "lake").exists()


def before_scoring(path: Path, *numbers: int) -> None:
    """A table of a lake from before transactions said as of when they were scored."""
    rows = [transaction(n) | {"event_day": transaction(n)["event_timestamp"].date()} for n in numbers]
    schema = TRANSACTIONS.remove(TRANSACTIONS.get_field_index("scored_timestamp"))
    table = pa.Table.from_pylist(rows, TRANSACTIONS).select(schema.names).cast(schema)
    write_deltalake(str(path), table, partition_by=["event_day"])


def scored_in(path: Path) -> dict[str, datetime | None]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        query = f"SELECT transaction_id, scored_timestamp FROM {snapshot(path).sql}"
        found: dict[str, datetime | None] = dict(connection.execute(query).fetchall())
        return found


def test_a_table_from_before_a_column_gets_it_with_the_first_events_that_come(
    journal: Journal, tmp_path: Path
) -> None:
    path = tmp_path / "lake" / "transactions"
    before_scoring(path, 1, 30)
    assert snapshot(path).alike
    scored = START + timedelta(days=1, microseconds=7)
    journal.event("transactions", transaction(2, scored_timestamp=scored))
    journal.event("transactions", transaction(3))
    assert load_journal(journal.folder, tmp_path / "lake").added["transactions"] == 2
    assert not snapshot(path).alike
    assert scored_in(path) == {"t1": None, "t30": None, "t2": scored, "t3": None}
    assert DeltaTable(str(path)).schema().to_json().count("scored_timestamp") == 1
    journal.event("transactions", transaction(4))
    load_journal(journal.folder, tmp_path / "lake")
    assert len(scored_in(path)) == 5


def test_a_column_that_no_file_holds_yet_is_null(tmp_path: Path) -> None:
    path = tmp_path / "transactions"
    before_scoring(path, 1, 30)
    DeltaTable(str(path)).alter.add_columns([DeltaField("scored_timestamp", "timestamp")])
    assert scored_in(path) == {"t1": None, "t30": None}


def test_an_event_without_a_required_value_is_refused_by_name_and_nothing_is_written(
    journal: Journal, tmp_path: Path
) -> None:
    journal.event("transactions", transaction(1))
    journal.event("transactions", transaction(2, created_timestamp=None))
    with pytest.raises(ValueError, match="event of transactions t2: created_timestamp is null"):
        load_journal(journal.folder, tmp_path / "lake")
    assert not (tmp_path / "lake" / "transactions").exists()


def test_an_event_with_an_unknown_column_is_refused(journal: Journal, tmp_path: Path) -> None:
    journal.event("transactions", transaction(1, colour="red"))
    with pytest.raises(ValueError, match=r"has columns \['colour'\]"):
        load_journal(journal.folder, tmp_path / "lake")
