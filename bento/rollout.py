"""The rollout that is in force here: followed beside the champion, by the same thread and in the same call of the registry.

Where the challenger cannot serve, or a guard rail has tripped, or the registry says that the rollout has ended, the champion
decides alone. What was last known is kept beside the service, so that a restart while the registry is away goes on as before,
an end that could not be told yet included.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from bento.champion import Champion, Champions, prepare
from bento.ends import Ends
from bento.guards import Guard, Tripped, reference_scores
from bento.kept import KeptChampion, KeptRollout
from bento.turn import Arrangement, Trial
from feature_repo.journal import now_us
from feature_repo.windows.joint import JointPlan
from feature_repo.windows.spec import ViewSpec
from training.bundle import Bundle, BundleError
from training.ledger import Ledger
from training.registry import load_version
from training.rollout import ALONE, Rollout
from training.rollout_registry import Look

__all__ = ["Registry", "Rollouts"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_log = logging.getLogger(__name__)


class Registry(Protocol):
    """What is asked of the registry; ``training.rollout_registry`` has it."""

    def latest(self) -> Look: ...

    def say_ended(self, rollout_id: str, about: dict[str, Any]) -> None: ...

    def say_refused(self, rollout_id: str, where: str, why: str | None) -> None: ...


class Rollouts:
    """Holds what is in force, and follows the registry.

    Attributes:
        current: the arrangement, or None where the champion decides alone and nothing is explored; read it once a request.
        refused: why the rollout that the registry names is not in force, or None.
        on_change, on_trip: called with each new arrangement; with each guard that trips.
        on_failure, on_decision: called with each failure of the challenger; with each arm's decisions.
    """

    def __init__(
        self,
        champions: Champions,
        registry: Registry | None,
        *,
        folder: Path | None = None,
        load: Callable[[str], Bundle] = load_version,
        prepare: Callable[[Bundle, str], Champion] = prepare,
        ledger: Ledger | None = None,
        clock_us: Callable[[], int] = now_us,
    ) -> None:
        """
        Args:
            registry: None for none: the champion alone.
            folder: where what is known is kept; None keeps nothing.
            load, prepare: as those of ``Champions``.
        """
        self.current: Arrangement | None = None
        self.refused: str | None = None
        self.on_change: Callable[[Rollout, str | None], None] = lambda rollout, refused: None
        self.on_trip: Callable[[Tripped], None] = lambda tripped: None
        self.on_failure: Callable[[], None] = lambda: None
        self.on_decision: Callable[[str, str], None] = lambda arm, decision: None
        self.where = f"{socket.gethostname()}-{os.getpid()}"
        self._champions, self._registry, self._clock_us = champions, registry, clock_us
        self._load_version = load
        kept = None if folder is None else KeptRollout(folder / "rollout.json")
        self._ends = Ends(registry, ledger, kept)
        self._kept = None if folder is None else KeptChampion(folder / "challenger")
        self._document: Rollout | None = None
        self._said_refused: tuple[str, str | None] = ("", None)
        self._wanted: str | None = None
        self._unreadable: str | None = None
        self._tried = self._said = ""
        # Between the thread that follows and the one that scores.
        self._lock = threading.RLock()
        self._challengers = Champions(
            alias=lambda: self._wanted, load=self._load, prepare=prepare, role="challenger"
        )
        self._guard: tuple[object, Guard] | None = None

    @property
    def reads(self) -> tuple[ViewSpec, ...]:
        """The definitions whose state the challenger reads."""
        return self._challengers.reads

    def definitions_changed(self) -> None:
        """As ``Champions.definitions_changed``."""
        self._challengers.definitions_changed()

    def refresh(self) -> bool:
        """Look at the registry once, and put in force what it says; returns whether that is another arrangement.

        Never raises: what goes wrong is logged, and what was in force goes on.
        """
        if self._registry is None:
            return False
        try:
            return self._refresh(self._registry)
        except Exception as error:  # the thread follows the champion too, and must go on
            if repr(error) != self._said:
                _log.error("the rollout cannot be followed", exc_info=error)
            self._said = repr(error)
            return False

    def _refresh(self, registry: Registry) -> bool:
        # At the start also where the registry answers: it may not have been told of an end before this process began.
        remembered = self._remembered() if self._document is None else None
        try:
            found = registry.latest()
        except Exception as error:  # the registry may be anywhere, and its client raises anything
            remembered = remembered or self._remembered()
            self._document = self._document or remembered
            _log.debug("the rollout goes on as it is: the registry does not answer: %r", error)
        else:
            self._document = self._read(found)
            self._ends.tell()
        changed = self._arrange()
        self._report(registry)
        self._ends.keep(self._document)
        return changed

    def close(self) -> None:
        """This process refuses nothing any more: take back what the registry was told of it."""
        name, refused = self._said_refused
        if refused is None or self._registry is None:
            return
        try:
            self._registry.say_refused(name, self.where, None)
        except Exception as error:  # as in refresh
            _log.warning("the registry cannot be told that this process has ended: %r", error)

    def about(self) -> dict[str, Any]:
        """For ``GET /v1/model``: what is in force, and what stands in the way of what should be."""
        document, current = self._in_force(), self.current
        trial = None if current is None else current.trial
        about: dict[str, Any] = {
            "id": document.id,
            "mode": document.mode if trial is not None else "champion",
            "challenger": document.challenger,
            "share": document.share,
            "explore": document.explore,
            "refused": self.refused,
            "ended": self._ends.about(document.id),
        }
        if trial is not None:
            bundle = trial.challenger.bundle
            about["feature_service"], about["definitions_digest"] = (
                bundle.feature_service,
                bundle.definitions_digest,
            )
            about["guards"] = trial.guard.counts()
        return about

    def _in_force(self) -> Rollout:
        """The document, without the challenger of a rollout that has ended."""
        document = self._document or ALONE
        return document.ended() if document.id in self._ends else document

    def _read(self, found: Look) -> Rollout:
        try:
            document = ALONE if found.text is None else Rollout.from_text(found.text)
            self._unreadable = None
        except ValueError as error:
            document, self._unreadable = ALONE, str(error)
        if found.ended is not None:
            self._ends.add(document.id, dict(found.ended), told=True)
        return document

    def _arrange(self) -> bool:
        document, champion = self._in_force(), self._champions.current
        wanted = document.challenger
        moot = wanted is not None and champion is not None and wanted == champion.version
        challenger = self._challenger(None if moot else wanted, document.id)
        trial = None
        if champion is not None and challenger is not None:
            trial = self._trial(document, champion, challenger)
        arrangement = Arrangement(document, trial) if trial is not None or document.explore else None
        with self._lock:
            if document != self._in_force():
                return True  # a guard has tripped meanwhile, and put the champion alone in force
            if arrangement == self.current:
                return False
            self.current = arrangement
        self.on_change(document if trial is not None else document.ended(), self.refused)
        _log.info(
            "rollout in force",
            extra={
                "mode": document.mode if trial else "champion",
                "challenger": wanted,
                "explore": document.explore,
            },
        )
        return True

    def _challenger(self, version: str | None, document_id: str) -> Champion | None:
        challengers = self._challengers
        if challengers.current is not None and challengers.current.version != version:
            challengers.current = None
        self._wanted = version
        if version is None:
            self._refuse(self._unreadable)
            return None
        if self._tried != document_id:
            # Whoever begins a rollout anew has mended what stood in its way.
            challengers.forget_refusal()
            self._tried = document_id
        challengers.refresh()
        self._refuse(challengers.refused if challengers.current is None else None)
        return challengers.current

    def _trial(self, document: Rollout, champion: Champion, challenger: Champion) -> Trial | None:
        before = None if self.current is None else self.current.trial
        if before is not None and before.champion is champion and before.challenger is challenger:
            if before.rollout == document:
                return before
            joint = before.joint
        else:
            try:
                joint = JointPlan(champion.plan, challenger.plan)
                joint.warm()
            except Exception as error:  # as in Champions: the champion must go on
                self._refuse(f"version {challenger.version} cannot be read beside the champion: {error!r}")
                return None
        guard = self._guard_of(document, champion, challenger)
        return Trial(
            document, champion, challenger, joint, guard, self._trip, self.on_failure, self.on_decision
        )

    def _guard_of(self, document: Rollout, champion: Champion, challenger: Champion) -> Guard:
        """The guard of this rollout; a model prepared anew does not make it forget what it counted."""
        key = (document.id, champion.version, challenger.version)
        if self._guard is None or self._guard[0] != key:
            references = [reference_scores(each.bundle.folder) for each in (champion, challenger)]
            self._guard = key, Guard(document.guards, self._clock_us, *references)
        return self._guard[1]

    def _trip(self, tripped: Tripped) -> None:
        """The champion alone from here on; the registry is told by the thread that follows it."""
        with self._lock:
            current = self.current
            if current is None or current.trial is None or current.rollout.id in self._ends:
                return
            document = current.rollout
            self._ends.add(document.id, self._end(current.trial, tripped))
            self.current = Arrangement(document.ended(), None) if document.explore else None
        self.on_trip(tripped)
        self.on_change(document.ended(), self.refused)
        _log.error(
            "the rollout has ended: %s; the champion decides", tripped.why, extra={"rollout": document.id}
        )
        self._ends.keep(self._document or document)

    def _end(self, trial: Trial, tripped: Tripped) -> dict[str, Any]:
        """What is said of an end: by whom, why, and on what evidence."""
        return {
            "at": (_EPOCH + timedelta(microseconds=self._clock_us())).isoformat(),
            "who": f"guard rail of {self.where}",
            "why": tripped.why,
            "guard": tripped.guard,
            "value": tripped.value,
            "limit": tripped.limit,
            "champion": trial.champion.version,
            "challenger": trial.challenger.version,
            "mode": trial.rollout.mode,
            "share": trial.rollout.share,
            "counts": trial.guard.counts(),
        }

    def _report(self, registry: Registry) -> None:
        """Say in the registry why the challenger does not serve here, once, and take it back when it does."""
        said = (self._in_force().id, self.refused)
        if said == self._said_refused:
            return
        name, before = self._said_refused
        try:
            if self.refused is not None and said[0]:
                registry.say_refused(said[0], self.where, self.refused)
            elif before is not None and name == said[0]:
                registry.say_refused(name, self.where, None)
        except Exception as error:  # as above
            _log.warning("the registry cannot be told of the challenger: %r", error)
            return
        self._said_refused = said

    def _refuse(self, why: str | None) -> None:
        if why != self.refused:
            self.refused = why
            self.on_change(self._in_force().ended(), why)

    def _load(self, version: str) -> Bundle:
        try:
            bundle = self._load_version(version)
        except (BundleError, LookupError):
            raise
        except Exception:
            # The registry does not answer: what was loaded before will do.
            with suppress(BundleError, OSError):
                kept = self._kept.load() if self._kept is not None else None
                if kept is not None and kept[1] == version:
                    return kept[0]
            raise
        if self._kept is not None:
            try:
                self._kept.keep(bundle, version)
            except OSError as error:
                _log.warning("the challenger cannot be kept for a restart: %s", error)
        return bundle

    def _remembered(self) -> Rollout:
        try:
            return self._ends.remember()
        except (OSError, ValueError) as error:
            if self._document is None:
                _log.warning(
                    "the rollout that was kept cannot be read; the champion decides alone: %s", error
                )
            return ALONE
