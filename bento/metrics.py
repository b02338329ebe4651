"""What the service counts, for Prometheus: a few microseconds a request.

BentoML's metrics are off, as they cost more than a decision does. A scrape sums over all workers of the service, whichever
answers it (see ``cells``).
"""

from collections.abc import Sequence
from itertools import pairwise

from bento.cells import Cells
from bento.counting import Meters, observe_each
from bento.problem import KINDS

__all__ = ["STAGES", "Metrics"]

STAGES = ("parse", "read", "windows", "transforms", "model", "policy", "record", "journal", "total")
"""The parts of a request, in their order; ``total`` is all of them, up to handing over the answer.

Requests that are decided together go through all but the first of them as one, and are counted there as one.

``read`` is the round trip to the store, ``policy`` the decision, its reasons, and what a rollout does beside it.
"""

# Seconds: dense where one decision lies, then up to the server's timeout.
_SECONDS = (
    *(0.00002, 0.00005, 0.0001, 0.0002, 0.0003, 0.0004, 0.0005, 0.00075),
    *(0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
)
# Probabilities of fraud: dense near zero, where nearly all transactions lie.
_SCORES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_PARTS = ("features", "internal", "model", "reasons", "record", "store")


class Metrics:
    """The counters of one process; over shared cells, a part of those of its service."""

    def __init__(self, cells: Cells | None = None) -> None:
        self.cells = cells or Cells()
        self.meters = meters = Meters(self.cells)
        stages = meters.histogram(
            "fraud_stage_seconds", "Time in each stage of scoring.", _SECONDS, ["stage"]
        )
        self._stages = [stages.labels(stage) for stage in STAGES]
        self.scores = meters.histogram(
            "fraud_score", "Probabilities of fraud, of scored transactions.", _SCORES
        )
        self.answers = meters.counter(
            "fraud_answers", "Requests answered, problems included, unknown paths not.", ["verb", "status"]
        )
        self.decisions = meters.counter(
            "fraud_decisions", "Decisions given; degraded is no, or why.", ["decision", "degraded"]
        )
        self.repeats = meters.counter("fraud_repeats", "Requests answered from the journal.")
        self.recorded = meters.counter("fraud_events_recorded", "Events recorded.", ["table"])
        self.problems = meters.counter("fraud_problems", "Requests refused.", ["kind"])
        self.errors = meters.counter("fraud_errors", "Failures inside the service.", ["part"])
        self.backlog = meters.gauge(
            "fraud_backlog_events", "Events that wait for the store to answer.", over_workers=sum
        )
        # Any worker may load the journal, and one that did not knows less of it: the least is true.
        self.journal_lag_bytes = meters.gauge(
            "fraud_journal_lag_bytes", "Journalled, and not in the lake yet.", over_workers=min
        )
        self.journal_lag_seconds = meters.gauge(
            "fraud_journal_lag_seconds",
            "How long the oldest that is not in the lake yet has been journalled.",
            over_workers=min,
        )
        self.store_whole = meters.gauge(
            "fraud_store_whole",
            "1: the online store is known to hold all that was recorded; 0: features are not read.",
            over_workers=min,
        )
        self.replayed = meters.counter(
            "fraud_events_recorded_again", "Events recorded again from the journal, which counts once."
        )
        self.journal_waiting = meters.gauge(
            "fraud_journal_waiting_lines", "Lines that wait for the journal's disk.", over_workers=sum
        )
        self.journal_lost = meters.counter(
            "fraud_journal_lost_lines", "Lines that neither the journal's disk nor memory could take."
        )
        self.ready = meters.gauge(
            "fraud_ready_workers",
            "Workers that decide by their model, from a store that answers.",
            over_workers=sum,
        )
        self.store_up = meters.gauge(
            "fraud_store_up", "1: the online store answers every worker; 0: it does not.", over_workers=min
        )
        self.known_until = meters.gauge(
            "fraud_state_known_until_seconds",
            "When the newest event in the online state became known, Unix time; a feed that has stopped shows here.",
            ["source"],
        )
        self.loaded_until = meters.gauge(
            "fraud_view_loaded_until_seconds",
            "Up to when history is loaded into the state of a view that is read, Unix time; 0: none is.",
            ["view"],
        )
        self.resident_bytes = meters.gauge(
            "fraud_worker_resident_bytes", "Memory held by the worker that holds most."
        )
        self.model = meters.gauge("fraud_model_info", "1: it serves; 0: it did.", ["name", "version"])
        self._serving: tuple[str, str] | None = None
        self._begin()

    def _begin(self) -> None:
        """Show what is sure to be counted as 0: of a series that begins with 1 Prometheus sees no increase."""
        for part in _PARTS:
            self.errors.labels(part)
        for kind in KINDS:
            self.problems.labels(kind)
        for decision in ("approve", "review", "decline"):
            self.decisions.labels(decision, "no")
        self.answers.labels("score", "200")
        self.backlog.set(0)
        self.journal_waiting.set(0)

    def serves(self, name: str, version: str) -> None:
        """Show which model serves from now on."""
        if self._serving is not None:
            self.model.labels(*self._serving).set(0)
        self.model.labels(name, version).set(1)
        self._serving = name, version

    def journal_waits(self, waiting: int, lost: int) -> None:
        """Show that so many lines wait for the journal's disk, and that so many more are lost."""
        self.journal_waiting.set(waiting)
        if lost:
            self.journal_lost.inc(lost)

    def stages(self, started_ns: Sequence[int], ends_ns: Sequence[int]) -> None:
        """Count scored requests that were worked on together: ``parse`` and ``total`` of each, the stages between once.

        Args:
            started_ns: the start of each, monotonic. ends_ns: when the first stage was over, and the end of each other one.
        """
        parse, *between, total = self._stages
        for started in started_ns:
            observe_each([parse, total], [(ends_ns[0] - started) / 1e9, (ends_ns[-1] - started) / 1e9])
        if started_ns:
            observe_each(between, [(end - start) / 1e9 for start, end in pairwise(ends_ns)])

    def exposition(self) -> tuple[bytes, str]:
        """The text to scrape, and its media type."""
        return self.meters.exposition()
