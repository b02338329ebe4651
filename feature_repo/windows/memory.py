"""Large arrays in memory that this process wrote before.

To write to fresh memory for the first time costs several times what it costs to compute what is written: the system clears
each page, and a virtual machine's host must find one. So the memory of a large array that nobody refers to any more is kept
for the next one. Meanwhile the system may take it whenever it runs short (``MADV_FREE``).
"""

import mmap
import weakref
from collections import defaultdict
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What is smaller, the allocator itself keeps.
_LEAST_BYTES = 1 << 22
# What is free and kept, at most.
_MOST_BYTES = 1 << 30
# Not every system knows them.
_UNUSED: int | None = getattr(mmap, "MADV_FREE", None)
_HUGE: int | None = getattr(mmap, "MADV_HUGEPAGE", None)
_FREE: defaultdict[int, list[mmap.mmap]] = defaultdict(list)


def empty(shape: tuple[int, ...], kind: type[np.generic] = np.int64) -> NDArray[Any]:
    """An array of any content; its memory is used again when nothing refers to it, or to a part of it."""
    size = prod(shape) * np.dtype(kind).itemsize
    if size < _LEAST_BYTES or _UNUSED is None:
        return np.empty(shape, dtype=kind)
    room = _room(size)
    try:
        # A pop is one step for all threads, and for what the garbage collector runs in between.
        memory = _FREE[room].pop()
    except IndexError:
        # What is kept of about this size was for the same purpose, which asks for more or less now.
        for other in [each for each in list(_FREE) if room <= 2 * each <= 4 * room]:
            _FREE[other].clear()
        memory = mmap.mmap(-1, room, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        _advise(memory, _HUGE)
    # Whatever is made of it refers to this array, not to the memory itself.
    whole = np.frombuffer(memory, dtype=kind)
    weakref.finalize(whole, _give_back, memory).atexit = False
    return whole[: prod(shape)].reshape(shape)


class Growing:
    """A column that is filled part by part.

    Args:
        room: how many values are expected. More cost a copy, fewer cost nothing.
    """

    def __init__(self, room: int, kind: type[np.generic] = np.int64) -> None:
        self._values, self._kind, self._size = empty((room,), kind), kind, 0

    def extend(self, part: NDArray[Any]) -> None:
        """Append values."""
        end = self._size + len(part)
        if end > len(self._values):
            grown = empty((max(end, 2 * len(self._values)),), self._kind)
            grown[: self._size] = self.values
            self._values = grown
        self._values[self._size : end] = part
        self._size = end

    @property
    def values(self) -> NDArray[Any]:
        """What there is, where it is."""
        return self._values[: self._size]


def release() -> None:
    """Let the system have all that is kept."""
    for kept in list(_FREE.values()):
        kept.clear()


def _give_back(memory: mmap.mmap) -> None:
    if len(memory) > _MOST_BYTES:
        return
    if sum(room * len(kept) for room, kept in list(_FREE.items())) + len(memory) > _MOST_BYTES:
        release()
    if _advise(memory, _UNUSED):
        _FREE[len(memory)].append(memory)


def _advise(memory: mmap.mmap, advice: int | None) -> bool:
    """Tell the system what memory is for; whether it takes the advice."""
    try:
        if advice is not None:
            memory.madvise(advice)
    except OSError:
        return False
    return advice is not None


def _room(size: int) -> int:
    """Bytes of the memory for an array: few different sizes, at most an eighth more than asked for, or 2 MB."""
    step = 1 << max(size.bit_length() - 4, 21)
    return -(-size // step) * step
