"""Requests that wait at the same moment, decided together: the busier the service, the less each costs.

Each is answered as if it had been decided when its turn came. Those decided together share no key, and none shares one with
whoever was before it and still waits, so nothing that is recorded of one is in the windows of another. The state is read as of
one moment, which is before any of them is recorded; the journal keeps that moment, as ever.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import NamedTuple

from bento.case import Case, Key, Reply
from bento.deadline import Deadline
from bento.request import Transaction
from bento.score_batch import MOST_TOGETHER
from bento.tracing import current_trace

__all__ = ["Together"]


class _Waiting(NamedTuple):
    case: Case
    future: asyncio.Future[Reply]
    keys: set[Key]
    deadline: Deadline | None


class Together:
    """Those that wait in one event loop.

    Args:
        decide: gives each of some cases its reply or its error.
    """

    def __init__(self, decide: Callable[[Sequence[Case]], None]) -> None:
        self._decide = decide
        # In the order of their arrival.
        self._waiting: list[_Waiting] = []
        self._known = 0
        # Of no request: what is logged of one must not have the trace of another.
        self._context = Context()

    async def decided(
        self, transaction: Transaction, started_ns: int, deadline: Deadline | None = None
    ) -> Reply:
        """The answer to a transaction, when its turn has come; the wait is not its own time.

        Args:
            started_ns: when it arrived, by ``time.perf_counter_ns``.
            deadline: until when its turn must have come.

        Raises:
            Problem: that has passed; nothing was done.
            Whatever ``decide`` gives it as its error, or raises itself.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        # For now, how long it was worked on: it has not waited yet.
        case = Case(transaction, started_ns - time.perf_counter_ns(), current_trace())
        self._waiting.append(_Waiting(case, future, case.keys, deadline))
        if len(self._waiting) == 1:
            self._soon()
        return await future

    def _soon(self) -> None:
        """Decide in the loop's next round, when all are known that have arrived meanwhile."""
        self._known = len(self._waiting)
        asyncio.get_running_loop().call_soon(self._go, context=self._context)

    def _go(self) -> None:
        if self._known < len(self._waiting) < MOST_TOGETHER:
            # They are arriving; as long as they do, whoever goes now would leave the next one behind.
            self._soon()
            return
        self._waiting = [each for each in self._waiting if not _is_late(each)]
        if not self._waiting:
            return
        group = self._next()
        now = time.perf_counter_ns()
        for each in group:
            each.case.started_ns += now
        fault: BaseException | None = None
        try:
            self._decide([each.case for each in group])
        except BaseException as error:  # a library's panic included: it concerns them all, and nobody else
            fault = error
        for case, future, *_ in group:
            if fault is not None and case.reply is None:
                case.error = case.error or _told(fault)
            try:
                future.set_result(case.answered())
            except Exception as error:  # its sender is told
                future.set_exception(_told(error))
        if self._waiting:
            # Only now: the answers go out first.
            self._soon()
        if isinstance(fault, KeyboardInterrupt | SystemExit):
            raise fault

    def _next(self) -> list[_Waiting]:
        """Those to be decided now; they wait no more."""
        if self._waiting[0].case.historic:
            # What was known then is a matter of each one's own time.
            return [self._waiting.pop(0)]
        group: list[_Waiting] = []
        others: list[_Waiting] = []
        taken: set[Key] = set()
        for place, each in enumerate(self._waiting):
            if len(group) == MOST_TOGETHER:
                others += self._waiting[place:]
                break
            alone = each.case.historic or not each.keys.isdisjoint(taken)
            (others if alone else group).append(each)
            taken |= each.keys
        self._waiting = others
        return group


def _is_late(waiting: _Waiting) -> bool:
    """Whether nobody waits for it any more, or it has waited too long, which is then said."""
    if waiting.future.done():
        return True
    late = None if waiting.deadline is None else waiting.deadline.passed()
    if late is not None:
        waiting.future.set_exception(late)
    return late is not None


def _told(error: BaseException) -> Exception:
    """An error as a future can have it: no StopIteration, nor what would end the loop."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    told = RuntimeError(repr(error))
    told.__cause__ = error
    return told
