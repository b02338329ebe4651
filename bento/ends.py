"""Rollouts that have ended: known here at once, told to registry and ledger until they have taken it, and kept for a restart."""

import logging
import threading
from typing import Any, Protocol

from bento.kept import KeptRollout
from training.ledger import Ledger, ended_line
from training.rollout import ALONE, Rollout

__all__ = ["Ends"]

_log = logging.getLogger(__name__)


class _Registry(Protocol):
    def say_ended(self, rollout_id: str, about: dict[str, Any]) -> None: ...


class Ends:
    """What is known of the end of rollouts, by their ids.

    Args:
        registry, ledger: who is told; None is nobody.
        kept: where it is kept beside the service, with the document in force; None keeps nothing.
    """

    def __init__(self, registry: _Registry | None, ledger: Ledger | None, kept: KeptRollout | None) -> None:
        self._registry, self._ledger, self._kept = registry, ledger, kept
        self._ended: dict[str, dict[str, Any]] = {}
        self._told: set[str] = set()
        # The thread that scores ends rollouts, the one that follows the registry keeps and tells.
        self._lock = threading.Lock()

    def __contains__(self, rollout_id: str) -> bool:
        return rollout_id in self._ended

    def about(self, rollout_id: str) -> dict[str, Any] | None:
        """What is known of its end; None where it has not ended."""
        return self._ended.get(rollout_id)

    def add(self, rollout_id: str, about: dict[str, Any], *, told: bool = False) -> None:
        """It has ended, if that is new; ``told`` if the registry knows."""
        with self._lock:
            if rollout_id not in self._ended:
                self._ended[rollout_id] = about
                self._told |= {rollout_id} if told else set()

    def tell(self) -> None:
        """Tell registry and ledger what they do not know yet; what goes wrong is logged, and told at the next call."""
        for name, about in list(self._ended.items()):
            if name in self._told or self._registry is None:
                continue
            try:
                self._registry.say_ended(name, about)
                if self._ledger is not None:
                    self._ledger.append(ended_line(name, about))
            except Exception as error:  # the registry may be anywhere, and its client raises anything
                _log.warning("the end of rollout %s cannot be told yet: %r", name, error)
            else:
                self._told.add(name)

    def keep(self, document: Rollout) -> None:
        """Keep the document in force, and what concerns it or is not told yet."""
        if self._kept is None:
            return
        with self._lock:
            ended = {
                name: about
                for name, about in self._ended.items()
                if name == document.id or name not in self._told
            }
            try:
                self._kept.keep(document, ended, self._told & set(ended))
            except OSError as error:
                _log.warning("the rollout cannot be kept for a restart: %s", error)

    def remember(self) -> Rollout:
        """Take up what was kept, by this process or another one on this machine; returns the document.

        Raises:
            OSError, ValueError: it cannot be read.
        """
        found = None if self._kept is None else self._kept.load()
        if found is None:
            return ALONE
        document, ended, told = found
        for name, about in ended.items():
            self.add(name, about, told=name in told)
        return document
