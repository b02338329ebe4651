"""Events in: real files, a real Delta lake; each bad input, and loads that are repeated or killed."""

import signal
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from typer.testing import CliRunner

from feature_repo.lake import SCHEMAS, snapshot
from feature_repo.lake_writer import append, lake_lock
from pipelines.cli import main
from pipelines.ingest import IngestError, IngestReport, ingest
from pipelines.mapping import built_in, load_mapping

NOON = datetime(2018, 4, 1, 12, tzinfo=UTC)
HANDBOOK = Path(__file__).resolve().parents[2] / "shared" / "data" / "handbook-transactions.parquet"


def handbook_rows(n: int = 6, **columns: list[Any]) -> pa.Table:
    """The Handbook's columns: transaction 2 is a fraud; ids 0 to n - 1, an hour apart."""
    rows = {
        "TRANSACTION_ID": list(range(n)),
        "TX_DATETIME": [datetime(2018, 4, 1, 12) + timedelta(hours=6 * i) for i in range(n)],
        "CUSTOMER_ID": [100 + i % 2 for i in range(n)],
        "TERMINAL_ID": [200 + i % 3 for i in range(n)],
        "TX_AMOUNT": [10.5, 0.0, 1108.8500000000001, 3.1, 7.25, 0.07][:n] + [1.0] * (n - 6),
        "TX_FRAUD": [int(i == 2) for i in range(n)],
    }
    return pa.table({**rows, **columns})


def canonical_rows(**columns: list[Any]) -> pa.Table:
    rows: dict[str, list[Any]] = {
        "transaction_id": ["a", "b"],
        "event_timestamp": [NOON, NOON + timedelta(minutes=1)],
        "customer_id": ["c", "c"],
        "terminal_id": ["m", "n"],
        "amount": [Decimal("10.00"), Decimal("2.50")],
        "currency": ["EUR", "USD"],
        "status": ["approved", "declined"],
    }
    return pa.table({**rows, **columns})


def written(path: Path, table: pa.Table) -> Path:
    """The table as a file, Parquet or CSV by the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        pa.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    return path


def rows_of(lake: Path, table: str) -> list[dict[str, Any]]:
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    sql = f"SELECT * FROM {snapshot(lake / table).sql} ORDER BY transaction_id"
    return con.sql(sql).to_arrow_table().cast(SCHEMAS[table]).to_pylist()


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    return tmp_path / "lake"


class TestTheHandbooksColumns:
    def test_rows_become_canonical(self, tmp_path: Path, lake: Path) -> None:
        report = ingest(written(tmp_path / "t.parquet", handbook_rows()), "handbook", lake)
        assert report == IngestReport(6, 6, 1, 1, 0, 0, 0)
        third = rows_of(lake, "transactions")[2]
        at = datetime(2018, 4, 2, tzinfo=UTC)
        assert third == {
            "transaction_id": "2",
            "event_timestamp": at,
            "customer_id": "100",
            "terminal_id": "202",
            "amount": Decimal("1108.8500"),
            "currency": "USD",
            "amount_usd_cents": 110885,
            "status": "approved",
            **dict.fromkeys(("channel", "category", "customer_latitude", "customer_longitude")),
            **dict.fromkeys(("terminal_latitude", "terminal_longitude")),
            "created_timestamp": at,
            "scored_timestamp": None,
            "event_day": date(2018, 4, 2),
        }

    def test_a_fraud_is_a_chargeback_reported_seven_days_later(self, tmp_path: Path, lake: Path) -> None:
        ingest(written(tmp_path / "t.parquet", handbook_rows()), "handbook", lake)
        at = datetime(2018, 4, 2, tzinfo=UTC)
        assert rows_of(lake, "chargebacks") == [
            {
                "transaction_id": "2",
                "event_timestamp": at,
                "customer_id": "100",
                "terminal_id": "202",
                "amount_usd_cents": 110885,
                "reason_code": "4837",
                "created_timestamp": at + timedelta(days=7),
                "event_day": date(2018, 4, 2),
            }
        ]

    def test_csv_gives_the_same_rows_as_parquet(self, tmp_path: Path, lake: Path) -> None:
        ingest(written(tmp_path / "t.parquet", handbook_rows()), "handbook", lake)
        other = tmp_path / "other"
        ingest(written(tmp_path / "t.csv", handbook_rows()), "handbook", other)
        for table in SCHEMAS:
            assert rows_of(lake, table) == rows_of(other, table)

    def test_tables_are_partitioned_by_event_day(self, tmp_path: Path, lake: Path) -> None:
        ingest(written(tmp_path / "t.parquet", handbook_rows()), "handbook", lake)
        assert DeltaTable(str(lake / "transactions")).metadata().partition_columns == ["event_day"]
        assert len(snapshot(lake / "transactions").files) == 2

    def test_a_pickle_is_not_opened(self, tmp_path: Path, lake: Path) -> None:
        (tmp_path / "2018-04-01.pkl").write_bytes(b"not even a pickle")
        with pytest.raises(IngestError, match=r"a pickle: .*none is opened here.*to_parquet"):
            ingest(tmp_path, "handbook", lake)

    def test_the_published_file_loads_whole(self, lake: Path) -> None:
        if not HANDBOOK.is_file():
            pytest.skip(f"no Handbook data at {HANDBOOK}")
        report = ingest(HANDBOOK, "handbook", lake)
        assert (report.transactions_added, report.chargebacks_added) == (1_504_628, 12_484)
        again = ingest(HANDBOOK, "handbook", lake)
        assert (again.transactions_added, again.chargebacks_added) == (0, 0)
        assert (again.transactions_version, again.chargebacks_version) == (0, 0)


class TestPaths:
    def test_folders_and_globs_load_every_file(self, tmp_path: Path, lake: Path) -> None:
        rows = handbook_rows()
        written(tmp_path / "in" / "1.parquet", rows.slice(0, 2))
        written(tmp_path / "in" / "sub" / "2.csv", rows.slice(2, 2))
        written(tmp_path / "in" / "_tmp" / "3.parquet", rows.slice(4))
        assert ingest(tmp_path / "in", "handbook", lake).transactions_added == 4
        assert ingest(tmp_path / "in" / "*" / "3.par*", "handbook", lake).transactions_added == 2

    def test_a_delta_table_is_read_at_its_newest_version(self, tmp_path: Path, lake: Path) -> None:
        ingest(written(tmp_path / "t.parquet", handbook_rows()), "handbook", lake)
        DeltaTable(str(lake / "transactions")).delete("transaction_id = '5'")
        assert ingest(lake / "transactions", "canonical", tmp_path / "copy").transactions_added == 5

    @pytest.mark.parametrize(("name", "why"), [("absent.csv", "no such file"), ("t.xlsx", "no format")])
    def test_nothing_to_read_says_so(self, tmp_path: Path, lake: Path, name: str, why: str) -> None:
        (tmp_path / "t.xlsx").touch()
        with pytest.raises(IngestError, match=why):
            ingest(tmp_path / name, "handbook", lake)

    def test_a_file_that_is_not_what_its_name_says(self, tmp_path: Path, lake: Path) -> None:
        (tmp_path / "t.parquet").write_text("hello")
        with pytest.raises(IngestError, match=r"t\.parquet: cannot be read"):
            ingest(tmp_path, "handbook", lake)

    def test_a_csv_line_with_too_many_values_names_the_file(self, tmp_path: Path, lake: Path) -> None:
        file = written(tmp_path / "t.csv", handbook_rows(40_000))
        with file.open("a") as lines:
            lines.write("1,2,3,4,5,6,7,8\n")
        with pytest.raises(IngestError, match=r"t\.csv: cannot be read.*40002"):
            ingest(file, "handbook", lake)
        assert not (lake / "transactions").exists()


class TestRepeatedLoads:
    def test_the_same_file_twice_changes_nothing(self, tmp_path: Path, lake: Path) -> None:
        file = written(tmp_path / "t.parquet", handbook_rows())
        ingest(file, "handbook", lake)
        before = {table: (snapshot(lake / table), rows_of(lake, table)) for table in SCHEMAS}
        assert ingest(file, "handbook", lake) == IngestReport(6, 0, 1, 0, 7, 0, 0)
        assert {table: (snapshot(lake / table), rows_of(lake, table)) for table in SCHEMAS} == before

    def test_only_new_ids_are_appended(self, tmp_path: Path, lake: Path) -> None:
        ingest(written(tmp_path / "1.parquet", handbook_rows(4)), "handbook", lake)
        report = ingest(written(tmp_path / "2.parquet", handbook_rows(6)), "handbook", lake)
        assert (report.transactions_added, report.chargebacks_added, report.duplicates) == (2, 0, 5)
        assert (report.transactions_version, report.chargebacks_version) == (1, 0)
        assert [row["transaction_id"] for row in rows_of(lake, "transactions")] == list("012345")

    def test_identical_rows_in_one_load_are_dropped_and_counted(self, tmp_path: Path, lake: Path) -> None:
        rows = pa.concat_tables([handbook_rows(), handbook_rows()])
        report = ingest(written(tmp_path / "t.parquet", rows), "handbook", lake)
        assert (report.transactions_added, report.chargebacks_added, report.duplicates) == (6, 1, 7)

    def test_an_id_with_other_content_in_the_lake_is_an_error(self, tmp_path: Path, lake: Path) -> None:
        ingest(written(tmp_path / "t.parquet", handbook_rows()), "handbook", lake)
        changed = handbook_rows(TX_AMOUNT=[10.5, 0.01, 1108.85, 3.1, 7.25, 0.07])
        message = r"2\.parquet: row 2 '1' has other amount \(1 rows\): duplicate id of transactions"
        with pytest.raises(IngestError, match=message):
            ingest(written(tmp_path / "2.parquet", changed), "handbook", lake)
        assert len(rows_of(lake, "transactions")) == 6

    def test_an_id_with_other_content_in_one_load_is_an_error(self, tmp_path: Path, lake: Path) -> None:
        rows = handbook_rows(TRANSACTION_ID=[0, 1, 2, 3, 4, 1])
        with pytest.raises(
            IngestError, match=r"row 6 '1' has other event_timestamp.* than row 2 of .*t\.csv"
        ):
            ingest(written(tmp_path / "t.csv", rows), "handbook", lake)
        assert not (lake / "transactions").exists()

    def test_another_chargeback_of_a_transaction_is_an_error(self, lake: Path) -> None:
        reports = {"created_timestamp": [NOON + timedelta(days=1)], "reason_code": ["10.4"]}
        ingest(canonical_rows(), "canonical", lake, pa.table({"transaction_id": ["a"], **reports}))
        other = pa.table({"transaction_id": ["a"], **reports, "reason_code": ["13.1"]})
        with pytest.raises(IngestError, match=r"'a' has other reason_code .*duplicate id of chargebacks"):
            ingest(None, "canonical", lake, other)

    def test_new_exchange_rates_do_not_make_an_event_another(
        self, tmp_path: Path, lake: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own = own_mapping(tmp_path)
        ingest(canonical_rows(), own, lake)
        always = {"from_us": 0, "until_us": 2**60}
        rates = pa.Table.from_pylist(
            [{"currency": "EUR", **always, "rate_e8": 1}, {"currency": "USD", **always, "rate_e8": 2}]
        )
        monkeypatch.setattr("pipelines.staging.rates_table", lambda: rates)
        assert ingest(canonical_rows(), own, lake).transactions_added == 0
        assert rows_of(lake, "transactions")[0]["amount_usd_cents"] == 1181


def own_mapping(folder: Path, extra: str = "", **lines: str) -> Path:
    """A mapping file of canonical names, with some lines replaced (an empty one left out)."""
    names = canonical_rows().column_names
    fields = {name: f'{{ column = "{name}" }}' for name in names} | lines
    text = "\n".join(f"{name} = {line}" for name, line in fields.items() if line)
    file = folder / "own.toml"
    file.write_text(f"[transactions]\n{text}\n{extra}\n")
    return file


KILLED = """
import os, signal, sys
from pathlib import Path
from feature_repo import lake_writer
from pipelines import ingest
real = lake_writer.append
def append(con, lake, table, rows_sql, wrote=None):
    if table == "transactions":
        os.kill(os.getpid(), signal.SIGKILL)
    return real(con, lake, table, rows_sql, wrote)
ingest.append = append
ingest.ingest(sys.argv[1], "handbook", Path(sys.argv[2]))
"""


class TestKilledLoads:
    def test_a_load_killed_between_its_tables_is_completed_by_another(
        self, tmp_path: Path, lake: Path
    ) -> None:
        file = written(tmp_path / "t.parquet", handbook_rows())
        killed = subprocess.run([sys.executable, "-c", KILLED, str(file), str(lake)], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert len(rows_of(lake, "chargebacks")) == 1
        assert not (lake / "transactions").exists()
        report = ingest(file, "handbook", lake)
        assert (report.transactions_added, report.chargebacks_added) == (6, 0)
        whole = tmp_path / "whole"
        ingest(file, "handbook", whole)
        for table in SCHEMAS:
            assert rows_of(lake, table) == rows_of(whole, table)
        assert not list(lake.glob(".staging-*")), "what the killed load spilled is removed"

    def test_a_write_that_fails_leaves_the_lake_readable(
        self, tmp_path: Path, lake: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ingest(written(tmp_path / "1.parquet", handbook_rows(4)), "handbook", lake)
        more = written(tmp_path / "2.parquet", handbook_rows(12))

        def failing(con: Any, into: Path, table: str, rows_sql: str, wrote: Any = None) -> int:
            def broken_disk(rows: int) -> None:
                raise OSError("no space left on device")

            return append(con, into, table, rows_sql, broken_disk)

        with monkeypatch.context() as patched:
            patched.setattr("pipelines.ingest.append", failing)
            with pytest.raises(OSError, match=r"transactions: .*no space left.*as before"):
                ingest(more, "handbook", lake)
        assert len(rows_of(lake, "transactions")) == 4
        assert ingest(more, "handbook", lake).transactions_added == 8

    def test_two_loads_at_once_append_each_id_once(self, tmp_path: Path, lake: Path) -> None:
        file = written(tmp_path / "t.parquet", handbook_rows())
        code = "import sys; from pathlib import Path; from pipelines.ingest import ingest;"
        code += "ingest(sys.argv[1], 'handbook', Path(sys.argv[2]))"
        loads = [subprocess.Popen([sys.executable, "-c", code, str(file), str(lake)]) for _ in range(2)]
        assert [load.wait(60) for load in loads] == [0, 0]
        assert len(rows_of(lake, "transactions")) == 6

    def test_the_lock_is_free_again_after_an_error(self, tmp_path: Path, lake: Path) -> None:
        with pytest.raises(IngestError):
            ingest(written(tmp_path / "t.csv", handbook_rows(TX_AMOUNT=[-1.0] * 6)), "handbook", lake)
        with lake_lock(lake):
            pass


def refused(
    table: pa.Table, lake: Path, mapping: str | Path = "handbook", chargebacks: pa.Table | None = None
) -> str:
    """The message with which a load is refused, after which the lake has no tables."""
    with pytest.raises(IngestError) as caught:
        ingest(table, mapping, lake, chargebacks)
    assert not [path.name for path in lake.iterdir() if path.name != ".lock"], "nothing is half-written"
    return str(caught.value)


class TestBadTransactions:
    def test_a_missing_column_names_those_that_are_there(self, lake: Path) -> None:
        message = refused(handbook_rows().drop_columns(["TX_AMOUNT", "CUSTOMER_ID"]), lake)
        assert "column 'TX_AMOUNT' (for amount): missing; it has TRANSACTION_ID, TX_DATETIME" in message
        assert "column 'CUSTOMER_ID' (for customer_id): missing" in message

    def test_a_wrong_type_names_the_type(self, lake: Path) -> None:
        message = refused(handbook_rows(TX_AMOUNT=[True] * 6, CUSTOMER_ID=[1.0] * 6), lake)
        assert (
            "column 'TX_AMOUNT' (for amount): type BOOLEAN: not usable; store amounts as numbers" in message
        )
        assert "column 'CUSTOMER_ID' (for customer_id): type DOUBLE: not usable; store identifiers" in message

    @pytest.mark.parametrize("suffix", ["parquet", "csv"])
    @pytest.mark.parametrize(
        ("amount", "shown", "why"), [(-3.5, "-3.5", "negative"), (float("nan"), "nan", "not an amount")]
    )
    def test_an_amount_that_is_none(
        self, tmp_path: Path, lake: Path, suffix: str, amount: float, shown: str, why: str
    ) -> None:
        file = written(tmp_path / f"t.{suffix}", handbook_rows(TX_AMOUNT=[1.0, 2.0, amount, 1.0, 2.0, 3.0]))
        with pytest.raises(IngestError) as caught:
            ingest(file, "handbook", lake)
        assert f"t.{suffix}: amount: row 3 has '{shown}': {why}; " in str(caught.value)

    def test_many_bad_rows_give_the_count_and_the_first(self, lake: Path) -> None:
        message = refused(handbook_rows(TX_AMOUNT=[-1.0] * 6), lake)
        assert (
            "amount: row 1 has '-1.0', row 2 has '-1.0', row 3 has '-1.0' (and 3 more rows): negative"
            in message
        )

    def test_every_kind_of_problem_in_a_file_is_told(self, lake: Path) -> None:
        message = refused(handbook_rows(TX_AMOUNT=[-1.0] * 6, TERMINAL_ID=[None, *range(5)]), lake)
        assert "terminal_id: row 1 has null: null or empty" in message
        assert "amount: row 1" in message

    @pytest.mark.parametrize(
        "column", ["TRANSACTION_ID", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_DATETIME"]
    )
    @pytest.mark.parametrize("suffix", ["parquet", "csv"])
    def test_a_null_where_none_may_be(self, tmp_path: Path, lake: Path, suffix: str, column: str) -> None:
        values = handbook_rows()[column].to_pylist()
        values[4] = None
        file = written(tmp_path / f"t.{suffix}", handbook_rows(**{column: values}))
        with pytest.raises(IngestError, match="row 5 has null: null or empty"):
            ingest(file, "handbook", lake)

    def test_an_unknown_currency_names_the_known(self, lake: Path) -> None:
        message = refused(canonical_rows(currency=["XYZ", "USD"]), lake, "canonical")
        assert "currency: row 1 has 'XYZ': unknown currency" in message
        assert "known are AUD, CAD, CHF, EUR, GBP, JPY, USD" in message

    def test_a_day_before_the_exchange_rates(self, lake: Path) -> None:
        early = [datetime(2014, 5, 1, tzinfo=UTC), NOON]
        assert "no rate of it on that day" in refused(
            canonical_rows(event_timestamp=early), lake, "canonical"
        )

    def test_an_unknown_status(self, lake: Path) -> None:
        message = refused(canonical_rows(status=["ok", "approved"]), lake, "canonical")
        assert "status: row 1 has 'ok': unknown status; map it to one of 'approved'" in message

    def test_a_timestamp_column_without_a_zone(self, lake: Path) -> None:
        zoneless = [datetime(2018, 4, 1), datetime(2018, 4, 2)]
        message = refused(canonical_rows(event_timestamp=zoneless), lake, "canonical")
        assert "type TIMESTAMP: times without a time zone; add the zone" in message

    def test_a_text_timestamp_without_a_zone(self, lake: Path) -> None:
        times = ["2018-04-01T12:00:00Z", "2018-04-01 12:00:00"]
        message = refused(canonical_rows(event_timestamp=times), lake, "canonical")
        assert "event_timestamp: row 2 has '2018-04-01 12:00:00': no time zone; add the zone" in message

    @pytest.mark.parametrize("time", ["yesterday", "2018-13-01T00:00:00Z"])
    def test_a_text_that_is_no_time(self, lake: Path, time: str) -> None:
        times = ["2018-04-01T12:00:00Z", time]
        message = refused(canonical_rows(event_timestamp=times), lake, "canonical")
        assert f"event_timestamp: row 2 has '{time}': not a time" in message

    def test_times_as_numbers_need_a_unit(self, lake: Path) -> None:
        message = refused(canonical_rows(event_timestamp=[1, 2]), lake, "canonical")
        assert 'type BIGINT: times of unknown unit; add unit = "s"' in message

    @pytest.mark.parametrize("year", ["1969-12-31", "2200-01-02", "infinity"])
    def test_a_time_beyond_belief(self, lake: Path, year: str) -> None:
        with duckdb.connect() as con:
            con.execute("SET TimeZone = 'UTC'")
            times = con.sql(
                f"SELECT unnest([TIMESTAMPTZ '2018-04-01', TIMESTAMPTZ '{year}']) AS t"
            ).to_arrow_table()["t"]
        message = refused(canonical_rows(event_timestamp=times), lake, "canonical")
        assert "event_timestamp: row 2" in message
        assert "not between 1970 and 2200" in message

    def test_a_known_time_worked_out_from_a_bad_time_is_not_reported_too(self, lake: Path) -> None:
        message = refused(
            canonical_rows(event_timestamp=[NOON, datetime(2999, 1, 1, tzinfo=UTC)]), lake, "canonical"
        )
        assert "event_timestamp: row 2" in message
        assert "created_timestamp" not in message

    def test_a_known_time_of_its_own_is_checked_by_itself(self, lake: Path) -> None:
        message = refused(
            canonical_rows(created_timestamp=[NOON, datetime(2999, 1, 1, tzinfo=UTC)]), lake, "canonical"
        )
        assert "created_timestamp: row 2 has '2999-01-01 00:00:00+00': not between 1970 and 2200" in message

    def test_known_before_it_happened(self, lake: Path) -> None:
        known = [NOON, NOON - timedelta(hours=1)]
        message = refused(canonical_rows(created_timestamp=known), lake, "canonical")
        assert "created_timestamp: row 2 has '2018-04-01 11:00:00+00'" in message
        assert "known before it happened" in message

    def test_a_coordinate_outside_of_the_earth(self, lake: Path) -> None:
        message = refused(canonical_rows(customer_latitude=[91.0, 0.0]), lake, "canonical")
        assert "customer_latitude: row 1 has '91.0': outside of the earth" in message

    def test_a_coordinate_that_is_no_number(self, lake: Path) -> None:
        message = refused(canonical_rows(terminal_longitude=["east", "1.5"]), lake, "canonical")
        assert "terminal_longitude: row 1 has 'east': not a number" in message

    def test_an_id_that_is_too_long(self, lake: Path) -> None:
        assert "over 128 characters" in refused(
            canonical_rows(customer_id=["c" * 129, "c"]), lake, "canonical"
        )

    def test_a_label_that_the_mapping_does_not_name(self, lake: Path) -> None:
        message = refused(handbook_rows(TX_FRAUD=[0, 0, 2, 0, 0, 0]), lake)
        assert "label: row 3 has '2': a value that the mapping does not name; it names '0', '1'" in message


def chargebacks(**columns: list[Any]) -> pa.Table:
    rows = {"transaction_id": ["a"], "created_timestamp": [NOON + timedelta(days=9)], "reason_code": ["10.4"]}
    return pa.table({**rows, **columns})


class TestChargebackFiles:
    def test_chargebacks_take_the_rest_from_their_transaction(self, lake: Path) -> None:
        report = ingest(canonical_rows(), "canonical", lake, chargebacks())
        assert (report.chargebacks_read, report.chargebacks_added) == (1, 1)
        (row,) = rows_of(lake, "chargebacks")
        assert (row["customer_id"], row["terminal_id"], row["amount_usd_cents"]) == ("c", "m", 1181)
        assert (row["event_timestamp"], row["created_timestamp"]) == (NOON, NOON + timedelta(days=9))

    def test_chargebacks_alone_find_their_transactions_in_the_lake(self, lake: Path) -> None:
        ingest(canonical_rows(), "canonical", lake)
        assert ingest(None, "canonical", lake, chargebacks()).chargebacks_added == 1
        assert rows_of(lake, "chargebacks")[0]["amount_usd_cents"] == 1181

    def test_without_its_transaction(self, lake: Path) -> None:
        message = refused(canonical_rows(), lake, "canonical", chargebacks(transaction_id=["zz"]))
        assert "given_chargebacks: row 1: transaction_id 'zz'" in message
        assert "(1 rows): no transaction of this id, in the load or in the lake; load it first" in message

    def test_reported_before_its_transaction(self, lake: Path) -> None:
        early = chargebacks(created_timestamp=[NOON - timedelta(seconds=1)])
        message = refused(canonical_rows(), lake, "canonical", early)
        assert "'a' reported 2018-04-01 11:59:59+00, transaction 2018-04-01 12:00:00+00" in message
        assert "reported before its transaction" in message

    def test_of_an_unknown_reason(self, lake: Path) -> None:
        message = refused(canonical_rows(), lake, "canonical", chargebacks(reason_code=["77"]))
        assert "reason_code: row 1 has '77': unknown reason code; add it to" in message

    def test_a_mapping_without_their_columns(self, lake: Path) -> None:
        with pytest.raises(IngestError, match=r"mapping 'handbook': it has no \[chargebacks\]"):
            ingest(handbook_rows(), "handbook", lake, chargebacks())


class TestMappings:
    def test_local_times_of_a_zone_become_utc(self, tmp_path: Path, lake: Path) -> None:
        line = '{ column = "event_timestamp", zone = "Europe/Berlin" }'
        times = ["2018-04-01 14:00:00", "2018-12-01 14:00:00"]
        ingest(canonical_rows(event_timestamp=times), own_mapping(tmp_path, event_timestamp=line), lake)
        hours = [row["event_timestamp"].hour for row in rows_of(lake, "transactions")]
        assert hours == [12, 13]

    def test_a_value_with_an_offset_keeps_its_own(self, tmp_path: Path, lake: Path) -> None:
        line = '{ column = "event_timestamp", zone = "Europe/Berlin" }'
        times = ["2018-04-01T14:00:00+02", "2018-04-01 12:00:00 UTC"]
        ingest(canonical_rows(event_timestamp=times), own_mapping(tmp_path, event_timestamp=line), lake)
        assert [row["event_timestamp"] for row in rows_of(lake, "transactions")] == [NOON, NOON]

    @pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("ms", 10**3), ("us", 10**6)])
    def test_times_as_numbers(self, tmp_path: Path, lake: Path, unit: str, scale: int) -> None:
        line = f'{{ column = "event_timestamp", unit = "{unit}" }}'
        times = [int(NOON.timestamp()) * scale] * 2
        ingest(canonical_rows(event_timestamp=times), own_mapping(tmp_path, event_timestamp=line), lake)
        assert rows_of(lake, "transactions")[0]["event_timestamp"] == NOON

    def test_pandas_nanoseconds_with_a_zone(self, tmp_path: Path, lake: Path) -> None:
        frame = canonical_rows().to_pandas().assign(event_timestamp=pd.Timestamp(NOON, unit="ns"))
        ingest(pa.Table.from_pandas(frame), own_mapping(tmp_path), lake)
        assert rows_of(lake, "transactions")[0]["event_timestamp"] == NOON

    @pytest.mark.parametrize("amounts", [[1234, 50], ["1234", "50"], [1234.0, 50.0]])
    def test_amounts_in_cents(self, tmp_path: Path, lake: Path, amounts: list[Any]) -> None:
        line = '{ column = "amount", divide_by = 100 }'
        ingest(canonical_rows(amount=amounts), own_mapping(tmp_path, amount=line), lake)
        assert [row["amount"] for row in rows_of(lake, "transactions")] == [Decimal("12.34"), Decimal("0.5")]

    def test_values_are_translated(self, tmp_path: Path, lake: Path) -> None:
        line = '{ column = "status", values = { OK = "approved", NO = "declined" } }'
        ingest(canonical_rows(status=["OK", "NO"]), own_mapping(tmp_path, status=line), lake)
        assert [row["status"] for row in rows_of(lake, "transactions")] == ["approved", "declined"]

    def test_a_label_reported_at_a_time_of_its_own(self, tmp_path: Path, lake: Path) -> None:
        label = '[label]\ncolumn = "bad"\ngenuine = ["false"]\nchargeback = { true = "10.4" }\n'
        label += 'reported = { column = "at", zone = "UTC" }'
        extra = {"bad": [True, False], "at": ["2018-04-03 12:00:00", None]}
        ingest(canonical_rows(**extra), own_mapping(tmp_path, label), lake)
        (row,) = rows_of(lake, "chargebacks")
        assert (row["transaction_id"], row["created_timestamp"]) == ("a", NOON + timedelta(days=2))

    def test_a_label_reported_before_its_transaction(self, tmp_path: Path, lake: Path) -> None:
        label = '[label]\ncolumn = "bad"\ngenuine = ["0"]\nchargeback = { 1 = "10.4" }\n'
        label += 'reported = { column = "at", zone = "UTC" }'
        extra = {"bad": [1, 0], "at": ["2018-04-01 11:00:00", None]}
        message = refused(canonical_rows(**extra), lake, own_mapping(tmp_path, label))
        assert "reported: row 1 has '2018-04-01 11:00:00': reported before its transaction" in message

    def test_a_late_event_keeps_both_its_times(self, lake: Path) -> None:
        known = [NOON + timedelta(hours=5), NOON + timedelta(minutes=1)]
        ingest(canonical_rows(created_timestamp=known), "canonical", lake)
        assert [row["created_timestamp"] for row in rows_of(lake, "transactions")] == known

    @pytest.mark.parametrize(
        ("lines", "why"),
        [
            ({"amount": ""}, r"\[transactions\]: amount: not mapped"),
            ({"amont": '{ column = "x" }'}, "'amont': unknown; known are"),
            ({"amount": '{ column = "a", zone = "UTC" }'}, "amount: 'zone': unknown"),
            ({"amount": '"a"'}, "amount: 'a': not a table"),
            ({"amount": '{ column = "a", divide_by = 3 }'}, "divide_by 3"),
            ({"event_timestamp": '{ column = "a", zone = "Mars" }'}, "zone 'Mars': not an IANA time zone"),
            ({"event_timestamp": '{ column = "a", unit = "h" }'}, "unit 'h': unknown"),
            ({"status": '{ column = "a", constant = "b" }'}, "give one of column and constant"),
            ({"status": '{ column = "a", optional = true }'}, "status: optional, but every event needs it"),
            ({"status": "{ column = 5 }"}, "column 5: write text"),
        ],
    )
    def test_a_broken_mapping_names_the_line(self, tmp_path: Path, lines: dict[str, str], why: str) -> None:
        with pytest.raises(ValueError, match=rf"own\.toml.*{why}"):
            load_mapping(own_mapping(tmp_path, **lines))

    @pytest.mark.parametrize(
        ("label", "why"),
        [
            ('column = "a"\ndelay = "7d"', "give column and chargeback"),
            ('column = "a"\nchargeback = { 1 = "10.4" }', "give one of delay"),
            ('column = "a"\nchargeback = { 1 = "99" }\ndelay = "7d"', "reason code '99'"),
            ('column = "a"\nchargeback = { 1 = "10.4" }\ndelay = "a week"', "duration 'a week'"),
        ],
    )
    def test_a_broken_label_names_the_line(self, tmp_path: Path, label: str, why: str) -> None:
        with pytest.raises(ValueError, match=why):
            load_mapping(own_mapping(tmp_path, f"[label]\n{label}"))

    def test_an_unknown_mapping_names_the_built_in(self) -> None:
        with pytest.raises(ValueError, match=r"mapping 'nope': .*built in are canonical, handbook"):
            load_mapping("nope")

    def test_what_is_no_toml(self, tmp_path: Path) -> None:
        (tmp_path / "m.toml").write_text("[transactions")
        with pytest.raises(ValueError, match=r"m\.toml: not TOML"):
            load_mapping(tmp_path / "m.toml")


class TestTheCommand:
    @pytest.fixture
    def runner(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
        monkeypatch.setenv("FRAUD_HOME", str(tmp_path / "home"))
        return CliRunner()

    def test_ingest_says_what_it_did(self, tmp_path: Path, runner: CliRunner) -> None:
        file = written(tmp_path / "t.parquet", handbook_rows())
        result = runner.invoke(main, ["ingest", str(file), "--mapping", "handbook"])
        assert result.exit_code == 0, result.output
        assert "added 6 transactions (version 0) and 1 chargebacks (version 0)" in result.output
        assert len(rows_of(tmp_path / "home" / "lake", "transactions")) == 6

    def test_bad_input_is_one_message_and_exit_code_2(self, tmp_path: Path, runner: CliRunner) -> None:
        result = runner.invoke(main, ["ingest", str(tmp_path / "absent.csv")])
        assert result.exit_code == 2
        assert "absent.csv: no such file or folder; check the path" in result.output
        assert "Traceback" not in result.output

    @pytest.mark.parametrize("name", sorted(built_in()))
    def test_a_shown_mapping_can_be_used(self, tmp_path: Path, runner: CliRunner, name: str) -> None:
        copy = tmp_path / "copy.toml"
        copy.write_text(runner.invoke(main, ["mapping", "show", name]).output)
        assert load_mapping(copy).transactions == load_mapping(name).transactions

    def test_help_imports_nothing_heavy(self) -> None:
        code = "import sys, pipelines.cli; print(*{'duckdb', 'feast', 'numpy', 'pandas', 'pyarrow'} & set(sys.modules))"
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert answer.stdout.split() == []
