"""The embedded Valkey server: one for a home, found by every process, on a socket that nobody else can stand in for."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from feature_repo.windows import embedded
from tests.faults import pid_of
from tests.homes import client_of

ROOT = Path(__file__).resolve().parent.parent
ENSURE = (
    "import sys; from pathlib import Path; from feature_repo.windows.embedded import ensure_running; "
    "print(ensure_running(Path(sys.argv[1])))"
)


@pytest.fixture
def temporary(monkeypatch):
    """Says which folder is the temporary one; short, because a socket's path must be."""
    with tempfile.TemporaryDirectory(prefix="emb") as base:

        def use(name):
            folder = Path(base) / name
            folder.mkdir(exist_ok=True)
            monkeypatch.setattr(tempfile, "tempdir", str(folder))
            return folder

        use("first")
        yield use


@pytest.fixture
def home(tmp_path, temporary):
    yield tmp_path
    embedded.stop(tmp_path)


def record(home):
    return json.loads((home / "valkey" / "server.json").read_text())


def in_another_process(home, tmpdir):
    environment = {**os.environ, "TMPDIR": str(tmpdir), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", ENSURE, str(home)], env=environment, stdout=subprocess.PIPE, text=True
    )


def kill(home):
    """SIGKILL to the server; returns once it is gone."""
    number = pid_of(home)
    os.kill(number, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while embedded._lives(home / "valkey") and time.monotonic() < deadline:
        time.sleep(0.01)
    return number


def test_the_record_names_the_socket_and_the_process(home):
    socket = embedded.ensure_running(home)
    assert record(home) == {"socket": str(socket), "pid": pid_of(home)}


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o710, 0o777])
def test_a_socket_folder_that_others_may_enter_is_refused(home, temporary, mode):
    folder = temporary("open") / f"fraud-{os.getuid()}"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(PermissionError, match=f"{folder}.*remove it, or set TMPDIR"):
        embedded.ensure_running(home)
    assert list(folder.iterdir()) == []


def test_a_socket_folder_that_is_a_link_is_refused(home, temporary):
    elsewhere = temporary("elsewhere")
    elsewhere.chmod(0o700)
    folder = temporary("linked") / f"fraud-{os.getuid()}"
    folder.symlink_to(elsewhere)
    with pytest.raises(PermissionError, match="no link"):
        embedded.ensure_running(home)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_socket_folder_of_another_user_is_refused(home, temporary):
    folder = temporary("given") / f"fraud-{os.getuid()}"
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    with pytest.raises(PermissionError, match=str(folder)):
        embedded.ensure_running(home)


def test_nobody_is_connected_to_in_a_folder_that_is_not_private(home, temporary, monkeypatch):
    socket = embedded.ensure_running(home)
    socket.parent.chmod(0o777)
    connected = []
    monkeypatch.setattr(embedded, "_client", connected.append)
    for ask in (embedded.ensure_running, embedded.stop):
        with pytest.raises(PermissionError, match=str(socket.parent)):
            ask(home)
    assert connected == []
    monkeypatch.undo()
    socket.parent.chmod(0o700)


def test_a_process_with_another_temporary_folder_finds_the_same_server(home, temporary):
    socket, number = embedded.ensure_running(home), pid_of(home)
    other = in_another_process(home, temporary("second"))
    assert other.communicate(timeout=60)[0].strip() == str(socket)
    assert embedded.ensure_running(home) == socket
    assert pid_of(home) == number


def test_two_processes_at_once_come_to_one_server(home, temporary):
    started = [in_another_process(home, temporary(name)) for name in ("second", "third")]
    sockets = {process.communicate(timeout=60)[0].strip() for process in started}
    assert sockets == {record(home)["socket"]}
    assert embedded.ensure_running(home) == Path(sockets.pop())


def test_a_killed_server_is_started_again_with_its_data(home):
    with client_of(home) as server:
        server.set("written", "before")
    killed = kill(home)
    with client_of(home) as server:
        assert server.get("written") == b"before"
    assert pid_of(home) != killed


def test_a_killed_server_comes_back_to_the_socket_that_its_clients_know(home, temporary):
    socket = embedded.ensure_running(home)
    with client_of(home) as old:
        old.set("written", "before")
        kill(home)
        temporary("second")
        assert embedded.ensure_running(home) == socket
        assert old.get("written") == b"before"


def test_a_killed_server_whose_folder_is_gone_is_started_where_there_is_one(home, temporary):
    socket = embedded.ensure_running(home)
    kill(home)
    socket.unlink()
    socket.parent.rmdir()
    second = temporary("second")
    assert embedded.ensure_running(home).is_relative_to(second)


def test_no_second_server_is_started_beside_one_that_hangs(home, temporary, monkeypatch):
    socket, number = embedded.ensure_running(home), pid_of(home)
    monkeypatch.setattr(embedded, "_START_SECONDS", 0.5)
    os.kill(number, signal.SIGSTOP)
    temporary("second")
    try:
        with pytest.raises(RuntimeError, match=f"process {number} lives and does not answer"):
            embedded.ensure_running(home)
    finally:
        os.kill(number, signal.SIGCONT)
    monkeypatch.undo()
    assert embedded.ensure_running(home) == socket
    assert pid_of(home) == number


def test_a_server_that_answers_late_is_waited_for(home, monkeypatch):
    socket, number = embedded.ensure_running(home), pid_of(home)
    answers, tries = embedded._answers, iter(range(100))
    monkeypatch.setattr(embedded, "_answers", lambda path: next(tries) >= 5 and answers(path))
    assert embedded.ensure_running(home) == socket
    assert pid_of(home) == number


def test_a_record_that_cannot_be_read_is_no_record(home):
    socket = embedded.ensure_running(home)
    (home / "valkey" / "server.json").write_text("")
    assert embedded.ensure_running(home) == socket


def test_stop_finds_the_server_from_another_temporary_folder(home, temporary):
    socket = embedded.ensure_running(home)
    temporary("second")
    assert embedded.stop(home)
    assert not socket.exists()
    assert not embedded.stop(home)


def test_stopping_where_nothing_ran_leaves_nothing(tmp_path, temporary):
    assert not embedded.stop(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", [None, "glibc.malloc.tcache_count=77:glibc.malloc.mmap_threshold=1048576"])
def test_of_memory_the_server_is_told_what_the_environment_says_last(monkeypatch, given):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if given:
        monkeypatch.setenv("GLIBC_TUNABLES", given)
    ours, *theirs = embedded._tunables().split(":")
    assert ours.startswith("glibc.malloc.")
    assert ":".join(theirs) == (given or "")
