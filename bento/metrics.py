"""What the service counts, for Prometheus, in a registry of its own.

BentoML's metrics are off, as they cost more than a decision does; these are a few microseconds a request.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

__all__ = ["STAGES", "Metrics"]

STAGES = ("parse", "features", "model", "record", "journal", "total")
"""The parts of a request, in their order; ``total`` is all of them, up to handing over the answer."""

# Seconds: dense where one decision lies, then up to the server's timeout.
_BUCKETS = (
    *(0.00002, 0.00005, 0.0001, 0.0002, 0.0003, 0.0004, 0.0005, 0.00075),
    *(0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
)


class Metrics:
    """One process's counters."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        seconds = Histogram(
            "fraud_stage_seconds",
            "Time in each stage of scoring.",
            ["stage"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._stages = [seconds.labels(stage) for stage in STAGES]
        self.decisions = Counter(
            "fraud_decisions", "Decisions given.", ["decision", "degraded"], registry=registry
        )
        self.repeats = Counter("fraud_repeats", "Requests answered from the journal.", registry=registry)
        self.recorded = Counter("fraud_events_recorded", "Events recorded.", ["table"], registry=registry)
        self.problems = Counter("fraud_problems", "Requests refused.", ["kind"], registry=registry)
        self.errors = Counter("fraud_errors", "Failures inside the service.", ["part"], registry=registry)
        self.backlog = Gauge(
            "fraud_backlog_events", "Events that wait for the store to answer.", registry=registry
        )
        self._serving: tuple[str, str] | None = None
        self.model = Gauge(
            "fraud_model_info",
            "1: it serves; 0: it did.",
            ["name", "version"],
            registry=registry,
        )

    def serves(self, name: str, version: str) -> None:
        """Show which model serves from now on."""
        if self._serving is not None:
            self.model.labels(*self._serving).set(0)
        self.model.labels(name, version).set(1)
        self._serving = name, version

    def stages(self, ends_ns: list[int]) -> None:
        """Count one scored request; ``ends_ns``: its start and the end of each stage, monotonic."""
        for index in range(1, len(ends_ns)):
            self._stages[index - 1].observe((ends_ns[index] - ends_ns[index - 1]) / 1e9)
        self._stages[-1].observe((ends_ns[-1] - ends_ns[0]) / 1e9)

    def exposition(self) -> tuple[bytes, str]:
        """The text to scrape, and its media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
