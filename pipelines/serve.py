"""The scoring service as its own process: in the foreground, or in a context for replays and tests."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from bento.access import is_loopback
from bento.api_keys import load_keys
from bento.logs import CANNOT_START
from bento.processor import chosen
from bento.service_settings import service_settings
from feature_repo.settings import PROJECT_ROOT, make_private
from pipelines.keys import sent_key

__all__ = ["SERVICE", "ServiceError", "running_service", "serve"]

SERVICE = "bento.service:FraudScorer"

# A start takes some seconds: most of them imports, then loading the model and warming.
_START_S = 90.0
# uvicorn finishes the requests in flight, then the journal is synced.
_STOP_S = 15.0
_LOG_TAIL_BYTES = 4000


class ServiceError(ConnectionError):
    """The service did not come up; the message ends with what it logged last."""


def serve(home: Path, host: str = "127.0.0.1", port: int = 3000, workers: int = 1) -> int:
    """Run the service in the foreground until it ends, is interrupted or told to end (SIGTERM); returns its exit code.

    Args:
        workers: processes that answer; they share journal and metrics.

    Raises:
        ValueError: ``host`` is more than this machine, and no API key is configured.
    """
    _check_host(host)
    make_private(home)  # BentoML would make it, for everyone to read
    process = subprocess.Popen(  # noqa: S603
        _command(host, port), env=_environment(home, workers), cwd=PROJECT_ROOT
    )
    # Whoever supervises this process must not leave the service behind when they end it.
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        return process.wait()
    except KeyboardInterrupt:
        # The terminal has sent the interrupt to the service too; give it the time to end in order.
        return process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def running_service(
    home: Path,
    port: int | None = None,
    *,
    start_s: float = _START_S,
    without_champion: bool = False,
    workers: int = 1,
) -> Iterator[str]:
    """A running service over the deployment at ``home``: yields its base URL once ``/readyz`` answers.

    It runs in a process group of its own, which is ended on leaving; what it logs goes to
    ``home/service.log``.

    Args:
        home: the deployment, as ``FRAUD_HOME``; the other settings are this process's environment.
        port: where it listens on 127.0.0.1; None finds a free one.
        start_s: how long it may take to be ready.
        without_champion: be content with a service whose rules decide, for want of a champion.
        workers: processes that answer; it is up when the first of them is.

    Raises:
        ServiceError: it ended, has no champion that can serve, or was not ready in time.
    """
    make_private(home)
    port = port or _free_port()
    log = home / "service.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            _command("127.0.0.1", port),
            env=_environment(home, workers),
            cwd=PROJECT_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_answering(process, url, log, start_s)
        status, body = _get(url, "/readyz")
        if not without_champion and status != 200:
            raise ServiceError(f"{SERVICE}: {_detail(body)}")
        yield url
    finally:
        _end_group(process)


def _check_host(host: str) -> None:
    path = service_settings().api_keys
    if not is_loopback(host) and load_keys(path) is None:
        raise ValueError(
            f"host {host}: others could call the service, and no API key is configured ({path}); run "
            "`fraud keys create NAME --scope score`, or leave out --host to listen to this machine only"
        )


def _command(host: str, port: int) -> list[str]:
    return [sys.executable, "-m", "bentoml", "serve", SERVICE, "--host", host, "--port", str(port)]


def _environment(home: Path, workers: int = 1) -> dict[str, str]:
    """This environment, with BentoML's own folders inside the deployment."""
    processor = chosen(workers)
    several = {"BENTOML_CONFIG_OVERRIDES": json.dumps({"services": {"FraudScorer": {"workers": workers}}})}
    return {
        **({} if processor is None else {"FRAUD_PROCESSOR": str(processor)}),
        **os.environ,
        "FRAUD_HOME": str(home),
        "BENTOML_HOME": str(home / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "true",
        **(several if workers > 1 else {}),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _wait_until_answering(process: subprocess.Popen[bytes], url: str, log: Path, start_s: float) -> None:
    deadline = time.monotonic() + start_s
    while _get(url, "/livez")[0] != 200:
        if process.poll() is not None:
            raise ServiceError(f"{SERVICE}: ended with code {process.returncode}; {_tail(log)}")
        reason = _reason(log)
        if reason is not None:
            raise ServiceError(f"{SERVICE}: {reason} (its log is {log})")
        if time.monotonic() > deadline:
            raise ServiceError(f"{SERVICE}: no answer after {start_s:.0f} s; {_tail(log)}")
        time.sleep(0.05)


def _get(url: str, path: str) -> tuple[int, bytes]:
    """The status and the body that a path answers with; 0 if it does not answer."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=5)
    try:
        connection.request("GET", path, headers=sent_key())
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, HTTPException):
        return 0, b""
    finally:
        connection.close()


def _detail(problem: bytes) -> str:
    """What a problem document says, as far as it is one."""
    try:
        return str(json.loads(problem)["detail"])
    except (ValueError, LookupError, TypeError):
        return f"it is not ready: {problem[:200].decode(errors='replace')}"


def _reason(log: Path) -> str | None:
    """Why the service gave up, if its log says so."""
    for line in log.read_bytes().splitlines():
        if CANNOT_START.encode() in line and line.startswith(b"{"):
            reason: str = json.loads(line)["message"]
            return reason
    return None


def _tail(log: Path) -> str:
    text = log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
    return f"its log {log} ends:\n{text}"


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the service in order, and whatever of its group is left after that."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
