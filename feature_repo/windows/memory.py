"""Large arrays in memory that this process wrote before.

To write to fresh memory for the first time costs several times what it costs to compute what is written: the system clears
each page, and a virtual machine's host must find one. So the memory of a large array that nobody refers to any more is kept
for the next one. Meanwhile the system may take it whenever it runs short (``MADV_FREE``).
"""

import mmap
import weakref
from collections import defaultdict
from math import prod

import numpy as np
from numpy.typing import NDArray

# What is smaller, the allocator itself keeps.
_LEAST_BYTES = 1 << 22
# What is free and kept, at most.
_MOST_BYTES = 1 << 30
_FREE: defaultdict[int, list[mmap.mmap]] = defaultdict(list)


def empty(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """An int64 array of any content; its memory is used again when nothing refers to it, or to a part of it."""
    size = prod(shape) * 8
    if size < _LEAST_BYTES or not hasattr(mmap, "MADV_FREE"):
        return np.empty(shape, dtype=np.int64)
    room = _room(size)
    try:
        # A pop is one step for all threads, and for what the garbage collector runs in between.
        memory = _FREE[room].pop()
    except IndexError:
        release()
        memory = mmap.mmap(-1, room, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
    # Whatever is made of it refers to this array, not to the memory itself.
    whole = np.frombuffer(memory, dtype=np.int64)
    weakref.finalize(whole, _give_back, memory).atexit = False
    return whole[: prod(shape)].reshape(shape)


def release() -> None:
    """Let the system have all that is kept."""
    for kept in list(_FREE.values()):
        kept.clear()


def _give_back(memory: mmap.mmap) -> None:
    if sum(room * len(kept) for room, kept in list(_FREE.items())) + len(memory) > _MOST_BYTES:
        release()
    memory.madvise(mmap.MADV_FREE)
    _FREE[len(memory)].append(memory)


def _room(size: int) -> int:
    """Bytes of the memory for an array: few different sizes, at most an eighth more than asked for."""
    step = 1 << max(size.bit_length() - 4, 21)
    return -(-size // step) * step
