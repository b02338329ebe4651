"""Reasons of decisions that were journalled, with the model version that each was taken with."""

import logging
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from bento.champion import Champion
from bento.reasons import Reason, reasons_of_record
from feature_repo.decision_reasons import REASONS
from training.bundle import Bundle
from training.registry import load_version

__all__ = ["Explanations"]

# Versions that are kept once loaded; most decisions that people ask about are recent.
_KEPT = 4
_log = logging.getLogger(__name__)


class Explanations:
    """Finds the model of a decision, and asks it again why.

    Args:
        current: the champion that serves, or None.
        load: a version's bundle; may take a second.
    """

    def __init__(
        self, current: Callable[[], Champion | None], load: Callable[[str], Bundle] = load_version
    ) -> None:
        self._current, self._load = current, lru_cache(_KEPT)(load)

    def of(self, record: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Why it was decided so: for a decline or review what spoke for fraud, for an approval what spoke against it.

        To be called in a thread of its own. Where the model cannot be had any more, the journalled codes are what is left.

        Args:
            record: as it stands in the journal.
        """
        try:
            found = reasons_of_record(self._bundle(record["model_version"]), record)
        except (
            Exception
        ) as error:  # the registry may be anywhere and raises anything; what was journalled is still known
            _log.warning(
                "the model of a decision cannot be asked again: %r",
                error,
                extra={"transaction_id": record["transaction_id"], "version": record["model_version"]},
            )
            found = [_journalled(code) for code in record.get("reasons") or []]
        return [reason.as_dict() for reason in found]

    def _bundle(self, version: str | None) -> Bundle | None:
        champion = self._current()
        if version is None:
            return None
        return (
            champion.bundle if champion is not None and champion.version == version else self._load(version)
        )


def _journalled(code: str) -> Reason:
    reason = REASONS.get(code)
    if reason is None:
        return Reason(code, "unknown", "The table has this code no more")
    return Reason(code, reason.direction, reason.sentence)
