"""The published baseline: its features, and its figures on the Handbook's own data."""

from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from feature_repo.lake import CHARGEBACKS, TRANSACTIONS
from feature_repo.settings import settings
from tests.training_events import HANDBOOK, NO_HANDBOOK
from training.dataset import build_dataset
from training.models import LogisticModel
from training.protocol import run_protocol
from training.published_features import NEEDED, PUBLISHED, published_features
from training.splits import Rows

MATURITY = timedelta(days=7)


def day(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def features(cents, when, **columns):
    values = published_features(
        lambda name: np.array([columns.get(name, np.nan)]),
        np.array([cents]),
        np.array([int(day(when).timestamp()) * 1_000_000]),
    )
    return dict(zip(PUBLISHED, values[0].tolist(), strict=True))


def test_the_scored_transaction_is_in_its_own_customers_windows():
    found = features(
        300, "2018-07-25T12:00", customer_transactions_count_7d=2, customer_amount_usd_cents_sum_7d=1200
    )
    assert (found["customer_count_7d"], found["customer_mean_amount_7d"]) == (3, 5.0)


def test_a_customer_without_history_has_the_transaction_alone():
    found = features(300, "2018-07-25T12:00")
    assert (found["customer_count_30d"], found["customer_mean_amount_30d"], found["amount"]) == (1, 3.0, 3.0)


def test_the_terminals_risk_is_frauds_by_transactions_and_zero_without_any():
    found = features(
        300,
        "2018-07-25T12:00",
        terminal_settled_transactions_count_30d=8,
        terminal_fraud_chargebacks_count_30d=2,
    )
    assert (found["terminal_risk_30d"], found["terminal_count_30d"], found["terminal_risk_1d"]) == (
        0.25,
        8,
        0,
    )


@pytest.mark.parametrize(
    ("when", "weekend", "night"),
    [
        ("2018-07-27T23:59", 0, 0),  # a Friday
        ("2018-07-28T00:00", 1, 1),
        ("2018-07-29T06:59", 1, 1),
        ("2018-07-29T07:00", 1, 0),
        ("2018-07-30T00:00", 0, 1),
    ],
)
def test_weekend_and_night_are_those_of_the_clock_in_utc(when, weekend, night):
    found = features(100, when)
    assert (found["weekend"], found["night"]) == (weekend, night)


def test_the_service_published_v1_has_every_window_that_is_needed(store):
    projections = store.get_feature_service("published_v1").feature_view_projections
    assert {field.name for projection in projections for field in projection.features} == set(NEEDED)


def load_handbook(lake, start, end):
    """The Handbook's rows of [start, end) as canonical tables; a fraud is a chargeback seven days later."""
    selected = (
        "CAST(TRANSACTION_ID AS VARCHAR) AS transaction_id, TX_DATETIME::TIMESTAMP AT TIME ZONE 'UTC' AS event_timestamp, "
        "CAST(CUSTOMER_ID AS VARCHAR) AS customer_id, CAST(TERMINAL_ID AS VARCHAR) AS terminal_id, "
        "CAST(TX_AMOUNT AS DECIMAL(18, 4)) AS amount, 'USD' AS currency, "
        "CAST(round(TX_AMOUNT * 100) AS BIGINT) AS amount_usd_cents, 'approved' AS status, "
        "TX_DATETIME::DATE AS event_day, TX_FRAUD AS fraud"
    )
    source = f"(SELECT {selected} FROM '{HANDBOOK}' WHERE TX_DATETIME >= '{start}' AND TX_DATETIME < '{end}')"
    queries = {
        "transactions": f"SELECT *, event_timestamp AS created_timestamp FROM {source}",
        "chargebacks": f"SELECT *, event_timestamp + INTERVAL 168 HOUR AS created_timestamp, '10.4' AS reason_code "
        f"FROM {source} WHERE fraud = 1",
    }
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, schema in (("transactions", TRANSACTIONS), ("chargebacks", CHARGEBACKS)):
            read = connection.sql(queries[name]).to_arrow_table()
            have, n = set(read.column_names), read.num_rows
            columns = [read[f.name].cast(f.type) if f.name in have else pa.nulls(n, f.type) for f in schema]
            table = pa.table(columns, schema=schema)
            write_deltalake(str(lake / name), table, partition_by=["event_day"])


@pytest.mark.skipif(not HANDBOOK.exists(), reason=NO_HANDBOOK)
def test_logistic_regression_on_the_published_features_meets_the_published_figures(store):
    load_handbook(settings().lake, "2018-06-10", "2018-08-15")
    dataset = build_dataset(
        store,
        "published_v1",
        day("2018-07-25"),
        day("2018-08-15"),
        as_of=day("2018-08-23"),
        maturity=MATURITY,
    )
    rows = Rows.of(dataset)
    values = published_features(dataset.column, rows.amounts_usd_cents, rows.event_us)
    found = run_protocol(rows, values, "week", LogisticModel)
    assert found.counts == ((67_240, 598, 58_264, 385),)
    assert found.mean.auc_roc == pytest.approx(0.870, abs=0.005)
    assert found.mean.average_precision == pytest.approx(0.606, abs=0.005)
    assert found.mean.card_precision_100 == pytest.approx(0.291, abs=0.005)


def test_an_unknown_protocol_is_refused():
    with pytest.raises(ValueError, match="use one of week, prequential"):
        run_protocol(None, None, "month", LogisticModel)
