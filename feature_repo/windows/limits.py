"""How much a retrieval handles at a time, from how much memory it may use."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from feature_repo.windows.spec import ViewSpec

DEFAULT_MEMORY = "4GB"
_UNITS = {
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
# An event on its way from DuckDB to its place by key, with its id; a row that asks, on the same way.
_EVENT_BYTES, _ROW_BYTES = 160, 120


@dataclass(frozen=True)
class Limits:
    """How much is handled at a time: rows that ask, and events read; and bytes of events that are held in memory meanwhile."""

    rows: int
    events: int
    held: int


def limits_of(config: Any, specs: Sequence[ViewSpec]) -> Limits:
    """Three tenths of the memory for results, and before there are any, a fifth for events on their way.

    Two fifths are for events that windows still reach; the rest is what all of these need to be worked on.

    Args:
        config: Feast's ``RepoConfig``; its ``offline_store.memory_limit`` counts.
    """
    memory = memory_bytes(getattr(config.offline_store, "memory_limit", None) or DEFAULT_MEMORY)
    row = _ROW_BYTES + 8 * sum(len(spec.aggregates) for spec in specs)
    return Limits(
        rows=max(memory * 3 // 10 // row, 1),
        events=max(memory // 5 // _EVENT_BYTES, 1),
        held=memory * 2 // 5,
    )


def memory_bytes(text: str) -> int:
    """``4GB``, ``512 MiB``: bytes.

    Raises:
        ValueError: it is none.
    """
    number = text.strip().rstrip("KMGTIBkmgtib").strip()
    unit = text.strip()[len(number) :].strip().upper()
    try:
        return int(float(number) * _UNITS[unit])
    except (KeyError, ValueError) as error:
        raise ValueError(f"memory_limit {text!r}: not an amount of memory; write 4GB or 512MiB") from error
