"""The processor that a worker's requests run on, and the store with them.

A worker waits for each answer of its store. Where both run on one processor, handing over is a switch of some microseconds;
where the store's has gone to sleep, waking it may cost more than the work itself: on a virtual machine of two processors a
byte there and back took 64 us on one of them and 1,487 us on two. So a worker that is the only one of its store, on the same
machine, may keep to one processor and draw the store to it; whatever else they do may run on all of them.

Only Linux can be told; elsewhere nothing is done.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from typing import ParamSpec, TypeVar

from bento.service_settings import service_settings
from feature_repo.settings import settings
from feature_repo.windows.embedded import server_pid

__all__ = ["beside", "chosen", "draw_store", "keep_to_one", "others"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_ALL = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def chosen(workers: int) -> int | None:
    """The processor for the requests of a service that is about to start; None: there is no reason to keep to one."""
    if workers > 1 or settings().redis is not None or len(_ALL) < 2:
        return None
    return min(_ALL)


def keep_to_one() -> None:
    """Keep this thread, which must be that of the requests, to the processor that the settings name.

    Raises:
        ValueError: this process may not run on it.
    """
    number = service_settings().processor
    if number is None or not _ALL:
        return
    if number not in _ALL:
        raise ValueError(f"FRAUD_PROCESSOR: {number}: this process may run on {sorted(_ALL)}, or say any")
    os.sched_setaffinity(0, {number})


def draw_store() -> None:
    """Keep the thread of the embedded store that answers to the same processor, if the settings name one."""
    number = service_settings().processor
    if number not in _ALL or settings().redis is not None:
        return
    pid = server_pid(settings().home)
    if pid is not None:
        with suppress(ProcessLookupError, PermissionError):
            os.sched_setaffinity(pid, {number})


def others() -> set[int]:
    """Processors of this process but that of the requests; all, if it has no other."""
    return _ALL - {service_settings().processor} or _ALL


async def beside(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Do work of a request in a thread that may run anywhere, while others are answered."""

    def roaming() -> _T:
        if _ALL:
            # A thread begins where the one that started it keeps to.
            os.sched_setaffinity(0, _ALL)
        return work(*args, **kwargs)

    return await asyncio.to_thread(roaming)
