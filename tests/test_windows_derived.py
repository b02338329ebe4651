"""Conditions and derived columns of events: the oracle, history, states that are loaded and states that are recorded agree."""

import random
from datetime import timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from feast import FeatureService
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo.windows import event_columns
from feature_repo.windows.derived import derive
from feature_repo.windows.event_values import LackingValueError
from feature_repo.windows.limits import Limits
from feature_repo.windows.live_recorder import LiveRecorder
from feature_repo.windows.plan import OnlinePlan
from feature_repo.windows.predicate import Predicate
from feature_repo.windows.recorder import EventRecorder, windowed_specs
from feature_repo.windows.stream import feature_stream
from feature_repo.windows.taken_over import look_up
from feature_repo.windows.transform import transform
from tests import derived_views, oracle
from tests.derived_views import EVENTS, MEAN, expected, rows, with_columns
from tests.timelines import AMOUNTS, SECOND, asks, code, micros, moment, streams
from tests.windows_project import (
    HOLDER,
    START,
    at,
    event,
    events_source,
    online_client,
    project,
    view_of,
    write_events,
)

EARLY, LATE = START - timedelta(hours=1), START + timedelta(hours=1)
PLACES = st.sampled_from(["x", "y"])
EXAMPLES = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def plain(value):
    return None if value is None or value != value else value


def offline(store, service, wanted):
    """What history answers to (key, place, instant, known as of)."""
    frame = pd.DataFrame({
        "key": [w[0] for w in wanted], "place": pd.Series([w[1] for w in wanted], dtype="string"),
        "event_timestamp": [moment(w[2]) for w in wanted], "created_timestamp": [moment(w[3]) for w in wanted],
    })  # fmt: skip
    found = store.get_feature_service(service)
    table = store.get_historical_features(frame, found).to_arrow()
    names = [field.name for projection in found.feature_view_projections for field in projection.features]
    return [[plain(table[n][i].as_py()) for n in names] for i in range(len(wanted))]


@cache
def plan_of(store, service):
    return OnlinePlan.compile(store, service)


@cache
def recorder_of(store):
    return EventRecorder.compile(store)


def online(store, service, wanted):
    """What the states answer."""
    asked = [
        {"key": key, "place": place, "event_timestamp_us": instant, "known_as_of_us": known}
        for key, place, instant, known in wanted
    ]
    return [list(map(plain, row)) for row in plan_of(store, service).read(asked).values.tolist()]


def write(folder, events, reports=()):
    write_events(folder / "events.parquet", rows(events), EVENTS)
    write_events(folder / "reports.parquet", rows(reports), EVENTS)


def record(store, events, reports, together=lambda: True):
    """Everything as it became known, in calls of some events of one source; reports take over what their event was given."""
    recorder, computed = recorder_of(store), {}
    nulls = dict.fromkeys(column.key for column in taken_over(store).derived)

    def write(source, batch):
        taken = [{"events": computed.get(row["id"], nulls)} for row in batch]
        written = recorder.write(source, batch, taken)
        if source == "events":
            computed.update((row["id"], each.values) for row, each in zip(batch, written, strict=True))

    arrivals = [("events", e) for e in events] + [("reports", r) for r in reports]
    arrivals.sort(key=lambda arrival: arrival[1]["known"])
    batch, of = [], ""
    for source, each in arrivals:
        if batch and not (source == of and together()):
            write(of, batch)
            batch = []
        of = source
        batch.append(rows([each])[0])
    if batch:
        write(of, batch)


def taken_over(store):
    """The view of reports that takes a column over from their events."""
    (spec,) = [spec for spec in windowed_specs(store) if spec.view == "explained"]
    return spec


def empty(store):
    online_client(store).flushdb()


@pytest.fixture(scope="module")
def store(module_home, tmp_path_factory):
    return derived_views.deploy(tmp_path_factory.mktemp("derived"))


@pytest.fixture
def folder(store):
    empty(store)
    return Path(store.get_data_source("events").path).parent


@st.composite
def histories(draw):
    """Events, some scored after they happened and before they were known; reports of some, and of one that is not there."""
    events, reports = [], []
    for e in {e["id"]: e for e in draw(streams(most=14))}.values():
        scored = draw(st.sampled_from([None, e["time"], e["known"], (e["time"] + e["known"]) // 2]))
        events.append({**e, "scored": scored})
        if draw(st.booleans()):
            late = draw(st.sampled_from([0, SECOND, 20 * SECOND]))
            reports.append({**e, "known": e["known"] + late, "scored": None})
    if draw(st.booleans()):
        reports.append({
            "id": "strange", "order": code("strange"), "key": "a", "place": "x", "amount": 1, "scored": None,
            "time": micros(START), "known": micros(START),
        })  # fmt: skip
    return events, reports


@given(st.data())
@EXAMPLES
def test_oracle_history_load_and_record_agree(store, folder, data):
    events, reports = data.draw(histories())
    wanted = [(key, data.draw(PLACES), *when) for key, *when in data.draw(asks(events))]
    write(folder, events, reports)
    specs = {spec.view: spec for spec in windowed_specs(store)}
    order = [p.name for p in store.get_feature_service("all").feature_view_projections]
    truth = [list(expected([specs[name] for name in order], events, reports, ask)) for ask in wanted]
    assert offline(store, "all", wanted) == truth
    empty(store)
    record(store, events, reports, lambda: data.draw(st.booleans()))
    assert online(store, "all", wanted) == truth
    empty(store)
    store.materialize(EARLY, LATE)
    assert online(store, "all", wanted) == truth


def seeded(count, seed=3):
    """Events of few keys, some late, some scored later, one known as a load ends; reports of a third of them.

    A place may be called what a missing one looks like as text.
    """
    rng, events = random.Random(seed), []
    for number in range(count):
        time = micros(START) + rng.randrange(120 * SECOND)
        time = micros(at(40)) if number == 1 else time
        known = time + (0 if number == 1 else rng.choice([0, 0, 0, SECOND, 9 * SECOND]))
        events.append({
            "id": f"e{number}", "order": code(f"e{number}"), "key": rng.choice("ab"),
            "place": rng.choice(["x", "y", None, "None"]), "amount": rng.choice([None, 3, -4, 10, 250]),
            "time": time, "known": known, "scored": rng.choice([None, known]),
        })  # fmt: skip
    reports = [{**e, "known": e["known"] + 5 * SECOND, "scored": None} for e in events[::3]]
    wanted = [
        (rng.choice("ab"), rng.choice("xy"), t, t)
        for t in (micros(START) + i * SECOND for i in range(0, 130, 7))
    ]
    return events, reports, wanted


def test_a_long_history_is_as_the_oracle_says(store, folder):
    events, reports, wanted = seeded(60)
    write(folder, events, reports)
    specs = {spec.view: spec for spec in windowed_specs(store)}
    order = [specs[p.name] for p in store.get_feature_service("all").feature_view_projections]
    truth = [list(expected(order, events, reports, ask)) for ask in wanted]
    assert offline(store, "all", wanted) == truth
    record(store, events, reports)
    assert online(store, "all", wanted) == truth


def test_a_history_computed_piece_by_piece_is_the_same(store, folder, monkeypatch):
    events, reports, wanted = seeded(60)
    write(folder, events, reports)
    whole = offline(store, "all", wanted)
    monkeypatch.setattr(event_columns, "limits_of", lambda config, specs: Limits(rows=7, events=5, held=0))
    assert offline(store, "all", wanted) == whole


def test_each_view_alone_gives_what_all_give_together(store, folder):
    events, reports, wanted = seeded(40)
    write(folder, events, reports)
    together = offline(store, "all", wanted)
    names = [p.name for p in store.get_feature_service("all").feature_view_projections]
    alone = [offline(store, name, wanted) for name in names]
    assert [[value for part in row for value in part] for row in zip(*alone, strict=True)] == together


def test_a_stream_of_features_reads_derived_columns(store, folder):
    events, reports, _ = seeded(40)
    write(folder, events, reports)
    service = store.get_feature_service("peak")
    (table,) = feature_stream(store, service, "events").tables()
    wanted = [
        (r["key"], r["place"], micros(r["time"]), max(micros(r["time"]), micros(r["known"])))
        for r in table.select(["key", "place", "time", "known"]).to_pylist()
    ]
    names = [field.name for projection in service.feature_view_projections for field in projection.features]
    assert [[plain(row[n]) for n in names] for row in table.to_pylist()] == offline(store, "peak", wanted)


def test_loads_one_after_the_other_give_what_one_load_gives(store, folder):
    events, reports, wanted = seeded(60)
    write(folder, events, reports)
    store.materialize(EARLY, LATE)
    whole = online(store, "all", wanted)
    empty(store)
    for end in (at(40), at(41), LATE):
        store.materialize(EARLY if end == at(40) else at(40), end)
    assert online(store, "all", wanted) == whole == offline(store, "all", wanted)


def test_what_is_computed_for_a_retrieval_leaves_no_file(store, folder, tmp_path, monkeypatch):
    """In a folder of any name."""
    place = tmp_path / "o'clock"
    place.mkdir()
    monkeypatch.setattr(event_columns.tempfile, "tempdir", str(place))
    events, reports, wanted = seeded(10)
    write(folder, events, reports)
    offline(store, "all", wanted)
    store.materialize(EARLY, LATE)
    assert not any(place.iterdir())


def test_what_is_taken_over_of_one_event_is_looked_up_as_history_has_it(store, folder):
    events, reports, _ = seeded(30)
    # Of two rows of an id, the one known first is the event.
    write(folder, [*events, {**events[4], "amount": 7, "known": events[4]["known"] + SECOND}], reports)
    spec = taken_over(store)
    for e in with_columns(events, reports)[:8]:
        lacking = LackingValueError(spec, e["id"], spec.derived)
        assert look_up(store, lacking) == {"events": {spec.derived[0].key: e["exact"]}}
    assert look_up(store, LackingValueError(spec, "no' one", spec.derived)) == {"events": None}


def test_a_view_that_computes_nothing_reads_its_source_as_it_is(store):
    with duckdb.connect() as connection, event_columns.EventColumns(connection, store.config, {}) as columns:
        (usual,) = [spec for spec in windowed_specs(store) if spec.view == "usual"]
        assert columns.tables([event_columns.Wanted(usual, "anything")]) == ["anything"]
        assert not event_columns.computes(usual)


# Recording.


def in_row(number, seconds, **changes):
    return {**event(number, seconds), "scored": None, **changes}


def ratios(store, key, seconds):
    """Sum and maximum of the ratios of ten seconds before an instant, in units."""
    views = [spec for spec in windowed_specs(store) if spec.view == "peak"]
    names = [a.name for a in views[0].aggregates]
    (row,) = online(store, "peak", [(key, "x", micros(at(seconds)), micros(at(seconds)))])
    return tuple(row[names.index(f"peak_ratio_{function}_10s")] for function in ("sum", "max"))


def test_a_value_that_an_event_carries_is_believed(store, folder):
    recorder = recorder_of(store)
    whole = dict.fromkeys(("second", "most"))
    recorder.record(
        "events", [in_row(1, 0, ratio=Decimal("7.5"), **whole), in_row(2, 1, ratio=None, **whole)]
    )
    assert ratios(store, "a", 4) == (75_000, 75_000)


def test_events_recorded_together_see_each_other_as_if_alone(store, folder):
    batch = [in_row(n, n / 2, amount=n + 1) for n in range(9)]
    recorder_of(store).record("events", batch)
    together = ratios(store, "a", 6)
    empty(store)
    for each in reversed(batch):
        recorder_of(store).record("events", [each])
    # Recorded last to first no event finds one before it: order matters to a value that is kept, and only to that.
    assert ratios(store, "a", 6) == (0, None)
    empty(store)
    for each in batch:
        recorder_of(store).record("events", [each])
    assert ratios(store, "a", 6) == together


def test_what_became_known_after_the_scoring_does_not_count(store, folder):
    recorder = recorder_of(store)
    recorder.record("events", [in_row(1, 0, amount=2), in_row(2, 1, amount=4, known=at(3))])
    recorder.record("events", [
        in_row(3, 2, amount=6, known=at(5)),
        in_row(4, 2, amount=6, known=at(5), key="a", scored=at(4)),
    ])  # fmt: skip
    assert ratios(store, "a", 6) == (20_000 + 30_000 + 20_000, 30_000)


@pytest.mark.parametrize("recorder_of", [recorder_of, LiveRecorder])
def test_a_report_without_its_events_value_is_refused_and_nothing_is_written(store, folder, recorder_of):
    recorder = recorder_of(store)
    if recorder_of is LiveRecorder:
        # It writes what is computed from others only once those have their history.
        write(folder, [], [])
        store.materialize(EARLY, LATE)
        recorder.follow([])
    before = set(online_client(store).keys("*"))
    with pytest.raises(
        LackingValueError, match="lacks column 'ratio', which is computed of 'events'; give it the value"
    ) as refused:
        recorder.record("reports", [in_row(1, 0)])
    assert (refused.value.event_id, refused.value.columns) == ("e1", taken_over(store).derived)
    assert set(online_client(store).keys("*")) == before


def test_what_an_event_carries_is_what_its_report_takes_over(store, folder):
    ((_, values),) = recorder_of(store).write(
        "events", [in_row(1, 0, ratio=Decimal("7.5"), second=None, most=None)]
    )
    assert values[taken_over(store).derived[0].key] == Decimal("7.5")


def test_an_event_without_what_a_column_is_computed_from_is_refused(store, folder):
    lacking = in_row(1, 0)
    del lacking["amount"]
    with pytest.raises(
        KeyError, match="lacks column 'amount', from which derived column 'ratio' is computed"
    ):
        recorder_of(store).record("events", [lacking])
    assert online_client(store).keys("*") == []


def test_an_event_that_reaches_behind_what_is_kept_is_refused(store, folder):
    days = [event(n, n * 86_400) for n in range(10)]
    write_events(folder / "events.parquet", [{**e, "scored": None} for e in days], EVENTS)
    write_events(folder / "reports.parquet", [], EVENTS)
    store.materialize(EARLY, at(9.5 * 86_400))
    with pytest.raises(LookupError, match="reaches back to events that were dropped"):
        recorder_of(store).record("events", [in_row(99, 5 * 86_400 + 1)])


# Corrections.


@st.composite
def versions(draw):
    """Events of which some are known in other forms later, and all forms of each are of one time."""
    found = []
    for e in {e["id"]: e for e in draw(streams(keys=("a", "b"), most=8))}.values():
        known = e["known"]
        for _ in range(draw(st.integers(1, 3))):
            found.append({**e, "known": known, "amount": draw(AMOUNTS), "scored": None})
            known += draw(st.sampled_from([1, SECOND, 20 * SECOND]))
    return draw(st.permutations(found))


@pytest.fixture(scope="module")
def corrected(module_home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corrected")
    source = events_source(folder / "events.parquet")
    usual = view_of(source, {("mean", "amount"): ["10s"]}, name="usual", prefix="usual", corrected=True)
    ratio = derive(
        "ratio", [usual], [HOLDER], "ratio_then", 4, transform=derived_views.over_usual, as_of="scored"
    )
    view = view_of(
        source,
        {("sum", "amount"): ["10s", "1m"], ("count", ""): ["1m"], ("mean", "big"): ["1m"], ("max", "ratio"): ["1m"]},
        name="corrected", prefix="corrected", where="amount > -3", conditions={"big": "amount > 3"}, corrected=True,
        derived=[ratio],
    )  # fmt: skip
    return project(
        folder,
        source,
        usual,
        view,
        FeatureService(name="corrected", features=[view]),
        name="corrected",
    )


def of_versions(found, ask):
    """The view ``corrected`` by hand."""
    key, _, instant, known = ask
    for e in found:
        before = oracle.newest(found, e["time"])
        mean = derived_views.window("mean", "amount", before, e["key"], e["time"], 10 * SECOND, e["time"])
        e["ratio"] = derived_views.stored(derived_views.divided(e["amount"], mean), 4)
        e["big"] = None if e["amount"] is None else int(e["amount"] > 3)
    counted = [e for e in oracle.newest(found, known) if e["amount"] is not None and e["amount"] > -3]
    asked = [
        ("sum", "amount", 10),
        ("sum", "amount", 60),
        ("count", "", 60),
        ("mean", "big", 60),
        ("max", "ratio", 60),
    ]
    for function, column, seconds in asked:
        inside = oracle.counted(counted, key, instant, seconds * SECOND, 0, known)
        yield oracle.aggregate(function, column, inside, instant)


@given(st.data())
@EXAMPLES
def test_of_corrected_events_the_version_known_last_counts_everywhere(corrected, data):
    found = data.draw(versions())
    wanted = [(key, "x", *when) for key, *when in data.draw(asks(found, keys=("a", "b")))]
    path = Path(corrected.get_data_source("events").path)
    write_events(path, rows(found), EVENTS)
    truth = [list(of_versions(found, ask)) for ask in wanted]
    assert offline(corrected, "corrected", wanted) == truth
    empty(corrected)
    recorder = recorder_of(corrected)
    arrived = sorted(found, key=lambda e: e["known"])
    step = data.draw(st.integers(1, 4))
    for i in range(0, len(arrived), step):
        recorder.record("events", rows(arrived[i : i + step]))
    assert online(corrected, "corrected", wanted) == truth
    empty(corrected)
    corrected.materialize(EARLY, LATE)
    assert online(corrected, "corrected", wanted) == truth


# What is refused.


def small(folder, *, source_rows=(), **options):
    source = events_source(folder / "events.parquet")
    write_events(folder / "events.parquet", rows(source_rows), EVENTS)
    usual = view_of(source, {("mean", "amount"): ["10s"]}, name="usual", prefix="usual")
    made = options.pop("make", lambda usual: {})(usual)
    view = view_of(source, {("sum", options.pop("column", "ratio")): ["10s"]}, name="view", **options, **made)
    service = FeatureService(name="view", features=[view])
    return project(folder, source, usual, view, service, name="refused")


def of_usual(name="ratio", **options):
    return lambda usual: {
        "derived": [
            derive(name, [usual], [HOLDER], "ratio_then", 4, transform=derived_views.over_usual, **options)
        ]
    }


ASK = [("a", "x", micros(START), micros(START))]


def test_a_computed_column_called_as_one_of_the_source_is_refused(module_home, tmp_path):
    store = small(tmp_path, make=of_usual("amount"), column="amount")
    with pytest.raises(
        ValueError, match="view: column 'amount': it is a column of source 'events'; give the"
    ):
        offline(store, "view", ASK)


def declared(make=None, **options):
    """A view that is declared and no more."""
    source = events_source("events.parquet")
    usual = view_of(source, {("mean", "amount"): ["10s"]}, name="usual", prefix="usual")
    made = make(usual) if make else {}
    return view_of(source, {("sum", "ratio"): ["10s"]}, name="view", **options, **made)


def test_a_condition_called_as_a_derived_column_is_refused_when_it_is_declared():
    with pytest.raises(ValueError, match="view: column 'ratio': it is computed twice; give one of them"):
        declared(of_usual(), conditions={"ratio": "amount > 1"})


def test_derived_columns_of_one_name_are_refused_when_they_are_declared():
    def make(usual):
        return {
            "derived": [column for name in ("ratio", "ratio") for column in of_usual(name)(usual)["derived"]]
        }

    with pytest.raises(ValueError, match="view: column 'ratio': it is computed twice; give one of them"):
        declared(make)


@pytest.mark.parametrize("name", ["id", "key", "time", "known"])
def test_a_computed_column_called_as_a_key_an_id_or_a_time_is_refused_when_it_is_declared(name):
    with pytest.raises(
        ValueError, match=f"view: column '{name}': it is a column of source 'events'; give the"
    ):
        declared(conditions={name: "amount > 1"})
    with pytest.raises(
        ValueError, match=f"view: column '{name}': it is a column of source 'events'; give the"
    ):
        declared(of_usual(name))


def test_a_source_that_is_not_registered_is_refused(module_home, tmp_path):
    store = small(tmp_path, make=of_usual(source="elsewhere"))
    with pytest.raises(ValueError, match=r"derived columns: sources \['elsewhere'\] are not registered"):
        offline(store, "view", ASK)


@transform(inputs=["absent", MEAN], outputs=["ratio_then"])
def of_absent(c):
    return {"ratio_then": c["absent"] / c[MEAN]}


def test_a_column_that_the_source_lacks_is_named(module_home, tmp_path):
    def make(usual):
        return {"derived": [derive("ratio", [usual], [HOLDER], "ratio_then", 4, transform=of_absent)]}

    store = small(tmp_path, make=make)
    with pytest.raises(ValueError, match="derived column 'ratio': column 'absent' is not in source 'events'"):
        offline(store, "view", ASK)
    with pytest.raises(ValueError, match="column 'absent' is not in source 'events'"):
        store.materialize(EARLY, LATE)


def test_a_scoring_time_that_the_source_lacks_is_the_event_time(module_home, tmp_path):
    found = [
        {**e, "time": micros(e["time"]), "known": micros(e["known"]), "scored": None}
        for e in (event(n, n, amount=2**n) for n in range(3))
    ]
    wanted = [("a", "x", micros(at(9)), micros(at(9)))]
    store = small(tmp_path, source_rows=found, make=of_usual(as_of="nowhere"))
    assert offline(store, "view", wanted) == [[20_000 + 26_667]]


@pytest.mark.parametrize("scale", [-1, 16])
def test_a_scale_that_no_float_fills_is_refused(scale):
    usual = view_of(
        events_source("events.parquet"), {("mean", "amount"): ["10s"]}, name="usual", prefix="usual"
    )
    with pytest.raises(ValueError, match=f"derived column 'ratio': scale {scale}: not 0 to 15"):
        derive("ratio", [usual], [HOLDER], MEAN, scale)


def test_an_output_that_nothing_gives_is_refused():
    usual = view_of(
        events_source("events.parquet"), {("mean", "amount"): ["10s"]}, name="usual", prefix="usual"
    )
    with pytest.raises(ValueError, match="derived column 'ratio': no output 'other'; there are usual_amount"):
        derive("ratio", [usual], [HOLDER], "other", 2)


@pytest.mark.parametrize(
    ("event_values", "passes"),
    [
        ({"ratio": Decimal("1.6"), "place": None, "big": False}, True),
        ({"ratio": None, "place": "z", "big": False}, False),
        ({"ratio": None, "place": "x", "big": None}, False),
        ({"ratio": Decimal("1.5"), "place": "y", "big": True}, False),
        ({"ratio": Decimal("1.5001"), "place": "y", "big": None}, True),
    ],
)
def test_the_filter_is_sql_of_three_values(event_values, passes):
    assert Predicate(derived_views.PASSING)(event_values) is passes
    known = {"exact": event_values["ratio"], "rich": event_values["big"], "place": event_values["place"]}
    known["at_x"] = None if known["place"] is None else known["place"] == "x"
    assert derived_views._passes(known) is passes
