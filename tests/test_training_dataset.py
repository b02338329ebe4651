"""Training sets from the real store: each row as the service would have seen it, and the same again to the bit."""

from datetime import timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.settings import settings as deployment
from feature_repo.store import apply_definitions, open_store
from feature_repo.windows import retrieval
from feature_repo.windows import stream as windows_stream
from feature_repo.windows.limits import Limits
from tests.homes import fraud_home
from tests.training_events import DAY, START, chargeback, transaction, write_lake
from training import dataset as module
from training.dataset import Dataset, build_dataset, entity_frame, rebuild
from training.digest import content_digest
from training.labels import UNLABELLED
from training.stream import stream_dataset

MATURITY = timedelta(days=7)
HOUR = timedelta(hours=1)
AS_OF = START + 60 * DAY


def stream(days=20, per_day=6):
    """Each day six transactions of three customers at two terminals, the last one of every fourth day fraudulent."""
    transactions, chargebacks = [], []
    for number in range(days * per_day):
        tx = transaction(
            number,
            START + (number // per_day) * DAY + (number % per_day) * 3 * HOUR,
            customer=f"c{number % 3}",
            terminal=f"t{number % 2}",
            cents=1000 + 10 * number,
        )
        transactions.append(tx)
        if number % (4 * per_day) == per_day - 1:
            chargebacks.append(chargeback(tx, 7 * DAY))
    return transactions, chargebacks


def build(store):
    return build_dataset(store, "fraud_v1", START, START + 20 * DAY, as_of=AS_OF, maturity=MATURITY)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A store over a lake that stays as it is."""
    with fraud_home(tmp_path_factory.mktemp("dataset")):
        store = open_store()
        apply_definitions(store)
        write_lake(deployment().lake, *stream())
        yield store


@pytest.fixture(scope="module")
def built(filled):
    return build(filled)


def test_a_set_has_ids_time_amount_then_the_services_features_then_the_label(built):
    assert built.table.column_names == [
        *("transaction_id", "customer_id", "terminal_id", "event_timestamp", "amount_usd_cents"),
        *built.feature_names,
        *("label", "label_known_timestamp"),
    ]
    assert built.table["label"].type == pa.int8()
    assert all(built.table[name].type == pa.float64() for name in built.feature_names)
    assert (built.table.num_rows, built.manifest["frauds"]) == (120, 5)


def test_rows_are_in_order_of_time(built):
    assert built.table["transaction_id"].to_pylist() == [f"tx{i:06d}" for i in range(120)]


def test_a_window_holds_what_happened_strictly_before(built):
    counts = dict(
        zip(
            built.table["transaction_id"].to_pylist(),
            built.column("customer_transactions_count_1d"),
            strict=True,
        )
    )
    # Customer c0 buys at 0:00 and 9:00: at midnight the day before counts whole, and the transaction itself never.
    assert (counts["tx000000"], counts["tx000003"], counts["tx000006"], counts["tx000009"]) == (0, 1, 2, 2)


def test_frauds_count_in_features_only_once_reported(built):
    counts = built.column("customer_fraud_chargebacks_count_30d")
    days = (built.integers("event_timestamp") - built.integers("event_timestamp")[0]) // 86_400_000_000
    assert counts[days < 7].sum() == 0
    assert counts[days > 8].sum() > 0


def test_values_are_null_as_nan_in_the_services_order(built):
    values = built.values()
    assert values.shape == (120, len(built.feature_names))
    index = built.feature_names.index("customer_amount_usd_cents_std_30d")
    assert np.isnan(values[0, index])
    assert built.table["customer_amount_usd_cents_std_30d"].null_count == np.isnan(values[:, index]).sum() > 0


def test_unlabelled_rows_are_dropped_unless_asked_for(store):
    write_lake(deployment().lake, *stream())
    early = {"as_of": START + 15 * DAY, "maturity": MATURITY}
    dropped = build_dataset(store, "fraud_v1", START, START + 20 * DAY, **early)
    kept = build_dataset(store, "fraud_v1", START, START + 20 * DAY, keep_unlabelled=True, **early)
    assert (kept.labels() == UNLABELLED).sum() == kept.table.num_rows - dropped.table.num_rows > 0
    assert dropped.table["label"].null_count == 0


def test_a_late_transaction_sees_what_was_known_when_it_arrived(store):
    first = transaction(1, START, late=2 * HOUR)
    late = transaction(2, START + HOUR, late=5 * HOUR)
    prompt = transaction(3, START + HOUR)
    write_lake(deployment().lake, [first, late, prompt], [])
    found = build_dataset(store, "fraud_v1", START, START + DAY, as_of=AS_OF, maturity=MATURITY)
    # At 1:00 nobody knew of the first transaction; at 6:00, when the late one arrived, everybody did.
    assert found.column("customer_transactions_count_1d").tolist() == [0, 1, 0]


def test_an_entity_frame_of_prompt_transactions_asks_at_the_event():
    rows = pa.table({"event_timestamp": [START, START], "created_timestamp": [START, START]})
    assert "created_timestamp" not in entity_frame(rows)
    rows = pa.table({"event_timestamp": [START, START], "created_timestamp": [START - DAY, START + DAY]})
    assert entity_frame(rows)["created_timestamp"].tolist() == [
        pd.Timestamp(START),
        pd.Timestamp(START + DAY),
    ]


def test_a_range_without_a_labelled_row_is_refused(store):
    write_lake(deployment().lake, *stream(days=2))
    with pytest.raises(ValueError, match="no transaction with a label"):
        build_dataset(
            store, "fraud_v1", START + DAY, START + 2 * DAY, as_of=START + 3 * DAY, maturity=MATURITY
        )


def test_a_set_is_built_again_to_the_bit_after_the_lake_has_grown(store):
    write_lake(deployment().lake, *stream())
    built = build(store)
    more = [transaction(1000 + i, START + i * DAY + HOUR, customer="c0") for i in range(20)]
    write_lake(deployment().lake, more, [chargeback(more[3], DAY)])
    again = rebuild(built.manifest, store)
    assert again.table.equals(built.table)
    assert again.manifest == built.manifest
    assert build(store).manifest["digest"] != built.manifest["digest"]


def test_other_definitions_are_refused_when_building_again(built, filled):
    with pytest.raises(ValueError, match="check out and apply the definitions of that time"):
        rebuild({**built.manifest, "definitions_digest": "0" * 64}, filled)


def test_other_content_is_refused_when_building_again(built, filled):
    with pytest.raises(ValueError, match="rebuild: the content's digest is"):
        rebuild({**built.manifest, "digest": "sha256:0"}, filled)


def test_a_store_that_answers_in_another_order_is_refused(store, monkeypatch):
    write_lake(deployment().lake, *stream(days=9))
    frame = module.entity_frame
    monkeypatch.setattr(module, "entity_frame", lambda rows: frame(rows).iloc[::-1])
    with pytest.raises(ValueError, match="in another order"):
        build_dataset(store, "fraud_v1", START, START + 9 * DAY, as_of=AS_OF, maturity=MATURITY)


def test_a_file_brings_back_the_set_and_its_manifest(built, tmp_path):
    built.to_parquet(tmp_path / "set.parquet")
    again = Dataset.from_parquet(tmp_path / "set.parquet")
    assert again.table.equals(built.table)
    assert again.manifest == built.manifest
    assert built.to_pandas().shape == (120, built.table.num_columns)


@pytest.mark.parametrize("limits", [Limits(1, 1, 0), Limits(50, 9, 5_000), Limits(10_000, 10_000, 10**9)])
def test_a_streamed_set_is_the_set(built, filled, tmp_path, monkeypatch, limits):
    for each in (windows_stream, retrieval):
        monkeypatch.setattr(each, "limits_of", lambda config, specs: limits)
    rows = []
    manifest = stream_dataset(
        tmp_path / "set", filled, "fraud_v1", START, START + 20 * DAY, as_of=AS_OF, maturity=MATURITY,
        progress=lambda done, total: rows.append((done, total)),
    )  # fmt: skip
    assert manifest == built.manifest
    assert Dataset.from_parquet(tmp_path / "set").table.equals(built.table)
    assert (rows[0], rows[-1]) == ((0, 120), (120, 120))
    assert len(list((tmp_path / "set").glob("*.parquet"))) >= 120 // limits.rows
    assert rebuild(manifest, filled).manifest == manifest


def test_a_streamed_set_without_a_labelled_row_is_refused_and_leaves_nothing(filled, tmp_path):
    with pytest.raises(ValueError, match="no transaction with a label"):
        stream_dataset(
            tmp_path / "set", filled, "fraud_v1", START, AS_OF, as_of=START + DAY, maturity=MATURITY
        )
    assert not [path for path in tmp_path.iterdir() if "set" in path.name]


def test_a_changed_file_is_refused(built, tmp_path):
    built.to_parquet(tmp_path / "set.parquet")
    table = pq.read_table(tmp_path / "set.parquet")
    index = table.schema.get_field_index("amount_usd_cents")
    changed = table.set_column(index, "amount_usd_cents", pa.array([1] * 120, pa.int64()))
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), tmp_path / "set.parquet")
    with pytest.raises(ValueError, match="the content's digest is"):
        Dataset.from_parquet(tmp_path / "set.parquet")


def test_a_file_without_a_manifest_is_refused(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="no manifest with it"):
        Dataset.from_parquet(tmp_path / "other.parquet")


# --- the digest of content

COLUMNS = {
    "text": st.one_of(st.none(), st.text(max_size=4)),
    "number": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
    "real": st.one_of(st.none(), st.floats()),
}
TYPES = {"text": pa.string(), "number": pa.int64(), "real": pa.float64()}


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.fixed_dictionaries(COLUMNS), max_size=12),
    cuts=st.lists(st.integers(0, 12), max_size=3),
    offset=st.integers(0, 3),
)
def test_the_digest_does_not_depend_on_chunks_offsets_or_string_width(rows, cuts, offset):
    schema = pa.schema(list(TYPES.items()))
    table = pa.Table.from_pylist(rows, schema)
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    chunked = pa.concat_tables([table.slice(a, b - a) for a, b in pairwise(edges)])
    padded = pa.concat_tables(
        [pa.Table.from_pylist([{"text": "x", "number": 1, "real": 0.5}] * offset, schema), table]
    )
    wide = table.set_column(0, "text", table["text"].cast(pa.large_string()))
    digests = {content_digest(t) for t in (table, chunked, padded.combine_chunks().slice(offset), wide)}
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": ["x", "yz"]}, {"a": ["xy", "z"]}),
        ({"a": ["", None]}, {"a": [None, ""]}),
        ({"a": [0.0]}, {"a": [-0.0]}),
        ({"a": [None, 1.0]}, {"a": [float("nan"), 1.0]}),
        ({"a": [1]}, {"a": [1.0]}),
        ({"a": [1]}, {"b": [1]}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": [1, 0]}, {"a": [1, None]}),
    ],
)
def test_different_content_has_another_digest(one, other):
    assert content_digest(pa.table(one)) != content_digest(pa.table(other))


def test_a_column_that_has_no_digest_is_named():
    with pytest.raises(TypeError, match="column 'a' is list"):
        content_digest(pa.table({"a": [[1]]}))
