"""What a state starts with: 32 bytes that say what was dropped, what is sealed, and when to compact it next.

The state of a key is one string: this head, the nodes of its sealed events (see ``nodes.py``), then its *tail*, records in
order of arrival. Most keys have no nodes. ``record.lua`` only appends to the tail; whatever else changes a state goes by
``commit.lua``, which raises the generation.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from feature_repo.windows.kernel import NULL

# Nothing dropped, nothing sealed: the least int64, before every event.
NOTHING_DROPPED = NOTHING_SEALED = int(NULL)
_LAYOUT = struct.Struct("<qIIqHHI")
HEAD_BYTES = _LAYOUT.size


@dataclass(frozen=True)
class Head:
    """The start of a state.

    Attributes:
        dropped: events up to and including this event time (microseconds) may have been dropped.
        generation: how many times the state was compacted.
        size: bytes up to the tail, this head and the nodes.
        sealed: event time of the last sealed event; what arrives up to it is late.
        late: how many late events the tail may have. distinct: how many indices of distinct values lie beside the state.
        compact_at: bytes of the state from which it may be worth compacting.
    """

    dropped: int = NOTHING_DROPPED
    generation: int = 0
    size: int = HEAD_BYTES
    sealed: int = NOTHING_SEALED
    late: int = 0
    distinct: int = 0
    compact_at: int = 0

    @classmethod
    def of(cls, state: bytes) -> "Head":
        """The head of a state; of an absent one, a new head."""
        return cls(*_LAYOUT.unpack_from(state)) if state else cls()

    def packed(self) -> bytes:
        """The 32 bytes."""
        return _LAYOUT.pack(
            self.dropped, self.generation, self.size, self.sealed, self.late, self.distinct, self.compact_at
        )


@njit(cache=True, nogil=True)
def open_states(
    data: Any, lengths: Any, floors: Any, instants: Any, horizons: Any, bounds: Any, sealed: Any
) -> Any:
    """Look at the heads of the states of several views, one after the other in ``data``, n of each view.

    Args:
        lengths: int64[v * n] bytes of each; 0 where there is none.
        floors, horizons: int64[v] event time up to which anything may be missing of a view, and how far its windows reach.
        instants: int64[n] what is asked.
        bounds: int64[v * n, 2], to be filled with where the tail lies of each state that has nothing sealed, else with an
            empty range. sealed: bool[v * n], to be filled with which others those are.

    Returns:
        A state whose windows reach to what was dropped, or -1.
    """
    at, n = 0, len(instants)
    refused = -1
    for s in range(len(lengths)):
        end, begin = at + lengths[s], at + lengths[s]
        dropped = floors[s // n]
        sealed[s] = False
        if lengths[s] >= HEAD_BYTES:
            own, size = np.int64(0), np.int64(0)
            for i in range(8):
                own |= np.int64(data[at + i]) << np.int64(8 * i)
            for i in range(4):
                size |= np.int64(data[at + 12 + i]) << np.int64(8 * i)
            dropped = max(dropped, own)
            sealed[s] = size != HEAD_BYTES
            if not sealed[s]:
                begin = at + HEAD_BYTES
        if refused < 0 and dropped >= instants[s % n] - horizons[s // n]:
            refused = s
        bounds[s, 0], bounds[s, 1] = begin, end
        at = end
    return refused


def new_state(records: bytes) -> bytes:
    """The state of a key that has these records and nothing else."""
    return Head().packed() + records


@dataclass(frozen=True)
class Sizes:
    """How large the parts of a state grow.

    Attributes:
        chunk: events of a sealed chunk, about. fresh: newest events that are left in the tail, at least.
        fanout: nodes that are put under one, once there are twice as many.
        quiet: bytes below which a tail is left as it is. late: late events from which a state is compacted.
        indexed: bytes of sealed events that a count of distinct values would read from which it gets an index (``distinct.py``).
    """

    chunk: int = 256
    fresh: int = 128
    fanout: int = 64
    quiet: int = 1536
    late: int = 8
    indexed: int = 192 * 1024

    def room(self, width: int) -> int:
        """Bytes of a tail from which there is something to seal, its records having some ``width`` bytes each."""
        return (2 * self.chunk + self.fresh) * width


SIZES = Sizes()
