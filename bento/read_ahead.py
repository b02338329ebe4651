"""Features of requests that wait at the same moment, read in one round trip.

What a read costs is nearly the same for one row as for ten: a trip to the store, a call of the kernel, some fifty calls of
numpy. The first of those that wait reads for all of them, and the busier the service, the less each costs.

Each is answered as if it had been read when its turn came. Those read together share no key, and none shares one with
whoever was before it, so nothing that is recorded in between is in the windows of another. The state is read as of one
moment, which is before any of them is recorded; the journal keeps that moment, as ever.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bento.recording import STORE_FAILURES
from bento.request import Transaction
from feature_repo.windows.plan import Answer
from feature_repo.windows.reading import StateLostError

__all__ = ["ReadAhead"]

MOST_TOGETHER = 32
"""How many are read at once: some 2 ms of work."""

PlanOf = Callable[[Transaction], Any]
"""The plan by which a transaction is to be read; it has ``read``, as ``OnlinePlan`` and ``JointPlan`` do."""


_Key = tuple[str, str]


class ReadAhead:
    """Those that wait in one event loop, and what was read for them already."""

    def __init__(self) -> None:
        # By the order of their arrival. Found: the plan, what it has answered, and the keys.
        self._waiting: dict[int, Transaction] = {}
        self._found: dict[int, tuple[Any, Any, set[_Key]]] = {}

    @contextmanager
    def waiting(self, transaction: Transaction) -> Iterator[None]:
        """Within, others may read for it; it must give way to the loop once, so that all that have arrived are known."""
        name = id(transaction)
        self._waiting[name] = transaction
        try:
            yield
        finally:
            self._waiting.pop(name, None)
            self._found.pop(name, None)

    def read(
        self,
        transaction: Transaction,
        plan_of: PlanOf,
        plan: Any,
        rows: list[dict[str, Any]],
        ends_ns: list[int],
    ) -> Any:
        """What ``plan.read(rows, ends_ns)`` returns, ``rows`` being the transaction's own; raises as that does.

        A read that was made already took no time of this request's.
        """
        plan_then, found, _ = self._found.pop(id(transaction), (None, None, None))
        if plan_then is plan:
            ends_ns += [time.perf_counter_ns()] * 2
            return found
        others = self._others(transaction, plan_of, plan)
        if not others:
            return plan.read(rows, ends_ns)
        try:
            together = plan.read([*rows, *(other.entity_row() for other in others)], ends_ns)
        except (*STORE_FAILURES, StateLostError):
            raise
        except Exception:  # it may concern any of them: each is read alone, and told its own
            self._waiting.clear()
            return plan.read(rows, ends_ns)
        for place, other in enumerate(others, start=1):
            self._found[id(other)] = plan, _of(together, place), _keys(other)
        return _of(together, 0)

    def _others(self, first: Transaction, plan_of: PlanOf, plan: Any) -> list[Transaction]:
        """Those to be read with the first; they wait no more."""
        if self._waiting.pop(id(first), None) is None or first.created_timestamp is not None:
            return []
        taken, found = _keys(first), []
        for _, _, keys in self._found.values():
            taken |= keys
        for other in self._waiting.values():
            keys = _keys(other)
            # One that comes with its known time is history, of which what is recorded before it must be seen.
            if keys.isdisjoint(taken) and other.created_timestamp is None and plan_of(other) is plan:
                found.append(other)
            taken |= keys
            if len(found) == MOST_TOGETHER - 1:
                break
        for other in found:
            del self._waiting[id(other)]
        return found


def _keys(transaction: Transaction) -> set[_Key]:
    return {("customer", transaction.customer_id), ("terminal", transaction.terminal_id)}


def _of(together: Any, place: int) -> Any:
    """One row of an answer, or of each answer of a joint plan."""
    if isinstance(together, tuple):
        return tuple(_of(each, place) for each in together)
    row = slice(place, place + 1)
    seen = {view: counts[row] for view, counts in together.state_seen.items()}
    return Answer(together.values[row], together.known_as_of_us[row], seen)
