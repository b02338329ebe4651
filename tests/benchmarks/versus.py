"""W against another way of computing it on the Handbook's rows: both timed in turns in one process, their values compared."""

from collections.abc import Callable

import pyarrow as pa

from tests.benchmarks.bench import Bench
from tests.benchmarks.events import Lake, handbook
from tests.benchmarks.measure import in_turns, median, rounded
from tests.benchmarks.sql import differing
from tests.benchmarks.workload import ASKED, Column, columns, open_store, retrieve

Rival = Callable[[Lake, list[Column]], pa.Table]


def against(
    bench: Bench,
    name: str,
    rival: Rival,
    *,
    goal: str,
    rounds: int,
    without: frozenset[str] = frozenset(),
    exact: bool = False,
) -> None:
    """Report how many times faster ours is, and how many of the rival's values differ from ours.

    Ours computes all of W always; both are called once before they are timed.

    Args:
        rival: W of every transaction, with its ``transaction_id``, in any order of rows.
        rounds: how often each is timed.
        without: functions that the rival has not got, and is let off.
        exact: whether its values must be ours to the bit.
    """
    lake = handbook(bench)
    store = open_store(bench.home, lake)
    entities = lake.entity_frame()
    everything = columns(lake.path)
    theirs = [column for column in everything if column.function not in without]
    bench.step("warming, and comparing values")
    ours = retrieve(store, entities[ASKED]).append_column("transaction_id", [entities["transaction_id"]])
    other = differing(ours, rival(lake, theirs), theirs)
    del ours
    conditions = {
        "rows": len(entities), "columns": len(everything), "columns_of_the_other": len(theirs),
    }  # fmt: skip
    bench.record(
        "differing", sum(other.values()), "values", against=name, goal="<= 0" if exact else None,
        compared=len(entities) * len(theirs), differ=other, **conditions,
    )  # fmt: skip
    bench.step("timing")
    calls = {"ours": lambda: retrieve(store, entities[ASKED]), "other": lambda: rival(lake, theirs)}
    taken = in_turns(calls, bench.size(rounds, 1))
    bench.record(
        "faster", median(taken["other"]) / median(taken["ours"]), "x", against=name, goal=goal,
        ours_s=rounded(taken["ours"]), other_s=rounded(taken["other"]), **conditions,
    )  # fmt: skip
