"""The numbers that one worker counts in, where the other workers of the service can read them.

A service may have several worker processes, and a scrape is answered by any one of them. So each keeps its numbers in a
mapped file of its own, all files of a service lie in one folder, and whoever is scraped reads them all. To count is to add
to a float64 in memory: no lock between processes, no write, nothing lost when a worker is killed.

A file is in two halves: the names of the runs of cells, a line of JSON each, and the cells, in that order. The worker that
runs holds a lock on its file, which the kernel takes from it when it dies, however it dies. Its counts stay, as they must not
go back, and the next worker that comes up goes on counting in that file.
"""

import contextlib
import errno
import fcntl
import json
import logging
import mmap
import os
import shutil
import tempfile
import threading
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from uuid import uuid4

__all__ = ["Cells", "Run", "service_folder", "shared_cells"]

# Room for some hundred histograms: labels come from tables and from model versions, which are few.
_NAMES_BYTES = _CELLS_BYTES = 128 * 1024
_BYTES = _NAMES_BYTES + _CELLS_BYTES
_SUFFIX = ".cells"
_UNSET = float("nan")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Run:
    """A run of cells by its name, with what it holds.

    Attributes:
        alive: whether the worker that counted it runs.
    """

    metric: str
    labels: tuple[str, ...]
    values: tuple[float, ...]
    alive: bool = True


class Cells:
    """One process's cells: ``values[i]`` is a float64 to be read and assigned. Runs may be added by any thread.

    Args:
        folder: where the files of the service lie; None keeps the cells to this process.

    Raises:
        OSError: there is no room in the folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._file = None if folder is None else _locked_file(folder)
        memory = bytearray(_BYTES) if self._file is None else mmap.mmap(self._file, _BYTES)
        self._names = memoryview(memory)[:_NAMES_BYTES]
        self.values = memoryview(memory)[_NAMES_BYTES:].cast("d")
        self._first: dict[tuple[str, tuple[str, ...], int], int] = {}
        self._names_end = self._cells_end = 0
        for name, line in _lines(self._names):
            self._first[name] = self._cells_end
            self._cells_end += name[-1]
            self._names_end += line

    def run(self, metric: str, labels: tuple[str, ...], length: int = 1) -> int:
        """The place of a run's first cell; a run that is new is zero.

        Raises:
            ValueError: there is no room for more.
        """
        with self._lock:
            name = metric, labels, length
            if name not in self._first:
                self._first[name] = self._add(metric, labels, length)
            return self._first[name]

    def forget(self, metric: str) -> None:
        """What the worker before this one left of a metric is not a number any more."""
        for (name, _, length), first in self._first.items():
            if name == metric:
                self.values[first : first + length] = memoryview(array("d", [_UNSET] * length))

    def close(self) -> None:
        """Let another worker go on from here; the last one of the service leaves nothing behind."""
        if self._file is not None and self.folder is not None:
            # The mapping holds the file open too, and with it the lock.
            fcntl.flock(self._file, fcntl.LOCK_UN)
            os.close(self._file)
            self._file = None
            _remove_if_dead(self.folder)

    def _add(self, metric: str, labels: tuple[str, ...], length: int) -> int:
        line = json.dumps([metric, labels, length]).encode() + b"\n"
        names_end, cells_end = self._names_end + len(line), self._cells_end + length
        if names_end > _NAMES_BYTES or cells_end > len(self.values):
            raise ValueError(f"{metric}: labels {labels}: there is no room to count more; use fewer labels")
        # The newline comes last: until then the line is not there for those who read.
        self._names[self._names_end : names_end - 1] = line[:-1]
        self._names[names_end - 1] = line[-1]
        first, self._names_end, self._cells_end = self._cells_end, names_end, cells_end
        return first

    def read(self) -> list[Run]:
        """The runs of all workers of the service, the dead ones' too, as they are now."""
        if self._file is None or self.folder is None:
            return _runs(self._names, self.values, alive=True)
        return _read(self.folder)


def _read(folder: Path) -> list[Run]:
    """The runs in a folder of cells; a worker that comes up or goes just now may be missing."""
    found: list[Run] = []
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            alive = not _lock(file.fileno(), fcntl.LOCK_SH)
            data = memoryview(file.read(_BYTES))
            found += _runs(data[:_NAMES_BYTES], data[_NAMES_BYTES:].cast("d"), alive=alive)
    return found


def shared_cells() -> Cells:
    """Cells that the other workers of this service read; without a place for them, this process's own, which is logged."""
    try:
        return Cells(service_folder())
    except OSError as error:
        _log.warning("metrics cover one worker alone: %s", error)
        return Cells()


def service_folder() -> Path:
    """A folder for the workers of this service, in the folder for temporary files; those of services that ended are removed.

    Workers of one service have the same parent process.

    Raises:
        OSError: it cannot be had.
    """
    parent = os.getppid()
    start = f"fraud-metrics-{os.getuid()}-"
    place = Path(tempfile.gettempdir())
    folder = place / f"{start}{parent}-{_started(parent)}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid() or folder.is_symlink():
        raise PermissionError(f"{folder}: it is not a folder of this user's; remove it")
    for other in place.glob(f"{start}*"):
        if other != folder:
            _remove_if_dead(other)
    return folder


def _started(pid: int) -> str:
    """When a process was started, as its kernel counts: process ids are given out again."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "0"


def _locked_file(folder: Path) -> int:
    """A file of this process alone: one that a dead worker left, else a new one."""
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        with contextlib.suppress(FileNotFoundError):
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            if _lock(file, fcntl.LOCK_EX):
                return file
            os.close(file)
    fresh = folder / f"{uuid4().hex}.new"
    file = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    _lock(file, fcntl.LOCK_EX)
    try:
        # Without room on the disk, to touch a mapped file would end the process: it is taken now.
        if os.write(file, bytes(_BYTES)) != _BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        os.rename(fresh, fresh.with_suffix(_SUFFIX))
    except OSError:
        os.close(file)
        fresh.unlink(missing_ok=True)
        raise
    return file


def _lock(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_if_dead(folder: Path) -> None:
    """Remove a folder whose workers have all ended; one without files may be that of a service that starts."""
    paths = list(folder.glob(f"*{_SUFFIX}"))
    with contextlib.ExitStack() as files, contextlib.suppress(OSError):
        opened = [files.enter_context(path.open("rb")) for path in paths]
        if opened and all(_lock(file.fileno(), fcntl.LOCK_EX) for file in opened):
            shutil.rmtree(folder, ignore_errors=True)


def _lines(names: memoryview) -> Iterator[tuple[tuple[str, tuple[str, ...], int], int]]:
    """Each run's metric, labels and length, and the bytes of its line."""
    for line in bytes(names).partition(b"\0")[0].splitlines(keepends=True):
        if line.endswith(b"\n"):
            metric, labels, length = json.loads(line)
            yield (metric, tuple(labels), length), len(line)


def _runs(names: memoryview, values: "memoryview[float]", *, alive: bool) -> list[Run]:
    about = [each for each, _ in _lines(names)]
    ends = list(accumulate(length for _, _, length in about))
    return [
        Run(metric, labels, tuple(values[end - length : end].tolist()), alive)
        for (metric, labels, length), end in zip(about, ends, strict=True)
    ]
