"""What a declaration of windows may say, what it is called, and when two declarations mean the same."""

import json
from dataclasses import replace
from datetime import timedelta

import duckdb
import numpy as np
import pytest
from feast import Aggregation, FeatureService, PushSource, StreamFeatureView
from feast.field import Field
from feast.types import Float64, Int64

from feature_repo import on_demand
from feature_repo.store import definitions_digest
from feature_repo.windows.event_sql import check_columns, stored_sql
from feature_repo.windows.functions import FUNCTIONS
from feature_repo.windows.limits import Limits
from feature_repo.windows.slabs import Request, Slabs
from feature_repo.windows.sources import SourceTable
from feature_repo.windows.spec import view_spec
from feature_repo.windows.transform import transform
from tests.windows_project import HOLDER, PLACE, events_source, project, view_of

SOURCE = events_source("events.parquet")
EVERY = {(name, "" if row.needs == "events" else "amount"): ["1d"] for name, row in FUNCTIONS.items()}
COUNT = {("count", ""): ["1d"]}
SUM = {("sum", "amount"): ["1d"]}
TYPES = {
    "id": "VARCHAR",
    "key": "VARCHAR",
    "place": "VARCHAR",
    "amount": "BIGINT",
    "time": "TIMESTAMPTZ",
    "known": "TIMESTAMPTZ",
}


def spec_of(aggregates=SUM, **options):
    entities = options.setdefault("entities", (HOLDER,))
    return view_spec(view_of(SOURCE, aggregates, **options), list(entities))


def stream_view(*aggregations, **options):
    return StreamFeatureView(
        **{
            "name": "view",
            "entities": [HOLDER],
            "source": SOURCE,
            "aggregations": list(aggregations),
            "timestamp_field": "time",
            "schema": [Field(name="x", dtype=Int64)],
            "tags": {"window.event_id": "id"},
            **options,
        }
    )


@pytest.mark.parametrize(
    ("aggregates", "options", "part", "way_out"),
    [
        ({("median", "amount"): ["1d"]}, {}, "'median'", "use one of count, sum, mean"),
        ({("sum", "amount"): ["1 day"]}, {}, "'1 day'", "write 7d, 12h, 30m, 45s or lifetime"),
        ({("sum", "amount"): ["1.5d"]}, {}, "'1.5d'", "write 7d"),
        ({("sum", "amount"): ["0d"]}, {}, "all_amount_sum_0s", "give a positive timedelta"),
        ({("sum", ""): ["1d"]}, {}, "sum needs a column", "name one"),
        ({("sum", "amount"): ["24h", "1d"]}, {}, "all_amount_sum_1d", "remove one of each"),
        (SUM, {"entities": ()}, "no entity", "name at least one entity"),
        (SUM, {"delay": "-1d"}, "'-1d'", "write 7d"),
        (SUM, {"delay": "soon"}, "'soon'", "write 7d"),
        (SUM, {"where": "amount +"}, "window.where 'amount +'", "not a SQL expression"),
        (SUM, {"where": "place = 'open"}, "window.where", "not a SQL expression"),
        (SUM, {"where": "abs(amount) > 1"}, "'ABS(amount)'", "use columns, literals"),
        (SUM, {"conditions": {"big": "amount >"}}, "window.conditions 'amount >'", "not a SQL expression"),
        (
            SUM,
            {"conditions": {"big": "abs(amount) > 1"}},
            ": window.conditions 'abs(",
            "use columns, literals",
        ),
        (SUM, {"conditions": {"big": 5}}, "window.conditions", 'write {"declined": "status = \'declined\'"}'),
        (SUM, {"scale": {"amout": 2}}, "'amout'", "there are amount"),
        (COUNT, {"scale": {"amount": 2}}, "'amount'", "there are none"),
        (SUM, {"scale": {"amount": -1}}, "window.scale", 'write {"amount": 2}'),
        (SUM, {"scale": {"amount": 2.5}}, "window.scale", 'write {"amount": 2}'),
        (SUM, {"scale": {"amount": 19}}, "window.scale", "0 to 18"),
    ],
)
def test_a_wrong_declaration_is_refused_with_view_part_and_way_out(aggregates, options, part, way_out):
    with pytest.raises(ValueError, match=r"^customer_habits: ") as refusal:
        view_of(SOURCE, aggregates, name="customer_habits", **options)
    assert part in str(refusal.value)
    assert way_out in str(refusal.value)


def amounts(function="sum", window=timedelta(days=1)):
    return Aggregation(column="amount", function=function, time_window=window, name="x")


@pytest.mark.parametrize(
    ("aggregation", "tags", "part", "way_out"),
    [
        (amounts(window=None), {"window.event_id": "id"}, "'x': time_window is None", "positive timedelta"),
        (amounts("p42"), {"window.event_id": "id"}, "'p42'", "use one of count"),
        (amounts(), {}, "tag window.event_id is missing", "name the column"),
        (amounts(), {"window.event_id": "id", "window.scale": "two"}, "window.scale 'two'", "write"),
    ],
)
def test_a_wrong_view_in_feasts_own_words_is_refused_as_well(aggregation, tags, part, way_out):
    with pytest.raises(ValueError, match=r"^view: ") as refusal:
        view_spec(stream_view(aggregation, tags=tags), [HOLDER])
    assert part in str(refusal.value)
    assert way_out in str(refusal.value)


def test_a_source_that_is_no_file_is_refused():
    from feast.infra.offline_stores.bigquery_source import BigQuerySource

    elsewhere = PushSource(name="p", batch_source=BigQuerySource(name="b", table="t", timestamp_field="time"))
    with pytest.raises(ValueError, match=r"^view: batch source BigQuerySource: .* reads file and Delta"):
        view_of(elsewhere, SUM)


@pytest.mark.parametrize("missing", ["id", "key", "amount", "time", "known", "place"])
def test_a_column_that_the_source_lacks_is_refused_with_those_it_has(missing):
    spec = spec_of(where="place = 'x'")
    types = {name: kind for name, kind in TYPES.items() if name != missing}
    with pytest.raises(
        ValueError, match=f"^view: column '{missing}' is not in source 'events'; it has "
    ) as no:
        check_columns(spec, types)
    assert all(name in str(no.value) for name in types)


@pytest.mark.parametrize(
    ("kind", "scale", "way_out"),
    [
        ("DOUBLE", None, "store cents"),
        ("FLOAT", None, "store cents"),
        ("VARCHAR", None, "store cents"),
        ("DECIMAL(18,4)", None, "declare window.scale of 4 or more"),
        ("DECIMAL(18,4)", {"amount": 2}, "declare window.scale of 4 or more"),
    ],
)
def test_a_column_that_cannot_be_added_exactly_is_refused(kind, scale, way_out):
    (column,) = (c for c in spec_of(scale=scale).columns if c.name == "amount")
    with pytest.raises(ValueError, match=r"^view: column 'amount' is ") as refusal:
        stored_sql("view", column, kind)
    assert kind in str(refusal.value)
    assert way_out in str(refusal.value)


def test_a_null_known_time_is_refused_with_how_many():
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE events AS SELECT 'e1' AS id, 'a' AS key, 1::BIGINT AS amount, "
            "TIMESTAMPTZ '2024-01-01 00:00+00' AS time, NULL::TIMESTAMPTZ AS known"
        )
        connection.execute(
            "CREATE TABLE asks AS SELECT 'a' AS key, epoch_us(TIMESTAMPTZ '2024-01-01 01:00+00') AS __instant, "
            "0::BIGINT AS __known, 0::BIGINT AS __row"
        )
        with pytest.raises(ValueError, match=r"^view: column 'known' of events is null in 1 events; "):
            Slabs(
                connection,
                [Request(spec_of(), SourceTable("events"), {"key": "key"})],
                {"key": "asks"},
                Limits(1, 1, 1),
            )


def test_names_derive_from_prefix_column_function_and_window():
    names = [f.name for f in view_of(SOURCE, EVERY | {("max", "amount"): ["90s", "60m", "48h"]}).features]
    assert names == [
        "all_events_count_1d",
        "all_amount_sum_1d",
        "all_amount_mean_1d",
        "all_amount_min_1d",
        "all_amount_max_90s",
        "all_amount_max_1h",
        "all_amount_max_2d",
        "all_amount_last_1d",
        "all_amount_first_1d",
        "all_amount_std_1d",
        "all_amount_count_distinct_1d",
        "all_events_seconds_since_last_1d",
        "all_events_seconds_since_first_1d",
        "all_amount_p50_1d",
        "all_amount_p75_1d",
        "all_amount_p90_1d",
        "all_amount_p95_1d",
        "all_amount_p99_1d",
    ]


def test_types_follow_from_the_function():
    view = view_of(SOURCE, EVERY)
    real = {"mean", "std", "seconds_since_last", "seconds_since_first"}
    for aggregation, field in zip(view.aggregations, view.features, strict=True):
        assert field.dtype == (Float64 if aggregation.function in real else Int64)


def test_a_count_is_named_by_its_source_whatever_column_is_given():
    assert [f.name for f in view_of(SOURCE, {("count", "amount"): ["1d"]}).features] == [
        "all_events_count_1d"
    ]


SAME = [
    (
        "spelled otherwise",
        {"where": "amount>3 and place='x'"},
        {"where": "amount > 3 AND place = 'x' -- dear"},
    ),
    ("a day is 24 hours", {"delay": "1d"}, {"delay": "24h"}),
    ("no delay", {}, {"delay": "0s"}),
    ("described", {}, {"description": "Habits.", "tags": {"team": "fraud"}, "owner": "me", "online": False}),
]
OTHER = [
    ("another prefix names other outputs", {}, {"prefix": "some"}),
    ("a filter", {}, {"where": "amount > 3"}),
    ("another filter", {"where": "amount > 3"}, {"where": "amount >= 3"}),
    ("a delay", {}, {"delay": "1s"}),
    ("a scale", {}, {"scale": {"amount": 2}}),
    ("an entity", {}, {"entities": (PLACE,)}),
    ("two entities", {}, {"entities": (HOLDER, PLACE)}),
    ("another view", {}, {"name": "other"}),
]


@pytest.mark.parametrize(("one", "two"), [case[1:] for case in SAME], ids=[case[0] for case in SAME])
def test_the_digest_stays_when_the_meaning_does(one, two):
    assert spec_of(**one).digest == spec_of(**two).digest
    assert spec_of(**one).state_digest == spec_of(**two).state_digest


@pytest.mark.parametrize(("one", "two"), [case[1:] for case in OTHER], ids=[case[0] for case in OTHER])
def test_the_digest_changes_with_the_meaning(one, two):
    assert spec_of(**one).digest != spec_of(**two).digest


@pytest.mark.parametrize("field", ["source", "event_id", "timestamp", "created", "keys"])
def test_the_digests_change_with_every_column_that_is_read(field):
    spec = spec_of()
    changed = replace(spec, **{field: ("other",) if field == "keys" else "other"})
    assert changed.digest != spec.digest
    assert changed.state_digest != spec.state_digest


def test_the_digest_changes_with_function_column_and_window():
    digests = {
        spec_of(aggregates).digest
        for aggregates in (
            SUM,
            {("max", "amount"): ["1d"]},
            {("sum", "id"): ["1d"]},
            {("sum", "amount"): ["2d"]},
        )
    }
    assert len(digests) == 4


def test_state_is_shared_by_definitions_that_keep_the_same_events():
    kept = spec_of({("sum", "amount"): ["1d", "7d"]}).state_digest
    assert kept == spec_of({("std", "amount"): ["7d"], ("count", ""): ["1h"]}).state_digest
    assert kept != spec_of({("sum", "amount"): ["1d", "8d"]}).state_digest
    assert kept != spec_of({("count_distinct", "amount"): ["7d"]}).state_digest
    assert kept != spec_of({("sum", "amount"): ["7d"]}, where="amount > 0").state_digest
    assert kept != spec_of({("sum", "amount"): ["7d"]}, scale={"amount": 2}).state_digest


def test_a_view_means_the_same_from_the_registry(home, tmp_path):
    view = view_of(
        SOURCE,
        EVERY,
        entities=(PLACE, HOLDER),
        where="amount > 3 OR place IS NULL",
        delay="7d",
        scale={"amount": 2},
    )
    store = project(tmp_path, SOURCE, view)
    read = store.get_stream_feature_view("view")
    spec, again = (
        view_spec(view, [HOLDER, PLACE]),
        view_spec(read, [store.get_entity(e) for e in read.entities]),
    )
    assert again == spec
    assert again.digest == spec.digest
    assert spec.keys == ("place", "key")
    assert json.loads(read.tags["window.scale"]) == {"amount": 2}
    assert np.array_equal(again.program, spec.program)


def service_digest(folder, aggregates, selected, name="service"):
    view = view_of(SOURCE, aggregates)
    service = FeatureService(name=name, features=[view[selected] if selected else view])
    return definitions_digest(
        project(folder, SOURCE, view, service, name=f"p{len(list(folder.iterdir()))}"), name
    )


def test_a_feature_that_a_service_does_not_read_leaves_its_digest(home, tmp_path):
    one = service_digest(tmp_path, SUM, ["all_amount_sum_1d"])
    assert service_digest(tmp_path, SUM | COUNT, ["all_amount_sum_1d"]) == one
    assert service_digest(tmp_path, SUM | COUNT, None) != one
    assert service_digest(tmp_path, COUNT, None) != one


FACTOR = 2.0


def doubled(column):
    return column * FACTOR


@transform(inputs=["x"], outputs=["y"])
def through_a_function(c):
    return {"y": max((doubled(column) for column in [c["x"]]), key=id)}


def test_a_transforms_digest_changes_with_the_functions_and_constants_it_uses(monkeypatch):
    before = through_a_function.digest
    assert through_a_function.digest == before
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    after = through_a_function.digest
    assert after != before
    monkeypatch.setitem(globals(), "doubled", lambda column: column * FACTOR)
    assert through_a_function.digest not in (before, after)


def test_the_digest_of_fraud_v1_covers_the_formulas_behind_its_transforms(store, monkeypatch):
    before = definitions_digest(store, "fraud_v1")
    assert definitions_digest(store, "fraud_v1") == before
    monkeypatch.setattr(on_demand, "EARTH_RADIUS_KM", 6378.0)
    assert definitions_digest(store, "fraud_v1") != before


def test_no_two_outputs_of_the_repository_share_a_name(store):
    names = [
        f.name
        for view in store.list_stream_feature_views()
        for f in view.features
        if f.name not in view.join_keys
    ]
    assert len(names) == len(set(names)) > 40
