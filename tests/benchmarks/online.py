"""45 windowed features over three keys, online: the compiled plan, and Feast's own ``get_online_features``.

Each is timed in turns with what no method avoids: the same commands to the same server in one bare pipeline, and, for
Feast's call, Feast's own work on an answer that is ready.
"""

import gc
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureService, FeatureStore, FeatureView, Field, FileSource
from feast.types import Float64

from feature_repo.entities import customer, terminal
from feature_repo.windows.plan import INSTANT, OnlinePlan
from feature_repo.windows.state import to_microseconds
from tests.benchmarks.bench import Bench
from tests.benchmarks.events import handbook
from tests.benchmarks.measure import median, percentile, seconds
from tests.benchmarks.server import client_of, commands_of, replay
from tests.benchmarks.workload import ONLINE, applied, online_part, open_store

_KEYS = 500
_SEED = 11
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


def run(bench: Bench) -> None:
    """Load the state, then ask of 500 transactions' keys, one at a time, at the end of the data."""
    lake = handbook(bench)
    store = open_store(bench.home, lake)
    entities = lake.entity_frame()
    end = entities["event_timestamp"].max().to_pydatetime() + timedelta(seconds=1)
    bench.step("materializing")
    store.materialize(_BEGINNING, end)
    asked = entities.tail(20_000).sample(_KEYS, random_state=_SEED)
    keys = list(zip(asked["customer_id"], asked["terminal_id"], strict=True))
    plan = OnlinePlan.compile(store, ONLINE)
    plan.warm()
    client = client_of(store)
    requests = [{"customer_id": c, "terminal_id": t, INSTANT: to_microseconds(end)} for c, t in keys]
    bare = [commands_of(client, lambda row=row: plan.read([row])) for row in requests]
    rounds = bench.size(20, 2)
    bench.step("the compiled plan")
    taken = _in_turns(
        len(keys) * rounds,
        plan=lambda i: plan.read([requests[i % _KEYS]]),
        bare=lambda i: replay(client, bare[i % _KEYS]),
    )
    conditions = {"features": len(plan.feature_names), "requests": len(taken["plan"])} | _milliseconds(taken)
    bench.record(
        "plan_p50", median(taken["plan"]) / median(taken["bare"]), "x", goal="<= 2.5",
        against="p50 of a bare pipelined read of the same keys", **conditions,
    )  # fmt: skip
    bench.record("plan_p99", percentile(taken["plan"], 99) * 1e3, "ms", goal="< 1", **conditions)
    _feast(bench, store, keys, end, (client, bare))


def _feast(
    bench: Bench, store: Any, keys: list[tuple[str, str]], end: datetime, bare: tuple[Any, Any]
) -> None:
    bench.step("get_online_features")
    ready = _ready(bench, store)
    service, same = store.get_feature_service(ONLINE), ready.get_feature_service(ONLINE)
    rows = [{"customer_id": c, "terminal_id": t, "event_timestamp": end} for c, t in keys]
    plain = [{"customer_id": c, "terminal_id": t} for c, t in keys]
    client, commands = bare

    def floor(i: int) -> None:
        replay(client, commands[i % _KEYS])
        ready.get_online_features(same, [plain[i % _KEYS]])

    taken = _in_turns(
        _KEYS * bench.size(4, 1),
        feast=lambda i: store.get_online_features(service, [rows[i % _KEYS]]),
        floor=floor,
    )
    bench.record(
        "get_online_features_p50", median(taken["feast"]) / median(taken["floor"]), "x", goal="<= 2.5",
        against="p50 of a bare pipelined read and Feast's own work on a ready answer",
        requests=len(taken["feast"]), **_milliseconds(taken),
    )  # fmt: skip


def _ready(bench: Bench, store: Any) -> FeatureStore:
    """The same features as plain views of a project whose answers are ready."""
    moment = pa.array([_BEGINNING], pa.timestamp("us", tz="UTC"))
    path = bench.home / "ready.parquet"
    pq.write_table(pa.table({"customer_id": ["c"], "terminal_id": ["t"], "event_timestamp": moment}), path)
    source = FileSource(name="ready", path=str(path), timestamp_field="event_timestamp")
    entities = {"customer": customer, "terminal": terminal}
    names = {column.name for column in online_part(bench.data)}
    views = [
        FeatureView(
            name=view.name, entities=[entities[name] for name in view.entities], source=source,
            schema=[Field(name=a.name, dtype=Float64) for a in view.aggregations if a.name in names],
        )
        for view in store.list_stream_feature_views()
    ]  # fmt: skip
    objects = [customer, terminal, *views, FeatureService(name=ONLINE, features=views)]
    stores = {"online_store": {"type": "tests.benchmarks.ready_store.ReadyOnlineStore"}}
    return applied(bench.home, "ready", *objects, **stores)


def _in_turns(requests: int, **calls: Any) -> dict[str, list[float]]:
    """Seconds of each call, request by request; the first hundred are not counted. Like the service, without old garbage."""
    for i in range(100):
        for call in calls.values():
            call(i)
    gc.collect()
    gc.freeze()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(requests):
        for name, call in calls.items():
            taken[name].append(seconds(lambda call=call, i=i: call(i)))
    gc.unfreeze()
    return taken


def _milliseconds(taken: dict[str, list[float]]) -> dict[str, float]:
    return {
        f"{name}_p{percent}_ms": round(percentile(samples, percent) * 1e3, 4)
        for name, samples in taken.items()
        for percent in (50, 99)
    }
