"""What a running service spends: processor time of its processes, and the stages of scoring as its ``/metrics`` tell them."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from tests.deployments import worker_pid

_STAGE = re.compile(r'^fraud_stage_seconds_(sum|count)\{stage="(\w+)"\} (\S+)$', re.MULTILINE)
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Spent:
    """What a load cost, filled in when it is over.

    Attributes:
        stages: microseconds that each stage took of the worker's time, a scored request. scored: how many there were.
        together: how many were decided at once, on average.
        worker_us: processor time of the worker a scored request, its background threads included, microseconds.
    """

    stages: Mapping[str, float]
    scored: int = 0
    together: float = 0.0
    worker_us: float = 0.0

    def conditions(self) -> dict[str, object]:
        """As a figure's conditions."""
        return {
            "stages_mean_us": dict(self.stages),
            "worker_cpu_us": round(self.worker_us, 1),
            "decided_together": round(self.together, 2),
        }


@contextmanager
def spent(url: str, home: Path) -> Iterator[Spent]:
    """What the service at ``url`` spends within; it must have journalled something before."""
    worker, found = worker_pid(home), Spent({})
    before, cpu = _stages(url), cpu_s(worker)
    yield found
    after, cpu = _stages(url), cpu_s(worker) - cpu
    risen = {series: after[series] - before.get(series, 0.0) for series in after}
    found.scored = int(risen["count", "total"])
    # Most stages are gone through by several at once, and counted once.
    found.together = found.scored / max(risen["count", "read"], 1)
    found.stages = {
        stage: round(seconds / max(found.scored, 1) * 1e6, 1)
        for (kind, stage), seconds in risen.items()
        if kind == "sum" and stage != "total"
    }
    found.worker_us = cpu / max(found.scored, 1) * 1e6


def cpu_s(process: int) -> float:
    """Processor time of a process so far, user and system."""
    # The command's name, in brackets, may hold anything; the fields behind it are numbered from 3.
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _stages(url: str) -> dict[tuple[str, str], float]:
    with urlopen(f"{url}/metrics") as answer:  # noqa: S310
        text = answer.read().decode()
    return {(kind, stage): float(value) for kind, stage, value in _STAGE.findall(text)}
