"""Retrieval through Feast: rows as they were given, instants in every form, plain views, sources, pinned versions."""

import json
from datetime import timedelta, timezone
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from feast import Entity, FeatureService, FeatureView, Field, FileSource
from feast.data_format import DeltaFormat
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

from feature_repo.lake import snapshot
from feature_repo.windows import family
from feature_repo.windows.offline_store import WindowedOfflineStore
from feature_repo.windows.sources import pinned
from feature_repo.windows.state import code, to_microseconds
from tests import windows_project
from tests.windows_project import (
    HOLDER,
    PLACE,
    SCHEMA,
    TIME,
    at,
    event,
    events_source,
    project,
    view_of,
    write_events,
)

COUNT, SUM = {("count", ""): ["10s"]}, {("sum", "amount"): ["10s"]}
NAME_COUNT, NAME_SUM = "all_events_count_10s", "all_amount_sum_10s"


@pytest.fixture
def folder(home, tmp_path):
    return tmp_path


def deploy(folder, events, aggregates=COUNT | SUM, schema=SCHEMA, **options):
    return windows_project.deploy(folder, events, aggregates, schema, **options)


def ask(store, rows, features="service", **options):
    """Retrieval as Python columns; ``rows`` is a frame, a query, or (key, seconds) pairs."""
    if isinstance(rows, list):
        rows = pd.DataFrame(
            {"key": [key for key, _ in rows], "event_timestamp": [at(seconds) for _, seconds in rows]}
        )
    wanted = store.get_feature_service(features) if isinstance(features, str) else features
    return store.get_historical_features(rows, wanted, **options).to_arrow().to_pydict()


def test_rows_keep_their_order_and_their_duplicates(folder):
    store = deploy(folder, [event(n, n, key="ab"[n % 2]) for n in range(8)])
    rows = [("b", 9), ("a", 3), ("a", 9), ("unknown", 9), ("a", 3), ("b", 0), ("a", 3)]
    assert ask(store, rows)[NAME_COUNT] == [4, 2, 4, 0, 2, 0, 2]


def test_further_columns_stay_as_they_were_given(folder):
    frame = pd.DataFrame(
        {
            "note": ["ä", None, "c"],
            "key": ["a", "a", "b"],
            "event_timestamp": [at(5)] * 3,
            "created_timestamp": [at(5), at(1), at(5)],
            "weight": [0.1, np.nan, 3.0],
            "__version": [1, 2, 3],
            "select": [True, False, True],
        },
        index=[7, 7, 3],
    )
    found = ask(deploy(folder, [event(1, 1), event(2, 2)]), frame)
    assert list(found) == [*frame.columns, NAME_COUNT, NAME_SUM]
    assert found["note"] == ["ä", None, "c"]
    assert found["weight"] == [0.1, None, 3.0]
    assert found["__version"] == [1, 2, 3]
    assert found["created_timestamp"] == [at(5), at(1), at(5)]
    assert found[NAME_COUNT] == [2, 0, 0]


def test_the_entity_frame_is_left_as_it_was(folder):
    frame = pd.DataFrame({"key": ["a"], "event_timestamp": ["2024-03-09T22:00:05"]})
    before = frame.copy()
    ask(deploy(folder, [event(1, 1)]), frame)
    pd.testing.assert_frame_equal(frame, before)


def test_a_null_key_has_windows_of_no_events(folder):
    store = deploy(
        folder,
        [event(1, 1), event(2, 2, key=None)],
        COUNT | {("max", "amount"): ["10s"], ("std", "amount"): ["10s"]},
    )
    found = ask(store, [(None, 5), ("a", 5), (None, 6)])
    assert found[NAME_COUNT] == [0, 1, 0]
    assert found["all_amount_max_10s"] == [None, 1, None]


def test_of_a_composite_key_with_one_part_null_nothing_counts(folder):
    store = deploy(folder, [event(1, 1, place=None), event(2, 1, place="x")], entities=(HOLDER, PLACE))
    frame = pd.DataFrame({"key": ["a", "a", None], "place": [None, "x", "x"], "event_timestamp": [at(5)] * 3})
    assert ask(store, frame)[NAME_COUNT] == [0, 1, 0]


def test_of_pairs_that_nobody_asks_events_may_be_left_out(folder, monkeypatch):
    events = [event(n, n / 5, key="ab"[n % 2], place="xyz"[n % 3]) for n in range(40)]
    store = deploy(folder, events, entities=(HOLDER, PLACE))
    asked = []
    monkeypatch.setattr(
        family, "mark", lambda codes, marks, mark=family.mark: (asked.append(len(codes)), mark(codes, marks))
    )
    frame = pd.DataFrame({"key": ["a", "b"], "place": ["x", "z"], "event_timestamp": [at(9), at(9)]})
    assert ask(store, frame)[NAME_COUNT] == [7, 6]
    assert asked == [2]


@pytest.mark.parametrize(
    "instants",
    [
        pd.Series([at(5), at(12)]),
        pd.Series([at(5), at(12)]).astype("datetime64[ns, UTC]"),
        pd.Series([at(5), at(12)]).astype("datetime64[ms, UTC]"),
        pd.Series([at(5), at(12)]).dt.tz_localize(None),
        pd.Series([at(5), at(12)]).dt.tz_convert("America/New_York"),
        pd.Series([at(5), at(12)]).dt.tz_convert("UTC").dt.tz_localize(None).astype("datetime64[us]"),
        pd.Series(["2024-03-09T22:00:05Z", "2024-03-09T22:00:12Z"]),
        pd.Series(["2024-03-09 22:00:05", "2024-03-09 22:00:12"]),
        pd.Series(["2024-03-10T03:30:05+05:30", "2024-03-10T03:30:12+05:30"]),
        pd.Series([at(5).astimezone(timezone(timedelta(hours=-9))), at(12)], dtype=object),
        pd.Series([at(5).replace(tzinfo=None), at(12).replace(tzinfo=None)], dtype=object),
    ],
    ids=["zoned", "ns", "ms", "naive", "new york", "naive us", "Z", "naive text", "+05:30", "objects", "naive objects"],
)  # fmt: skip
def test_an_instant_means_the_same_in_every_form(folder, instants):
    store = deploy(folder, [event(1, 1), event(2, 4.5)])
    found = ask(store, pd.DataFrame({"key": ["a", "a"], "event_timestamp": instants}))
    assert found[NAME_COUNT] == [2, 1]
    assert found["event_timestamp"] == [at(5), at(12)]


def test_a_window_is_closed_at_its_start_and_open_at_its_end_to_the_microsecond(folder):
    micro = 0.000001
    store = deploy(folder, [event(1, 20, late=-1)])
    seconds = [20, 20 + micro, 30, 30 + micro]
    assert ask(store, [("a", s) for s in seconds])[NAME_COUNT] == [0, 1, 1, 0]
    # Alone, each is the end of the range of events that is read.
    assert [ask(store, [("a", s)])[NAME_COUNT] for s in seconds] == [[0], [1], [1], [0]]


def test_a_delay_moves_both_edges(folder):
    store = deploy(folder, [event(1, 20)], delay="5s")
    seconds = [25, 25.000001, 35, 35.000001]
    assert ask(store, [("a", s) for s in seconds])[NAME_COUNT] == [0, 1, 1, 0]


@pytest.mark.parametrize("unit", ["ns", "us", "ms"])
@pytest.mark.parametrize("zone", ["UTC", None])
def test_the_unit_and_zone_of_the_sources_times_change_nothing(folder, unit, zone):
    table = pa.Table.from_pylist([event(1, 20), event(2, 21, late=100)], SCHEMA)
    for name in ("time", "known"):
        times = table[name].cast(pa.timestamp("us")).cast(pa.timestamp(unit, tz=zone))
        table = table.set_column(SCHEMA.get_field_index(name), name, times)
    store = deploy(folder, [])
    pq.write_table(table, folder / "events.parquet")
    assert ask(store, [("a", s) for s in (20, 20.000001, 29, 30, 30.000001)])[NAME_COUNT] == [0, 1, 1, 1, 0]


def test_events_in_one_microsecond_are_ordered_by_id_whatever_their_nanoseconds(folder):
    at_us = to_microseconds(at(1))
    schema = SCHEMA.set(SCHEMA.get_field_index("time"), pa.field("time", pa.timestamp("ns", tz="UTC")))
    rows = [{**event(n, 1, amount=n), "time": at_us * 1000 + 900 - n * 100} for n in range(8)]
    store = deploy(folder, rows, {("last", "amount"): ["10s"], ("first", "amount"): ["10s"]}, schema)
    ordered = sorted(range(8), key=lambda n: code(f"e{n}"))
    found = ask(store, [("a", 5)])
    assert found["all_amount_first_10s"] == ordered[:1]
    assert found["all_amount_last_10s"] == ordered[-1:]


def test_a_row_says_what_was_known_when_it_asks(folder):
    store = deploy(folder, [event(1, 0), event(2, 1, late=10)])
    frame = pd.DataFrame(
        {
            "key": ["a"] * 4,
            "event_timestamp": [at(5)] * 4,
            "created_timestamp": [at(5), at(11), at(11.000001), at(0)],
        }
    )
    assert ask(store, frame)[NAME_COUNT] == [1, 1, 2, 0]


@pytest.mark.parametrize("column", ["event_timestamp", "created_timestamp"])
def test_a_null_instant_is_refused_with_the_rows(folder, column):
    store = deploy(folder, [])
    frame = pd.DataFrame({"key": ["a"] * 3, "event_timestamp": [at(5)] * 3, "created_timestamp": [at(5)] * 3})
    frame.loc[1, column] = pd.NaT
    with pytest.raises(ValueError, match=rf"^{column}: null in 1 entity rows, first \[1\]"):
        ask(store, frame)


@pytest.mark.parametrize("number", [1_710_021_600_000_000, 1_710_021_600.5, Decimal(1_710_021_600)])
@pytest.mark.parametrize("column", ["event_timestamp", "created_timestamp"])
def test_a_number_is_no_instant(folder, column, number):
    store = deploy(folder, [])
    frame = pd.DataFrame({"key": ["a"], "event_timestamp": [at(5)], "created_timestamp": [at(5)]})
    with pytest.raises(ValueError, match=rf"^{column}: .* does not say what it counts .*to_datetime"):
        ask(store, frame.assign(**{column: [number]}))


def test_a_missing_join_key_is_refused_with_the_columns_there_are(folder):
    store = deploy(folder, [])
    frame = pd.DataFrame({"holder": ["a"], "event_timestamp": [at(5)]})
    with pytest.raises(ValueError, match=r"^view: join key 'key' is not in the entity rows, .*'holder'"):
        ask(store, frame)


def test_no_rows_give_no_rows_with_every_column(folder):
    store = deploy(folder, [event(1, 1)])
    frame = pd.DataFrame({"key": ["a"], "event_timestamp": [at(5)]})[:0]
    assert ask(store, frame) == {"key": [], "event_timestamp": [], NAME_COUNT: [], NAME_SUM: []}


def test_a_source_without_events_gives_windows_of_no_events(folder):
    assert ask(deploy(folder, []), [("a", 5)])[NAME_COUNT] == [0]


def test_entity_rows_may_be_a_query(folder):
    store = deploy(folder, [event(1, 1), event(2, 2)])
    query = (
        "SELECT key, TIMESTAMPTZ '2024-03-09 22:00:00+00' + INTERVAL (s) SECOND AS event_timestamp, s "
        "FROM (VALUES ('a', 5), ('b', 5), ('a', 2)) AS rows(key, s)"
    )
    found = ask(store, query)
    assert found[NAME_COUNT] == [2, 0, 1]
    assert found["s"] == [5, 5, 2]


def test_full_feature_names_carry_the_view(folder):
    found = ask(deploy(folder, [event(1, 1)]), [("a", 5)], full_feature_names=True)
    assert found[f"view__{NAME_COUNT}"] == [1]
    assert NAME_COUNT not in found


def test_a_view_under_two_names_answers_for_two_columns(folder):
    source = events_source(
        write_events(folder / "events.parquet", [event(1, 1), event(2, 2, key="b"), event(3, 3, key="b")])
    )
    view = view_of(source, COUNT | SUM)
    store = project(folder, source, view)
    sender = view[[NAME_COUNT]].with_name("sender").with_join_key_map({"key": "from"})
    receiver = view[[NAME_SUM]].with_name("receiver").with_join_key_map({"key": "to"})
    service = FeatureService(name="both", features=[sender, receiver])
    store.apply([service])
    frame = pd.DataFrame({"from": ["a", "b"], "to": ["b", "a"], "event_timestamp": [at(5), at(5)]})
    assert ask(store, frame, "both")[NAME_COUNT] == [1, 2]
    assert ask(store, frame, "both")[NAME_SUM] == [2, 1]
    full = ask(store, frame, "both", full_feature_names=True)
    assert full[f"sender__{NAME_COUNT}"] == [1, 2]
    assert full[f"receiver__{NAME_SUM}"] == [2, 1]


def test_integer_keys_match_by_value(folder):
    schema = SCHEMA.set(SCHEMA.get_field_index("key"), pa.field("key", pa.int32()))
    numbered = Entity(name="numbered", join_keys=["key"], value_type=ValueType.INT64)
    source = events_source(write_events(folder / "events.parquet", [event(1, 1, key=7)], schema))
    store = project(folder, numbered, source, view_of(source, COUNT, entities=(numbered,)))
    assert ask(store, [(7, 5), (8, 5)], [f"view:{NAME_COUNT}"])[NAME_COUNT] == [1, 0]


def test_columns_of_the_source_may_be_renamed(folder):
    schema = SCHEMA.set(SCHEMA.get_field_index("amount"), pa.field("AMT", pa.int64()))
    rows = [{**event(1, 1), "AMT": 5}]
    source = events_source(
        write_events(folder / "events.parquet", rows, schema), field_mapping={"AMT": "amount"}
    )
    store = project(folder, source, view_of(source, SUM))
    assert ask(store, [("a", 5)], [f"view:{NAME_SUM}"])[NAME_SUM] == [5]


def test_decimals_are_added_in_units_of_their_scale_and_booleans_as_ones(folder):
    schema = SCHEMA.append(pa.field("fee", pa.decimal128(12, 3))).append(pa.field("online", pa.bool_()))
    rows = [
        {**event(n, n), "fee": fee, "online": online}
        for n, (fee, online) in enumerate(
            [(Decimal("1.005"), True), (Decimal("-0.001"), None), (None, False), (Decimal(2), True)]
        )
    ]
    functions = {(f, c): ["10s"] for f in ("sum", "mean") for c in ("fee", "online")}
    store = deploy(folder, rows, functions, schema, scale={"fee": 4})
    found = ask(store, [("a", 5)])
    assert found["all_fee_sum_10s"] == [30040]
    assert found["all_fee_mean_10s"] == [30040 / 3]
    assert found["all_online_sum_10s"] == [2]
    assert found["all_online_mean_10s"] == [2 / 3]


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.string(), pa.decimal128(12, 2)])
def test_a_column_that_cannot_be_added_exactly_is_refused(folder, kind):
    schema = SCHEMA.set(SCHEMA.get_field_index("amount"), pa.field("amount", kind))
    store = deploy(folder, [], schema=schema)
    with pytest.raises(ValueError, match=r"^view: column 'amount' is .*scale"):
        ask(store, [("a", 5)])


def test_an_overflow_is_an_error_not_a_number(folder):
    store = deploy(folder, [event(n, n, amount=2**62) for n in range(3)])
    with pytest.raises(OverflowError, match=r"^view: .*'amount'"):
        ask(store, [("a", 5)])


@pytest.mark.parametrize("others", [[], [None, 7]])
def test_the_number_that_stands_for_null_is_refused(folder, others):
    amounts = [*others, -(2**63)]
    store = deploy(folder, [event(n, n, amount=amount) for n, amount in enumerate(amounts)])
    with pytest.raises(ValueError, match=r"^view: column 'amount' holds -9223372036854775808, .*store null"):
        ask(store, [("a", 5)])


@pytest.mark.parametrize("column", ["known", "time", "id"])
@pytest.mark.parametrize("renamed", [False, True])
def test_what_the_log_of_a_delta_table_counts_as_null_is_refused(folder, column, renamed):
    rows = [event(n, n) for n in range(3)]
    rows[1][column] = None
    path = str(folder / "lake")
    given = pa.Table.from_pylist(rows, SCHEMA)
    if renamed:
        given = given.rename_columns([f"{name}_" for name in given.column_names])
    for n in range(3):
        write_deltalake(path, given.slice(n, 1), mode="append")
    mapping = {f"{name}_": name for name in SCHEMA.names} if renamed else {}
    source = events_source(path, file_format=DeltaFormat(), field_mapping=mapping)
    view = view_of(source, COUNT)
    store = project(folder, source, view, FeatureService(name="service", features=[view]))
    with pytest.raises(ValueError, match=rf"^view: column '{column}' of events is null in 1 events"):
        ask(store, [("a", 5)])


def delta_deploy(folder):
    """Three versions of a Delta table, partitioned by day: one event more in each."""
    table = folder / "lake"
    schema = SCHEMA.append(pa.field("day", pa.date32()))
    for n in range(3):
        row = {**event(n, n + n * 86_400), "day": at(n * 86_400).date()}
        write_deltalake(str(table), pa.Table.from_pylist([row], schema), mode="append", partition_by=["day"])
    source = events_source(table, file_format=DeltaFormat())
    view = view_of(source, {("count", ""): ["7d"], ("count_distinct", "day"): ["7d"]})
    return project(folder, source, view, FeatureService(name="service", features=[view]))


def rewrite_log(folder, version, change):
    """Change each action that the log has of a version."""
    file = folder / "lake" / "_delta_log" / f"{version:020}.json"
    actions = [json.loads(line) for line in file.read_text().splitlines()]
    for action in actions:
        change(action)
    file.write_text("\n".join(map(json.dumps, actions)))


def test_a_delta_source_is_read_at_its_newest_or_at_the_version_that_is_pinned(folder):
    store = delta_deploy(folder)
    counts = []
    for versions in ({}, {"events": 0}, {"events": 1}, {"another": 0}):
        with pinned(versions):
            counts.append(ask(store, [("a", 5 * 86_400)])["all_events_count_7d"][0])
    assert counts == [3, 1, 2, 3]
    with pinned({"events": 0}), pinned({"another": 1}):
        assert ask(store, [("a", 5 * 86_400)])["all_day_count_distinct_7d"] == [1]
    assert ask(store, [("a", 5 * 86_400)])["all_day_count_distinct_7d"] == [3]


@pytest.mark.parametrize("uncounted", [1, 3])
def test_a_delta_log_need_not_say_how_many_rows_there_are(folder, uncounted):
    store = delta_deploy(folder)
    assert snapshot(folder / "lake").rows == 3
    for version in range(uncounted):
        rewrite_log(folder, version, lambda action: action.get("add", {}).pop("stats", None))
    assert snapshot(folder / "lake").rows is None
    assert ask(store, [("a", 5 * 86_400)])["all_events_count_7d"] == [3]


READ = ["timestampNtz", "deletionVectors"]
MARKED = {"readerFeatures": READ, "writerFeatures": READ}


@pytest.mark.parametrize(
    ("action", "content", "feature"),
    [
        ("protocol", {"minReaderVersion": 3, "minWriterVersion": 7, **MARKED}, "deletionVectors"),
        ("metaData", {"configuration": {"delta.columnMapping.mode": "name"}}, "columnMapping"),
    ],
)  # fmt: skip
def test_a_table_whose_files_do_not_hold_its_rows_as_they_are_is_refused(folder, action, content, feature):
    store = delta_deploy(folder)
    rewrite_log(folder, 0, lambda each: each.get(action, {}).update(content))
    with pytest.raises(
        ValueError, match=rf"^Delta table at .*lake: .* since it has {feature}; write it without"
    ):
        ask(store, [("a", 5)])


def test_an_absent_table_is_refused_with_the_way_out(folder):
    source = events_source(folder / "nowhere", file_format=DeltaFormat())
    store = project(folder, source, view_of(source, COUNT))
    with pytest.raises(FileNotFoundError, match=r"no Delta table at .*nowhere: load events first"):
        ask(store, [("a", 5)], [f"view:{NAME_COUNT}"])


@pytest.mark.parametrize("content", ["id,key,time\n", ""])
def test_a_file_of_another_format_is_refused_with_the_way_out(folder, content):
    (folder / "events.csv").write_text(content)
    source = events_source(folder / "events.csv")
    store = project(folder, source, view_of(source, COUNT))
    with pytest.raises(
        ValueError, match=r"^source 'events': .*events\.csv is not a Parquet file; write it as one"
    ):
        ask(store, [("a", 5)], [f"view:{NAME_COUNT}"])


def test_a_folder_of_parquet_files_is_one_source(folder):
    (folder / "parts" / "deeper").mkdir(parents=True)
    write_events(folder / "parts" / "1.parquet", [event(1, 1)])
    write_events(folder / "parts" / "deeper" / "2.parquet", [event(2, 2)])
    source = events_source(folder / "parts")
    store = project(folder, source, view_of(source, COUNT))
    assert ask(store, [("a", 5)], [f"view:{NAME_COUNT}"])[NAME_COUNT] == [2]


def test_a_saved_data_set_holds_what_was_retrieved(folder):
    store = deploy(folder, [event(1, 1), event(2, 2)])
    frame = pd.DataFrame({"key": ["a", "b"], "event_timestamp": [at(5), at(5)]})
    path = folder / "saved.parquet"
    job = store.get_historical_features(frame, store.get_feature_service("service"))
    store.create_saved_dataset(job, "saved", SavedDatasetFileStorage(str(path)))
    assert pq.read_table(path).to_pydict() == ask(store, frame)
    assert store.get_saved_dataset("saved").to_arrow()[NAME_COUNT].to_pylist() == [2, 0]
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        job.persist(SavedDatasetFileStorage(str(path)))
    job.persist(SavedDatasetFileStorage(str(path)), allow_overwrite=True)


# Plain views: the newest row at or before the instant.

RATES = pa.schema(
    [("key", pa.string()), ("rate", pa.float64()), ("note", pa.string()), ("time", TIME), ("created", TIME)]
)


def rate(seconds, value, *, key="a", created=None, note=None):
    created = seconds if created is None else created
    return {"key": key, "rate": value, "note": note, "time": at(seconds), "created": at(created)}


def plain_deploy(folder, rows, entities=(HOLDER,), ttl=timedelta(seconds=10), created=True, schema=RATES):
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "rates.parquet")
    source = FileSource(
        name="rates",
        path=str(folder / "rates.parquet"),
        timestamp_field="time",
        created_timestamp_column="created" if created else "",
    )
    view = FeatureView(
        name="rates",
        entities=list(entities),
        ttl=ttl,
        source=source,
        schema=[Field(name="rate", dtype=Float64), Field(name="note", dtype=String)],
    )
    return project(folder, view)


def rates(store, rows, **options):
    return ask(store, rows, ["rates:rate"], **options)["rate"]


def test_a_plain_view_gives_the_newest_row_at_or_before_the_instant(folder):
    store = plain_deploy(folder, [rate(3, 3.0), rate(1, 1.0), rate(2, 2.0, key="b"), rate(5, None)])
    rows = [
        ("a", 0.999999),
        ("a", 1),
        ("a", 2.999999),
        ("a", 3),
        ("b", 3),
        ("c", 3),
        (None, 3),
        ("a", 5),
        ("a", 1),
    ]
    assert rates(store, rows) == [None, 1.0, 1.0, 3.0, 2.0, None, None, None, 1.0]


def test_a_row_older_than_the_ttl_is_null_and_as_old_as_it_is_not(folder):
    store = plain_deploy(folder, [rate(0, 1.0)])
    assert rates(store, [("a", 10), ("a", 10.000001)]) == [1.0, None]


def test_without_a_ttl_a_row_never_grows_old(folder):
    store = plain_deploy(folder, [rate(0, 1.0)], ttl=timedelta(0))
    assert rates(store, [("a", 10**8)]) == [1.0]


def test_of_rows_at_one_time_the_one_created_last_counts(folder):
    rows = [rate(1, 1.0, created=5), rate(1, 2.0, created=9), rate(1, 3.0, created=7)]
    assert rates(plain_deploy(folder, rows), [("a", 4), ("a", 2)]) == [2.0, 2.0]


def test_rows_created_after_the_instant_are_left_out_when_that_is_asked(folder):
    rows = [rate(1, 1.0, created=1), rate(1, 2.0, created=5), rate(3, 3.0, created=8)]
    store = plain_deploy(folder, rows)
    asked = [("a", 4), ("a", 5), ("a", 8), ("b", 8), ("a", 11.5), ("a", 13)]
    assert rates(store, asked) == [3.0, 3.0, 3.0, None, 3.0, 3.0]
    frame = pd.DataFrame({"key": [k for k, _ in asked], "event_timestamp": [at(s) for _, s in asked]})
    frame["event_timestamp"] = frame["event_timestamp"].astype("datetime64[us, UTC]")
    job = WindowedOfflineStore.get_historical_features(
        config=store.config,
        feature_views=[store.get_feature_view("rates")],
        feature_refs=["rates:rate"],
        entity_df=frame,
        registry=store.registry,
        project=store.project,
        filter_by_created_timestamp=True,
    )
    assert job.to_arrow()["rate"].to_pylist() == [1.0, 2.0, 3.0, None, 3.0, 3.0]


def test_a_view_without_entities_gives_every_row_the_same(folder):
    store = plain_deploy(folder, [rate(1, 1.0), rate(3, 3.0)], entities=())
    assert rates(store, [("a", 2), ("b", 4), ("c", 0)]) == [1.0, 3.0, None]


def test_plain_and_windowed_views_stand_side_by_side(folder):
    plain = plain_deploy(folder, [rate(1, 1.5, note="n")])
    source = events_source(write_events(folder / "events.parquet", [event(1, 1)]))
    view = view_of(source, COUNT)
    plain.apply([source, view, HOLDER])
    found = ask(plain, [("a", 5), ("b", 5)], ["rates:note", f"view:{NAME_COUNT}", "rates:rate"])
    assert found["note"] == ["n", None]
    assert found["rate"] == [1.5, None]
    assert found[NAME_COUNT] == [1, 0]


def test_the_result_has_the_declared_types(folder):
    store = deploy(folder, [event(1, 1)], COUNT | {("mean", "amount"): ["10s"]})
    frame = pd.DataFrame({"key": ["a"], "event_timestamp": [at(5)]})
    table = store.get_historical_features(frame, store.get_feature_service("service")).to_arrow()
    assert table.schema.field(NAME_COUNT).type == pa.int64()
    assert table.schema.field("all_amount_mean_10s").type == pa.float64()
    assert table.schema.field("event_timestamp").type == TIME
    assert {f.dtype for f in store.get_stream_feature_view("view").features if f.name != "key"} == {
        Int64,
        Float64,
    }
