"""What a benchmark is given: its folder, its sizes, and where its figures go."""

import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.benchmarks import figures
from tests.benchmarks.measure import UnavailableError

ROOT = Path(__file__).resolve().parents[2]
HANDBOOK = ROOT.parent / "shared" / "data" / "handbook-transactions.parquet"


@dataclass
class Bench:
    """One run of one benchmark.

    Attributes:
        name: the benchmark's; its figures' names begin with it.
        home: folder of its own, FRAUD_HOME, removed afterwards.
        data: folder of the events that the benchmarks share.
        entries: file that takes a line a figure.
        small: run on little data, to try the benchmark; its figures have no goals.
        handbook: the Fraud Detection Handbook's transactions.
    """

    name: str
    home: Path
    data: Path
    entries: Path
    small: bool = False
    handbook: Path = HANDBOOK
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))
    _begun: float = field(default_factory=time.monotonic)

    def size(self, full: int, small: int) -> int:
        """A number of rows, keys or rounds: ``full``, or ``small`` to try the benchmark."""
        return small if self.small else full

    def step(self, text: str) -> None:
        """Say what is being done."""
        self.console.print(f"  [dim]{time.monotonic() - self._begun:7.1f} s[/dim]  {text}")

    def record(
        self,
        name: str,
        value: float,
        unit: str,
        *,
        against: str = "",
        goal: str | None = None,
        **conditions: Any,
    ) -> None:
        """Report a figure, held against its goal."""
        self._keep(
            figures.figure(
                f"{self.name}.{name}", value, unit, against=against, goal=None if self.small else goal,
                conditions=({"small": True} if self.small else {}) | conditions,
            )
        )  # fmt: skip

    def skip(self, name: str, reason: str) -> None:
        """Report that a figure cannot be had here, and why."""
        self._keep(figures.skipped(f"{self.name}.{name}" if name else self.name, reason))

    def fail(self, error: str) -> None:
        """Report that the benchmark broke."""
        self._keep(figures.failed(self.name, error))

    def need_disk(self, size: int) -> None:
        """Raises UnavailableError where fewer than ``size`` bytes are free beside the data."""
        self.data.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.data).free
        if free < size:
            raise UnavailableError(
                f"{self.data}: {free / 1e9:.0f} GB free and {size / 1e9:.0f} GB needed; "
                "make room, or run it where there is"
            )

    def _keep(self, entry: figures.Figure) -> None:
        with self.entries.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        self.console.print(f"  {sentence(entry)}")


def sentence(entry: figures.Figure) -> str:
    """A figure as a line for a person."""
    name, conditions = entry["name"], entry["conditions"]
    if "skipped" in conditions:
        return f"[yellow]{name}: skipped: {conditions['skipped']}[/yellow]"
    if "error" in conditions:
        return f"[red]{name}: failed: {conditions['error']}[/red]"
    text = f"{name}: {entry['value']:,.6g} {entry['unit']}"
    text += f" against {entry['against']}" if entry["against"] else ""
    if entry["goal"] is None:
        return text
    colour, verdict = ("green", "met") if entry["met"] else ("red", "missed")
    return f"{text}, goal {entry['goal']}: [{colour}]{verdict}[/{colour}]"
