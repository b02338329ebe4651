"""One transaction under a rollout: which model decides, what the other one says, and what the journal keeps of it.

The champion's own work is done first and as ever; whatever the challenger does wrong costs its own part alone.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from bento.champion import Champion
from bento.guards import Guard, Tripped
from bento.request import Transaction
from feature_repo.windows.joint import JointPlan
from feature_repo.windows.plan import Answer, OnlinePlan
from training.rollout import Rollout

__all__ = ["Acted", "Arrangement", "Seen", "Trial", "Turn"]

Found = Answer | tuple[Answer, Answer]
"""What a plan finds: of the champion, or of both."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Seen:
    """What a decision is made from; ``values`` is float64[1, f], or None where there were no features."""

    values: Any
    known_as_of_us: int
    state_seen: dict[str, int]
    degraded: str | None = None


@dataclass(frozen=True)
class Trial:
    """A challenger that is tried beside the champion: both read by one plan.

    Attributes:
        on_trip: called, in the thread that scores, with the guard that tripped; on_decision with arm and decision.
    """

    rollout: Rollout
    champion: Champion
    challenger: Champion
    joint: JointPlan
    guard: Guard
    on_trip: Callable[[Tripped], None]
    on_failure: Callable[[], None] = lambda: None
    on_decision: Callable[[str, str], None] = lambda arm, decision: None

    @cached_property
    def own(self) -> tuple[dict[str, int], dict[str, int]]:
        """The places of those features of champion and challenger that the other does not have alike."""
        champion, challenger = (
            {name: i for i, name in enumerate(each.plan.feature_names) if name not in self.joint.shared}
            for each in (self.champion, self.challenger)
        )
        return champion, challenger

    @cached_property
    def own_views(self) -> tuple[frozenset[str], frozenset[str]]:
        """The views of champion and challenger that the other does not read alike."""
        champion, challenger = (
            {spec.view: spec for spec in each.plan.views} for each in (self.champion, self.challenger)
        )
        return (
            frozenset(name for name in champion if champion[name] != challenger.get(name)),
            frozenset(name for name in challenger if challenger[name] != champion.get(name)),
        )


@dataclass(frozen=True)
class Arrangement:
    """What is in force: a rollout, and the trial if it has a challenger that can serve."""

    rollout: Rollout
    trial: Trial | None

    def turn(self, champion: Champion | None, transaction: Transaction) -> "Turn":
        """What becomes of one transaction."""
        trial = self.trial
        # The champion may have been replaced a moment ago; the trial is then about to be.
        if trial is None or trial.champion is not champion:
            return Turn(self.rollout, None, "champion")
        arm = "challenger" if self.rollout.decides(transaction.customer_id) else "champion"
        takes_part = arm == "challenger" or self.rollout.mode == "shadow"
        return Turn(self.rollout, trial, arm, takes_part)

    def score_together(self, turns: Sequence["Turn"]) -> None:
        """Let the challenger score what it has read of some with one call; where that fails, each ``settle`` does by itself."""
        taking = [(turn, turn.answer.values) for turn in turns if turn.answer is not None]
        if self.trial is None or len(taking) < 2:
            return
        try:
            scores = self.trial.challenger.bundle.score(np.concatenate([values for _, values in taking]))
            for (turn, _), score in zip(taking, scores.tolist(), strict=True):
                turn.score = score
        except Exception as error:  # as in ``settle``, which says so of each that fails alone
            _log.warning("the challenger cannot score several at once, and is asked for each: %r", error)


@dataclass(slots=True)
class Acted:
    """What was acted upon: the model that decided, what it saw, and its score; ``journal`` is what the line holds beside."""

    model: Champion | None
    seen: Seen
    score: float | None
    decision: str
    journal: dict[str, Any]


class Turn:
    """One transaction's passage: ``read`` what its ``plan`` finds, then ``settle``.

    Attributes:
        answer: the challenger's features, if it takes part and they were read; score: by them, if that is known before.
    """

    __slots__ = ("_arm", "_rollout", "_takes_part", "_trial", "_why", "answer", "score")

    def __init__(self, rollout: Rollout, trial: Trial | None, arm: str, takes_part: bool = False) -> None:
        self._rollout, self._trial, self._arm, self._takes_part = rollout, trial, arm, takes_part
        self.answer: Answer | None = None
        self.score: float | None = None
        self._why: str | None = None

    def plan(self, champion: Champion) -> OnlinePlan | JointPlan:
        """By which it is read: the champion's plan, or that of both."""
        trial = self._trial
        return champion.plan if trial is None or not self._takes_part else trial.joint

    def read(self, found: Found, place: int) -> Answer:
        """Take from what ``plan`` has found of some: returns the champion's of the one at ``place``, keeps the challenger's."""
        if isinstance(found, Answer):
            return found.of(place)
        champions, challengers = found
        self.answer = challengers.of(place)
        return champions.of(place)

    def unread(self, error: Exception) -> None:
        """The plan of both has failed; whichever of the two it concerns, the champion's is asked alone."""
        self._why = "history-dropped" if type(error) is LookupError else "features-unavailable"
        if self._trial is not None:
            _say(self._trial, "features", error)

    def settle(
        self,
        champion: Champion | None,
        seen: Seen,
        score: float | None,
        decision: str,
        transaction: Transaction,
        started_ns: int,
        group: int | None = None,
    ) -> Acted:
        """Let the challenger score, see who decides, and draw for an exploration.

        Args:
            champion: with what it has seen, its score and its decision.
            started_ns: when the request arrived, by ``time.perf_counter_ns``. group: as of ``Guard.observe``.
        """
        acted = Acted(champion, seen, score, decision, {})
        trial = self._trial
        if trial is not None:
            if trial.guard.tripped is not None:
                # By one that was decided together with this one.
                self._arm = "champion"
            rollout = self._rollout
            acted.journal["rollout"] = {
                "id": rollout.id,
                "mode": rollout.mode,
                "arm": self._arm,
                "share": rollout.share,
            }
            # What the champion may not read, as the store lacks events, the challenger may not either.
            asked = seen.values is not None and (self.answer is not None or self._why is not None)
            if self._takes_part and asked:
                try:
                    scored_alone = self.answer is not None and self.score is None
                    self._beside(trial, acted, transaction)
                    elapsed_ns = time.perf_counter_ns() - started_ns
                    self._judge(trial, acted, elapsed_ns, None if scored_alone else group)
                except Exception as error:  # the last stand: what is tried must never cost a decision
                    _say(trial, "trial", error)
        if acted.decision == "decline" and self._rollout.explore:
            self._explore(acted, transaction)
        if trial is not None:
            trial.on_decision(self._arm, acted.decision)
        return acted

    def _beside(self, trial: Trial, acted: Acted, transaction: Transaction) -> None:
        """Score by the challenger, and let it decide where it does; the other's part goes beside."""
        challenger = trial.challenger
        seen = replace(acted.seen, values=None, state_seen={}, degraded=self._why)
        score, decision = None, None
        if self.answer is not None:
            seen.values = self.answer.values
            seen.state_seen = {view: int(count[0]) for view, count in self.answer.state_seen.items()}
            try:
                found = self.score
                if found is None:
                    found = float(challenger.bundle.score(seen.values)[0])
                score, decision = found, challenger.bundle.decide(found, transaction.amount_usd_cents)
            except Exception as error:  # it may be broken in any way; the champion has decided
                seen.degraded = "model-failed"
                _say(trial, "model", error)
        if self._arm == "challenger" and decision is not None:
            champion = (acted.seen, acted.score, acted.decision)
            acted.model, acted.seen, acted.score, acted.decision = challenger, seen, score, decision
            acted.journal["beside"] = _beside(trial, 0, *champion)
        else:
            acted.journal["beside"] = _beside(trial, 1, seen, score, decision)

    def _judge(self, trial: Trial, acted: Acted, elapsed_ns: int, group: int | None) -> None:
        beside = acted.journal["beside"]
        own = None if acted.score is None else (acted.score, acted.decision)
        other = None if beside["score"] is None else (beside["score"], beside["decision"])
        if beside["role"] == "champion":
            own, other = other, own
        trial.guard.observe(own, other, elapsed_ns, group)
        tripped = trial.guard.check()
        if tripped is not None:
            trial.on_trip(tripped)

    def _explore(self, acted: Acted, transaction: Transaction) -> None:
        """Draw for a decline that a model has made of features; rules and degraded answers are never let through."""
        if acted.score is None or acted.seen.degraded is not None:
            return
        draw = self._rollout.draw(transaction.transaction_id, transaction.amount_usd_cents)
        acted.journal["exploration"] = {
            "rollout": self._rollout.id,
            "decision": acted.decision,
            "draw": draw.draw,
            "probability": draw.probability,
            "approved": draw.approved,
        }
        if draw.approved:
            acted.decision = "approve"


def _beside(
    trial: Trial, place: int, seen: Seen, score: float | None, decision: str | None
) -> dict[str, Any]:
    """What the journal holds of the model that did not decide: 0 is the champion, 1 the challenger.

    Features and views that the other has alike stand in the line already, and are left out.
    """
    model = (trial.champion, trial.challenger)[place]
    own, views = trial.own[place], trial.own_views[place]
    return {
        "role": ("champion", "challenger")[place],
        "model_version": model.version,
        "feature_service": model.bundle.feature_service,
        "definitions_digest": model.bundle.definitions_digest,
        "features": None if seen.values is None else _own(own, seen.values[0]) if own else {},
        "score": score,
        "decision": decision,
        "state_seen": {view: count for view, count in seen.state_seen.items() if view in views},
        "degraded": seen.degraded,
    }


def _own(places: Mapping[str, int], values: np.ndarray) -> dict[str, float | None]:
    every = values.tolist()
    return {name: None if every[place] != every[place] else every[place] for name, place in places.items()}


def _say(trial: Trial, part: str, error: Exception) -> None:
    trial.on_failure()
    _log.warning("the challenger's %s failed: %r", part, error, extra={"version": trial.challenger.version})
