"""The events that are measured on: the Handbook's, loaded as a person loads them, and simulated ones of any number.

Both are lakes under the run's data folder, made once for all benchmarks of a run.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake

from feature_repo.lake import CHARGEBACKS, TRANSACTIONS, snapshot
from pipelines.ingest import ingest
from tests.benchmarks.bench import Bench
from tests.benchmarks.measure import UnavailableError

DAY_US = 86_400_000_000
DAYS = 180
FIRST_DAY = 19_723  # 2024-01-01
HOT_TERMINALS = 5
_SEED = 20240101
_HOT_SHARE = 0.01
_FRAUD_SHARE = 0.005
_BYTES_A_ROW = 60  # of a lake, measured


@dataclass(frozen=True)
class Lake:
    """Folder of Delta tables ``transactions`` and ``chargebacks``."""

    path: Path

    @property
    def rows(self) -> int:
        """How many transactions there are."""
        return int(DeltaTable(str(self.path / "transactions")).to_pyarrow_dataset().count_rows())

    def sql(self, table: str) -> str:
        """A DuckDB table expression over the files of a table."""
        return snapshot(self.path / table).sql

    def files(self, table: str) -> list[str]:
        """The Parquet files of a table."""
        return list(snapshot(self.path / table).files)

    def entity_frame(self, query: str = "") -> pd.DataFrame:
        """Transactions as entity rows, in order of time: keys and instants, and the id to tell rows apart."""
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            frame: pd.DataFrame = connection.sql(
                "SELECT transaction_id, customer_id, terminal_id, event_timestamp FROM "
                f"{self.sql('transactions')} {query} ORDER BY event_timestamp, transaction_id"
            ).df()
        return frame


def handbook(bench: Bench) -> Lake:
    """The Handbook's transactions, ingested with its own mapping; its frauds are chargebacks a week later.

    Raises:
        UnavailableError: the file is not there.
    """
    if not bench.handbook.exists():
        raise UnavailableError(
            f"no transactions of the Handbook at {bench.handbook}; name the file: DATA=..."
        )

    def make(path: Path) -> None:
        rows: str | pa.Table = str(bench.handbook)
        if bench.small:
            rows = pq.read_table(bench.handbook).slice(0, 60_000)
        ingest(rows, "handbook", path)

    return _made_once(bench, "handbook", make)


def simulated(bench: Bench, rows: int) -> Lake:
    """Transactions of 180 days: five terminals with 1% each, customers who return to twenty terminals of their own.

    A customer has 200 transactions on average. One in 200 is a fraud, reported within a week, so that a window delayed
    by a week knows all of its frauds.
    """
    bench.need_disk(rows * _BYTES_A_ROW)
    return _made_once(bench, f"simulated-{rows}", lambda path: _simulate(path, rows))


def _made_once(bench: Bench, name: str, make: Callable[[Path], None]) -> Lake:
    path = bench.data / (f"{name}-small" if bench.small else name)
    if not path.exists():
        bench.step(f"making events: {name}")
        unfinished = path.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        make(unfinished)
        unfinished.rename(path)
    return Lake(path)


def _simulate(path: Path, rows: int) -> None:
    random = np.random.default_rng(_SEED)
    frauds = []
    for day, numbers in _days(rows):
        transactions = _one_day(
            random, day, numbers, customers=max(1, rows // 200), terminals=max(50, rows // 100)
        )
        write_deltalake(
            str(path / "transactions"), transactions, mode="append", partition_by=["event_day"]
        )  # fmt: skip
        frauds.append(_chargebacks(random, transactions))
    write_deltalake(
        str(path / "chargebacks"), pa.concat_tables(frauds).combine_chunks(), partition_by=["event_day"]
    )  # fmt: skip


def _days(rows: int) -> Iterator[tuple[int, range]]:
    edges = np.linspace(0, rows, DAYS + 1).astype(int)
    for day in range(DAYS):
        yield FIRST_DAY + day, range(edges[day], edges[day + 1])


def _one_day(
    random: np.random.Generator, day: int, numbers: range, customers: int, terminals: int
) -> pa.Table:
    n = len(numbers)
    times = day * DAY_US + np.sort(random.integers(0, DAY_US, n))
    customer = random.integers(0, customers, n)
    # Customers return: each has twenty terminals. The first few terminals are everybody's.
    terminal = HOT_TERMINALS + (customer * 7919 + random.integers(0, 20, n) * 104_729) % (
        terminals - HOT_TERMINALS
    )
    lot = random.random(n)
    hot = lot < HOT_TERMINALS * _HOT_SHARE
    terminal[hot] = (lot[hot] / _HOT_SHARE).astype(np.int64)
    cents = np.clip(random.lognormal(8.3, 0.9, n), 1, 5_000_000).astype(np.int64)
    moment = pa.array(times).cast(pa.timestamp("us", tz="UTC"))
    columns = {
        "transaction_id": _text("t", np.arange(numbers.start, numbers.stop)),
        "event_timestamp": moment,
        "customer_id": _text("c", customer),
        "terminal_id": _text("m", terminal),
        "amount": pa.array(cents)
        .cast(pa.decimal128(19, 0))
        .cast(pa.decimal128(23, 4))
        .cast(pa.decimal128(18, 4)),
        "currency": _same("USD", n),
        "amount_usd_cents": pa.array(cents),
        "status": _same("approved", n),
        "created_timestamp": moment,
        "event_day": pa.array(np.full(n, day, np.int32)).cast(pa.date32()),
    }
    missing = {
        name: pa.nulls(n, TRANSACTIONS.field(name).type) for name in TRANSACTIONS.names if name not in columns
    }
    return pa.table([(columns | missing)[name] for name in TRANSACTIONS.names], schema=TRANSACTIONS)


def _chargebacks(random: np.random.Generator, transactions: pa.Table) -> pa.Table:
    found = transactions.filter(pa.array(random.random(transactions.num_rows) < _FRAUD_SHARE))
    n = found.num_rows
    reported = found.column("event_timestamp").cast(pa.int64()).to_numpy() + random.integers(1, 7 * DAY_US, n)
    columns = {name: found.column(name) for name in CHARGEBACKS.names if name in found.column_names}
    columns["reason_code"] = _same("10.4", n)
    columns["created_timestamp"] = pa.array(reported).cast(pa.timestamp("us", tz="UTC"))
    return pa.table([columns[name] for name in CHARGEBACKS.names], schema=CHARGEBACKS)


def _text(prefix: str, numbers: np.ndarray) -> pa.Array:
    width = 9
    digits = np.char.zfill(numbers.astype(f"U{width}"), width)
    return pa.array(np.char.add(prefix, digits), pa.string())


def _same(text: str, n: int) -> pa.Array:
    return pa.array([text]).take(pa.array(np.zeros(n, np.int32)))
