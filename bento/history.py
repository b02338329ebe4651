"""Looking up in the lake what a chargeback takes over from a transaction, where the journal does not have it."""

import logging
import threading
from dataclasses import dataclass, field

import duckdb
from deltalake.exceptions import DeltaError
from feast import FeatureStore

from bento.problem import problem
from feature_repo.windows.event_values import LackingValueError, Taken
from feature_repo.windows.taken_over import look_up

__all__ = ["NOTHING_FOUND", "Found", "History"]

_FAILURES = (OSError, ValueError, TypeError, duckdb.Error, DeltaError)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """What was looked up of one event.

    Attributes:
        values: by source; null where the source has no such event. absent: those sources.
    """

    values: Taken = field(default_factory=dict)
    absent: frozenset[str] = frozenset()


NOTHING_FOUND = Found()


class History:
    """The lake, asked one question at a time."""

    def __init__(self, store: FeatureStore) -> None:
        self._store, self._lock = store, threading.Lock()

    def look_up(self, lacking: LackingValueError, before: Found) -> Found:
        """What an event lacks, added to what was found of it before.

        Raises:
            Problem: the lake cannot tell.
        """
        with self._lock:
            try:
                answers = look_up(self._store, lacking)
            except _FAILURES as error:
                _log.error("history cannot be looked up", exc_info=error, extra={"id": lacking.event_id})
                raise problem(
                    "unavailable",
                    None,
                    f"nothing was recorded: the lake cannot tell what it takes over: {error}",
                ) from error
        absent = {source for source, values in answers.items() if values is None}
        nulls = {column.key: None for column in lacking.columns}
        values = {
            source: {**before.values.get(source, {}), **(nulls if found is None else found)}
            for source, found in answers.items()
        }
        return Found({**before.values, **values}, before.absent | absent)
