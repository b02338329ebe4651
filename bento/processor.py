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
from typing import Any, ParamSpec, TypeVar

from bento.service_settings import service_settings
from feature_repo.settings import settings

__all__ = ["anywhere", "beside", "check", "chosen", "keep_to_one", "others", "place_store"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_ALL = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def chosen(workers: int) -> int | None:
    """The processor for the requests of a service that is about to start; None: there is no reason to keep to one."""
    if workers > 1 or settings().redis is not None or len(_ALL) < 2:
        return None
    return min(_ALL)


def check() -> None:
    """See that this process may run on the processor that the settings name.

    Raises:
        ValueError: it may not.
    """
    number = service_settings().processor
    if _ALL and number is not None and number not in _ALL:
        raise ValueError(f"FRAUD_PROCESSOR: {number}: this process may run on {sorted(_ALL)}; or say any")


def keep_to_one() -> None:
    """Keep this thread, which must be that of the requests, to the processor of the settings, if they name one."""
    _place(0, _own())


def anywhere() -> None:
    """Let this thread run on all processors: it begins where the one that started it keeps to."""
    _place(0, _ALL)


def place_store(client: Any, *, released: bool = False) -> None:
    """Let the embedded store answer where the requests are; one elsewhere is its owner's business.

    Args:
        client: a client of it. released: it may run anywhere again.

    Raises:
        redis.RedisError: it does not answer.
    """
    if _ALL and settings().redis is None:
        # Of the process the first thread, the one that answers.
        _place(int(client.info("server")["process_id"]), _ALL if released else _own())


def others() -> set[int]:
    """Processors of this process but that of the requests; all, if it has no other or the requests keep to none."""
    return _ALL - _own() or _ALL


async def beside(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Do work of a request in a thread that may run anywhere, while others are answered."""

    def roaming() -> _T:
        anywhere()
        return work(*args, **kwargs)

    return await asyncio.to_thread(roaming)


def _own() -> set[int]:
    """Where the requests keep to."""
    number = service_settings().processor
    return _ALL if number is None else _ALL & {number}


def _place(thread: int, processors: set[int]) -> None:
    # It is a matter of speed alone: where the system does not let it, all goes on as it is.
    with suppress(OSError):
        if processors:
            os.sched_setaffinity(thread, processors)
