"""The parts of the service put together: opened once at the start, closed once at the end."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from bento.case import Reply
from bento.catching_up import CatchingUp
from bento.champion import MODEL_NAME, Champion, Champions
from bento.deadline import Deadline
from bento.explanations import Explanations
from bento.following import Following
from bento.health import Health
from bento.history import NOTHING_FOUND, Found, History
from bento.inspection import decision_document, features_document, find_decision
from bento.kept import KeptChampion
from bento.logs import transaction_id_in
from bento.metrics import Metrics
from bento.online import online_client, open_serving_store
from bento.patient_journal import PatientJournal
from bento.problem import HistoryNeededError, problem
from bento.recording import STORE_FAILURES, Recorded, Recording
from bento.replaying import Replaying
from bento.request import (
    Chargeback,
    Transaction,
    check_times,
    parse_chargeback,
    parse_json,
    parse_question,
    parse_transaction,
    transaction_from,
)
from bento.rollout import Rollouts
from bento.rollout_metrics import RolloutMetrics
from bento.score_batch import MAX_BATCH
from bento.scoring import Scorer
from bento.seen import DECISION, Seen
from bento.together import Together
from feature_repo.journal import now_us
from feature_repo.settings import settings
from feature_repo.windows.event_values import LackingValueError
from feature_repo.windows.live_recorder import LiveRecorder
from feature_repo.windows.plan import OnlinePlan
from feature_repo.windows.reading import StateLostError
from feature_repo.windows.spec import ViewSpec
from training.ledger import Ledger
from training.rollout_registry import RolloutRegistry
from training.tracking import impatient

__all__ = ["MAX_BATCH", "Serving"]

_log = logging.getLogger(__name__)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OF_TRANSACTION = ("customer_id", "terminal_id", "event_timestamp", "amount_usd_cents")


class Serving:
    """Everything that one worker process serves with."""

    def __init__(
        self,
        champions: Champions,
        rollouts: Rollouts,
        recording: Recording,
        metrics: Metrics,
        clock_us: Callable[[], int],
        following: Following,
        history: History,
        health: Health,
    ) -> None:
        self.health = health
        self.champions, self.rollouts = champions, rollouts
        self.recording, self.metrics = recording, metrics
        self.following = following
        self._clock_us, self._history = recording.now_us, history
        self.explanations = Explanations(lambda: champions.current)
        self._scorer = Scorer(champions, rollouts, recording, metrics, clock_us)
        champions.on_change = lambda champion: _show(metrics, champion)
        champions.beside = rollouts.refresh
        self._together = Together(self._scorer.decide)
        RolloutMetrics(metrics).watch(rollouts)

    @classmethod
    def open(
        cls,
        champions: Champions | None = None,
        clock_us: Callable[[], int] = now_us,
        metrics: Metrics | None = None,
        rollouts: Rollouts | None = None,
    ) -> "Serving":
        """Open store and journal under the current settings, bring in the champion, and follow its alias and the definitions.

        Args:
            champions: where they come from; None is the model registry.
            clock_us: this process's clock, microseconds since 1970 UTC.
            metrics: where to count; None is for this process alone.
            rollouts: what is rolled out beside the champion; None is what the model registry says, or, where the champions
                come from elsewhere, nothing.

        Raises:
            ValueError: nothing is applied (run ``feast apply``).
        """
        metrics = metrics or Metrics()
        if champions is None:
            impatient()
            kept, registry = settings().home / "serving", RolloutRegistry()
            champions = Champions(registry.champion, kept=KeptChampion(kept))
            rollouts = rollouts or Rollouts(
                champions, registry, folder=kept, ledger=Ledger(), clock_us=clock_us
            )
        rollouts = rollouts or Rollouts(champions, None)
        journal = PatientJournal(settings().journal, clock_us, on_change=metrics.journal_waits)
        seen = Seen(settings().journal, journal)
        store = open_serving_store()
        recorder = LiveRecorder.open(store, without_answer=True)
        recording = Recording(recorder, journal, seen, metrics, clock_us)
        serving = cls(
            champions,
            rollouts,
            recording,
            metrics,
            clock_us,
            Following(recorder, lambda: serving.reads, lambda: serving.definitions_changed()),
            History(store),
            Health(champions, online_client(store), store.project, metrics),
        )
        serving.champions.refresh()
        serving.rollouts.refresh()
        client = online_client(store)
        recording.catching_up = CatchingUp(
            client,
            Replaying(client, recorder, settings().journal),
            lambda: serving.plans,
            recording,
            metrics,
            serving.store_came_back,
            serving.following.look,
        )
        recording.catching_up.start()
        serving.champions.start()
        serving.following.start()
        serving.health.start()
        return serving

    def close(self) -> None:
        """Stop following alias and definitions; sync and close the journal."""
        self.champions.stop()
        self.rollouts.close()
        self.following.stop()
        self.health.stop()
        if self.recording.catching_up is not None:
            self.recording.catching_up.stop()
        self.recording.seen.close()
        self.recording.journal.close()
        self.metrics.cells.close()

    @property
    def reads(self) -> tuple[ViewSpec, ...]:
        """The definitions whose state is read here, by the champion or its challenger."""
        return (*self.champions.reads, *self.rollouts.reads)

    @property
    def plans(self) -> list[OnlinePlan]:
        """The plans by which the champion and its challenger read, the champion's first."""
        arrangement = self.rollouts.current
        trial = None if arrangement is None else arrangement.trial
        models = [self.champions.current, None if trial is None else trial.challenger]
        return [model.plan for model in models if model is not None]

    def store_came_back(self) -> None:
        """What could not be done for want of the store is tried at once."""
        self.following.look()
        self.champions.forget_refusal()

    def definitions_changed(self) -> None:
        """Say to whoever reads that other definitions are registered, or that their state may be complete by now."""
        self.champions.definitions_changed()
        self.rollouts.definitions_changed()

    @property
    def ready(self) -> bool:
        """Whether it decides by its model: a champion serves, and the store answers."""
        return self.health.not_ready() is None

    def answer(self, verb: str, body: Any, started_ns: int, *found: Found) -> Reply:
        """Do what ``POST`` to the route of ``verb`` (score, transaction, chargeback, features) says.

        Args:
            body: the request's; for ``score``, also the decoded element of a batch.
            started_ns: when it arrived, by ``time.perf_counter_ns``.
            found: what was looked up for it, if it was needed.

        Raises:
            Problem: whatever keeps it from being done, a store or a journal that does not answer included.
            HistoryNeededError: only of a chargeback; nothing was done yet.
        """
        with self._refusing(verb, body):
            return _VERBS[verb](self, body, started_ns, *found)

    @contextmanager
    def _refusing(self, verb: str, body: Any) -> Iterator[None]:
        """A store or a journal that does not answer is a problem of its own kind."""
        try:
            yield
        except STORE_FAILURES as error:
            self.metrics.errors.labels("store").inc()
            about = {"verb": verb, "transaction_id": transaction_id_in(body)}
            _log.error("the store or the journal does not answer", exc_info=error, extra=about)
            raise problem("unavailable", None, "nothing was done; send the same again in a moment") from error

    def score(self, body: Any, started_ns: int) -> Reply:
        """``POST /v1/score``: decide on a transaction, record it, journal what was seen."""
        return self._scorer.score(self._transaction_in(body), started_ns)

    async def scored(self, given: Any, started_ns: int, deadline: Deadline | None = None) -> Reply:
        """As ``answer("score", ...)``, decided together with others that are waiting then.

        Args:
            deadline: until when its turn must have come.
        """
        with self._refusing("score", given):
            return await self._together.decided(self._transaction_in(given), started_ns, deadline)

    def _transaction_in(self, given: Any) -> Transaction:
        """The transaction of a body for ``score``, or of a decoded element of ``score/batch``."""
        value = parse_json(given) if isinstance(given, bytes) else given
        return transaction_from(value, self._clock_us())

    def features(self, body: bytes, started_ns: int) -> Reply:
        """``POST /v1/features``: what the store says of these keys at this instant; recorded nowhere."""
        row = parse_question(body, self._clock_us())
        champion = self.champions.current
        if champion is None:
            raise problem("unavailable", None, self.champions.refused or "no champion serves")
        return Reply(features_document(champion, self.recording, row))

    def decision(self, transaction_id: str) -> dict[str, Any]:
        """``GET /v1/decisions/{transaction_id}``: what was decided, and from what, as it stands in the journal.

        Raises:
            Problem: no decision is known by the id, or the journal cannot be read.
        """
        try:
            return find_decision(self.recording, transaction_id)
        except OSError as error:
            _log.error("the journal cannot be read", exc_info=error, extra={"transaction_id": transaction_id})
            raise problem("unavailable", None, "the journal cannot be read; ask again in a moment") from error

    def explained(self, record: dict[str, Any]) -> dict[str, Any]:
        """A journalled decision as it is shown, with its reasons; in a thread of its own, for its model may have to be loaded."""
        return {**decision_document(record), "reasons": self.explanations.of(record)}

    def transaction(self, body: bytes, started_ns: int) -> Reply:
        """``POST /v1/transactions``: record a transaction that is decided elsewhere."""
        transaction = parse_transaction(body, self._clock_us())
        event = transaction.event("pending")
        return _recorded("transactions", event, self.recording.record("transactions", event))

    def chargeback(self, body: bytes, started_ns: int, found: Found = NOTHING_FOUND) -> Reply:
        """``POST /v1/chargebacks``: record a chargeback, filling in its transaction from the journal.

        What views over chargebacks take over from transactions comes from the journal too, or from the lake, as it does in
        history. Of a transaction that neither has, it is null.

        Raises:
            HistoryNeededError: the journal does not have it, and it is not ``found``.
            Problem: the journal has the transaction without it, and the lake not the transaction.
        """
        chargeback = parse_chargeback(body, self._clock_us())
        key = chargeback.transaction_id
        known = self._transaction_row(key)
        event = self._with_transaction(chargeback, known)
        if known is not None and "transactions" in found.absent:
            raise problem(
                "history-not-loaded",
                "transaction_id",
                f"transaction {key!r} was recorded without a column that a view takes over from it, and is not in the lake "
                "yet; what is recorded is loaded within a minute (fraud parity does at once), then send this again",
            )
        journalled = self.recording.derived("transactions", key)
        looked_up = found.values.get("transactions", {})
        taken = {**found.values, "transactions": {**journalled, **looked_up}}
        try:
            recorded = self.recording.record("chargebacks", event, taken)
        except LackingValueError as lacking:
            raise HistoryNeededError(partial(self._history.look_up, lacking, found)) from lacking
        return _recorded("chargebacks", event, recorded)

    def model(self) -> dict[str, Any]:
        """``GET /v1/model``: what serves, what is tried beside it, and what stands in the way of what should."""
        champion = self.champions.current
        about: dict[str, Any] = {"ready": self.ready, "refused": self.champions.refused, "name": MODEL_NAME}
        about["rollout"] = self.rollouts.about()
        if champion is None:
            return {**about, "version": None}
        bundle = champion.bundle
        return {
            **about,
            "version": champion.version,
            "feature_service": bundle.feature_service,
            "definitions_digest": bundle.definitions_digest,
            "features": list(bundle.feature_names),
        }

    def what_if(self, transactions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Score transactions as of their own instants, each alone; nothing is recorded or journalled.

        Raises:
            Problem: a transaction is malformed, there are none or too many, or no champion serves.
        """
        if not 0 < len(transactions) <= MAX_BATCH:
            raise problem(
                "invalid-value", "transactions", f"there are {len(transactions)}; send 1 to {MAX_BATCH}"
            )
        champion = self.champions.current
        if champion is None:
            raise problem("unavailable", None, self.champions.refused or "no champion serves")
        now = self._clock_us()
        parsed = [
            transaction_from(parse_json(json.dumps(given).encode()), now, f"transactions[{index}].")
            for index, given in enumerate(transactions)
        ]
        try:
            return _what_if(champion, parsed)
        except STORE_FAILURES as error:
            raise problem("unavailable", None, "the store does not answer; ask again in a moment") from error
        except StateLostError as error:
            self.recording.state_lost()
            raise problem("unavailable", None, str(error)) from error
        except LookupError as error:
            raise problem("history-dropped", None, str(error)) from error

    def _with_transaction(self, chargeback: Chargeback, known: dict[str, Any] | None) -> dict[str, Any]:
        event = chargeback.event()
        for name in _OF_TRANSACTION:
            if known is None and event[name] is None:
                raise problem(
                    "unknown-transaction",
                    name,
                    f"transaction {chargeback.transaction_id!r} was not scored or recorded here, so "
                    f"{', '.join(_OF_TRANSACTION)} of it must be sent",
                )
            if known is not None and event[name] not in (None, known[name]):
                raise problem(
                    "conflict",
                    name,
                    f"{event[name]} is not what the transaction has, {known[name]}; leave it out",
                )
            event[name] = event[name] if known is None else known[name]
        check_times(event["event_timestamp"], event["created_timestamp"], self._clock_us())
        return event

    def _transaction_row(self, transaction_id: str) -> dict[str, Any] | None:
        found = self.recording.seen.find(transaction_id)
        entry = found.get(DECISION) or found.get("transactions")
        if entry is None:
            return None
        line = self.recording.journal.read(entry.location)
        row = {**line, **line.get("request", {})}
        row["event_timestamp"] = _EPOCH + timedelta(microseconds=line["event_timestamp_us"])
        return row


_VERBS: dict[str, Callable[..., Reply]] = {
    "score": Serving.score,
    "features": Serving.features,
    "transaction": Serving.transaction,
    "chargeback": Serving.chargeback,
}


def _recorded(table: str, event: Mapping[str, Any], recorded: Recorded) -> Reply:
    created = (_EPOCH + timedelta(microseconds=recorded.known_us)).isoformat()
    about = {"transaction_id": event["transaction_id"], "table": table, "created_timestamp": created}
    return Reply(json.dumps(about).encode(), recorded.repeated)


def _what_if(champion: Champion, transactions: list[Transaction]) -> list[dict[str, Any]]:
    now = time.time_ns() // 1000
    rows = [{"known_as_of_us": now, **transaction.entity_row()} for transaction in transactions]
    scores = champion.bundle.score(champion.plan.read(rows).values).tolist()
    return [
        {
            "transaction_id": transaction.transaction_id,
            "decision": champion.bundle.decide(score, transaction.amount_usd_cents),
            "score": score,
            "model": {"name": MODEL_NAME, "version": champion.version},
        }
        for transaction, score in zip(transactions, scores, strict=True)
    ]


def _show(metrics: Metrics, champion: Champion) -> None:
    metrics.serves(MODEL_NAME, champion.version)
