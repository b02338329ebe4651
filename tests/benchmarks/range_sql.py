"""W against the same columns by DuckDB's ``RANGE`` windows."""

from tests.benchmarks.bench import Bench
from tests.benchmarks.sql import run_range
from tests.benchmarks.versus import against


def run(bench: Bench) -> None:
    """The SQL adds integers, so every value must be ours to the bit."""
    against(bench, "DuckDB's RANGE windows", run_range, goal=">= 5", rounds=3, exact=True)
