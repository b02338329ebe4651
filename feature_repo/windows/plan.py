"""A FeatureService compiled for serving: keys, one round trip, the kernel, the transforms, in the model's order.

``OnlinePlan.read`` gives to the bit what ``get_online_features`` gives, without protobuf, registry or frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from feast import FeatureStore
from numpy.typing import NDArray

from feature_repo.windows.columns import fill_reals
from feature_repo.windows.evaluate import Integers
from feature_repo.windows.keys import whole_key
from feature_repo.windows.live import incomplete
from feature_repo.windows.reading import StateReader as StateReader
from feature_repo.windows.reading import StateView as StateView
from feature_repo.windows.resolve import Resolved, resolve_service
from feature_repo.windows.transform import TIME, Reals, Transform

INSTANT, KNOWN_AS_OF = "event_timestamp_us", "known_as_of_us"
FAR_AHEAD_US = 2**62
"""An instant from which no window reaches back to what a state has dropped: for warming."""
NOTHING_MADE: Mapping[str, Reals] = MappingProxyType({})


@dataclass(frozen=True)
class Answer:
    """Features of some rows.

    Attributes:
        values: float64[n, f], columns as ``OnlinePlan.feature_names``; null is NaN.
        known_as_of_us: int64[n] what was known: events known strictly before count.
        state_seen: for each view, int64[n] how many events the state of the row's key held.
    """

    values: NDArray[np.float64]
    known_as_of_us: Integers
    state_seen: dict[str, Integers]

    def of(self, place: int) -> "Answer":
        """That of one row."""
        row = slice(place, place + 1)
        seen = {view: counts[row] for view, counts in self.state_seen.items()}
        return Answer(self.values[row], self.known_as_of_us[row], seen)


class OnlinePlan:
    """A compiled FeatureService."""

    def __init__(
        self,
        client: Any,
        project: str,
        views: Sequence[StateView],
        transforms: Sequence[Transform],
        feature_names: tuple[str, ...],
        digest: str,
    ) -> None:
        self.feature_names = feature_names
        self.digest = digest
        self.state_views = tuple(views)
        self.views = tuple(view.spec for view in views)
        self.join_keys = tuple(sorted({key for view in views for key in view.join_keys}))
        self.client = client
        self._project = project
        self._reader = StateReader(client, views)
        self._mark = whole_key(project, self.views)
        self.marks: tuple[bytes, ...] = ()
        self.transforms = tuple(transforms)
        self._computed = [a.name for spec in self.views for a in spec.aggregates]
        self.request_columns = tuple(
            sorted({name for t in self.transforms for name in t.inputs} - {*self._computed, TIME})
        )
        rows = {name: row for row, name in enumerate(self._computed)}
        places = [(place, rows[name]) for place, name in enumerate(feature_names) if name in rows]
        # Where windows stand among the features, and among what the views compute.
        self._places, self._rows = np.array(places, dtype=np.int64).reshape(-1, 2).T
        self._made = [(place, name) for place, name in enumerate(feature_names) if name not in rows]

    @classmethod
    def compile(cls, store: FeatureStore, feature_service: str) -> "OnlinePlan":
        """Resolve a FeatureService once.

        Raises:
            ValueError: see ``resolve_service``.
        """
        return cls.of(store, resolve_service(store, feature_service))

    @classmethod
    def of(cls, store: FeatureStore, resolved: Resolved) -> "OnlinePlan":
        """The plan of a FeatureService that is resolved already, by the store's registry or by a model's own definitions."""
        client = store._get_provider().online_store._get_client(store.config.online_store)
        views = [StateView(spec, store.project, spec.keys) for spec in resolved.views]
        return cls(client, store.project, views, resolved.transforms, resolved.feature_names, resolved.digest)

    def missing_state(self) -> list[str]:
        """Views into whose state no history was ever loaded under their present definition, or not all that it needs."""
        return incomplete(self.client, self._project, self.views)

    def watch(self) -> None:
        """Put a mark beside the state, which is whole; from now on a read raises StateLostError if it is gone.

        Raises:
            redis.RedisError: no answer.
        """
        self.client.set(self._mark, b"1")
        self.marks = (self._mark,)
        self._reader.require(self.marks)

    def warm(self) -> None:
        """Compile or load everything that the first request would; touches no state."""
        row = {
            **dict.fromkeys(self.join_keys, ""),
            **dict.fromkeys(self.request_columns, 0.0),
            INSTANT: FAR_AHEAD_US,
        }
        self.read([row, row])
        self._reader.warm()

    def read(self, rows: Sequence[Mapping[str, Any]], ends_ns: list[int] | None = None) -> Answer:
        """Features of each row.

        Args:
            rows: at least one; join keys, request columns (None for null), ``event_timestamp_us`` (the instant, microseconds
                UTC) and, in all rows or none, ``known_as_of_us`` (default: the server's clock at the read).
            ends_ns: see ``StateReader.read``.

        Raises:
            KeyError: a row lacks a column. LookupError: see ``StateReader.read``. redis.RedisError: no answer.
        """
        return self.answer(rows, *self._reader.read(rows, *asked(rows), ends_ns))

    def answer(
        self,
        rows: Sequence[Mapping[str, Any]],
        windows: Sequence[tuple[Integers, Integers]],
        instants: Integers,
        known: Integers,
        made: Mapping[str, Reals] = NOTHING_MADE,
    ) -> Answer:
        """The features of rows whose windows are read: the second half of ``read``.

        Args:
            windows: of each of ``views``, as ``StateReader.read`` returns them.
            made: float64[n] of each output of those transforms that need not be applied any more.
        """
        reals, at, seen = np.empty((len(self._computed), len(rows))), 0, {}
        for spec, (results, counts) in zip(self.views, windows, strict=True):
            end = at + len(spec.aggregates)
            fill_reals(results, spec.whole, reals[at:end])
            seen[spec.view], at = counts, end
        values = np.empty((len(rows), len(self.feature_names)))
        values[:, self._places] = reals[self._rows].T
        if self.transforms:
            columns = self._transformed(rows, instants, reals, made)
            for place, name in self._made:
                values[:, place] = columns[name]
        return Answer(values, known, seen)

    def _transformed(
        self,
        rows: Sequence[Mapping[str, Any]],
        instants: Integers,
        computed: Reals,
        made: Mapping[str, Reals],
    ) -> dict[str, Reals]:
        """What the transforms make of the windows and the rows, beside what they make it of."""
        columns: dict[str, Reals] = {TIME: np.floor_divide(instants, 1_000_000).astype(np.float64)}
        for name in self.request_columns:
            columns[name] = np.array(
                [np.nan if row[name] is None else row[name] for row in rows], dtype=np.float64
            )
        columns |= zip(self._computed, computed, strict=True)
        columns |= made
        for transform in self.transforms:
            if transform.outputs[0] not in made:
                columns |= transform(columns)
        return columns


def asked(rows: Sequence[Mapping[str, Any]]) -> tuple[Integers, Integers | None]:
    """The rows' instants, and what was known at them if they say it: int64[n]."""
    instants = np.array([row[INSTANT] for row in rows], dtype=np.int64)
    given = rows[0].get(KNOWN_AS_OF) is not None
    return instants, np.array([row[KNOWN_AS_OF] for row in rows], dtype=np.int64) if given else None
