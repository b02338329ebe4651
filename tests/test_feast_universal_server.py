"""What Feast's own tests ask of any store and no other file here holds ours to: its server, logs and checks of data sets."""

import warnings

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureView, Field, FileSource, PushSource
from feast.dqm.errors import ValidationFailed
from feast.dqm.profilers.profiler import Profile, Profiler, ValidationError, ValidationReport
from feast.feature_logging import FeatureServiceLoggingSource, LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination, SavedDatasetFileStorage
from feast.types import Int64

from tests.feast_universal import COUNT, deploy, deploy_everything, history
from tests.windows_project import HOLDER, START, at, event, events_source, plain_view, view_of, write_events


@pytest.fixture
def server(folder):
    """A store with a plain and a windowed view, each fed by a push source, and a client of its server."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from feast.feature_server import get_app
        from starlette.testclient import TestClient

        path = write_events(folder / "events.parquet", [event(1, 0)])
        rows = write_events(folder / "rows.parquet", [event(1, 0, amount=3)])
        source = events_source(path)
        pushed = PushSource(
            name="prices",
            batch_source=FileSource(
                name="rows", path=str(rows), timestamp_field="time", created_timestamp_column="known"
            ),
        )
        plain = FeatureView(
            name="plain", entities=[HOLDER], schema=[Field(name="amount", dtype=Int64)], source=pushed
        )
        store = deploy(folder, source, pushed, view_of(source, {("count", ""): ["1h"]}), plain)
        store.materialize(START, at(9))
        yield store, TestClient(get_app(store), raise_server_exceptions=False)


def served(client, **entities):
    answer = client.post("/get-online-features", json={"features": ["plain:amount"], "entities": entities})
    assert answer.status_code == 200, answer.text
    names = answer.json()["metadata"]["feature_names"]
    assert sorted(names) == ["amount", "key"]
    vectors = dict(zip(names, answer.json()["results"], strict=True))
    assert vectors["key"]["values"] == entities["key"]
    return vectors["amount"]["values"], vectors["amount"]["statuses"]


def pushed_row(amount, seconds):
    moment = at(seconds).isoformat()
    return {
        "key": ["a"],
        "amount": [amount],
        "id": ["e9"],
        "place": ["x"],
        "time": [moment],
        "known": [moment],
    }


def test_a_row_pushed_to_the_server_is_served_and_in_history(server):
    store, client = server
    assert served(client, key=["a", "b"]) == ([3, None], ["PRESENT", "NOT_FOUND"])
    body = {"push_source_name": "prices", "df": pushed_row(300, 5), "to": "online_and_offline"}
    answer = client.post("/push", json=body)
    assert answer.status_code == 200, answer.text
    assert served(client, key=["a", "b"]) == ([300, None], ["PRESENT", "NOT_FOUND"])
    asked = [{"key": "a", "event_timestamp": at(t)} for t in (4, 5)]
    assert history(store, asked, ["plain:amount"])["amount"] == [3, 300]
    write = client.post("/write-to-online-store", json={"feature_view_name": "plain", "df": pushed_row(7, 6)})
    assert write.status_code == 200, write.text
    assert served(client, key=["a"])[0] == [7]


def test_what_cannot_be_pushed_to_the_server_is_an_error_and_changes_nothing(server):
    _, client = server
    assert (
        client.post("/push", json={"push_source_name": "nowhere", "df": pushed_row(1, 5)}).status_code >= 400
    )
    answer = client.post("/push", json={"push_source_name": "arrivals", "df": pushed_row(1, 5)})
    assert answer.status_code >= 400
    assert "record events" in answer.text
    assert served(client, key=["a"])[0] == [3]


@pytest.mark.parametrize("given", ["table", "path"])
def test_logs_of_a_service_of_views_of_every_kind_are_all_found_again(folder, given):
    store, _ = deploy_everything(folder)
    destination = folder / "logs"
    destination.mkdir()
    part = store.get_feature_service("part")
    part.logging_config = LoggingConfig(destination=FileLoggingDestination(path=str(destination)))
    store.apply([part])
    schema = FeatureServiceLoggingSource(part, store.project).get_schema(store.registry)
    names = {f"windows__{COUNT}", "latest__note", "around__more", "scaled_windows__halved"}
    assert names | {"key", "factor"} <= set(schema.names)
    samples = {pa.int64(): 4, pa.string(): "x", pa.float64(): 0.5, pa.int32(): 1, pa.date32(): START.date()}
    logged = [
        {f.name: samples.get(f.type, at(n)) for f in schema}
        | {"__log_timestamp": at(n), "__request_id": f"r{n}"}
        for n in range(10)
    ]
    for number, some in enumerate((logged[:6], logged[6:])):
        table = pa.Table.from_pylist(some, schema)
        if given == "path":
            batch = folder / f"batch{number}"
            batch.mkdir()
            pq.write_table(table, batch / "0.parquet")
        store.write_logged_features(table if given == "table" else batch, part)
    job = store._get_provider().retrieve_feature_service_logs(
        part, at(2), at(8), store.config, store.registry
    )
    found = job.to_arrow().sort_by("__request_id")
    columns = [name for name in schema.names if name != "__log_date"]
    assert found.select(columns).to_pylist() == [{name: row[name] for name in columns} for row in logged[2:9]]


class Bounds(Profile, ValidationReport):
    """Every number of a data set lies between the least and the greatest of the one that was profiled."""

    def __init__(self, bounds):
        self.bounds, self.found = bounds, []

    def validate(self, dataset):
        report = Bounds(self.bounds)
        report.found = [
            ValidationError(check_name="bounds", column_name=name)
            for name, (least, most) in self.bounds.items()
            if not dataset[name].dropna().between(least, most).all()
        ]
        return report

    @property
    def is_success(self):
        return not self.found

    @property
    def errors(self):
        return self.found


class BoundsOf(Profiler):
    def __init__(self, columns):
        self.columns = columns

    def analyze_dataset(self, dataset):
        return Bounds({name: (dataset[name].min(), dataset[name].max()) for name in self.columns})


@pytest.mark.filterwarnings("ignore:Dataset validation is an experimental feature:RuntimeWarning")
def test_a_retrieval_is_checked_against_a_saved_data_set(folder):
    path = write_events(folder / "events.parquet", [event(n, n, amount=n) for n in range(20)])
    source = events_source(path)
    store = deploy(
        folder, source, view_of(source, {("sum", "amount"): ["1h"], ("count", ""): ["1h"]}), plain_view(path)
    )
    features = ["view:all_amount_sum_1h", "view:all_events_count_1h", "plain:amount"]

    def ask(*seconds):
        rows = pd.DataFrame([{"key": "a", "event_timestamp": at(t)} for t in seconds])
        return store.get_historical_features(rows, features)

    storage = SavedDatasetFileStorage(str(folder / "saved.parquet"))
    store.create_saved_dataset(ask(5, 10), "training", storage)
    names = [ref.split(":")[1] for ref in features]
    reference = store.get_saved_dataset("training").as_reference("reference", BoundsOf(names))
    assert len(ask(6, 7, 10).to_df(validation_reference=reference)) == 3
    for run in (ask(7, 15).to_df, ask(7, 15).to_arrow):
        with pytest.raises(ValidationFailed) as failed:
            run(validation_reference=reference)
        assert [error.column_name for error in failed.value.report.errors] == names
