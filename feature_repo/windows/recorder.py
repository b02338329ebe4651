"""Recording events one by one, as they happen: the verb that the service and the stream consumer share.

An event goes to the state of every view of its source whose filter it passes, all in one atomic script, under one known
time. Recording the same event again changes nothing that can be read: states count an event once.

Views that aggregate derived columns need what other states hold when the event happens. One event reads that first. Of many
events those that are computed come after those that they are computed from, in further scripts under the same known times:
what an event may see is a matter of its times, so it sees the events that it is recorded with as it sees all others.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from feast import FeatureStore

from feature_repo.windows.compaction import Compactor, typical_width
from feature_repo.windows.event_values import NOTHING, Computed, EventValues, Taken, Values
from feature_repo.windows.head import SIZES, Sizes
from feature_repo.windows.keys import expiry_s, lifetime_s, retention_us, view_prefix
from feature_repo.windows.record_calls import Alike, Call, Calls
from feature_repo.windows.resolve import with_bases
from feature_repo.windows.scalars import from_microseconds
from feature_repo.windows.scripts import script
from feature_repo.windows.spec import Derived, ViewSpec, is_windowed, view_spec
from feature_repo.windows.wire import bulk

# Calls that are sent at once; the server holds their answers until all are there.
_CALLS = 50
# What ``record.lua`` is told of a view.
_CONSTANTS = struct.Struct("<qqqIII")


class _Target:
    """One view that events go to, with what its calls have in common packed."""

    def __init__(self, client: Any, project: str, spec: ViewSpec, sizes: Sizes) -> None:
        self.spec, self.prefix = spec, view_prefix(project, spec)
        self.compactor = Compactor(client, spec, sizes)
        room = sizes.room(typical_width(spec))
        times = retention_us(spec), expiry_s(spec), lifetime_s(spec)
        self.constants = _CONSTANTS.pack(*times, room, sizes.quiet, sizes.late)
        self.computed = Computed(spec)


class _Stage:
    """Views of one source that are written together, those that name an event's id and time, and compute columns, alike."""

    def __init__(
        self, client: Any, project: str, targets: Sequence[_Target], others: Sequence[Derived] = ()
    ) -> None:
        specs = [target.spec for target in targets]
        self._script = script("record")
        self._created, self._timestamp = specs[0].created, specs[0].timestamp
        own = (column for target in targets for column in target.computed.own)
        self.values = EventValues(client, project, self._timestamp, chain(own, others))
        alike: dict[object, list[_Target]] = {}
        for target in targets:
            spec = target.spec
            alike.setdefault((spec.event_id, spec.timestamp, target.computed.meaning), []).append(target)
        self.targets = [target for group in alike.values() for target in group]
        self._constants = bulk(b"".join(target.constants for target in self.targets))
        self._calls = Calls(
            [
                Alike([each.spec for each in group], [each.prefix for each in group], group[0].computed)
                for group in alike.values()
            ],
            self._timestamp,
            self._created,
        )

    def calls(
        self, events: Sequence[Mapping[str, Any]], values: Sequence[Values], taken: Sequence[Taken]
    ) -> list[Call]:
        """What to write of events.

        Raises:
            KeyError, TypeError, ValueError: an event that cannot be written.
        """
        return self._calls.of(events, values, taken)

    def packed(self, call: Call) -> bytes:
        """A call as it is sent."""
        return self._script.call(call.keys, [self._constants, *call.arguments], 1 + call.count)

    def is_known(self, event: Mapping[str, Any]) -> bool:
        """Whether an event says when it became known, or does so by its time."""
        return not self._created or event.get(self._created) is not None

    def known(self, event: Mapping[str, Any], known: int) -> Mapping[str, Any]:
        """The event with the known time that it was given."""
        return {**event, self._created: from_microseconds(known)} if self._created else event


class _Source:
    """The views of one source: as one stage for a single event, and as stages in the order in which they are computed.

    Args:
        others: derived columns that events of other sources take over from those of this one.
    """

    def __init__(
        self, client: Any, project: str, targets: Sequence[_Target], others: Sequence[Derived]
    ) -> None:
        depths: dict[int, list[_Target]] = {}
        for target in targets:
            depths.setdefault(_depth(target.spec), []).append(target)
        self._whole = _Stage(client, project, targets, others)
        self._stages = [_Stage(client, project, depths[depth]) for depth in sorted(depths)]
        self._others = EventValues(client, project, targets[0].spec.timestamp, others) if others else None

    def is_known(self, event: Mapping[str, Any]) -> bool:
        """Whether an event says when it became known, or does so by its time."""
        return self._whole.is_known(event)

    @property
    def staged(self) -> bool:
        """Whether several events are written in stages."""
        return len(self._stages) > 1 or self._others is not None

    def stages(
        self, events: Sequence[Mapping[str, Any]], taken: Sequence[Taken]
    ) -> tuple[list[_Stage], EventValues | None]:
        """What to write one after the other, and what to compute once all of that is written.

        Raises:
            KeyError, TypeError, ValueError: an event that one of the stages could not write.
        """
        if len(events) == 1 or not self.staged:
            return [self._whole], None
        for event in events:
            self._whole.values.check(event)
        self._whole.calls(events, [self._whole.values.nulls] * len(events), taken)
        return self._stages, self._others


def _depth(spec: ViewSpec) -> int:
    """How many views stand one behind the other from which the view's events are computed."""
    bases = [base for column in Computed(spec).own for base in column.views]
    return 1 + max(map(_depth, bases)) if bases else 0


def windowed_specs(store: FeatureStore) -> list[ViewSpec]:
    """Every windowed view of the store, resolved, by name."""
    views = [view for view in store.list_stream_feature_views() if is_windowed(view)]
    entities = store.list_entities()
    specs = [view_spec(view, [e for e in entities if e.name in view.entities]) for view in views]
    return sorted(specs, key=lambda spec: spec.view)


class Written(NamedTuple):
    """What became of an event: when it became known, microseconds UTC, and the derived columns that were computed of it."""

    known_us: int
    values: Values


class EventRecorder:
    """Writes events into the online state of every windowed view."""

    def __init__(self, client: Any, sources: Mapping[str, _Source]) -> None:
        self._client = client
        self._sources = sources

    @classmethod
    def compile(cls, store: FeatureStore) -> "EventRecorder":
        """Resolve the store's windowed views once.

        Raises:
            ValueError: the registry holds no windowed view (run ``feast apply``).
        """
        specs = windowed_specs(store)
        if not specs:
            raise ValueError(f"project {store.project!r}: the registry has no windowed view; run feast apply")
        online = store._get_provider().online_store
        return cls.of(online._get_client(store.config.online_store), store.project, specs)

    @classmethod
    def of(
        cls, client: Any, project: str, specs: Iterable[ViewSpec], sizes: Sizes = SIZES
    ) -> "EventRecorder":
        """A recorder into the state of exactly these definitions; a view may be there under several.

        Args:
            sizes: how large the parts of a state grow.
        """
        targets: dict[str, list[_Target]] = {}
        others: dict[str, list[Derived]] = {}
        for spec in with_bases(specs):
            target = _Target(client, project, spec, sizes)
            targets.setdefault(spec.source, []).append(target)
            for column in target.computed.taken:
                others.setdefault(column.source, []).append(column)
        return cls(
            client,
            {
                source: _Source(client, project, own, others.get(source, []))
                for source, own in targets.items()
            },
        )

    def better_alone(self, source: str, events: Sequence[Mapping[str, Any]]) -> bool:
        """Whether events had better be written one by one, if what fails for one is to be tried again for the others.

        Where a later stage fails, the earlier ones are written. Events that are known by the server's clock would then be known
        at another time when they are written again.
        """
        found = self._sources.get(source)
        return found is not None and found.staged and len(events) > 1 and not all(map(found.is_known, events))

    def record(
        self, source: str, events: Sequence[Mapping[str, Any]], taken: Sequence[Taken] = ()
    ) -> list[int]:
        """``write``, of which only the known times are wanted."""
        return [each.known_us for each in self.write(source, events, taken)]

    def write(
        self, source: str, events: Sequence[Mapping[str, Any]], taken: Sequence[Taken] = ()
    ) -> list[Written]:
        """Record events of one source, a thousand in a round trip.

        Args:
            source: name of the batch source, such as ``transactions``.
            events: rows of the source as Python values, event time an aware datetime. The source's known-time column says when
                the event became known; None or absent means now, by the server's clock. Without such a column it is the event
                time.
            taken: what each takes over from other sources, where it does not carry the columns itself.

        Returns:
            Of each its known time, and its derived columns: those of the source's own views, and those that events of other
            sources take over.

        Raises:
            KeyError: no view reads the source, or an event lacks a column (``LackingValueError``: one of another source).
                TypeError, ValueError: a value that windows cannot hold exactly. Nothing is written then. LookupError: of an
                event that lies so far back that what its derived columns are computed from is kept no more.
                redis.RedisError: as in ``Script.send``.
        """
        if source not in self._sources:
            raise KeyError(f"source {source!r}: no windowed view reads it; there are {sorted(self._sources)}")
        taken = taken or [NOTHING] * len(events)
        (first, *more), late = self._sources[source].stages(events, taken)
        values = first.values.read(events)
        known = self._write(first, events, values, taken)
        if more or late:
            events = [first.known(event, time) for event, time in zip(events, known, strict=True)]
        for stage in more:
            found = stage.values.read(events)
            self._write(stage, events, found, taken)
            values = _merged(values, found)
        if late:
            values = _merged(values, late.read(events))
        return list(map(Written, known, values))

    def _write(
        self,
        stage: _Stage,
        events: Sequence[Mapping[str, Any]],
        values: Sequence[Values],
        taken: Sequence[Taken],
    ) -> list[int]:
        made = stage.calls(events, values, taken) if events else []
        return [
            known for i in range(0, len(made), _CALLS) for known in self._send(stage, made[i : i + _CALLS])
        ]

    def _send(self, stage: _Stage, made: Sequence[Call]) -> list[int]:
        answers = script("record").send(self._client, list(map(stage.packed, made)))
        known: list[int] = []
        large: dict[int, dict[bytes, None]] = {}
        for answer, call in zip(answers, made, strict=True):
            clock, *places = answer if isinstance(answer, list) else [answer]
            known += [int(clock) if each is None else each for each in call.known]
            for view, key in (call.state(place - 1) for place in places):
                large.setdefault(view, {})[key] = None
        for view, keys in large.items():
            stage.targets[view].compactor.compact(list(keys))
        return known


def _merged(values: Sequence[Values], more: Sequence[Values]) -> list[Values]:
    return [{**own, **others} for own, others in zip(values, more, strict=True)]
