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
        stolen: of the time of all processors, the share that the host of a virtual machine gave to others; it comes in pieces
            of milliseconds, in which nothing here is answered.
    """

    stages: Mapping[str, float]
    scored: int = 0
    together: float = 0.0
    worker_us: float = 0.0
    stolen: float = 0.0

    def conditions(self) -> dict[str, object]:
        """As a figure's conditions."""
        return {
            "stages_mean_us": dict(self.stages),
            "worker_cpu_us": round(self.worker_us, 1),
            "decided_together": round(self.together, 2),
            "stolen_share": round(self.stolen, 4),
        }


@contextmanager
def spent(url: str, home: Path) -> Iterator[Spent]:
    """What the service at ``url`` spends within; it must have journalled something before."""
    worker, found = worker_pid(home), Spent({})
    before, cpu, time = _stages(url), cpu_s(worker), _machine_ticks()
    yield found
    after, cpu = _stages(url), cpu_s(worker) - cpu
    stolen, whole = (now - then for now, then in zip(_machine_ticks(), time, strict=True))
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
    found.stolen = stolen / max(whole, 1)


def cpu_s(process: int) -> float:
    """Processor time of a process so far, user and system."""
    # The command's name, in brackets, may hold anything; the fields behind it are numbered from 3.
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _machine_ticks() -> tuple[int, int]:
    """Time of all processors so far: what the host has stolen, and the whole."""
    # The fields: user, nice, system, idle, iowait, irq, softirq, steal; guests' time is in user's.
    ticks = [int(field) for field in Path("/proc/stat").read_text(encoding="ascii").split()[1:9]]
    return ticks[-1], sum(ticks)


def _stages(url: str) -> dict[tuple[str, str], float]:
    with urlopen(f"{url}/metrics") as answer:  # noqa: S310
        text = answer.read().decode()
    return {(kind, stage): float(value) for kind, stage, value in _STAGE.findall(text)}
