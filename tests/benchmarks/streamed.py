"""W on simulated rows, streamed to Parquet, against the floor: what ``stream_20m`` and ``stream_100m`` share."""

import shutil
from pathlib import Path
from typing import Any

from tests.benchmarks.bench import Bench
from tests.benchmarks.events import Lake, simulated
from tests.benchmarks.measure import in_own_process, median, rounded, seconds
from tests.benchmarks.sql import sort_by_each_key
from tests.benchmarks.workload import columns, open_store, stream

_MEMORY_LIMIT = "2.4GB"
_BYTES_A_ROW = 450  # of all that lies on disk at once: Parquet written, and what sorting spills


def against_floor(bench: Bench, rows: int, goal: str, rounds: int) -> tuple[Lake, Path, dict[str, Any]]:
    """Report the ratio to the floor and the peak of memory; each run in a fresh process, the floor before and after ours.

    Returns:
        The lake, the folder of Parquet files that ours wrote last, and the conditions with its seconds, ``ours_s``.
    """
    bench.need_disk(rows * _BYTES_A_ROW)
    lake = simulated(bench, rows)
    target = bench.home / "written"
    ours: list[float] = []
    floor: list[float] = []
    peaks: list[int] = []
    for _ in range(rounds):
        bench.step("the floor")
        floor.append(in_own_process(_floor, lake).value)
        shutil.rmtree(target, ignore_errors=True)
        bench.step("ours")
        outcome = in_own_process(_ours, bench.home, lake, target)
        ours.append(outcome.value)
        peaks.append(outcome.peak_bytes)
    bench.step("the floor")
    floor.append(in_own_process(_floor, lake).value)
    written = sum(path.stat().st_size for path in target.rglob("*.parquet"))
    conditions = {
        "rows": rows, "columns": len(columns(lake.path)), "ours_s": rounded(ours), "floor_s": rounded(floor),
        "memory_limit": _MEMORY_LIMIT, "written_gb": round(written / 1e9, 2), "peak_rss_gb": round(max(peaks) / 1e9, 2),
    }  # fmt: skip
    bench.record(
        "ratio", median(ours) / median(floor), "x", goal=goal,
        against="DuckDB sorting the same rows by customer and by terminal", **conditions,
    )  # fmt: skip
    return lake, target, conditions


def _floor(lake: Lake) -> float:
    return seconds(lambda: sort_by_each_key(lake))


def _ours(home: Path, lake: Lake, target: Path) -> float:
    store = open_store(home, lake, _MEMORY_LIMIT)
    return seconds(lambda: stream(store, target))
