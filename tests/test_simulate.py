"""The simulator: same seed, same events; and the world it draws is the one it says."""

from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from feature_repo.currency import to_usd_cents
from feature_repo.lake import CHARGEBACKS, TRANSACTIONS, snapshot
from feature_repo.reason_codes import FRAUD_REASON_CODES
from pipelines.simulate import FRAUD_SHARE, Simulation, draw_events, run, simulate
from pipelines.simulated_fraud import KINDS
from pipelines.simulated_world import CITIES

SIZE, DAYS = 60_000, 90
START = date(2025, 1, 1)


@pytest.fixture(scope="module")
def tables() -> tuple[pa.Table, pa.Table]:
    return simulate(SIZE, days=DAYS, seed=3)


@pytest.fixture(scope="module")
def drawn() -> Simulation:
    return draw_events(np.random.default_rng(3), SIZE, DAYS, START)


def seconds(late: pa.ChunkedArray, early: pa.ChunkedArray) -> np.ndarray:
    return pc.subtract(late.cast(pa.int64()), early.cast(pa.int64())).to_numpy() / 1e6


def test_the_same_seed_gives_the_same_events() -> None:
    first, second = (simulate(5_000, days=30, seed=11) for _ in range(2))
    assert first[0].equals(second[0])
    assert first[1].equals(second[1])


def test_another_seed_gives_other_events() -> None:
    assert not simulate(500, days=30, seed=1)[0].equals(simulate(500, days=30, seed=2)[0])


def test_tables_have_the_canonical_schemas(tables: tuple[pa.Table, pa.Table]) -> None:
    transactions, chargebacks = tables
    assert transactions.schema == TRANSACTIONS
    assert chargebacks.schema == CHARGEBACKS
    for table in tables:
        table.validate(full=True)
        assert not [
            field.name for field in table.schema if not field.nullable and table[field.name].null_count
        ]


def test_exactly_as_many_as_asked_within_the_days(tables: tuple[pa.Table, pa.Table]) -> None:
    times = tables[0]["event_timestamp"]
    assert len(times) == SIZE
    assert pc.count_distinct(tables[0]["transaction_id"]).as_py() == SIZE
    assert times.to_pylist() == sorted(times.to_pylist())
    assert times[0].as_py() >= datetime(2025, 1, 1, tzinfo=UTC)
    assert times[-1].as_py() < datetime(2025, 4, 1, tzinfo=UTC)


@pytest.mark.parametrize("size", [1, 2, 30, 500])
def test_a_tiny_stream_is_one_too(size: int) -> None:
    assert len(simulate(size, days=1)[0]) == size


def test_every_kind_of_fraud_is_there_and_frauds_are_rare(drawn: Simulation) -> None:
    counts = np.bincount(drawn.events.kind, minlength=len(KINDS) + 1)
    for number, kind in enumerate(KINDS, start=1):
        assert counts[number] == pytest.approx(SIZE * FRAUD_SHARE * kind.share, rel=0.35), kind.name
    assert 0.005 <= counts[1:].sum() / SIZE <= 0.01


def test_stolen_cards_are_used_far_from_home_at_night(drawn: Simulation) -> None:
    events, world = drawn.events, drawn.world
    rows = np.flatnonzero(events.kind == 1)
    away = world.terminal_city[events.terminal[rows]]
    assert (away != world.customer_city[events.customer[rows]]).all()
    zone = np.round(np.array([city.longitude for city in CITIES])[away] / 15)
    hour = (events.at_us[rows] / 3.6e9 + zone) % 24
    assert (hour < 6).all()


def test_people_sleep_where_they_live(drawn: Simulation) -> None:
    events, world = drawn.events, drawn.world
    zone = np.round(np.array([city.longitude for city in CITIES])[world.customer_city[events.customer]] / 15)
    hour = (events.at_us / 3.6e9 + zone) % 24
    for city in np.unique(world.customer_city):
        of_city = hour[(world.customer_city[events.customer] == city) & (events.kind == 0)]
        assert ((of_city >= 1) & (of_city < 5)).mean() < 0.04 < ((of_city >= 16) & (of_city < 20)).mean()


def test_a_taken_over_account_spends_several_times_as_much(drawn: Simulation) -> None:
    events, world = drawn.events, drawn.world
    against_usual = events.usd / world.amount[events.customer]
    assert np.median(against_usual[events.kind == 3]) > 3 * np.median(against_usual[events.kind == 0])


def test_amounts_at_a_compromised_terminal_are_ordinary(drawn: Simulation) -> None:
    usd, kind = drawn.events.usd, drawn.events.kind
    assert np.median(usd[kind == 2]) == pytest.approx(np.median(usd[kind == 0]), rel=0.4)


def test_activity_is_heavy_tailed(drawn: Simulation) -> None:
    a_day = np.bincount(drawn.events.customer) / DAYS
    assert a_day.mean() == pytest.approx(2.0, rel=0.1)
    assert np.quantile(a_day, 0.99) > 4 * np.median(a_day)


def test_cents_follow_from_amount_and_currency(tables: tuple[pa.Table, pa.Table]) -> None:
    rows = (
        tables[0]
        .select(["amount", "currency", "event_timestamp", "amount_usd_cents"])
        .slice(0, 3000)
        .to_pylist()
    )
    assert {row["currency"] for row in rows} == {"USD", "EUR", "GBP", "JPY"}
    for row in rows:
        expected = to_usd_cents(row["amount"], row["currency"], row["event_timestamp"].date())
        assert row["amount_usd_cents"] == expected
    assert all(row["amount"] % 1 == 0 for row in rows if row["currency"] == "JPY")


def test_some_events_are_known_late_and_none_early(tables: tuple[pa.Table, pa.Table]) -> None:
    wait = seconds(tables[0]["created_timestamp"], tables[0]["event_timestamp"])
    assert (wait >= 0).all()
    assert 0.005 < (wait > 0).mean() < 0.015
    assert wait.max() > 3600


def test_a_few_are_declined_or_pending(tables: tuple[pa.Table, pa.Table]) -> None:
    counts = {row["values"]: row["counts"] for row in pc.value_counts(tables[0]["status"]).to_pylist()}
    assert set(counts) == {"approved", "declined", "pending"}
    assert counts["approved"] > 0.95 * SIZE


def test_chargebacks_are_of_approved_transactions(tables: tuple[pa.Table, pa.Table]) -> None:
    transactions, chargebacks = tables
    found = chargebacks.join(transactions.select(["transaction_id", "status"]), "transaction_id")
    assert pc.unique(found["status"]).to_pylist() == ["approved"]
    assert len(found) == len(chargebacks)


def test_chargebacks_come_after_realistic_delays(tables: tuple[pa.Table, pa.Table]) -> None:
    chargebacks = tables[1].filter(pc.is_in(tables[1]["reason_code"], pa.array(FRAUD_REASON_CODES)))
    days = seconds(chargebacks["created_timestamp"], chargebacks["event_timestamp"]) / 86400
    assert np.median(days) == pytest.approx(10, rel=0.2)
    assert days.min() > 0
    assert 30 < days.max() <= 90


def test_some_frauds_are_never_reported_and_some_disputes_are_none(
    tables: tuple[pa.Table, pa.Table], drawn: Simulation
) -> None:
    transactions, chargebacks = tables
    codes = dict(
        zip(*(chargebacks[name].to_pylist() for name in ("transaction_id", "reason_code")), strict=True)
    )
    truth = zip(transactions["transaction_id"].to_pylist(), drawn.events.kind > 0, strict=True)
    reported = [(bool(fraud), codes.get(identifier)) for identifier, fraud in truth]
    assert all((code in FRAUD_REASON_CODES) == fraud for fraud, code in reported if code)
    assert any(fraud and code is None for fraud, code in reported)
    assert any(not fraud and code is not None for fraud, code in reported)


def test_a_run_loads_the_lake_and_another_changes_nothing(tmp_path: Path) -> None:
    said = run(2_000, 10, 5, "2025-03-01", tmp_path)
    assert "added 2,000 transactions" in said
    assert "added 0 transactions (version 0)" in run(2_000, 10, 5, "2025-03-01", tmp_path)
    rows = snapshot(tmp_path / "transactions").sql
    transactions, _ = simulate(2_000, days=10, seed=5, start=date(2025, 3, 1))
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        loaded = con.sql(f"SELECT * FROM {rows} ORDER BY transaction_id").to_arrow_table()
    assert loaded.cast(TRANSACTIONS).equals(transactions.sort_by("transaction_id"))


def test_a_run_writes_files_that_ingest_reads(tmp_path: Path) -> None:
    run(300, 5, 5, "2025-03-01", tmp_path / "lake", tmp_path / "out")
    assert len(pq.read_table(tmp_path / "out" / "transactions.parquet")) == 300
    assert (tmp_path / "out" / "chargebacks.parquet").is_file()
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize(
    ("size", "days", "start", "why"),
    [(0, 1, START, "ask for one or more"), (1, 0, START, "ask for"), (1, 1, date(2014, 1, 1), "rates begin")],
)
def test_what_cannot_be_simulated(size: int, days: int, start: date, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        simulate(size, days=days, start=start)
