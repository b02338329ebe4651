"""What is counted of a rollout: what is in force, what stands in its way, and how it ended."""

from bento.guards import GUARD_NAMES, Tripped
from bento.metrics import Metrics
from bento.rollout import Rollouts
from training.rollout import ALONE, Rollout

__all__ = ["RolloutMetrics"]


class RolloutMetrics:
    """The rollout's part of a process's metrics."""

    def __init__(self, metrics: Metrics) -> None:
        meters = metrics.meters
        self._info = meters.gauge(
            "fraud_rollout_info", "1: it is in force; 0: it was.", ["mode", "challenger"], over_workers=max
        )
        self._share = meters.gauge(
            "fraud_rollout_share", "Share of the customers for whom the challenger decides."
        )
        self._explore = meters.gauge(
            "fraud_rollout_explore", "Share of would-be declines that are approved to learn their labels."
        )
        self._refused = meters.gauge(
            "fraud_rollout_refused", "Workers that cannot serve the challenger.", over_workers=sum
        )
        self._ended = meters.counter("fraud_rollout_ended", "Rollouts ended by a guard rail.", ["guard"])
        for guard in GUARD_NAMES:  # of a series that begins with 1 Prometheus sees no increase
            self._ended.labels(guard)
        self._failed = meters.counter("fraud_challenger_errors", "Failures of the challenger.")
        self._decisions = meters.counter(
            "fraud_arm_decisions", "Decisions given while a challenger is tried.", ["arm", "decision"]
        )
        self._shown: tuple[str, str] | None = None
        self._changed(ALONE, None)

    def watch(self, rollouts: Rollouts) -> None:
        """Follow what becomes of the rollouts of this process."""
        rollouts.on_change = self._changed
        rollouts.on_trip = self._tripped
        rollouts.on_failure = self._failed.inc
        rollouts.on_decision = self._decided

    def _changed(self, rollout: Rollout, refused: str | None) -> None:
        shown = (rollout.mode, rollout.challenger or "")
        if self._shown is not None and self._shown != shown:
            self._info.labels(*self._shown).set(0)
        self._info.labels(*shown).set(1)
        self._shown = shown
        self._share.set(rollout.share)
        self._explore.set(rollout.explore)
        self._refused.set(0 if refused is None else 1)

    def _decided(self, arm: str, decision: str) -> None:
        self._decisions.labels(arm, decision).inc()

    def _tripped(self, tripped: Tripped) -> None:
        self._ended.labels(tripped.guard).inc()
