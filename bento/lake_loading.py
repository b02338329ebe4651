"""Keeps a process running beside the service that takes the journal into the lake (``bento.lake_follower``)."""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence

from bento.journal_lag import JournalLag
from bento.metrics import Metrics
from feature_repo.settings import PROJECT_ROOT, settings

__all__ = ["LakeLoading"]

COMMAND = (sys.executable, "-m", "bento.lake_follower")
# A follower that ends by itself has a reason that will not be gone at once.
_RESTART_S = 5.0
# What a last load may take before the service ends without waiting for it; it goes on by itself.
_PATIENCE_S = 5.0
_log = logging.getLogger(__name__)


class LakeLoading:
    """The follower of one worker: started anew when it ends, told when the worker ends.

    Attributes:
        lag: how far behind the lake is, from what the follower reports; ``lag.show`` is to be called now and then.
    """

    def __init__(
        self, metrics: Metrics, command: Sequence[str] = COMMAND, restart_s: float = _RESTART_S
    ) -> None:
        self.lag = JournalLag(settings().journal, metrics)
        self._command, self._restart_s = command, restart_s
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._channel: socket.socket | None = None
        self._thread = threading.Thread(target=self._keep, name="lake", daemon=True)

    def start(self) -> None:
        """Start the follower."""
        self._thread.start()

    def stop(self) -> None:
        """Have the follower load what is left, and end; returns when it has, or after some seconds."""
        with self._lock:
            self._stop.set()
            if self._channel is not None:
                self._channel.shutdown(socket.SHUT_WR)
        if self._thread.is_alive():
            self._thread.join(_PATIENCE_S)

    def _keep(self) -> None:
        while not self._stop.is_set():
            try:
                code = self._run()
            except (
                Exception
            ) as error:  # it may pass, and without this thread nothing would reach the lake any more
                _log.error(
                    "the process that loads the lake cannot be followed; another is started: %r", error
                )
            else:
                if not self._stop.is_set():
                    _log.error(
                        "the process that loads the lake has ended; another is started", extra={"code": code}
                    )
            self._stop.wait(self._restart_s)

    def _run(self) -> int:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                process = subprocess.Popen(self._command, stdin=theirs.fileno(), env=_environment())  # noqa: S603
            with self._lock:
                self._channel = ours
                if self._stop.is_set():
                    ours.shutdown(socket.SHUT_WR)
            try:
                with ours.makefile("rb") as reports:
                    for line in reports:
                        self.lag.report(json.loads(line)["bytes"])
            finally:
                with self._lock:
                    self._channel = None
                # Whatever went wrong here: the follower is told to end, and has ended before there is another.
                ours.close()
                code = process.wait()
            return code


def _environment() -> dict[str, str]:
    """This environment, in which the project's packages are found wherever they are run from."""
    path = os.pathsep.join(filter(None, (str(PROJECT_ROOT), os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, "PYTHONPATH": path}
