"""The champion that serves: loaded from the model registry, checked, and replaced as a whole.

A background thread looks at the alias every few seconds. A new champion is loaded, checked and warmed
there, then put in place by one assignment; a request in flight finishes with the one it began with. A
champion that cannot serve is refused with its reason in the log, and the old one goes on, also after a
restart: it is kept beside the service.
"""

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass

from feast import FeatureStore
from feast.errors import FeastObjectNotFoundException

from bento.kept import KeptChampion
from bento.online import open_serving_store
from bento.reasons import explain
from bento.repeating import Repeating
from feature_repo.windows.live import claim
from feature_repo.windows.plan import FAR_AHEAD_US, OnlinePlan
from feature_repo.windows.resolve import Resolved, resolve_service
from feature_repo.windows.spec import ViewSpec
from training.bundle import Bundle
from training.registry import MODEL_NAME, alias_version, load_version

__all__ = ["MODEL_NAME", "POLL_S", "Champion", "Champions", "RefusedError", "prepare"]

POLL_S = 2.0
"""How soon a change in the registry is seen: with what it takes to load a model, it is in force within 5 s."""

# A refused version is tried again now and then: what it lacked may come without a new version.
_RETRY_POLLS = 15

_log = logging.getLogger(__name__)


class RefusedError(Exception):
    """A model version that cannot serve here, and why."""


@dataclass(frozen=True, slots=True)
class Champion:
    """A model version, and the plan that reads exactly the features that it was trained on.

    Attributes:
        settled: whether the plan is the registry's, or can never be: the registry means other features by these names.
    """

    bundle: Bundle
    version: str
    plan: OnlinePlan
    settled: bool = True


def prepare(bundle: Bundle, version: str) -> Champion:
    """A champion that is checked and warm.

    Raises:
        RefusedError: no definitions that it was trained on are to be had here, or no history is loaded.
    """
    plan, settled = _plan(open_serving_store(), bundle)
    if plan.feature_names != bundle.feature_names:
        raise RefusedError(
            f"its features are not those of {bundle.feature_service!r}, in that order; train anew"
        )
    plan.warm()
    _warm(bundle, plan)
    return Champion(bundle, version, plan, settled)


def _plan(store: FeatureStore, bundle: Bundle) -> tuple[OnlinePlan, bool]:
    """The plan of what the bundle was trained on, as it is registered, else as the bundle has it; and ``Champion.settled``.

    Where both mean the same they may still differ in state: a view that has gained an aggregate is kept under another
    definition. That one stays, and is preferred as soon as its history is loaded.
    """
    client = store._get_provider().online_store._get_client(store.config.online_store)
    registered, why = _registered(store, bundle)
    own, why = _own(bundle, why)
    found = [each for each in (registered, own) if each is not None]
    missing: list[str] = []
    for resolved in found:
        plan = OnlinePlan.of(store, resolved)
        # The state is kept up from here on, whether or not it is registered.
        claim(client, store.project, plan.views)
        lacking = plan.missing_state()
        if not lacking:
            plan.watch()
            return plan, resolved is registered or registered is None
        missing = missing or lacking
    if not found:
        raise RefusedError(
            f"it was trained on definitions {bundle.definitions_digest[:12]} of {bundle.feature_service!r}, "
            f"and {why}; apply its definitions, or train a model on these"
        )
    raise RefusedError(
        f"no history is loaded, or not enough, into the online state of {', '.join(missing)}; run feast materialize"
    )


def _registered(store: FeatureStore, bundle: Bundle) -> tuple[Resolved | None, str]:
    """What is registered if it means what the bundle was trained on, else None and why."""
    try:
        found = resolve_service(store, bundle.feature_service)
    except (FeastObjectNotFoundException, ValueError) as error:
        return None, f"what is applied here cannot serve it: {error}"
    same = found.digest == bundle.definitions_digest
    return (found if same else None), f"{found.digest[:12]} are applied here"


def _own(bundle: Bundle, why: str) -> tuple[Resolved | None, str]:
    """What the bundle has of its own, else None and why."""
    if bundle.spec.definitions is None:
        return None, why
    try:
        found = Resolved.from_data(bundle.spec.definitions)
    except ValueError as error:
        return None, f"{why}, and its own cannot be used: {error}"
    same = found.digest == bundle.definitions_digest
    return (found if same else None), why


def _warm(bundle: Bundle, plan: OnlinePlan) -> None:
    columns = {**dict.fromkeys(plan.join_keys, ""), **dict.fromkeys(plan.request_columns, 1)}
    row = {**columns, "event_timestamp_us": FAR_AHEAD_US, "amount_usd_cents": 1}
    values = plan.read([row]).values
    bundle.decide(float(bundle.score(values)[0]), 1)
    explain(bundle, values[0], "review", 1)
    bundle.decide_without_model(row)


class Champions:
    """Holds the champion that serves, and follows the registry's alias.

    Attributes:
        current: the champion, or None before the first one; read it once a request.
        refused: why the version that the alias names does not serve, or None.
        on_change: called with each new champion, in the thread that brought it in.
        beside: called after each look at the alias, by the same thread; returns whether it has brought in something too.
    """

    def __init__(
        self,
        alias: Callable[[], str | None] = lambda: alias_version("champion"),
        load: Callable[[str], Bundle] = load_version,
        prepare: Callable[[Bundle, str], Champion] = prepare,
        kept: KeptChampion | None = None,
        role: str = "champion",
        poll_s: float = POLL_S,
    ) -> None:
        self.current: Champion | None = None
        self.refused: str | None = None
        self.on_change: Callable[[Champion], None] = lambda champion: None
        self.beside: Callable[[], bool] = lambda: False
        self._role = role
        self._alias, self._load, self._prepare, self._kept = alias, load, prepare, kept
        self._refused_version: str | None = None
        self._polls_since_refusal = self._polls_since_settled = 0
        self._settled, self._unsettled = True, ""
        # Definitions change while a champion is prepared too: what it was made from is then not what is registered now.
        self._changes = self._prepared_at = 0
        self.thread = Repeating(role, self._look, poll_s)

    @property
    def reads(self) -> tuple[ViewSpec, ...]:
        """The definitions whose state the champion reads; none without a champion."""
        champion = self.current
        return () if champion is None else champion.plan.views

    def refresh(self) -> bool:
        """Look at the alias once, and bring in what it names; returns whether the champion changed.

        Never raises: what goes wrong is logged, and the present champion goes on.
        """
        try:
            version = self._alias()
        except Exception as error:  # the registry may be anywhere, and its client raises anything
            return self._refuse("?", f"the model registry does not answer: {error!r}")
        if version is None:
            return self._refuse("?", "no version has the alias 'champion'; run fraud train")
        if self.current is not None and version == self.current.version:
            self._accepted()
            return self._settle(self.current)
        if version == self._refused_version and self._polls_since_refusal < _RETRY_POLLS:
            self._polls_since_refusal += 1
            return False
        return self._bring_in(version)

    def start(self) -> None:
        """Follow the alias in a thread until ``stop``."""
        self.thread.start()

    def stop(self) -> None:
        """End the thread; returns when it has ended."""
        self.thread.stop()

    def _look(self) -> None:
        changed = self.refresh()
        if self.beside() or changed:
            # What the last model left is freed, and the new one never walked through by the collector.
            gc.collect()
            gc.freeze()

    def _bring_in(self, version: str) -> bool:
        try:
            champion = self._prepared(self._load(version), version)
        except Exception as error:  # a bundle may be broken in any way; the old champion must go on
            return self._refuse(version, _cannot_serve(version, error))
        self._accepted()
        self._put_in_place(champion)
        if self._kept is not None:
            try:
                self._kept.keep(champion.bundle, version)
            except OSError as error:
                _log.warning("the champion cannot be kept for a restart: %s", error)
        return True

    def forget_refusal(self) -> None:
        """Have the version that was refused last tried again at the next look."""
        self._refused_version = None

    def definitions_changed(self) -> None:
        """Say that other definitions are registered, or that their state may be complete by now."""
        self._settled = False
        self._changes += 1

    def _prepared(self, bundle: Bundle, version: str) -> Champion:
        self._prepared_at = self._changes
        return self._prepare(bundle, version)

    def _settle(self, champion: Champion) -> bool:
        """Have the champion read what is registered, once that means the same and its history is loaded."""
        self._polls_since_settled += 1
        if self._settled or self._polls_since_settled < _RETRY_POLLS:
            return False
        self._polls_since_settled = 0
        try:
            again = self._prepared(champion.bundle, champion.version)
        except Exception as error:  # as in _bring_in; it may pass, so it is tried again
            if str(error) != self._unsettled:
                _log.warning("the %s goes on with the state that it reads: %s", self._role, error)
            self._unsettled = str(error)
            return False
        self._unsettled = ""
        if again.plan.views == champion.plan.views:
            self._settle_as(again)
            return False
        self._put_in_place(again)
        return True

    def _settle_as(self, champion: Champion) -> None:
        self._settled = champion.settled and self._prepared_at == self._changes

    def _put_in_place(self, champion: Champion) -> None:
        self.current = champion
        self._settle_as(champion)
        self.on_change(champion)
        _log.info("%s serves", self._role, extra={"model": MODEL_NAME, "version": champion.version})

    def _fall_back(self) -> bool:
        """Bring in the champion of the process before this one, if it was kept and still can serve."""
        try:
            kept = self._kept.load() if self._kept is not None else None
            champion = self._prepared(*kept) if kept is not None else None
        except Exception as error:  # as in _bring_in
            _log.error("the champion that was kept cannot serve either: %s", error)
            return False
        if champion is not None:
            self._put_in_place(champion)
        return champion is not None

    def _accepted(self) -> None:
        self.refused = self._refused_version = None

    def _refuse(self, version: str, why: str) -> bool:
        said_before = why == self.refused
        self.refused, self._refused_version, self._polls_since_refusal = why, version, 0
        if said_before:
            return False
        fell_back = self.current is None and self._fall_back()
        alone = "the rules decide" if self._role == "champion" else "the champion decides alone"
        serving = alone if self.current is None else f"version {self.current.version} serves on"
        _log.error("%s; %s", why, serving, extra={"version": version})
        return fell_back


def _cannot_serve(version: str, error: Exception) -> str:
    why = str(error) if isinstance(error, RefusedError) else repr(error)
    return f"version {version} of model {MODEL_NAME!r} cannot serve: {why}"
