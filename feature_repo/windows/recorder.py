"""Recording events one by one, as they happen: the verb that the service and the stream consumer share.

An event goes to the state of every view of its source whose filter it passes, all in one atomic script, under one known
time. Recording the same event again changes nothing that can be read: states count an event once.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from feast import FeatureStore

from feature_repo.windows.compaction import Compactor, typical_width
from feature_repo.windows.head import SIZES, Sizes
from feature_repo.windows.keys import expiry_s, retention_us, state_key, view_prefix
from feature_repo.windows.records import Packer, to_microseconds
from feature_repo.windows.scripts import script
from feature_repo.windows.spec import ViewSpec, is_windowed, view_spec
from feature_repo.windows.wire import bulk

# Events that are sent at once; the server holds their answers until all are there.
_ROUND_TRIP = 1000


class _Target:
    """One view that events go to, with what its calls have in common packed."""

    def __init__(self, client: Any, project: str, spec: ViewSpec, sizes: Sizes) -> None:
        self.spec, self.prefix = spec, view_prefix(project, spec)
        self.compactor = Compactor(client, spec, sizes)
        room = sizes.room(typical_width(spec))
        constants = (retention_us(spec), expiry_s(spec), room, sizes.quiet, sizes.late)
        self.constants, self.count = b"".join(map(bulk, constants)), 2 + len(constants)


class _Source:
    """The views of one source, those that name an event's id and time alike together."""

    def __init__(self, targets: Sequence[_Target]) -> None:
        self._created, self._timestamp = targets[0].spec.created, targets[0].spec.timestamp
        alike: dict[tuple[str, str], list[_Target]] = {}
        for target in targets:
            alike.setdefault((target.spec.event_id, target.spec.timestamp), []).append(target)
        self._groups = [(Packer([target.spec for target in group]), group) for group in alike.values()]

    def _known(self, event: Mapping[str, Any]) -> int | None:
        """When the event became known, microseconds; None: now. Without known times events are known as they happen."""
        created = event.get(self._created) if self._created else event[self._timestamp]
        return None if created is None else to_microseconds(created)

    def call(self, event: Mapping[str, Any]) -> tuple[bytes, list[tuple[_Target, bytes]]]:
        """The packed call of ``record.lua``, and the states that it writes."""
        known = self._known(event)
        states: list[tuple[_Target, bytes]] = []
        arguments, count = [bulk("" if known is None else known)], 1
        for packer, targets in self._groups:
            time = packer.time(event)
            packed, stamp = packer.pack(event, time, known), bulk(time)
            for i, target in enumerate(targets):
                spec = target.spec
                values = [event[key] for key in spec.keys]
                passes = spec.predicate is None or spec.predicate(event)
                if None in values or not (passes or spec.corrected):
                    continue
                states.append((target, state_key(target.prefix, values)))
                arguments += [stamp, bulk(packed.record(i, void=not passes)), target.constants]
                count += target.count
        return script("record").call([key for _, key in states], arguments, count), states


def windowed_specs(store: FeatureStore) -> list[ViewSpec]:
    """Every windowed view of the store, resolved, by name."""
    views = [view for view in store.list_stream_feature_views() if is_windowed(view)]
    entities = store.list_entities()
    specs = [view_spec(view, [e for e in entities if e.name in view.entities]) for view in views]
    return sorted(specs, key=lambda spec: spec.view)


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
        for spec in specs:
            targets.setdefault(spec.source, []).append(_Target(client, project, spec, sizes))
        return cls(client, {source: _Source(own) for source, own in targets.items()})

    def record(self, source: str, events: Sequence[Mapping[str, Any]]) -> list[int]:
        """Record events of one source, a thousand in a round trip.

        Args:
            source: name of the batch source, such as ``transactions``.
            events: rows of the source as Python values, event time an aware datetime. The source's known-time column says when
                the event became known; None or absent means now, by the server's clock. Without such a column it is the event
                time.

        Returns:
            The known time of each, microseconds UTC.

        Raises:
            KeyError: no view reads the source, or an event lacks a column. TypeError, ValueError: a value that windows
                cannot hold exactly. Nothing is written then. redis.RedisError: as in ``Script.send``.
        """
        if source not in self._sources:
            raise KeyError(f"source {source!r}: no windowed view reads it; there are {sorted(self._sources)}")
        calls = [self._sources[source].call(event) for event in events]
        known: list[int] = []
        large: dict[_Target, dict[bytes, None]] = {}
        for first in range(0, len(calls), _ROUND_TRIP):
            some = calls[first : first + _ROUND_TRIP]
            answers = script("record").send(self._client, [call for call, _ in some])
            for answer, (_, states) in zip(answers, some, strict=True):
                if isinstance(answer, list):
                    answer, *places = answer
                    for place in places:
                        target, key = states[place - 1]
                        large.setdefault(target, {})[key] = None
                known.append(int(answer))
            for target, keys in large.items():
                target.compactor.compact(list(keys))
            large.clear()
        return known
