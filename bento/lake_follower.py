"""The process that takes the journal into the lake while the service goes on: ``python -m bento.lake_follower``.

The service starts it beside itself (``bento.lake_loading``), for parsing a journal would hold up requests in the worker's own
threads. Its standard input is a socket to the worker: it tells there how far behind the lake is, and when the worker ends,
however it ends, it loads what is left and ends too. Of a deployment's followers one loads at a time, by a lock; the others
wait for it to be gone.
"""

import fcntl
import json
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import IO

from bento.logs import configure
from bento.processor import others
from feature_repo.journal_loader import JournalLoader
from feature_repo.settings import make_private, settings

__all__ = ["PAUSE_S", "follow", "main"]

PAUSE_S = 10.0
"""Between two loads, at least: what is journalled is in the lake some 12 s later, by few commits."""

# A load of a large lake may take seconds: then it may take a fifth of the time, and still all is there within a minute.
_SHARE, _LONGEST_PAUSE_S = 4, 40.0
_TICK_S = 1.0
# Scoring comes first, but on a machine that is wholly taken there must be something left to keep up with: a tenth of a core.
_NICE = 10
# How long a follower whose worker has ended waits for another to finish loading.
_LAST_S = 5.0
_log = logging.getLogger(__name__)


def main() -> None:
    """Follow the journal of this deployment until the socket on standard input ends."""
    # An interrupt goes to all processes of a terminal; the worker's end is what ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _give_way()
    configure()
    here = settings()
    with socket.socket(fileno=0) as channel, (make_private(here.journal) / ".loading").open("w") as lock:
        if _locked(lock, channel):
            follow(JournalLoader(here.journal, here.lake), channel)


def _give_way() -> None:
    """Take what scoring leaves, and of one core alone: not that of the requests, if they keep to one and there is another.

    The lake's library takes a thread for each core that it sees. A load lasts a second or two, and for as long there would be
    no core left for a request or its store that would not have to be taken from it.
    """
    os.nice(_NICE)
    if hasattr(os, "sched_setaffinity"):  # Linux
        os.sched_setaffinity(0, {max(others())})


def _locked(lock: IO[str], channel: socket.socket) -> bool:
    """Wait for the lock; False if the worker has ended, and another follower still loads."""
    ended_at: float | None = None
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if ended_at is None and _ended(channel, _TICK_S):
                ended_at = time.monotonic()
            if ended_at is not None:
                time.sleep(0.1)
                if time.monotonic() - ended_at > _LAST_S:
                    return False
        else:
            return True


def follow(
    loader: JournalLoader,
    channel: socket.socket,
    tick_s: float = _TICK_S,
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Load now, and then every ten seconds if there is something, until ``channel`` ends; then a last time.

    After each look, a line of JSON goes to ``channel``: the ``bytes`` that are journalled and not in the lake. What goes wrong is
    logged, once, and tried again.
    """
    due, wait_s, said = monotonic(), 0.0, ""
    while True:
        ended, wait_s = _ended(channel, wait_s), tick_s
        now, behind = monotonic(), loader.behind()
        if ended or now >= due:
            if behind:
                said = _load(loader, said)
                behind = loader.behind()
            took = monotonic() - now
            due = now + took + min(max(PAUSE_S, _SHARE * took), _LONGEST_PAUSE_S)
        _tell(channel, behind)
        if ended:
            return


def _load(loader: JournalLoader, said: str) -> str:
    """Load, and return what went wrong, which is logged if it is not what was ``said`` before; empty if nothing."""
    try:
        loader.load()
    except Exception as error:  # disk, lake and journal may fail in any way, and all of it may pass
        if repr(error) != said:
            _log.error("the journal cannot be loaded into the lake: %r; it is tried again", error)
        return repr(error)
    return ""


def _ended(channel: socket.socket, wait_s: float) -> bool:
    """Whether the other end is closed, after waiting so long for it at most."""
    readable, _, _ = select.select([channel], [], [], wait_s)
    try:
        return bool(readable) and not channel.recv(1)
    except ConnectionResetError:  # it was killed before it had read all that it was told
        return True


def _tell(channel: socket.socket, behind: int) -> None:
    try:
        channel.sendall(json.dumps({"bytes": behind}).encode() + b"\n")
    except OSError:
        return  # the worker has ended: nobody needs to know


if __name__ == "__main__":
    main()
