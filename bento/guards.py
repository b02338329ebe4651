"""What ends a rollout by itself: a challenger that fails, that is slow, whose scores drift, or that declines too much.

Judged are the transactions in which the challenger took part, in this process, as they come. A share counts as too high when
even the lower end of its interval (Wilson, four standard errors, for it is looked at again and again) is; scores have drifted
when their PSI, less what chance explains (``training.stability``) and less the champion's own drift, is. So a handful of
transactions proves nothing, and what has changed in the traffic is not held against the challenger.

Scores are compared with those that the model gave on held-out rows when it was trained, both models' with their own; where
either has none, with the champion's on the same transactions.
"""

import json
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from training.rollout import Guards
from training.stability import shift

__all__ = ["CHECK_EVERY", "GUARD_NAMES", "Guard", "Histogram", "Tripped", "Verdict", "reference_scores"]

CHECK_EVERY = 25
"""Transactions between two judgements: one costs some 0.1 ms."""

GUARD_NAMES = ("error rate", "p99", "decline rate", "score drift")

# A single failure is an accident, whatever share of the first transactions it is.
_MIN_FAILURES = 5
_DEVIATIONS = 4.0
# Judged is a stretch of so many transactions, or of so long; then a new one begins, so that what goes wrong late is not
# outvoted by all that went well before.
_STRETCH = 20_000
_STRETCH_US = 3_600_000_000
_SLOW_SHARE = 0.01
# Two models never drift by just the same: so much of the challenger's drift does one unit of the champion's explain.
_EXPLAINS = 1.5
# Where neither model says how its scores were distributed: probabilities of fraud, dense where they lie.
_EDGES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)

Verdict = tuple[float, str]
"""A model's score of a transaction and its decision."""


@dataclass(frozen=True)
class Histogram:
    """Scores by bin: between the edges in order, then zero, then null."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Tripped:
    """Which guard, what it measured, what it allows, and on how many transactions."""

    guard: str
    value: float
    limit: float
    scored: int
    measure: str = "it"

    @property
    def why(self) -> str:
        """In a sentence."""
        what = f"{self.measure} is {self.value:.4g} and may be {self.limit:.4g}"
        return f"{self.guard}: {what}, on {self.scored:,} transactions"


@dataclass
class _Stretch:
    """Counts of one stretch; ``both`` models scored so many."""

    since_us: int
    taken: int = 0
    timed: int = 0
    failed: int = 0
    slow: int = 0
    both: int = 0
    agreed: int = 0
    champion_declines: int = 0
    challenger_declines: int = 0


class Guard:
    """Judges one challenger. Not thread-safe: its counts are the scoring thread's.

    Attributes:
        tripped: what the last judgement found, if the challenger must not decide any more.
    """

    def __init__(
        self,
        limits: Guards,
        clock_us: Callable[[], int],
        champion: Histogram | None = None,
        challenger: Histogram | None = None,
    ) -> None:
        self._limits, self._clock_us = limits, clock_us
        self._references = (champion, challenger) if champion is not None and challenger is not None else None
        edges = (
            (_EDGES, _EDGES) if self._references is None else tuple(each.edges for each in self._references)
        )
        self._edges = edges
        self._slow_ns = limits.max_p99_ms * 1e6
        self.tripped: Tripped | None = None
        self._group: int | None = None
        self._begin()

    def observe(
        self,
        champion: Verdict | None,
        challenger: Verdict | None,
        elapsed_ns: int,
        group: int | None = None,
    ) -> None:
        """Count a transaction; a model that failed has None, and both have if it is not the models that failed.

        Args:
            group: names those that were decided together: they share one time, and a stall of theirs is one. None: it was alone.
        """
        now = self._now
        now.taken += 1
        if group is None or group != self._group:
            self._group = group
            now.timed += 1
            now.slow += elapsed_ns > self._slow_ns
        if challenger is None:
            now.failed += 1
        elif champion is not None:
            now.both += 1
            now.agreed += champion[1] == challenger[1]
            now.champion_declines += champion[1] == "decline"
            now.challenger_declines += challenger[1] == "decline"
            for place, (score, _) in enumerate((champion, challenger)):
                edges = self._edges[place]
                self._counts[place][bisect_right(edges, score) if score else len(edges) + 1] += 1

    def check(self) -> Tripped | None:
        """The first guard that trips, or None; cheap unless it is time to judge."""
        now = self._now
        failing = now.failed >= _MIN_FAILURES
        if now.taken % CHECK_EVERY and not failing:
            return None
        found = self.tripped = self._judge()
        if found is None and (now.taken >= _STRETCH or self._clock_us() - now.since_us >= _STRETCH_US):
            self._begin()
        return found

    def counts(self) -> dict[str, Any]:
        """What was counted in this stretch."""
        return {**asdict(self._now), "score_psi": self._drift()}

    def _begin(self) -> None:
        self._now = _Stretch(self._clock_us())
        self._counts = [[0] * (len(edges) + 3) for edges in self._edges]

    def _judge(self) -> Tripped | None:
        now, limits = self._now, self._limits
        if now.failed >= _MIN_FAILURES and _least(now.failed, now.taken) > limits.max_error_rate:
            return Tripped("error rate", now.failed / now.taken, limits.max_error_rate, now.taken)
        if now.taken >= limits.min_scored and _least(now.slow, now.timed) > _SLOW_SHARE:
            slower = f"the share slower than {limits.max_p99_ms:g} ms"
            return Tripped("p99", now.slow / now.timed, _SLOW_SHARE, now.taken, slower)
        if now.both < limits.min_scored:
            return None
        # The champion's rate with one decline more: where it has declined none, its rate is small and not zero.
        declines = limits.max_decline_ratio * (now.champion_declines + 1) / (now.both + 1)
        if _least(now.challenger_declines, now.both) > declines:
            return Tripped("decline rate", now.challenger_declines / now.both, declines, now.both)
        drift = self._drift()
        if drift is not None and drift > limits.max_score_psi:
            return Tripped("score drift", drift, limits.max_score_psi, now.both)
        return None

    def _drift(self) -> float | None:
        """PSI of the challenger's scores beyond chance and the champion's own; None before anything was scored by both."""
        if not self._now.both:
            return None
        champion, challenger = (np.array(counts) for counts in self._counts)
        if self._references is None:
            return shift(champion, challenger).excess
        before = [np.array(each.counts) for each in self._references]
        explained = _EXPLAINS * shift(before[0], champion).excess
        return max(0.0, shift(before[1], challenger).excess - explained)


def reference_scores(bundle: Path) -> Histogram | None:
    """How a model's scores were distributed on held-out rows when it was trained; None where its bundle does not say."""
    try:
        column = json.loads((bundle / "profile.json").read_text())["columns"]["score"]
        counts = (*column["counts"], column["zero"], column["null"])
        found = Histogram(tuple(map(float, column["edges"])), tuple(map(int, counts)))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if len(found.counts) == len(found.edges) + 3 and any(found.counts) else None


def _least(count: int, of: int) -> float:
    """The lower end of the interval of a share; 0 of nothing."""
    if not of:
        return 0.0
    share, z2 = count / of, _DEVIATIONS**2
    middle = share + z2 / (2 * of)
    margin = _DEVIATIONS * sqrt(share * (1 - share) / of + z2 / (4 * of * of))
    return (middle - margin) / (1 + z2 / of)
