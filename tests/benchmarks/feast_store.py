"""50,000 entity rows through Feast's own DuckDB store, which is given the aggregates ready made, and through ours, which is not.

Each answers three times and the middle one counts, as one call varies by half. Feast's store joins every entity row with every
row of its key up to its instant before it keeps the newest, so it is given ten minutes. Memory is what a process grew by at its
peak, above what it held before the calls.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.bench import Bench
from tests.benchmarks.events import Lake, handbook, simulated
from tests.benchmarks.measure import in_own_process, median, memory_bytes, reset_peak, rounded, seconds
from tests.benchmarks.workload import ASKED, Column, applied, columns, open_store, retrieve

_LIMIT_S = 600.0
_ROWS = 50_000
_SEED = 7
_WARM_ROWS = 20
_ROUNDS = 3


def run(bench: Bench) -> None:
    """On the Handbook's rows, and on as many of which a few terminals have 1% each, as merchants do."""
    _compare(bench, "", handbook(bench))
    _compare(bench, "_skewed", simulated(bench, bench.size(1_500_000, 60_000)))


def _compare(bench: Bench, suffix: str, lake: Lake) -> None:
    """Each in a process of its own, after a call of a few rows; a run out of time counts with the time that it had."""
    store = open_store(bench.home, lake)
    frame = lake.entity_frame()[ASKED]
    everything = columns(lake.path)
    bench.step("making the aggregates that Feast is given")
    ready = retrieve(store, frame)
    keys = dict.fromkeys(column.keys for column in everything)
    given = {each: _write(bench.home, each, ready, everything) for each in keys}
    del ready
    chosen = frame.sample(bench.size(_ROWS, 2_000), random_state=_SEED).sort_values("event_timestamp")
    entities = bench.home / "entities.parquet"
    chosen.to_parquet(entities)
    bench.step("ours")
    ours = in_own_process(_ours, bench.home, lake, entities).value
    conditions = {"rows": len(frame), "entity_rows": len(chosen), "columns": len(everything), "ours": ours}
    name = "Feast's DuckDB store, given the aggregates"
    bench.step("Feast's")
    try:
        theirs = in_own_process(_feast, bench.home, given, entities, limit_s=_LIMIT_S).value
    except TimeoutError:
        bench.record(
            f"faster_at_least{suffix}", _LIMIT_S / ours["seconds"], "x", against=f"{name}, ended unfinished",
            goal=">= 50", limit_s=_LIMIT_S, **conditions,
        )  # fmt: skip
        return
    faster, memory = theirs["seconds"] / ours["seconds"], ours["grew_gb"] / theirs["grew_gb"]
    conditions["feast"] = theirs
    bench.record(f"faster{suffix}", faster, "x", against=name, goal=">= 50", **conditions)
    bench.record(f"memory{suffix}", memory, "of its memory", against=name, goal="<= 0.1", **conditions)


def _write(
    home: Path, keys: tuple[str, ...], ready: pa.Table, everything: list[Column]
) -> tuple[str, list[str]]:
    """The aggregates of a key as a Parquet file; returns its path and their names."""
    names = [column.name for column in everything if column.keys == keys]
    path = home / f"given_{'_'.join(keys)}.parquet"
    pq.write_table(ready.select([*keys, "event_timestamp", *names]), path)
    return str(path), names


def _ours(home: Path, lake: Lake, entities: Path) -> dict[str, Any]:
    store = open_store(home, lake)
    return _measured(lambda frame: retrieve(store, frame), pd.read_parquet(entities))


def _feast(home: Path, given: dict[tuple[str, ...], tuple[str, list[str]]], entities: Path) -> dict[str, Any]:
    store, features = _feast_store(home, given)
    return _measured(
        lambda frame: store.get_historical_features(frame, features).to_arrow(), pd.read_parquet(entities)
    )


def _measured(retrieve_rows: Any, frame: pd.DataFrame) -> dict[str, Any]:
    retrieve_rows(frame.head(_WARM_ROWS))
    reset_peak()
    before = memory_bytes()
    took = [seconds(lambda: retrieve_rows(frame)) for _ in range(_ROUNDS)]
    peak = memory_bytes("VmHWM")
    return {
        "seconds": median(took), "each": rounded(took), "grew_gb": (peak - before) / 1e9, "peak_gb": peak / 1e9,
    }  # fmt: skip


def _feast_store(home: Path, given: dict[tuple[str, ...], tuple[str, list[str]]]) -> tuple[Any, list[str]]:
    """A stock project: a view a key over its Parquet file."""
    from feast import FeatureView, Field, FileSource
    from feast.types import Float64

    from feature_repo.entities import customer, terminal

    entities = {"customer_id": customer, "terminal_id": terminal}
    views = [
        FeatureView(
            name="_".join(keys),
            entities=[entities[key] for key in keys],
            schema=[Field(name=name, dtype=Float64) for name in names],
            source=FileSource(name=f"file_{'_'.join(keys)}", path=path, timestamp_field="event_timestamp"),
        )
        for keys, (path, names) in given.items()
    ]
    store = applied(home, "stock", *entities.values(), *views, offline_store={"type": "duckdb"})
    return store, [
        f"{view.name}:{field.name}" for view in views for field in view.features if field.name not in entities
    ]
