"""Recording events one by one, as they happen: the verb that the service and the stream consumer share.

An event goes to the state of every view of its source whose filter it passes, all in one atomic script, under one known
time. Recording the same event again changes nothing that can be read: states count an event once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feast import FeatureStore

from feature_repo.windows.keys import expiry_s, retention_us, state_key, view_prefix
from feature_repo.windows.scripts import Call, script
from feature_repo.windows.spec import ViewSpec, is_windowed, view_spec
from feature_repo.windows.state import pack_event, to_microseconds


@dataclass(frozen=True)
class _Target:
    spec: ViewSpec
    prefix: bytes


def windowed_specs(store: FeatureStore) -> list[ViewSpec]:
    """Every windowed view of the store, resolved, by name."""
    views = [view for view in store.list_stream_feature_views() if is_windowed(view)]
    entities = store.list_entities()
    specs = [view_spec(view, [e for e in entities if e.name in view.entities]) for view in views]
    return sorted(specs, key=lambda spec: spec.view)


class EventRecorder:
    """Writes events into the online state of every windowed view."""

    def __init__(self, client: Any, targets: Mapping[str, Sequence[_Target]]) -> None:
        self._client = client
        self._targets = targets

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
    def of(cls, client: Any, project: str, specs: Iterable[ViewSpec]) -> "EventRecorder":
        """A recorder into the state of exactly these definitions; a view may be there under several."""
        targets: dict[str, list[_Target]] = {}
        for spec in specs:
            targets.setdefault(spec.source, []).append(_Target(spec, view_prefix(project, spec)))
        return cls(client, targets)

    def record(self, source: str, events: Sequence[Mapping[str, Any]]) -> list[int]:
        """Record events of one source, in one round trip.

        Args:
            source: name of the batch source, such as ``transactions``.
            events: rows of the source as Python values, event time an aware datetime. The source's known-time column says when
                the event became known; None or absent means now, by the server's clock. Without such a column it is the event
                time.

        Returns:
            The known time of each, microseconds UTC.

        Raises:
            KeyError: no view reads the source, or an event lacks a column. TypeError, ValueError: a value that windows
                cannot hold exactly. Nothing is written then. redis.RedisError: as in ``Script.run``.
        """
        if source not in self._targets:
            raise KeyError(f"source {source!r}: no windowed view reads it; there are {sorted(self._targets)}")
        calls = [self._call(self._targets[source], event) for event in events]
        return [int(answer) for answer in script("record").run(self._client, calls)] if calls else []

    def _call(self, targets: Sequence[_Target], event: Mapping[str, Any]) -> Call:
        keys: list[bytes] = []
        # A source without known times knows its events as they happen.
        created = (
            event.get(targets[0].spec.created)
            if targets[0].spec.created
            else event[targets[0].spec.timestamp]
        )
        arguments: list[Any] = ["" if created is None else to_microseconds(created)]
        for target in targets:
            spec = target.spec
            values = [event[key] for key in spec.keys]
            if any(value is None for value in values) or (spec.predicate and not spec.predicate(event)):
                continue
            keys.append(state_key(target.prefix, values))
            time = to_microseconds(event[spec.timestamp])
            arguments += [pack_event(spec, event, 0), time, retention_us(spec), expiry_s(spec)]
        return keys, arguments
