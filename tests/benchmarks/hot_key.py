"""A key with a million events in its longest window, beside keys with twenty: reading it exactly, and writing to it."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from feature_repo.windows.plan import INSTANT, OnlinePlan
from feature_repo.windows.recorder import EventRecorder
from feature_repo.windows.state import to_microseconds
from tests.benchmarks.bench import Bench
from tests.benchmarks.keyed import END, SERVICE, SOURCE, SPENT, events, open_keyed
from tests.benchmarks.measure import median, percentile, seconds
from tests.benchmarks.server import client_of, on_one_processor, sent_bytes, spent_s

_COLD_KEYS, _COLD_EVENTS = 5_000, 20
_HOT = "0"
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


def run(bench: Bench) -> None:
    """Load, read at many instants and compare with offline, then write to the hot key and to cold ones in turns."""
    hot = bench.size(1_000_000, 20_000)
    keys = np.concatenate([np.zeros(hot, int), np.repeat(np.arange(1, _COLD_KEYS + 1), _COLD_EVENTS)])
    bench.step("making events")
    store = open_keyed(bench.home, events(keys, seed=5), SPENT)
    bench.step("materializing")
    store.materialize(_BEGINNING, END)
    plan = OnlinePlan.compile(store, SERVICE)
    plan.warm()
    _read(bench, store, plan, hot)
    _write(bench, store, hot)


def _read(bench: Bench, store: Any, plan: OnlinePlan, hot: int) -> None:
    bench.step("reading")
    instants = [END + timedelta(seconds=7 * i) for i in range(bench.size(500, 20))]
    rows = [{"key": _HOT, INSTANT: to_microseconds(instant)} for instant in instants]
    plan.read(rows[:1])
    client = client_of(store)
    sent = sent_bytes(client)
    answers: list[Any] = []
    server_s, client_s = spent_s(client), time.thread_time()
    apart = [seconds(lambda row=row: answers.append(plan.read([row]))) for row in rows]
    server_ms, client_ms = (
        (now - then) / len(rows) * 1e3
        for now, then in ((spent_s(client), server_s), (time.thread_time(), client_s))
    )
    read_bytes = (sent_bytes(client) - sent) / len(rows)
    with on_one_processor(client):
        taken = [seconds(lambda row=row: plan.read([row])) for row in rows]
    found = np.concatenate([answer.values for answer in answers])
    frame = pd.DataFrame({"key": _HOT, "event_timestamp": instants})
    offline = store.get_historical_features(frame, store.get_feature_service(SERVICE)).to_df()
    expected = offline[list(plan.feature_names)].to_numpy(dtype=np.float64, na_value=np.nan)
    differ = int(((found != expected) & ~(np.isnan(found) & np.isnan(expected))).sum())
    conditions = {
        "events": hot, "features": len(plan.feature_names), "reads": len(rows),
        "server_ms": round(server_ms, 3), "client_ms": round(client_ms, 3),
        "p99_ms": round(percentile(taken, 99) * 1e3, 3), "apart_p50_ms": round(median(apart) * 1e3, 3),
        "apart_p99_ms": round(percentile(apart, 99) * 1e3, 3),
    }  # fmt: skip
    bench.record(
        "differing", differ, "values", against="offline at the same instants", goal="<= 0", **conditions
    )
    bench.record(
        "read_spent", server_ms + client_ms, "ms", goal="< 2", against="processor time of server and client", **conditions
    )  # fmt: skip
    bench.record(
        "read_p50", median(taken) * 1e3, "ms", goal="< 2", against="by the clock, both on one processor; apart_: on any",
        **conditions,
    )  # fmt: skip
    bench.record("read_bytes", read_bytes / 1024, "KiB", goal="< 256", **conditions)


def _write(bench: Bench, store: Any, hot: int) -> None:
    bench.step("writing")
    recorder = EventRecorder.compile(store)
    taken: dict[str, list[float]] = {"hot": [], "cold": []}
    writes = bench.size(5_000, 200)
    for i in range(writes):
        for name, key in (("hot", _HOT), ("cold", str(1 + i % _COLD_KEYS))):
            event = {
                "id": f"{name}{i}", "key": key, "place": "1", "amount": 5, "items": 1,
                "time": END + timedelta(milliseconds=i), "known": END + timedelta(milliseconds=i),
            }  # fmt: skip
            taken[name].append(seconds(lambda event=event: recorder.record(SOURCE, [event])))
    means = {name: sum(samples) / writes for name, samples in taken.items()}
    # Means, so that work which is put off and done now and then is counted.
    bench.record(
        "write_cost", means["hot"] / means["cold"], "x", against="writing to keys with twenty events", goal="<= 1.1",
        events=hot, writes=writes, hot_mean_us=round(means["hot"] * 1e6, 1), cold_mean_us=round(means["cold"] * 1e6, 1),
        hot_p50_us=round(median(taken["hot"]) * 1e6, 1), cold_p50_us=round(median(taken["cold"]) * 1e6, 1),
    )  # fmt: skip
