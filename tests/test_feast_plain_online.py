"""Plain views in the online store: the newest row in any order of writing, corrections, ttl, and rows that are not there."""

import asyncio
import itertools
import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp
from feast.value_type import ValueType

from feature_repo.windows.plain_online import PlainRows, entity_hashes
from feature_repo.windows.state import to_microseconds
from tests.windows_project import HOLDER, PLACE, at, online_client, project

NUMBER = Entity(name="number", join_keys=["number"], value_type=ValueType.INT64)


@pytest.fixture
def deploy(module_home, tmp_path):
    """Makes a store of plain views over no file: what is in them is written."""

    def make(*views):
        return project(tmp_path, NUMBER, *views, name=tmp_path.name)

    return make


def plain(name="plain", *, entities=(HOLDER,), fields=(("amount", Int64),), created="known", **options):
    source = FileSource(
        name=f"{name}_rows", path="nowhere.parquet", timestamp_field="time", created_timestamp_column=created
    )
    schema = [Field(name=field, dtype=kind) for field, kind in fields]
    return FeatureView(name=name, entities=list(entities), schema=schema, source=source, **options)


def row(amount, seconds, created=None, **keys):
    written = {"amount": amount, "time": at(seconds), **(keys or {"key": "a"})}
    return written if created is None else {**written, "known": at(created)}


def write(store, *rows, view="plain"):
    store.write_to_online_store(view, pd.DataFrame(list(rows)))


def read(store, *rows, feature="plain:amount"):
    """Values and statuses of one feature."""
    response = store.get_online_features([feature], list(rows))
    place = list(response.proto.metadata.feature_names.val).index(feature.split(":")[1])
    statuses = [FieldStatus.Name(status) for status in response.proto.results[place].statuses]
    return list(zip(response.to_dict()[feature.split(":")[1]], statuses, strict=True))


A = {"key": "a"}


def test_the_newest_of_several_rows_counts_in_whatever_order_they_are_written(deploy):
    rows = [row(1, 0, 0), row(2, 5, 5), row(3, 5, 6), row(4, 3, 9)]
    store = deploy(plain())
    for number, order in enumerate(itertools.permutations(rows)):
        for one in order:
            write(store, {**one, "key": f"k{number}"})
    keys = [{"key": f"k{n}"} for n in range(24)]
    assert read(store, *keys) == [(3, "PRESENT")] * 24


def test_of_several_rows_in_one_write_the_newest_counts(deploy):
    store = deploy(plain())
    write(store, row(1, 0, 0), row(3, 5, 6), row(2, 5, 5), row(4, 3, 9))
    assert read(store, A) == [(3, "PRESENT")]


def test_a_correction_at_the_same_event_time_replaces_what_it_corrects(deploy):
    store = deploy(plain())
    write(store, row(1, 5, 5))
    write(store, row(2, 5, 6))
    assert read(store, A) == [(2, "PRESENT")]
    write(store, row(3, 5, 4))  # created before the correction: it arrives late, and corrects nothing
    assert read(store, A) == [(2, "PRESENT")]


def test_without_a_created_column_the_last_written_of_one_event_time_counts(deploy):
    store = deploy(plain(created=None))
    write(store, row(1, 5))
    write(store, row(2, 5))
    assert read(store, A) == [(2, "PRESENT")]
    write(store, row(3, 4.999999))
    assert read(store, A) == [(2, "PRESENT")]


def test_a_row_whose_creation_is_null_loses_to_one_whose_is_known(deploy):
    store = deploy(plain())
    write(store, row(1, 5, 5))
    write(store, {**row(2, 5), "known": pd.NaT})
    assert read(store, A) == [(1, "PRESENT")]


def test_a_row_newer_by_a_microsecond_counts_and_its_time_is_exact(deploy):
    store = deploy(plain())
    write(store, row(1, 0.123456, 1))
    write(store, row(2, 0.123457, 0))
    response = store.get_online_features(["plain:amount"], [A]).proto
    assert response.results[1].event_timestamps[0].ToMicroseconds() == to_microseconds(at(0.123457))


def test_writers_that_race_leave_the_newest_row(deploy):
    store = deploy(plain())
    start = threading.Barrier(4)

    def keep_writing(first):
        start.wait()
        for n in range(first, 120, 4):
            write(store, row(n, n % 30, n))

    threads = [threading.Thread(target=keep_writing, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(store, A) == [(119, "PRESENT")]


def test_a_row_that_another_client_of_the_store_wrote_is_read_and_corrected(deploy):
    store = deploy(plain())
    config = store.config.model_dump(by_alias=True)
    stock = FeatureStore(
        config=RepoConfig(**{**config, "online_store": {"type": "redis", "connection_string": "unused:1"}})
    )
    stock._get_provider().online_store._client = online_client(store)
    write(stock, row(1, 5, 9))
    assert read(store, A) == [(1, "PRESENT")]
    write(store, row(2, 5, 3))
    assert read(store, A) == [(2, "PRESENT")] == read(stock, A)


def test_an_entity_without_a_row_is_not_found(deploy):
    store = deploy(plain())
    write(store, row(1, 0, 0))
    assert read(store, {"key": "b"}, A, {"key": ""}) == [
        (None, "NOT_FOUND"), (1, "PRESENT"), (None, "NOT_FOUND")
    ]  # fmt: skip


def test_a_null_that_was_written_is_a_null_and_no_missing_row(deploy):
    store = deploy(plain(fields=(("amount", Int64), ("note", String))))
    write(store, {**row(1, 0, 0), "note": None})
    assert read(store, A, feature="plain:note") == [(None, "NULL_VALUE")]
    assert read(store, A) == [(1, "PRESENT")]


def test_a_value_is_corrected_to_null(deploy):
    store = deploy(plain())
    write(store, row(1, 5, 5))
    write(store, row(None, 5, 6))
    assert read(store, A) == [(None, "NULL_VALUE")]
    write(store, row(2, 5, 7))
    asyncio.run(store.write_to_online_store_async("plain", pd.DataFrame([row(None, 5, 8)])))
    assert read(store, A) == [(None, "NULL_VALUE")]


def test_no_rows_and_rows_without_the_feature_are_not_written(deploy):
    store = deploy(plain())
    with pytest.warns(UserWarning, match="plain: no rows to write"):
        store.write_to_online_store("plain", pd.DataFrame([row(1, 0, 0)])[:0])
    with pytest.raises(KeyError, match=r"plain: no column \['amount'\] in the rows, which have .*'key'"):
        store.write_to_online_store("plain", pd.DataFrame([row(1, 0, 0)]).drop(columns="amount"))
    assert read(store, A) == [(None, "NOT_FOUND")]


def test_values_may_be_written_as_columns(deploy):
    store = deploy(plain())
    columns = {name: [value] for name, value in row(3, 0, 0).items()}
    store.write_to_online_store("plain", inputs=columns)
    assert read(store, A) == [(3, "PRESENT")]


@pytest.mark.parametrize(
    ("age", "answer"),
    [
        (timedelta(hours=1), (1, "PRESENT")),
        (timedelta(hours=1, microseconds=1), (None, "OUTSIDE_MAX_AGE")),
        (timedelta(days=400), (None, "OUTSIDE_MAX_AGE")),
        (timedelta(0), (1, "PRESENT")),
    ],
)
def test_a_row_is_given_up_to_its_ttl_at_the_instant_asked(deploy, age, answer):
    store = deploy(plain(ttl=timedelta(hours=1)))
    write(store, row(1, 0, 0))
    assert read(store, {**A, "event_timestamp": at(0) + age}) == [answer]


def test_without_an_instant_the_age_is_taken_now(deploy):
    store = deploy(plain(ttl=timedelta(hours=1)))
    now = datetime.now(UTC)
    write(store, row(1, 0, 0), {"key": "b", "amount": 2, "time": now, "known": now})
    assert read(store, A, {"key": "b"}) == [(None, "OUTSIDE_MAX_AGE"), (2, "PRESENT")]
    response = store.get_online_features(["plain:amount"], [A]).proto
    assert response.results[1].event_timestamps[0].ToMicroseconds() == to_microseconds(at(0))


def test_without_a_ttl_a_row_is_given_at_any_age(deploy):
    store = deploy(plain(ttl=timedelta(0)))
    write(store, row(1, 0, 0))
    assert read(store, {**A, "event_timestamp": at(9e9)}) == [(1, "PRESENT")]


def test_a_longer_ttl_brings_back_what_was_too_old(deploy):
    store = deploy(plain(ttl=timedelta(hours=1)))
    write(store, row(1, 0, 0))
    asked = {**A, "event_timestamp": at(7200)}
    assert read(store, asked) == [(None, "OUTSIDE_MAX_AGE")]
    store.apply([plain(ttl=timedelta(hours=2))])
    assert read(store, asked) == [(1, "PRESENT")]


def test_integer_text_and_composite_keys_do_not_meet(deploy):
    store = deploy(
        plain(),
        plain("by_number", entities=[NUMBER]),
        plain("by_both", entities=[PLACE, HOLDER]),
    )
    write(store, row(1, 0, 0, key="7"))
    write(store, row(2, 0, 0, number=7), row(3, 0, 0, number=-7), view="by_number")
    write(
        store,
        row(4, 0, 0, key="a", place="b"),
        row(5, 0, 0, key="b", place="a"),
        row(6, 0, 0, key="ab", place=""),
        view="by_both",
    )
    features = ["plain:amount", "by_number:amount", "by_both:amount"]
    rows = [
        {"key": "7", "number": 7, "place": ""},
        {"key": "a", "number": -7, "place": "b"},
        {"key": "b", "number": 8, "place": "a"},
        {"key": "ab", "number": 2**63 - 1, "place": ""},
    ]
    answer = store.get_online_features(features, rows, full_feature_names=True).to_dict()
    assert answer["plain__amount"] == [1, None, None, None]
    assert answer["by_number__amount"] == [2, 3, None, None]
    assert answer["by_both__amount"] == [None, 4, 5, 6]


def test_repeated_entities_are_each_answered_in_their_place(deploy):
    store = deploy(plain(ttl=timedelta(hours=1)))
    write(store, row(1, 0, 0), row(2, 0, 0, key="b"))
    rows = [
        {"key": key, "event_timestamp": at(t)}
        for key, t in [("b", 0), ("a", 9999), ("c", 0), ("b", 5), ("a", 5)]
    ]
    assert [value for value, _ in read(store, *rows)] == [2, None, None, 2, 1]


def test_values_of_every_kind_come_back_as_they_were_written(deploy):
    fields = {
        "whole": (Int32, -(2**31)),
        "long": (Int64, 2**63 - 1),
        "single": (Float32, np.float32(0.1)),
        "real": (Float64, 0.1),
        "text": (String, "naïve \x00 text"),
        "flag": (Bool, False),
        "when": (UnixTimestamp, datetime(2024, 2, 29, 1, 2, 3, tzinfo=UTC)),
        "list": (Array(Float64), [1.5, -0.0]),
        "texts": (Array(String), ["", "x"]),
    }
    store = deploy(plain(fields=[(name, kind) for name, (kind, _) in fields.items()]))
    written = {name: [value] for name, (_, value) in fields.items()}
    frame = pd.DataFrame({**written, "key": ["a"], "time": [at(0)], "known": [at(0)]})
    frame["whole"] = frame["whole"].astype("int32")
    store.write_to_online_store("plain", frame)
    answer = store.get_online_features([f"plain:{name}" for name in fields], [A]).to_dict()
    assert {name: answer[name][0] for name in fields} == {name: value for name, (_, value) in fields.items()}


def test_reading_and_writing_asynchronously_are_the_same(deploy):
    store = deploy(plain())

    async def both():
        await store.write_to_online_store_async("plain", pd.DataFrame([row(1, 5, 5)]))
        await store.write_to_online_store_async("plain", pd.DataFrame([row(2, 5, 6)]))
        return await store.get_online_features_async(["plain:amount"], [A, {"key": "b"}])

    response = asyncio.run(both())
    assert response.to_dict() == {"key": ["a", "b"], "amount": [2, None]}
    assert list(response.proto.results[1].statuses) == [FieldStatus.PRESENT, FieldStatus.NOT_FOUND]


def test_keys_expire_when_the_store_says_so(deploy):
    store = deploy(plain())
    store.config.online_store.key_ttl_seconds = 1000
    write(store, row(1, 0, 0))
    (key,) = entity_hashes(online_client(store), store.project)
    assert 0 < online_client(store).ttl(key) <= 1000


def test_a_row_without_an_event_time_is_refused(deploy):
    store = deploy(plain())
    frame = pd.DataFrame([row(1, 0, 0), {**row(2, 0, 0, key="b"), "time": pd.NaT}])
    with pytest.raises(ValueError, match=r"^plain: event time null for key='b'"):
        store.write_to_online_store("plain", frame)
    assert read(store, A) == [(None, "NOT_FOUND")]


def test_a_deleted_view_leaves_nothing_and_takes_nothing_of_its_neighbours(deploy):
    one, other = plain("one"), plain("other")
    store = deploy(one, other, plain("alone", entities=[PLACE]))
    for view in ("one", "other"):
        write(store, row(1, 0, 0), row(2, 0, 0, key="b"), view=view)
    write(store, row(3, 0, 0, key="c"), view="one")
    write(store, row(4, 0, 0, place="a"), view="alone")
    store.apply([other], objects_to_delete=[one], partial=False)
    client = online_client(store)
    kept = [set(client.hkeys(key)) for key in entity_hashes(client, store.project)]
    assert (
        len(kept) == 3
    )  # a and b of the other view, a of the last; each with its time, its creation and a feature
    assert all(len(fields) == 3 and b"_ts:one" not in fields for fields in kept)
    answer = store.get_online_features(["other:amount"], [A, {"key": "b"}, {"key": "c"}]).to_dict()
    assert answer["amount"] == [1, 2, None]
    store.apply([one])
    assert read(store, A, {"key": "c"}, feature="one:amount") == [(None, "NOT_FOUND")] * 2


class Overtaken:
    """A client after whose first pipeline something else happens."""

    def __init__(self, client, then):
        self._client, self._then = client, [then]

    def __getattr__(self, name):
        return getattr(self._client, name)

    def pipeline(self, **options):
        pipeline = self._client.pipeline(**options)
        execute = pipeline.execute

        def executed():
            answers = execute()
            while self._then:
                self._then.pop()()
            return answers

        pipeline.execute = executed
        return pipeline


def test_what_another_view_writes_while_one_is_deleted_stays(deploy):
    one, other = plain("one"), plain("other")
    store = deploy(one, other)
    write(store, row(1, 0, 0), view="one")
    late = Overtaken(online_client(store), lambda: write(store, row(2, 0, 0), view="other"))
    PlainRows(late, store.config, store.get_feature_view("one")).remove()
    assert read(store, A, feature="one:amount") == [(None, "NOT_FOUND")]
    assert read(store, A, feature="other:amount") == [(2, "PRESENT")]


def test_teardown_takes_every_row_of_its_project_and_none_of_another_whose_name_ends_alike(
    module_home, tmp_path
):
    views = [plain(), plain("nobodys", entities=[]), plain("gone")]
    short = project(tmp_path, NUMBER, *views, name="teardown")
    long = project(tmp_path, NUMBER, plain(), name="my_teardown")
    for store in (short, long):
        write(store, row(1, 0, 0))
    write(short, {**row(2, 0, 0), "__dummy_id": ""}, view="nobodys")
    write(short, row(3, 0, 0), view="gone")
    short.registry.delete_feature_view("gone", short.project)
    client = online_client(short)
    assert len(list(entity_hashes(client, "teardown"))) == 2
    short.teardown()
    assert list(entity_hashes(client, "teardown")) == []
    assert read(long, A) == [(1, "PRESENT")]
