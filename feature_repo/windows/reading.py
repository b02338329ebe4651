"""Windows of several views for several rows, from their states, in one round trip; hot keys take one or two more."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from feature_repo.windows.decoding import Decoder
from feature_repo.windows.evaluate import Evaluator, Integers
from feature_repo.windows.head import NOTHING_DROPPED, Head, open_states
from feature_repo.windows.hot import CompactedError, HotView, Question
from feature_repo.windows.keys import floor_key, state_key, view_prefix
from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.state import refuse_dropped
from feature_repo.windows.wire import bulk, checked, command, exchange

_TIME = command("TIME")
# A state that is compacted again and again between two round trips: more often than this does not happen.
_TRIES = 20


@dataclass(frozen=True)
class StateView:
    """A view to read: its plan, its project, and the row's columns that make its key."""

    spec: ViewSpec
    project: str
    join_keys: tuple[str, ...]


class StateLostError(LookupError):
    """The mark that was put beside a plan's state is gone, and so may the state be."""


_READERS: dict[tuple[object, ...], "StateReader"] = {}
_MOST_READERS = 100


class StateReader:
    """Reads the states of several views for several rows, and finishes their windows."""

    def __init__(self, client: Any, views: Sequence[StateView]) -> None:
        self._client = client
        self._views = tuple(views)
        # Definitions that differ in their outputs alone have one state, which is asked for once.
        prefixes = [(view_prefix(view.project, view.spec), view.join_keys) for view in views]
        asked = list(dict.fromkeys(prefixes))
        self._asked = tuple(asked)
        self._place = None if len(asked) == len(prefixes) else [asked.index(each) for each in prefixes]
        self._floors = b"".join(
            bulk(floor_key(views[i].project, views[i].spec)) for i in map(prefixes.index, asked)
        )
        specs = [view.spec for view in views]
        self._horizons = np.array([spec.horizon_us for spec in specs], dtype=np.int64)
        self._decoder, self._evaluator = Decoder(specs), Evaluator(specs)
        self._hot_views: dict[int, HotView] = {}
        self._marks, self._mark_count = b"", 0

    def require(self, marks: Sequence[bytes]) -> None:
        """From now on a read must find these keys in the store; they are read with the states."""
        self._marks, self._mark_count = b"".join(map(bulk, marks)), len(marks)

    @classmethod
    def kept(cls, client: Any, views: Sequence[StateView]) -> "StateReader":
        """The reader of these views, made once for whoever asks for the very same ones again and again."""
        # A reader keeps what it is named by alive, so none of these numbers comes to name another.
        name = (id(client), *((id(view.spec), view.project, view.join_keys) for view in views))
        if name not in _READERS:
            if len(_READERS) >= _MOST_READERS:
                _READERS.clear()
            _READERS[name] = cls(client, views)
        return _READERS[name]

    def read(
        self,
        rows: Sequence[Mapping[str, Any]],
        instants: Integers | None,
        known_as_of: Integers | None,
        ends_ns: list[int] | None = None,
    ) -> tuple[list[tuple[Integers, Integers]], Integers, Integers]:
        """Windows of every view for every row.

        Args:
            rows: join-key values. instants: int64[n] or None: the server's clock. known_as_of: likewise.
            ends_ns: gets when the states were read, and when the windows were computed, by ``time.perf_counter_ns``.

        Returns:
            For each view (results int64[n, a], events seen int64[n]); the instants; what was known at them.

        Raises:
            StateLostError: a mark that is required is gone.
            LookupError: an instant lies so far back that events of its window may have been dropped.
            redis.RedisError: no answer. ValueError: a state is damaged.
        """
        n = len(rows)
        keys = [
            state_key(prefix, [row[key] for key in join_keys])
            for prefix, join_keys in self._asked
            for row in rows
        ]
        v = len(self._asked)
        many = b"*%d\r\n$4\r\nMGET\r\n" % (1 + v + len(keys) + self._mark_count)
        # The clock is read before the states: whatever is recorded in between is known later than it, and does not count.
        (seconds, micros), values = checked(
            exchange(self._client, [_TIME, many + self._floors + b"".join(map(bulk, keys)) + self._marks])
        )
        if ends_ns is not None:
            ends_ns.append(time.perf_counter_ns())
        if None in values[v + len(keys) :]:
            raise StateLostError("the online store has lost its state, or part of it; run fraud backfill")
        if instants is None or known_as_of is None:
            now = np.full(n, int(seconds) * 1_000_000 + int(micros), dtype=np.int64)
            instants = now if instants is None else instants
            known_as_of = now if known_as_of is None else known_as_of
        floors = np.array([NOTHING_DROPPED if value is None else int(value) for value in values[:v]])
        states = [state or b"" for state in values[v : v + len(keys)]]
        if self._place is not None:
            keys, states = self._by_view(keys, n), self._by_view(states, n)
            floors = floors[self._place]
        windows = self._finish(keys, states, floors, instants, known_as_of)
        if ends_ns is not None:
            ends_ns.append(time.perf_counter_ns())
        return windows, instants, known_as_of

    def _by_view(self, asked: list[bytes], n: int) -> list[bytes]:
        """What was asked once, n rows each, for every view that has it."""
        return [each for place in self._place or () for each in asked[place * n : (place + 1) * n]]

    def _finish(
        self, keys: list[bytes], states: list[bytes], floors: Integers, instants: Integers, known: Integers
    ) -> list[tuple[Integers, Integers]]:
        n = len(instants)
        data = np.frombuffer(b"".join(states), dtype=np.uint8)
        lengths = np.array([len(state) for state in states])
        bounds, sealed = np.empty((len(states), 2), dtype=np.int64), np.empty(len(states), dtype=np.bool_)
        refused = open_states(data, lengths, floors, instants, self._horizons, bounds, sealed)
        if refused >= 0:
            view, row = divmod(refused, n)
            dropped = max(int(floors[view]), Head.of(states[refused]).dropped)
            refuse_dropped(self._views[view].spec, dropped, int(instants[row]))
        laid = self._decoder.decode(data, bounds, np.arange(0, len(states) + 1, n))
        results = self._evaluator.evaluate(laid, instants, known)
        seen = np.diff(laid.starts.reshape(-1, n + 1))
        for i in np.flatnonzero(sealed).tolist():
            view, row = divmod(i, n)
            question = Question(int(instants[row]), int(known[row]))
            results[view][row], seen[view, row] = self._hot(view, keys[i], states[i], question)
        return list(zip(results, seen, strict=True))

    def warm(self) -> None:
        """Compile or load what the first read of a hot key would; touches no state."""
        for view in range(len(self._views)):
            self._hot_view(view).warm()

    def _hot_view(self, view: int) -> HotView:
        if view not in self._hot_views:
            self._hot_views[view] = HotView(self._views[view].spec)
        return self._hot_views[view]

    def _hot(self, view: int, key: bytes, state: bytes, question: Question) -> tuple[Integers, int]:
        spec = self._views[view].spec
        for _ in range(_TRIES):
            refuse_dropped(spec, Head.of(state).dropped, question.instant)
            try:
                return self._hot_view(view).windows(self._client, key, state, question)
            except CompactedError:
                (again,) = checked(exchange(self._client, [command("GET", key)]))
                state = again or b""
        raise LookupError(
            f"{spec.view}: state {key!r} lacks a part of its own; delete it and materialize the view again"
        )
