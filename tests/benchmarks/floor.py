"""W through ``get_historical_features(...).to_arrow()`` against DuckDB sorting the same rows by each key."""

from tests.benchmarks.bench import Bench
from tests.benchmarks.events import handbook
from tests.benchmarks.measure import in_turns, median, memory_bytes, rounded
from tests.benchmarks.sql import sort_by_each_key
from tests.benchmarks.workload import ASKED, columns, open_store, retrieve


def run(bench: Bench) -> None:
    """Both in turns, after one call of each that is not counted."""
    lake = handbook(bench)
    store = open_store(bench.home, lake)
    entities = lake.entity_frame()[ASKED]
    calls = {"ours": lambda: retrieve(store, entities), "floor": lambda: sort_by_each_key(lake)}
    bench.step("warming")
    in_turns(calls, 1)
    bench.step("timing")
    taken = in_turns(calls, bench.size(5, 1))
    ours, floor = median(taken["ours"]), median(taken["floor"])
    bench.record(
        "ratio", ours / floor, "x", against="DuckDB sorting the same rows by customer and by terminal", goal="<= 6",
        rows=len(entities), columns=len(columns(lake.path)), ours_s=rounded(taken["ours"]),
        floor_s=rounded(taken["floor"]), peak_rss_gb=round(memory_bytes("VmHWM") / 1e9, 2),
    )  # fmt: skip
