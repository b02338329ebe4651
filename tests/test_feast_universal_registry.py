"""What Feast's own tests ask of any store and no other file here holds ours to: what is registered."""

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from feast import FeatureStore, RepoConfig
from feast.cli.cli import cli as feast_command
from feast.errors import RegistryInferenceFailure
from feast.types import Int64, String
from google.protobuf.message import Message

from feature_repo.settings import PROJECT_ROOT
from feature_repo.store import apply_definitions, open_store
from tests.feast_universal import deploy, history
from tests.homes import fraud_home
from tests.windows_project import (
    HOLDER,
    START,
    TIME,
    at,
    event,
    events_source,
    plain_view,
    view_of,
    write_events,
)  # fmt: skip


def test_the_column_of_the_times_is_found_where_it_is_the_only_one(folder):
    table = pa.table({"key": ["a"], "amount": [5], "time": pa.array([at(0)], TIME)})
    pq.write_table(table, folder / "one.parquet")
    pq.write_table(table.append_column("other", table["time"]), folder / "two.parquet")

    def unnamed(name):
        return plain_view(folder / f"{name}.parquet", name, timestamp_field="", created_timestamp_column="")

    store = deploy(folder, unnamed("one"))
    store.materialize(START, at(9))
    asked = [{"key": "a", "event_timestamp": at(9)}]
    assert history(store, asked, ["one:amount"])["amount"] == [5]
    assert store.get_online_features(["one:amount"], asked).to_dict()["amount"] == [5]
    with pytest.raises(RegistryInferenceFailure):
        store.apply([unnamed("two")])


def test_what_was_loaded_is_remembered_when_a_view_is_applied_again_and_of_a_new_name_not(folder):
    path = write_events(folder / "events.parquet", [event(1, 0, amount=3)])
    source = events_source(path)

    def views(suffix=""):
        return view_of(source, {("count", ""): ["1h"]}, name=f"view{suffix}"), plain_view(
            path, f"plain{suffix}"
        )

    def loaded(*names):
        return [store.get_feature_view(name).materialization_intervals for name in names]

    store = deploy(folder, source, *views())
    assert loaded("view", "plain") == [[], []]
    store.materialize(START, at(9))
    assert loaded("view", "plain") == [[(START, at(9))]] * 2
    store.apply([source, *views()])
    store.apply([plain_view(path, "plain", fields=(("amount", Int64), ("id", String)))])
    assert loaded("view", "plain") == [[(START, at(9))]] * 2
    store.apply([source, *views("_new")])
    assert loaded("view_new", "plain_new") == [[], []]


def test_rows_of_one_version_of_a_view_are_not_those_of_another(folder):
    config = deploy(folder).config.model_dump(by_alias=True)
    registry = {"path": str(folder / "versions.db"), "enable_online_feature_view_versioning": True}
    store = FeatureStore(config=RepoConfig(**{**config, "registry": registry}))
    store.apply([HOLDER, plain_view("nowhere.parquet")])
    row = {"key": "a", "amount": 10, "id": "e", "time": at(0), "known": at(0)}
    store.write_to_online_store("plain", pd.DataFrame([row]))
    wide = plain_view("nowhere.parquet", fields=(("amount", Int64), ("id", String)))
    store.apply([HOLDER, wide])
    assert store.get_online_features(["plain:amount"], [{"key": "a"}]).to_dict()["amount"] == [None]
    store.write_to_online_store("plain", pd.DataFrame([{**row, "amount": 20}]))
    for ref, amount in (("plain@v0:amount", 10), ("plain@v1:amount", 20), ("plain:amount", 20)):
        answer = store.get_online_features([ref], [{"key": "a"}]).to_dict()
        assert [v for name, v in answer.items() if name != "key"] == [[amount]], ref


@pytest.fixture
def command(tmp_path):
    """Runs ``feast`` on this repository, applied to a registry of its own, in this process."""
    with fraud_home(tmp_path):
        apply_definitions(open_store())
        yield lambda *arguments: CliRunner().invoke(
            feast_command, ["-c", str(PROJECT_ROOT / "feature_repo"), *arguments]
        )


def test_every_kind_of_object_is_listed_and_described_and_what_is_not_there_is_an_error(command):
    known = {
        "entities": "customer",
        "stream-feature-views": "customer_activity",
        "on-demand-feature-views": "spending_features",
        "feature-services": "fraud_v1",
        "data-sources": "transactions",
    }
    for kind, name in known.items():
        listed = command(kind, "list")
        assert listed.exit_code == 0, listed.output
        assert name in listed.output
        described = command(kind, "describe", name)
        assert described.exit_code == 0, described.output
        assert name in described.output
        assert command(kind, "describe", "no_such_thing").exit_code == 1, kind
    assert "customer_activity" in command("feature-views", "describe", "customer_activity").output
    for kind in ("permissions", "saved-datasets", "validation-references"):
        assert command(kind, "list").exit_code == 0, kind


def without_notes(message):
    """A message of the registry without what Feast notes on when it was made and changed."""
    for field, value in message.ListFields():
        if field.name in ("meta", "created_timestamp", "last_updated_timestamp"):
            message.ClearField(field.name)
        elif isinstance(value, Message):
            without_notes(value)
        elif field.message_type:
            several = value.values() if field.message_type.GetOptions().map_entry else value
            for each in several:
                if isinstance(each, Message):
                    without_notes(each)
    return message


def test_applying_the_repository_again_leaves_the_registry_as_it_was(command):
    def specs():
        store = open_store()
        lists = (
            store.list_entities,
            store.list_data_sources,
            store.list_stream_feature_views,
            store.list_on_demand_feature_views,
            store.list_feature_services,
        )
        return {each.name: without_notes(each.to_proto()) for listed in lists for each in listed()}

    before = specs()
    assert before.keys() >= {"customer", "transactions", "customer_activity", "spending_features", "fraud_v1"}
    applied = command("apply")
    assert applied.exit_code == 0, applied.output
    assert specs() == before


@pytest.mark.filterwarnings(
    "ignore:We will be deprecating the usage of spec.userDefinedFunction:DeprecationWarning"
)
def test_the_registry_is_shown_as_json(command):
    shown = command("registry-dump")
    assert shown.exit_code == 0, shown.exception
    assert "customer_activity" in shown.output
