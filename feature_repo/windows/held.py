"""Events that later windows may still reach: in memory as far as there is room for them, beyond that in a file.

They stand in ranges of keys, and one range is worked on at a time by each thread. So what has to be in memory follows from
settings, not from how many events there are.
"""

import os
import tempfile
from bisect import bisect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from feature_repo.windows.memory import empty
from feature_repo.windows.sorting import gather

Integers = NDArray[np.int64]
Positions = NDArray[np.int32]


class Range(Protocol):
    """Events of a range of keys, by key and time."""

    def __len__(self) -> int: ...

    def laid(self) -> "Held":
        """All of them, in memory."""

    def let_go(self) -> None:
        """They are not asked for again."""


@dataclass(frozen=True)
class Held:
    """Events in memory.

    Attributes:
        codes: [n] the key of each, as narrow as the greatest key allows.
        fields: int64[f, n] time, known time if some event was known late, until when a version counts if there are
            versions, values.
        room: where they count; None: they are on their way.
    """

    codes: NDArray[Any]
    fields: Integers
    room: "Room | None" = None

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.codes.nbytes + self.fields.nbytes

    def laid(self) -> Self:
        """As in ``Range``."""
        return self

    def with_known_times(self) -> "Held":
        """The same, each known when it happened."""
        return Held(self.codes, np.insert(self.fields, 1, self.fields[0], axis=0))

    def part(self, start: int, end: int) -> "Held":
        """A range of them, in memory of their own."""
        return Held(self.codes[start:end].copy(), self.fields[:, start:end].copy())

    def let_go(self) -> None:
        """As in ``Range``."""
        if self.room:
            self.room.give_back(self.size)


@dataclass(frozen=True)
class Found:
    """Events that stay where they were read, and are laid out when they are asked for.

    That spares memory for all of them: a range after the other is laid out in what the processor's cache holds.

    Attributes:
        codes: as in ``Held``. positions: int32[n] where in the columns each event stands. columns: the fields.
    """

    codes: NDArray[Any]
    positions: Positions
    columns: tuple[Integers, ...]

    def __len__(self) -> int:
        return len(self.codes)

    def laid(self) -> Held:
        """As in ``Range``."""
        fields = np.empty((len(self.columns), len(self.positions)), dtype=np.int64)
        for row, column in zip(fields, self.columns, strict=True):
            gather(column, self.positions, row)
        return Held(self.codes, fields)

    def part(self, start: int, end: int) -> "Found":
        """A range of them."""
        return Found(self.codes[start:end], self.positions[start:end], self.columns)

    def let_go(self) -> None:
        """As in ``Range``; what they were read into goes with the last of them."""


@dataclass(frozen=True)
class Filed:
    """Events in a file: the bytes of their fields from ``start`` on, then those of their codes.

    Attributes:
        count: how many they are. fields: how many each has. kind: of codes.
    """

    file: "_File"
    start: int
    count: int
    fields: int
    kind: np.dtype[Any]

    def __len__(self) -> int:
        return self.count

    def laid(self) -> Held:
        """As in ``Range``."""
        codes, fields = empty((self.count,), self.kind.type), empty((self.fields, self.count))
        self.file.read(self.start, (fields, codes))
        return Held(codes, fields)

    def let_go(self) -> None:
        """As in ``Range``."""
        self.file.free(self.start, self.count * (8 * self.fields + self.kind.itemsize))


class Room:
    """Room for so many bytes of events in memory, and for all others in a file of the system's temporary folder.

    The file has no name there, so nothing is left of it when the process ends.

    Attributes:
        used: bytes of events that are kept in memory.
    """

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, Lock()
        self.used = 0
        self._files = ExitStack()
        self._file: _File | None = None

    def keep(self, held: Held) -> Range:
        """Events in memory as they are to be kept.

        Raises:
            OSError: the temporary folder does not take them.
        """
        with self._lock:
            if self.used + held.size <= self._most:
                self.used += held.size
                return Held(held.codes, held.fields, self)
            if self._file is None:
                descriptor, name = tempfile.mkstemp(prefix="held-events-")
                os.unlink(name)
                self._files.callback(os.close, descriptor)
                self._file = _File(descriptor)
            file = self._file
        start = file.write((held.fields, held.codes))
        return Filed(file, start, len(held), len(held.fields), held.codes.dtype)

    def give_back(self, size: int) -> None:
        """So many bytes are free again."""
        with self._lock:
            self.used -= size

    def close(self) -> None:
        """Nothing that is kept is read again."""
        self._files.close()


class _File:
    """Arrays in a file.

    Args:
        descriptor: the file's, empty.

    Attributes:
        end: where nothing stands any more. gaps: extents [start, end) before it that are free, ascending, never two next to each
            other.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._lock = descriptor, Lock()
        self.end = 0
        self.gaps: list[tuple[int, int]] = []

    def write(self, arrays: Sequence[NDArray[Any]]) -> int:
        """Put contiguous arrays one after the other; returns where they start.

        Raises:
            OSError: there is no room, with the way out.
        """
        size = sum(array.nbytes for array in arrays)
        with self._lock:
            at = start = self._taken(size)
        try:
            for array in arrays:
                at = self._carried(os.pwrite, array, at)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}: windows reach back to more events than memory_limit has room for, and the temporary folder "
                f"{tempfile.gettempdir()} did not take {size:,} bytes of them; set TMPDIR to a folder on a disk with room, or "
                "memory_limit in feature_store.yaml to more",
            ) from error
        return start

    def read(self, start: int, arrays: Sequence[NDArray[Any]]) -> None:
        """Fill contiguous arrays with what stands one after the other from ``start`` on."""
        for array in arrays:
            start = self._carried(lambda file, part, at: os.preadv(file, [part], at), array, start)

    def free(self, start: int, size: int) -> None:
        """What stands there is not read again."""
        with self._lock:
            end = start + size
            i = bisect(self.gaps, (start, end))
            if i < len(self.gaps) and self.gaps[i][0] == end:
                end = self.gaps.pop(i)[1]
            if i and self.gaps[i - 1][1] == start:
                i -= 1
                start = self.gaps.pop(i)[0]
            if end == self.end:
                self.end = start
            elif start < end:
                self.gaps.insert(i, (start, end))

    def _taken(self, size: int) -> int:
        """The start of the smallest gap that is large enough, or the end."""
        fitting = [(end - start, i) for i, (start, end) in enumerate(self.gaps) if end - start >= size]
        if not fitting:
            start, self.end = self.end, self.end + size
            return start
        room, i = min(fitting)
        start, end = self.gaps.pop(i)
        if size < room:
            self.gaps.insert(i, (start + size, end))
        return start

    def _carried(self, carry: Callable[[int, memoryview, int], int], array: NDArray[Any], at: int) -> int:
        """Read or write an array at a place in the file, which the system does in parts; returns where it ends."""
        left = array.reshape(-1).view(np.uint8).data
        while left:
            done = carry(self._descriptor, left, at)
            if not done:
                raise EOFError("the file of held events ends before what was written to it")
            left, at = left[done:], at + done
        return at
