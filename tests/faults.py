"""Faults put into real processes: a disk that is full, a process that stands still."""

import os
import resource
import signal
from contextlib import contextmanager


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
