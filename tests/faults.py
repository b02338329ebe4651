"""Faults put into real processes: a full disk, a process that stands still, a store that dies or forgets."""

import os
import resource
import shutil
import signal
from contextlib import contextmanager

from feature_repo.windows import embedded
from tests.homes import client_of


@contextmanager
def full_disk(at=1, pid=0):
    """No file of a process grows beyond ``at`` bytes, nor is written beyond them: to the process its disks are full.

    Args:
        pid: of the process; 0 is this one.
    """
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (at, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def standing_still(pid):
    """The process is stopped, as one that hangs: it accepts, and never answers."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def server_pid(client):
    """The id of the process that a Redis or Valkey client talks to."""
    return int(client.info("server")["process_id"])


def pid_of(home):
    """The id of the process of the home's Valkey server."""
    with client_of(home) as client:
        return server_pid(client)


def kill(home, *, and_its_file=False):
    """The home's Valkey server dies as by a loss of power, and is started again."""
    pid = pid_of(home)
    if and_its_file:
        # Before the kill: a service that runs starts the server again at once.
        shutil.rmtree(home / "valkey" / "appendonlydir")
    os.kill(pid, signal.SIGKILL)
    embedded.ensure_running(home)


@contextmanager
def forgotten(home):
    """What a home's Valkey server is told within is gone on leaving, as after a failover to a replica that was behind."""
    with client_of(home) as client:
        older = {key: client.dump(key) for key in client.keys("*") if client.type(key) != b"none"}
        yield
        client.flushall()
        for key, value in older.items():
            client.restore(key, 0, value)
        client.bgrewriteaof()
    kill(home)
