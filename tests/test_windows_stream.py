"""Features streamed slab by slab: the same as all at once, whatever the slabs; a folder that is whole or not there."""

import io
import os
from datetime import datetime

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureView, Field, FileSource
from feast.types import Int64
from feast.value_type import ValueType
from rich.console import Console

from feature_repo.windows import family, held, progress, retrieval, stream
from feature_repo.windows.limits import Limits, limits_of, memory_bytes
from feature_repo.windows.spec import view_spec
from feature_repo.windows.stream import FeatureStream, RowsThatAsk, feature_stream, question_of
from tests.windows_project import (
    HOLDER,
    PLACE,
    SCHEMA,
    at,
    event,
    events_source,
    project,
    view_of,
    write_events,
)

SPENT = {(f, "amount"): ["5s", "30s"] for f in ("sum", "mean", "max", "std", "last")} | {
    ("count", ""): ["5s"]
}
SLABS = [
    Limits(rows=1, events=1, held=0),
    Limits(rows=7, events=3, held=2_000),
    Limits(rows=7, events=20, held=10**9),
    Limits(rows=10_000, events=10_000, held=10**9),
]


@pytest.fixture
def folder(home, tmp_path):
    return tmp_path


def some_events(count):
    """Of a few keys, some at one instant, some late by more than a slab, some delivered twice."""
    random = np.random.default_rng(5)
    events = [
        event(
            n,
            float(random.integers(0, count)) / 2,
            key=str(random.choice(["a", "b", "c"])),
            place=str(random.choice(["x", "y"])),
            amount=int(random.integers(-50, 50)),
            late=int(random.choice([0, 0, 0, 40])),
        )
        for n in range(count)
    ]
    return events + events[::9]


def deploy(folder, events):
    source = events_source(write_events(folder / "events.parquet", events))
    pq.write_table(
        pa.table({"key": ["a", "b"], "limit": [5, 6], "set": pa.array([at(10), at(20)])}),
        folder / "limits.parquet",
    )
    limits = FeatureView(
        name="limits", entities=[HOLDER], schema=[Field(name="limit", dtype=Int64)],
        source=FileSource(name="limits", path=str(folder / "limits.parquet"), timestamp_field="set"),
    )  # fmt: skip
    views = [
        view_of(source, SPENT, name="plain", prefix="plain"),
        view_of(source, SPENT, name="delayed", prefix="delayed", delay="3s", where="amount > 0"),
        view_of(source, {("count", ""): ["60s"]}, name="pair", prefix="pair", entities=(HOLDER, PLACE)),
        limits,
    ]
    return project(folder, source, *views, FeatureService(name="service", features=views))


@pytest.fixture
def slabs(monkeypatch):
    def set_to(limits):
        for module in (stream, retrieval):
            monkeypatch.setattr(module, "limits_of", lambda config, specs: limits)

    return set_to


def streamed(store, **options):
    return feature_stream(store, store.get_feature_service("service"), "events", **options)


def at_once(store, events):
    """The same questions by Feast's own call: each event as of when it was known, in order of time."""
    frame = pd.DataFrame(events).rename(columns={"time": "event_timestamp"})
    frame["created_timestamp"] = frame["known"]
    table = store.get_historical_features(frame, store.get_feature_service("service")).to_arrow()
    return table.drop_columns(["created_timestamp"]).rename_columns(
        [
            "time" if name == "event_timestamp" else name
            for name in table.column_names
            if name != "created_timestamp"
        ]
    )


@pytest.mark.parametrize("split", [2, 100_000])
@pytest.mark.parametrize("limits", SLABS)
def test_slab_by_slab_it_is_what_it_is_at_once(folder, slabs, limits, split, monkeypatch):
    events = some_events(60)
    store = deploy(folder, events)
    want = at_once(store, events)
    slabs(limits)
    monkeypatch.setattr(family, "_SPLIT", split)
    tables = list(streamed(store).tables())
    assert len(tables) >= (20 if limits.rows == 1 else 1)
    found = pa.concat_tables(tables)
    instants = found["time"].to_pylist()
    assert instants == sorted(instants)
    assert found.column_names == want.column_names
    order = [("time", "ascending"), ("id", "ascending")]
    assert found.sort_by(order).to_pylist() == want.sort_by(order).to_pylist()


@pytest.mark.parametrize("largest", [3, 12])
@pytest.mark.parametrize("room", [0, 1_000, 10**9])
def test_ranges_that_grow_are_parted_and_nothing_is_read_once_it_was_let_go(
    folder, slabs, monkeypatch, largest, room
):
    events = some_events(120)
    store = deploy(folder, events)
    want = at_once(store, events)
    slabs(Limits(rows=7, events=9, held=room))
    monkeypatch.setattr(family, "_SPLIT", 4)
    monkeypatch.setattr(family, "_LARGEST", largest)
    monkeypatch.setattr(family, "_FEWEST", 2)
    overwritten, parted = [], []

    def free(file, start, size, free=held._File.free):
        overwritten.append(os.pwrite(file._descriptor, b"\x55" * size, start))
        free(file, start, size)

    def part(codes, part=family._parted):
        parted.append(len(codes))
        return part(codes)

    monkeypatch.setattr(held._File, "free", free)
    monkeypatch.setattr(family, "_parted", part)
    found = pa.concat_tables(streamed(store).tables())
    order = [("time", "ascending"), ("id", "ascending")]
    assert found.sort_by(order).to_pylist() == want.sort_by(order).to_pylist()
    assert len(parted) > 4
    assert bool(overwritten) == (room < 10**9)


@pytest.mark.parametrize("name", ["b", "bucket", "number"])
def test_columns_of_the_source_may_have_any_name(folder, slabs, name):
    events = [event(n, n, key="a", amount=n) for n in range(12)]
    table = pa.Table.from_pylist(events, SCHEMA).rename_columns(
        [name if column == "key" else column for column in SCHEMA.names]
    )
    pq.write_table(table, folder / "events.parquet")
    source = events_source(folder / "events.parquet")
    holder = Entity(name="someone", join_keys=[name], value_type=ValueType.STRING)
    view = view_of(source, {("count", ""): ["5s"]}, name="plain", prefix="plain", entities=(holder,))
    store = project(folder, holder, source, view, FeatureService(name="service", features=[view]))
    slabs(Limits(rows=3, events=3, held=0))
    found = pa.concat_tables(streamed(store, columns=["id", name]).tables())
    assert found["plain_events_count_5s"].to_pylist() == [min(n, 5) for n in range(12)]


@pytest.mark.parametrize("limits", SLABS)
def test_a_range_is_closed_at_its_start_and_open_at_its_end(folder, slabs, limits):
    events = [event(n, n) for n in range(10)]
    store = deploy(folder, events)
    slabs(limits)
    found = pa.concat_tables(streamed(store, start=at(3), end=at(6), columns=["id", "key", "place"]).tables())
    assert found["id"].to_pylist() == ["e3", "e4", "e5"]
    assert found["plain_events_count_5s"].to_pylist() == [3, 4, 5]


@pytest.mark.parametrize("start", [None, 100])
def test_of_no_rows_there_is_one_table_with_every_column(folder, start):
    store = deploy(folder, [event(1, 1)] if start else [])
    (table,) = streamed(store, start=at(start) if start else None, columns=["id", "key", "place"]).tables()
    assert table.num_rows == 0
    assert {"id", "plain_amount_std_30s", "pair_events_count_1m", "limit"} <= set(table.column_names)


def test_what_does_not_fit_in_memory_is_not_put_where_a_command_is_run(folder, monkeypatch):
    store = deploy(folder, [])
    store.config.offline_store.memory_limit = "100MB"
    (folder / "here").mkdir()
    monkeypatch.chdir(folder / "here")
    monkeypatch.setattr("tempfile.tempdir", str(folder / "there"))
    (folder / "there").mkdir()
    with retrieval.connect(store.config) as connection:
        connection.execute(
            "CREATE TEMP TABLE large AS SELECT md5(range::VARCHAR) AS text FROM range(4_000_000)"
        )
        assert list((folder / "there").iterdir())
        assert not list((folder / "here").iterdir())
    assert not list((folder / "there").iterdir())


def test_rows_of_one_instant_come_in_the_order_that_is_asked_for(folder, slabs):
    store = deploy(folder, [event(n, 1) for n in (3, 1, 2)] + [event(0, 2)])
    slabs(Limits(1, 1, 0))
    question = question_of(store, ["plain:plain_events_count_5s"])
    rows = RowsThatAsk(
        f"read_parquet('{folder / 'events.parquet'}')", "time", "known", ["id", "key"], order=["id"]
    )
    found = pa.concat_tables(FeatureStream(question, rows).tables())
    assert found["id"].to_pylist() == ["e1", "e2", "e3", "e0"]


def test_a_folder_of_files_holds_every_row_in_order_and_what_is_said_of_them(folder, slabs):
    events = some_events(40)
    store = deploy(folder, events)
    slabs(Limits(10, 10, 0))
    steps = []
    written = streamed(store).to_parquet(
        folder / "out", lambda done, total: steps.append((done, total)), {"manifest": "{}"}
    )
    files = sorted((folder / "out").iterdir())
    assert written == len(events)
    assert [file.name for file in files] == [f"part-{n:05}.parquet" for n in range(len(files))]
    assert steps[0] == (0, written)
    assert steps[-1] == (written, written)
    found = pa.concat_tables(pq.read_table(file) for file in files)
    assert found.to_pylist() == pa.concat_tables(streamed(store).tables()).to_pylist()
    assert all(pq.read_schema(file).metadata[b"manifest"] == b"{}" for file in files)


def test_what_is_written_over_is_refused_and_left(folder):
    store = deploy(folder, [event(1, 1)])
    (folder / "out").mkdir()
    with pytest.raises(FileExistsError, match=r"out: it is there already; remove it"):
        streamed(store).to_parquet(folder / "out")
    assert list((folder / "out").iterdir()) == []


def test_a_stream_that_fails_leaves_nothing(folder, slabs):
    store = deploy(folder, [event(n, n, amount=2**62 if n > 5 else 1) for n in range(10)])
    slabs(Limits(2, 2, 500))
    with pytest.raises(OverflowError, match="'amount'"):
        streamed(store).to_parquet(folder / "out")
    assert {path.name for path in folder.iterdir() if "out" in path.name} == set()


def test_the_folder_is_not_under_its_name_before_it_is_whole(folder, slabs):
    store = deploy(folder, some_events(20))
    slabs(Limits(2, 2, 500))
    seen = []
    streamed(store).to_parquet(folder / "out", lambda done, total: seen.append((folder / "out").exists()))
    assert not any(seen)
    assert (folder / "out").exists()


def test_a_source_that_no_view_reads_and_a_column_that_is_not_there_are_refused(folder):
    store = deploy(folder, [])
    service = store.get_feature_service("service")
    with pytest.raises(ValueError, match=r"^source 'payments': no view .*they read events, limits"):
        feature_stream(store, service, "payments")
    with pytest.raises(ValueError, match=r"^source 'events': no column \['amout'\]; it has amount, id"):
        feature_stream(store, service, "events", columns=["amout"])


def test_a_null_instant_and_one_without_a_zone_are_refused(folder):
    store = deploy(folder, [event(1, 1)])
    with pytest.raises(ValueError, match="no time zone"):
        streamed(store, start=datetime(2024, 1, 1))
    rows = RowsThatAsk("(SELECT 'a' AS key, NULL::TIMESTAMPTZ AS time)", "time", "", ["key"])
    question = question_of(store, ["plain:plain_events_count_5s"])
    with pytest.raises(ValueError, match=r"^time: null in 1 entity rows"):
        list(FeatureStream(question, rows).tables())


@pytest.mark.parametrize("text", ["1GB", "512MiB", "3 gb", "0.5GB"])
def test_what_is_handled_at_a_time_takes_part_of_the_memory_that_may_be_used(text):
    class Config:
        class offline_store:  # noqa: N801
            memory_limit = text

    source = events_source("events.parquet")
    spec = view_spec(view_of(source, SPENT), [HOLDER])
    limits = limits_of(Config, [spec, spec])
    with duckdb.connect() as connection:
        connection.execute("SET memory_limit = ?", [text])
    outputs = 2 * len(spec.aggregates)
    assert 8 * outputs * limits.rows <= memory_bytes(text) * 3 // 10
    assert 100 * limits.events <= memory_bytes(text) // 5
    assert limits.rows > 1000


@pytest.mark.parametrize("text", ["", "much", "GB", "4 bananas"])
def test_what_is_no_amount_of_memory_is_refused(text):
    with pytest.raises(ValueError, match=r"memory_limit .*write 4GB or 512MiB"):
        memory_bytes(text)


@pytest.mark.parametrize(
    ("terminal", "seconds", "drawn"), [(True, 3, True), (True, 1, False), (False, 3, False)]
)
def test_progress_is_drawn_for_a_person_who_waits(terminal, seconds, drawn):
    text, now = io.StringIO(), [0.0]
    with progress.shown(
        "rows", Console(file=text, force_terminal=terminal, width=80), lambda: now[0]
    ) as advance:
        advance(1, 10)
        assert text.getvalue() == ""
        now[0] = seconds
        advance(5, 10)
    assert ("5/10" in text.getvalue()) == drawn
    assert bool(text.getvalue()) == drawn
