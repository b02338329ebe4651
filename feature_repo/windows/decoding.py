"""Events read out of states: the records of many keys and views, laid out as the kernel takes them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from feature_repo.windows.evaluate import Events, Integers, Laid
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
        self._widths = np.array([_narrowest(spec) for spec in specs], dtype=np.int64)
        self._kinds = np.zeros((len(specs), max(1, *self._columns.tolist(), 1)), dtype=np.uint8)
        for row, spec in zip(self._kinds, specs, strict=True):
            row[: len(spec.columns)] = kinds(spec)
        self._versions = np.array([spec.corrected for spec in specs], dtype=np.uint8)

    def decode(self, data: Bytes, bounds: Integers, views: Integers, *, voids: bool = False) -> Laid:
        """Bodies of every view, each key's events in order of (time, number), each event once.

        Args:
            data: what holds the bodies. bounds: int64[s, 2] from where to where each reaches.
            views: the bodies of view v are those from ``views[v]`` up to ``views[v + 1]``.
            voids: whether to give void records as well.

        Raises:
            ValueError: a body is no whole number of records.
        """
        damaged, *laid = decode_bodies(
            data, bounds, views, self._widths, self._columns, self._kinds, self._versions, voids
        )
        if damaged >= 0:
            spec = self._specs[int(np.searchsorted(views, damaged, side="right")) - 1]
            raise ValueError(
                f"{spec.view}: a state with {bounds[damaged, 1] - bounds[damaged, 0]} bytes of records is no whole number of "
                "them; delete it and materialize the view again"
            )
        return Laid(*laid)

    def one(self, bodies: Sequence[bytes], *, voids: bool = False) -> Decoded:
        """Bodies of the only view, as ``decode``."""
        (spec,) = self._specs
        ends = np.cumsum([0, *map(len, bodies)], dtype=np.int64)
        bounds = np.stack([ends[:-1], ends[1:]], axis=1)
        data = np.frombuffer(b"".join(bodies), dtype=np.uint8)
        laid = self.decode(data, bounds, np.array([0, len(bodies)]), voids=voids)
        times, known, numbers, until = laid.fixed
        values = (
            laid.values.reshape(len(spec.columns), -1)
            if spec.columns
            else np.empty((0, len(times)), np.int64)
        )
        return Decoded(
            Events(times, known, values, laid.starts, until if spec.corrected else None), numbers, laid.void
        )


def _narrowest(spec: ViewSpec) -> int:
    return FIXED + sum(1 if column.kind == "number" else 7 for column in spec.columns)


def decode(spec: ViewSpec, bodies: Sequence[bytes], *, voids: bool = False) -> Decoded:
    """Bodies of one view, as ``Decoder.decode``."""
    return Decoder([spec]).one(bodies, voids=voids)
