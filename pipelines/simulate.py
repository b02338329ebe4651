"""``fraud simulate``: a seeded stream of card transactions with places, habits, fraud, and chargebacks that come late.

Everything is drawn in arrays from one seed: the same arguments give the same events, wherever numpy is the same.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from time import perf_counter

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feature_repo.currency import rates_table, usd_cents_sql
from feature_repo.lake import CHARGEBACKS, TRANSACTIONS
from pipelines.ingest import ingest
from pipelines.progress import Progress, quiet
from pipelines.simulated_fraud import commit
from pipelines.simulated_world import (
    CATEGORIES,
    CITIES,
    DAY_US,
    Events,
    Ints,
    World,
    draw,
    make_world,
    ordinary_events,
)

__all__ = ["Simulation", "run", "simulate"]

A_DAY_EACH = 2.0
"""Transactions of a customer a day, on average; the number of customers follows from it."""
FRAUD_SHARE = 0.008
DECLINED, PENDING = 0.02, 0.003
LATE = 0.01
NEVER_REPORTED = 0.05
DISPUTED = 0.001
LONGEST_REPORT_DAYS = 90.0
_EARLIEST = date(2015, 1, 1)  # the first day of the exchange rates
# Reason codes of reported fraud by channel, and of disputes that are no fraud.
_FRAUD_CODES = {
    "online": ("10.4", "4837", "F29", "UA02"),
    "pos": ("10.3", "10.1", "4871", "UA01"),
    "atm": ("10.2", "4870", "F31", "UA06"),
}
_DISPUTE_CODES = ("13.1", "13.3", "4853", "12.6.1", "C08")


@dataclass(frozen=True)
class Simulation:
    """What was drawn: the world, the events in order of time, and the instant (UTC) that ``at_us`` counts from."""

    world: World
    events: Events
    start_us: int


def simulate(
    transactions: int,
    *,
    days: int = 120,
    seed: int = 7,
    start: date = date(2025, 1, 1),
    customers: int | None = None,
    terminals: int | None = None,
) -> tuple[pa.Table, pa.Table]:
    """Transactions and chargebacks in their canonical schemas, transactions in order of time.

    Args:
        transactions: how many, exactly.
        days: all of them happen in ``[start, start + days)`` UTC; chargebacks come up to 90 days after.
        seed: of everything drawn.
        start: first day, not before 2015, where the exchange rates begin.
        customers: how many; None: so many that each has about two transactions a day.
        terminals: how many; None: as many as customers.

    Raises:
        ValueError: no transactions or days to make, or a start before the exchange rates.
    """
    rng = np.random.default_rng(seed)
    simulation = draw_events(rng, transactions, days, start, customers, terminals)
    return _tables(rng, simulation)


def draw_events(
    rng: np.random.Generator,
    transactions: int,
    days: int,
    start: date,
    customers: int | None = None,
    terminals: int | None = None,
) -> Simulation:
    """The events with the truth of each (`Events.kind`), which the tables of `simulate` do not tell."""
    if transactions < 1 or days < 1:
        raise ValueError(f"simulate: {transactions} transactions in {days} days; ask for one or more of each")
    if start < _EARLIEST:
        raise ValueError(f"simulate: start {start}: exchange rates begin on {_EARLIEST}; start then or later")
    customers = customers or max(10, round(transactions / (days * A_DAY_EACH)))
    world = make_world(rng, customers, terminals or customers)
    days_us = days * DAY_US
    genuine = ordinary_events(rng, world, transactions, days, start.weekday())
    genuine.at_us %= days_us
    events = commit(rng, world, genuine, days_us, round(transactions * FRAUD_SHARE))
    # Local midnight is another UTC instant: what falls off one end of the range comes in at the other. Milliseconds.
    events.at_us = events.at_us % days_us // 1000 * 1000
    order = np.lexsort((events.customer, events.at_us))
    start_us = int(datetime(start.year, start.month, start.day, tzinfo=UTC).timestamp()) * 10**6
    return Simulation(world, events.taken(order), start_us)


def _tables(rng: np.random.Generator, simulation: Simulation) -> tuple[pa.Table, pa.Table]:
    world, events = simulation.world, simulation.events
    size = len(events)
    at_us = simulation.start_us + events.at_us
    status = draw(rng, (1 - DECLINED - PENDING, DECLINED, PENDING), size)
    late = rng.random(size) < LATE
    created_us = at_us + np.where(late, _delays_us(rng, size, 300.0, 1.8, 12 * 3600.0), 0)
    category = world.terminal_category[events.terminal]
    columns = {
        "transaction_id": _identifiers("t", np.arange(size), 10),
        "event_timestamp": pa.array(at_us, TRANSACTIONS.field("event_timestamp").type),
        "customer_id": _identifiers("c", events.customer, 7),
        "terminal_id": _identifiers("m", events.terminal, 7),
        **_money(simulation),
        "status": _chosen(("approved", "declined", "pending"), status),
        "channel": _chosen(tuple(kind.channel for kind in CATEGORIES), category),
        "category": _chosen(tuple(kind.name for kind in CATEGORIES), category),
        "customer_latitude": pa.array(world.customer_latitude[events.customer]),
        "customer_longitude": pa.array(world.customer_longitude[events.customer]),
        "terminal_latitude": pa.array(world.terminal_latitude[events.terminal]),
        "terminal_longitude": pa.array(world.terminal_longitude[events.terminal]),
        "created_timestamp": pa.array(created_us, TRANSACTIONS.field("created_timestamp").type),
        "scored_timestamp": pa.nulls(size, TRANSACTIONS.field("scored_timestamp").type),
        "event_day": pa.array((at_us // DAY_US).astype(np.int32)).cast(pa.date32()),
    }
    transactions = pa.table([columns[name] for name in TRANSACTIONS.names], schema=TRANSACTIONS)
    return transactions, _chargebacks(rng, simulation, transactions, status == 0)


def _chargebacks(
    rng: np.random.Generator, simulation: Simulation, transactions: pa.Table, approved: NDArray[np.bool_]
) -> pa.Table:
    """Chargebacks of approved frauds, but for some never noticed, and of a few genuine transactions in dispute."""
    events = simulation.events
    size = len(events)
    chance = rng.random(size)
    fraud = approved & (events.kind > 0) & (chance >= NEVER_REPORTED)
    disputed = approved & (events.kind == 0) & (chance < DISPUTED)
    rows = np.flatnonzero(fraud | disputed)
    day_s = 86_400.0
    waits = np.where(
        fraud[rows],
        _delays_us(rng, len(rows), 10 * day_s, 0.7, LONGEST_REPORT_DAYS * day_s),
        _delays_us(rng, len(rows), 25 * day_s, 0.5, LONGEST_REPORT_DAYS * day_s),
    )
    channels = [
        CATEGORIES[number].channel for number in simulation.world.terminal_category[events.terminal[rows]]
    ]
    picks = rng.integers(0, 10**6, len(rows))
    codes = [
        _FRAUD_CODES[channel][pick % 4] if is_fraud else _DISPUTE_CODES[pick % len(_DISPUTE_CODES)]
        for channel, pick, is_fraud in zip(channels, picks.tolist(), fraud[rows].tolist(), strict=True)
    ]
    of = transactions.take(pa.array(rows))
    reported = simulation.start_us + events.at_us[rows] + waits
    own = {
        "reason_code": pa.array(codes, pa.string()),
        "created_timestamp": pa.array(reported, CHARGEBACKS.field("created_timestamp").type),
    }
    return pa.table(
        [own[name] if name in own else of[name] for name in CHARGEBACKS.names], schema=CHARGEBACKS
    )


def _delays_us(rng: np.random.Generator, size: int, median_s: float, sigma: float, longest_s: float) -> Ints:
    """Log-normal delays of whole seconds, in microseconds, at least a second."""
    seconds = np.exp(rng.normal(np.log(median_s), sigma, size))
    return np.clip(seconds, 1.0, longest_s).astype(np.int64) * 1_000_000


def _money(simulation: Simulation) -> dict[str, pa.Array]:
    """Amounts in the currency of the terminal's city as people pay them (whole yen, else cents), and in US cents."""
    world, events = simulation.world, simulation.events
    city = world.terminal_city[events.terminal]
    day = datetime.fromtimestamp(simulation.start_us / 10**6, UTC).date()
    names = sorted({place.currency for place in CITIES})
    number = np.array([names.index(place.currency) for place in CITIES])[city]
    usd_per_unit = np.array([_rate(name, day) for name in names])[number]
    step_e4 = np.where(number == names.index("JPY"), 10_000, 100)
    steps = np.maximum(np.round(np.minimum(events.usd, 20_000.0) / usd_per_unit * 10_000 / step_e4), 1)
    amount = _decimals((steps.astype(np.int64)) * step_e4)
    currency = _chosen(tuple(names), number)
    return {
        "amount": amount,
        "currency": currency,
        "amount_usd_cents": _usd_cents(simulation, amount, currency),
    }


def _rate(currency: str, day: date) -> float:
    at_us = (day - date(1970, 1, 1)).days * DAY_US
    rates = rates_table()
    holds = pc.and_(pc.less_equal(rates["from_us"], at_us), pc.greater(rates["until_us"], at_us))
    row = rates.filter(pc.and_(holds, pc.equal(rates["currency"], currency)))
    return float(row["rate_e8"][0].as_py()) / 10**8


def _usd_cents(simulation: Simulation, amount: pa.Array, currency: pa.Array) -> pa.Array:
    at_us = pa.array(simulation.start_us + simulation.events.at_us)
    with duckdb.connect() as con:
        row_no = pa.array(np.arange(len(amount)))
        con.register(
            "paid", pa.table({"row_no": row_no, "at_us": at_us, "amount": amount, "currency": currency})
        )
        con.register("rates", rates_table())
        cents = usd_cents_sql("amount", "rate_e8")
        found = con.sql(
            f"""SELECT {cents} AS cents FROM paid JOIN rates
            ON paid.currency = rates.currency AND at_us >= from_us AND at_us < until_us ORDER BY row_no"""
        )
        return found.to_arrow_table()["cents"].combine_chunks()


def _decimals(units_e4: Ints) -> pa.Array:
    """Decimals of 4 places from whole ten-thousandths, 0 or more: the low and the high half of 128 bits."""
    words = np.zeros((len(units_e4), 2), dtype="<i8")
    words[:, 0] = units_e4
    kind = TRANSACTIONS.field("amount").type
    return pa.Array.from_buffers(kind, len(units_e4), [None, pa.py_buffer(words)])


def _identifiers(prefix: str, numbers: Ints, width: int) -> pa.Array:
    digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), width, "0")
    return pc.binary_join_element_wise(prefix, digits, "")


def _chosen(names: tuple[str, ...], numbers: Ints) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(numbers.astype(np.int32)), pa.array(names)).cast(
        pa.string()
    )


def run(
    transactions: int,
    days: int,
    seed: int,
    start: str,
    lake: Path,
    out: Path | None = None,
    progress: Progress | None = None,
) -> str:
    """Simulate, and load into the lake or write two Parquet files to the folder ``out``; returns what was done.

    Raises:
        ValueError: ``start`` is no day, or see `simulate`.
    """
    show = progress or quiet
    began = perf_counter()
    show("simulate", 0, 1)
    events, chargebacks = simulate(transactions, days=days, seed=seed, start=date.fromisoformat(start))
    show("simulate", 1, 1)
    counts = f"{len(events):,} transactions and {len(chargebacks):,} chargebacks"
    made = f"{counts} made in {perf_counter() - began:.1f} s"
    began = perf_counter()
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, table in (("transactions", events), ("chargebacks", chargebacks)):
            pq.write_table(table.drop_columns(["event_day"]), out / f"{name}.parquet")
        return f"{made}\nwritten to {out} in {perf_counter() - began:.1f} s"
    report = ingest(events, "canonical", lake, chargebacks, show)
    return f"{made}\nloaded in {perf_counter() - began:.1f} s: {report.summary()}"
