"""Transactions in, decisions out: read the features, score, decide, record, journal, all of those that wait at once together."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bento.case import Case, Reply, answer
from bento.champion import Champion, Champions
from bento.metrics import STAGES, Metrics
from bento.reasons import codes_of, explain, explain_rules
from bento.recording import STORE_FAILURES, Recording, Scored
from bento.request import Transaction
from bento.rollout import Rollouts
from bento.seen import Entry, content_digest
from bento.tracing import within
from bento.turn import Seen
from feature_repo.windows.reading import StateLostError
from training.policy import Policy

__all__ = ["Scorer"]

_WITHOUT_A_MODEL = Policy().default
# What is done where a part has failed.
_NEXT_BEST = {
    "features": "the rules decide",
    "model": "the rules decide",
    "rules": "the policy's default decides",
    "reasons": "the decision stands",
}
_log = logging.getLogger(__name__)


class Scorer:
    """Decides on transactions in one thread, some at a time.

    What a round trip to the store, a call of the kernel, of the transforms or of the model costs is nearly the same for one
    row as for ten. So each step is done for all cases before the next one is.

    When features or model cannot answer, rules on the request alone decide, and ``degraded`` says why.
    With no model at all there are no rules either: then the policy's default decides, which is never to approve.
    """

    def __init__(
        self,
        champions: Champions,
        rollouts: Rollouts,
        recording: Recording,
        metrics: Metrics,
        clock_us: Callable[[], int],
    ) -> None:
        self.champions, self.rollouts = champions, rollouts
        self._recording, self._metrics, self._clock_us = recording, metrics, clock_us
        self._traceback_at = float("-inf")

    def score(self, transaction: Transaction, started_ns: int) -> Reply:
        """Decide, record and journal; a transaction that was decided before gets its first answer again.

        Args:
            transaction: as parsed.
            started_ns: when the request arrived, by ``time.perf_counter_ns``.

        Raises:
            Problem: the id was sent before with other content.
        """
        case = Case(transaction, started_ns)
        self.decide([case])
        return case.answered()

    def decide(self, cases: Sequence[Case]) -> None:
        """Give each case its ``reply`` or its ``error``, as ``score`` would alone, in their order.

        Args:
            cases: no two of them share one of their keys, nor is one that is historic among others.
        """
        ends = [time.perf_counter_ns()]
        known = self._recording.seen.find_all([case.transaction.transaction_id for case in cases])
        self._each(cases, lambda case: self._look_up(case, known[case.transaction.transaction_id]))
        new = _undecided(cases)
        if not new:
            return
        champion, arrangement = self.champions.current, self.rollouts.current
        for case in new:
            case.model = champion
            case.turn = None if arrangement is None else arrangement.turn(champion, case.transaction)
        self._read(champion, new, ends)
        self._score(champion, new)
        ends.append(time.perf_counter_ns())
        if arrangement is not None:
            arrangement.score_together([case.turn for case in new if case.turn is not None])
        self._each(new, lambda case: self._settle(case, ends[0]))
        ends.append(time.perf_counter_ns())
        new = _undecided(new)
        times = self._recording.record_scored([Scored(case.event(), case.digest, case.trace) for case in new])
        for case, known_us in zip(new, times, strict=True):
            case.known_us = known_us
        ends.append(time.perf_counter_ns())
        self._recording.keep_decisions([(self._record(case), case.digest) for case in new])
        ends.append(time.perf_counter_ns())
        self._metrics.stages([case.started_ns for case in new], ends)
        self._each(new, lambda case: self._answer(case, ends))

    def _each(self, cases: Iterable[Case], step: Callable[[Case], None]) -> None:
        """Take a step with each; what goes wrong with one keeps no other from it."""
        for case in cases:
            try:
                if case.trace is None:
                    step(case)
                else:
                    with within(case.trace):
                        step(case)
            except Exception as error:  # its sender is told
                case.error = error

    def _look_up(self, case: Case, known: Mapping[str, Entry]) -> None:
        """Give a case that was decided before its first answer; ``known`` is what is known of its id."""
        case.digest = content_digest(case.transaction.event(""))
        first = self._recording.decided(known, case.digest)
        if first is not None:
            self._metrics.repeats.inc()
            case.reply = Reply(answer(self._recording.journal.read(first.location)), repeated=True)

    def _read(self, champion: Champion | None, cases: Sequence[Case], ends_ns: list[int]) -> None:
        """Let each case see its features; adds when that, the windows and the transforms ended."""
        reading: list[int] = []
        for case in cases:
            case.seen = self._nothing(case, None if champion else "no-model")
        if champion is not None:
            try:
                with self._recording.store():
                    self._read_whole(champion, cases, reading)
            except Exception as error:  # whatever it is, the payments must be decided: by the rules
                self._unread(cases, error)
        now = time.perf_counter_ns()
        # Of two tries the second counts; what was not come to took no time.
        ends_ns += [*reading[-2:], now, now, now][:3]

    def _read_whole(self, champion: Champion, cases: Sequence[Case], reading: list[int]) -> None:
        """Read from a store that holds all that was recorded; it may become another one meanwhile."""
        why_not = self._recording.why_not()
        if why_not is None:
            by_plan: dict[int, tuple[Any, list[Case]]] = {}
            for case in cases:
                plan = champion.plan if case.turn is None else case.turn.plan(champion)
                by_plan.setdefault(id(plan), (plan, []))[1].append(case)
            for plan, group in by_plan.values():
                self._read_by(plan, champion, group, reading)
            why_not = self._recording.why_not()
        if why_not is not None:
            for case in cases:
                case.seen = self._nothing(case, why_not)

    def _read_by(self, plan: Any, champion: Champion, cases: Sequence[Case], reading: list[int]) -> None:
        """Read by one plan; where that fails, each is read alone, and told its own."""
        try:
            found = plan.read([case.transaction.entity_row() for case in cases], reading)
        except STORE_FAILURES:
            raise
        except StateLostError as error:  # it concerns them all
            if plan is champion.plan:
                raise
            self._without_challenger(cases, error)
            self._read_by(champion.plan, champion, cases, reading)
            return
        except Exception as error:  # it may concern any of them
            if len(cases) > 1:
                for case in cases:
                    self._read_by(plan, champion, [case], reading)
            elif plan is champion.plan:
                self._unread(cases, error)
            else:
                self._without_challenger(cases, error)
                self._read_by(champion.plan, champion, cases, reading)
            return
        for place, case in enumerate(cases):
            read = found.of(place) if case.turn is None else case.turn.read(found, place)
            state_seen = {view: int(count[0]) for view, count in read.state_seen.items()}
            case.seen = Seen(read.values, int(read.known_as_of_us[0]), state_seen)

    def _without_challenger(self, cases: Sequence[Case], error: Exception) -> None:
        """The plan of both models has failed, which may concern the challenger alone."""
        for case in cases:
            if case.turn is not None:
                with within(case.trace):
                    case.turn.unread(error)

    def _unread(self, cases: Sequence[Case], error: Exception) -> None:
        """Features could not be read."""
        why = "features-unavailable"
        if isinstance(error, StateLostError):
            why = self._recording.state_lost()
        elif type(error) is LookupError:
            # The plan says so of an instant whose windows reach back to events that the state has dropped.
            why = "history-dropped"
        for case in cases:
            case.seen = self._nothing(case, why)
            self._failed("features", case, error)

    def _nothing(self, case: Case, why: str | None) -> Seen:
        return Seen(None, case.transaction.created_timestamp_us or self._clock_us(), {}, why)

    def _score(self, champion: Champion | None, cases: Sequence[Case]) -> None:
        """Score those that have features, with one call; where that fails, each is scored alone."""
        have = [case for case in cases if case.seen.values is not None]
        if champion is None or not have:
            return
        try:
            scores = champion.bundle.score(np.concatenate([case.seen.values for case in have])).tolist()
            for case, score in zip(have, scores, strict=True):
                case.score = score
        except Exception as error:  # as above
            if len(have) > 1:
                for case in have:
                    self._score(champion, [case])
            else:
                self._failed("model", have[0], error)
                have[0].seen.degraded = "model-failed"

    def _settle(self, case: Case, group: int) -> None:
        """Decide, and let what is rolled out have its part."""
        case.decision = self._decided(case)
        if case.turn is not None:
            acted = case.turn.settle(
                case.model, case.seen, case.score, case.decision, case.transaction, case.started_ns, group
            )
            case.model, case.seen, case.score, case.decision = (
                acted.model, acted.seen, acted.score, acted.decision,
            )  # fmt: skip
            case.more = acted.journal
        case.more["reasons"] = self._reasons(case)

    def _decided(self, case: Case) -> str:
        if case.model is None:
            return _WITHOUT_A_MODEL
        bundle = case.model.bundle
        if case.score is not None:
            try:
                return bundle.decide(case.score, case.transaction.amount_usd_cents)
            except Exception as error:  # as above
                self._failed("model", case, error)
                case.score, case.seen.degraded = None, "model-failed"
        try:
            return bundle.decide_without_model(case.transaction.entity_row())
        except Exception as error:  # as above
            self._failed("rules", case, error)
            case.seen.degraded = "rules-failed"
            return bundle.spec.policy.default

    def _reasons(self, case: Case) -> list[str]:
        """Codes of why it was not approved, the weightiest first; an approval is not held up to say why."""
        transaction, decision = case.transaction, case.decision
        if decision == "approve":
            return []
        bundle = None if case.model is None else case.model.bundle
        try:
            if bundle is None or case.score is None:
                return codes_of(explain_rules(bundle, transaction.entity_row(), decision))
            return codes_of(explain(bundle, case.seen.values[0], decision, transaction.amount_usd_cents))
        except Exception as error:  # the decision stands, and may be explained later
            self._failed("reasons", case, error)
            return []

    def _record(self, case: Case) -> dict[str, Any]:
        return case.recorded((time.perf_counter_ns() - case.started_ns) // 1000, self._clock_us())

    def _answer(self, case: Case, ends_ns: Sequence[int]) -> None:
        """Count the decision, and say it."""
        transaction, degraded = case.transaction, case.record["degraded"]
        if case.trace is not None:
            case.trace.stages(STAGES, [case.started_ns, *ends_ns])
            case.trace.decided(transaction.transaction_id, case.decision, degraded)
        self._metrics.decisions.labels(case.decision, degraded or "no").inc()
        if case.score is not None:
            self._metrics.scores.observe(case.score)
        case.reply = Reply(answer(case.record))

    def _failed(self, part: str, case: Case, error: Exception) -> None:
        """Log a line each time, and the traceback once a second at most."""
        self._metrics.errors.labels(part).inc()
        now = time.monotonic()
        whole = now - self._traceback_at > 1.0
        self._traceback_at = now if whole else self._traceback_at
        with within(case.trace):
            _log.error(
                "%s failed; %s",
                part,
                _NEXT_BEST[part],
                exc_info=error if whole else None,
                extra={"transaction_id": case.transaction.transaction_id, "error": repr(error)},
            )


def _undecided(cases: Iterable[Case]) -> list[Case]:
    return [case for case in cases if case.reply is None and case.error is None]
