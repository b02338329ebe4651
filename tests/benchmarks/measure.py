"""Clocks and memory: calls timed in turns, peaks of resident memory, work in a process of its own."""

import gc
import importlib.util
import multiprocessing
import re
import statistics
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_RESET_PEAK = "5"


class UnavailableError(Exception):
    """Something optional that a benchmark needs is not here; its text is the reason."""


def need(package: str) -> None:
    """Raises UnavailableError where an optional package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise UnavailableError(f"{package} is not installed: pip install {package}")


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes; what it returns is let go within that time."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, a round after another, so that a machine that slows down slows all of them."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            gc.collect()
            taken[name].append(seconds(call))
    return taken


def median(samples: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(samples)


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least ``percent`` of a hundred do not exceed."""
    return float(np.percentile(np.asarray(samples), percent, method="inverted_cdf"))


def rounded(samples: Sequence[float]) -> list[float]:
    """Seconds as a person reads them."""
    return [float(f"{sample:.3g}") for sample in samples]


def memory_bytes(field: str = "VmRSS", process: int | str = "self") -> int:
    """Resident memory of a process: ``VmRSS`` now, ``VmHWM`` at its peak."""
    text = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    match = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    if match is None:
        raise ValueError(f"/proc/{process}/status: no {field}; peaks of memory are measured on Linux")
    return int(match[1]) * 1024


def reset_peak() -> None:
    """Let ``VmHWM`` of this process start again from what is resident now."""
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")


@dataclass(frozen=True)
class Outcome:
    """What a function returned in a process of its own, and that process's peak of resident memory."""

    value: Any
    peak_bytes: int


def in_own_process(function: Callable[..., Any], *args: Any, limit_s: float | None = None) -> Outcome:
    """Call a module-level function in a fresh process; arguments and result must pickle.

    Raises:
        UnavailableError: the function raised it. TimeoutError: it was not done after ``limit_s`` seconds, and was ended.
        RuntimeError: it raised anything else (its traceback is the message), or the process died.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(sender, function, args))
    process.start()
    sender.close()
    try:
        if not receiver.poll(limit_s):
            raise TimeoutError(f"{function.__name__}: not done after {limit_s:.0f} s")
        kind, value, peak = receiver.recv()
        process.join()
    except EOFError:
        process.join()
        raise RuntimeError(
            f"{function.__name__}: its process died with exit code {process.exitcode}"
        ) from None
    finally:
        if process.is_alive():
            process.kill()
            process.join()
    if kind == "unavailable":
        raise UnavailableError(value)
    if kind == "error":
        raise RuntimeError(f"{function.__name__} in its own process:\n{value}")
    return Outcome(value, peak)


def _report(sender: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        answer = ("value", function(*args))
    except UnavailableError as error:
        answer = ("unavailable", str(error))
    except Exception:
        answer = ("error", traceback.format_exc())
    sender.send((*answer, memory_bytes("VmHWM")))
