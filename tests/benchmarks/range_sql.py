"""W against the same columns by DuckDB's ``RANGE`` windows, every value of both compared."""

from tests.benchmarks.bench import Bench
from tests.benchmarks.events import handbook
from tests.benchmarks.measure import in_turns, median, rounded
from tests.benchmarks.sql import differing, run_range
from tests.benchmarks.workload import ASKED, columns, open_store, retrieve


def run(bench: Bench) -> None:
    """Both in turns, after one call of each that is not counted; their answers are compared."""
    lake = handbook(bench)
    store = open_store(bench.home, lake)
    entities = lake.entity_frame()
    wanted = columns(lake.path)
    bench.step("warming, and comparing values")
    ours = retrieve(store, entities[ASKED]).append_column("transaction_id", [entities["transaction_id"]])
    other = differing(ours, run_range(lake, wanted), wanted)
    calls = {"ours": lambda: retrieve(store, entities[ASKED]), "range": lambda: run_range(lake, wanted)}
    bench.record(
        "differing", sum(other.values()), "values", against="DuckDB's RANGE windows, in integers", goal="<= 0",
        rows=len(entities), compared=len(entities) * len(wanted), differ=other,
    )  # fmt: skip
    del ours
    bench.step("timing")
    taken = in_turns(calls, bench.size(3, 1))
    bench.record(
        "faster", median(taken["range"]) / median(taken["ours"]), "x", against="DuckDB's RANGE windows", goal=">= 5",
        rows=len(entities), columns=len(wanted), ours_s=rounded(taken["ours"]), range_s=rounded(taken["range"]),
    )  # fmt: skip
