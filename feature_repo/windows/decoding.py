"""Events read out of states: the records of many keys and views, laid out as the kernel takes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from feature_repo.windows.evaluate import Events, Integers
from feature_repo.windows.records import FIXED, Bytes, decode_bodies, kinds
from feature_repo.windows.spec import ViewSpec


@dataclass(frozen=True)
class Decoded:
    """Events of several states of one view as the kernel reads them, and what only states know of them.

    Attributes:
        numbers: int64[n] ``event_number`` of each. void: uint8[n].
    """

    events: Events
    numbers: Integers
    void: Bytes


class Decoder:
    """Reads states of several views at once: one compiled call a request."""

    def __init__(self, specs: Sequence[ViewSpec]) -> None:
        self._specs = tuple(specs)
        self._columns = np.array([len(spec.columns) for spec in specs], dtype=np.int64)
        self._widths = [FIXED + sum(1 if c.kind == "number" else 7 for c in spec.columns) for spec in specs]
        self._kinds = np.zeros((len(specs), max(1, *self._columns.tolist(), 1)), dtype=np.uint8)
        for row, spec in zip(self._kinds, specs, strict=True):
            row[: len(spec.columns)] = kinds(spec)
        self._versions = np.array([spec.corrected for spec in specs], dtype=np.uint8)

    def decode(
        self, data: bytes, bounds: Integers, views: Sequence[int], *, voids: bool = False
    ) -> list[Decoded]:
        """Bodies of every view, each key's events in order of (time, number), each event once.

        Args:
            data: what holds the bodies. bounds: int64[s, 2] from where to where each reaches.
            views: the bodies of view v are those from ``views[v]`` up to ``views[v + 1]``.
            voids: whether to give void records as well.

        Raises:
            ValueError: a body is no whole number of records.
        """
        sizes = bounds[:, 1] - bounds[:, 0]
        total = np.zeros(len(sizes) + 1, dtype=np.int64)
        np.cumsum(sizes, out=total[1:])
        rooms = [0]
        for width, (begin, end) in zip(self._widths, pairwise(views), strict=True):
            rooms.append(rooms[-1] + int(total[end] - total[begin]) // width)
        n = rooms[-1]
        fixed = np.empty((4, n), dtype=np.int64)
        void = np.empty(n, dtype=np.uint8)
        cells = [c * (b - a) for c, (a, b) in zip(self._columns.tolist(), pairwise(rooms), strict=True)]
        values = np.empty(sum(cells), dtype=np.int64)
        starts = np.empty(len(sizes) + len(self._specs), dtype=np.int64)
        damaged = decode_bodies(
            np.frombuffer(data, dtype=np.uint8), bounds, np.array(views, dtype=np.int64), np.array(rooms, dtype=np.int64),
            self._columns, self._kinds, self._versions, voids, fixed[0], fixed[1], fixed[2], fixed[3], void, values, starts,
        )  # fmt: skip
        if damaged >= 0:
            view = max(v for v in range(len(self._specs)) if views[v] <= damaged)
            raise ValueError(
                f"{self._specs[view].view}: a state with {sizes[damaged]} bytes of records is no whole number of them; "
                "delete it and materialize the view again"
            )
        found, cell = [], 0
        for v, spec in enumerate(self._specs):
            own = slice(rooms[v], rooms[v + 1])
            events = Events(
                timestamps=fixed[0, own],
                known=fixed[1, own],
                values=values[cell : cell + cells[v]].reshape(len(spec.columns), rooms[v + 1] - rooms[v]),
                starts=starts[views[v] + v : views[v + 1] + v + 1],
                until=fixed[3, own] if spec.corrected else None,
            )
            cell += cells[v]
            found.append(Decoded(events, fixed[2, own], void[own]))
        return found


def decode(spec: ViewSpec, bodies: Sequence[bytes], *, voids: bool = False) -> Decoded:
    """Bodies of one view, as ``Decoder.decode``."""
    ends = np.cumsum([0, *map(len, bodies)], dtype=np.int64)
    bounds = np.stack([ends[:-1], ends[1:]], axis=1)
    return Decoder([spec]).decode(b"".join(bodies), bounds, [0, len(bodies)], voids=voids)[0]
