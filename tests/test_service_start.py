"""Starting and ending a service process: what is said when it does not come up, and that nothing of it is left."""

import os
import sys
from pathlib import Path

import pytest

from bento.logs import CANNOT_START
from pipelines import serve
from pipelines.serve import ServiceError, running_service
from tests.deployments import wait_for

DIES = "import sys; print('the last words'); sys.exit(3)"

GIVES_UP = f"""
import json, time
print(json.dumps({{"message": "{CANNOT_START}: no lake"}}), flush=True)
time.sleep(60)
"""

HANGS = "import time; time.sleep(60)"

# Answers as a service without a champion does, has a child, and takes no notice of SIGTERM.
STUBBORN = """
import http.server, os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"detail": "no champion serves: nothing trained"}'
        self.send_response(503 if self.path == "/readyz" else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def instead(monkeypatch):
    """Runs a small program where BentoML would run."""

    def use(program):
        monkeypatch.setattr(serve, "_command", lambda host, port: [sys.executable, "-c", program, str(port)])

    return use


def test_a_service_that_dies_is_reported_with_its_last_words(tmp_path, instead):
    instead(DIES)
    with (
        pytest.raises(ServiceError, match=r"ended with code 3(.|\n)*the last words"),
        running_service(tmp_path),
    ):
        pass


def test_a_service_that_gives_up_is_reported_with_its_reason(tmp_path, instead):
    instead(GIVES_UP)
    with pytest.raises(ServiceError, match="cannot start: no lake"), running_service(tmp_path):
        pass


def test_a_service_that_never_answers_is_given_up(tmp_path, instead):
    instead(HANGS)
    with pytest.raises(ServiceError, match="no answer after 0 s"), running_service(tmp_path, start_s=0.2):
        pass


def test_a_service_without_a_champion_is_an_error_unless_it_is_wanted(tmp_path, instead, monkeypatch):
    monkeypatch.setattr(serve, "_STOP_S", 0.2)
    instead(STUBBORN)
    with pytest.raises(ServiceError, match="no champion serves: nothing trained"), running_service(tmp_path):
        pass
    with running_service(tmp_path, without_champion=True) as url:
        assert url.startswith("http://127.0.0.1:")


def test_nothing_of_the_service_outlives_the_context(tmp_path, instead, monkeypatch):
    monkeypatch.setattr(serve, "_STOP_S", 0.2)
    instead(STUBBORN)
    with running_service(tmp_path, without_champion=True) as url:
        port = url.rsplit(":", 1)[1]
        (leader,) = [pid for pid in processes() if port in command_of(pid) and os.getpgid(pid) == pid]
        members = [pid for pid in processes() if group_of(pid) == leader]
        assert len(members) == 2
    wait_for(lambda: not any(command_of(pid) for pid in members), 5)


def processes():
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def command_of(pid):
    """Its arguments; empty for one that has ended, though nobody has asked for its exit code yet."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def group_of(pid):
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


@pytest.mark.parametrize("body", [b"", b"[]", b'{"title": "x"}', b"bad gateway"])
def test_an_answer_that_is_no_problem_document_is_shown_as_it_is(body):
    assert serve._detail(body) == f"it is not ready: {body.decode()}"
