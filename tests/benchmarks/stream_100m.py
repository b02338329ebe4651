"""W on 100M rows, streamed to Parquet: against the floor, and its memory, which a setting bounds and not the rows."""

from tests.benchmarks.bench import Bench
from tests.benchmarks.streamed import against_floor


def run(bench: Bench) -> None:
    """Once, with the floor before and after."""
    _, _, conditions = against_floor(bench, bench.size(100_000_000, 120_000), "<= 5", 1)
    bench.record(
        "peak_rss", conditions["peak_rss_gb"], "GB", goal="< 4", rows=conditions["rows"],
        memory_limit=conditions["memory_limit"],
    )  # fmt: skip
