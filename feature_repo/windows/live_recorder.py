"""A recorder that writes into every definition that is live, and follows what is (see ``live.py``)."""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import redis
from feast import FeatureStore

from feature_repo.windows.event_values import NOTHING, Computed, LackingValueError, Taken, Values
from feature_repo.windows.keys import expiry_s, floor_key, lifetime_s, loaded_key
from feature_repo.windows.live import BREATH_US, LEASE_US, Live, lacking, name_of, renew, say_missed
from feature_repo.windows.recorder import EventRecorder, Written, windowed_specs
from feature_repo.windows.resolve import view_from_data, with_bases
from feature_repo.windows.scalars import from_microseconds
from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.wire import checked, command, exchange

__all__ = ["LiveRecorder"]

_log = logging.getLogger(__name__)


class LiveRecorder:
    """Records as ``EventRecorder`` does, into every definition that is live; ``record`` and ``follow`` may run in two threads."""

    def __init__(self, store: FeatureStore, monotonic: Callable[[], float] = time.monotonic) -> None:
        online = store._get_provider().online_store
        self.project = store.project
        self._client = online._get_client(store.config.online_store)
        self._registered = _Registered(store)
        self._id = f"{os.uname().nodename}/{os.getpid()}/{uuid4().hex[:8]}"
        self._monotonic, self._opened = monotonic, monotonic()
        self._lock = threading.Lock()
        self._newest: dict[str, int] = {}
        self._raw: Mapping[str, str] = {}
        self._understood: dict[str, ViewSpec] = {}
        self._specs: dict[str, ViewSpec] = {}
        self._recorder = EventRecorder.of(self._client, self.project, [])
        self._written: Mapping[str, ViewSpec] = {}
        self._followed = False

    @classmethod
    def open(
        cls,
        store: FeatureStore,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        without_answer: bool = False,
    ) -> "LiveRecorder":
        """Take up everything that is registered, and what is live already.

        Args:
            without_answer: be content with a store that does not answer; nothing can be written until ``follow`` has had one.

        Raises:
            ValueError: the registry holds no windowed view (run ``feast apply``). redis.RedisError: no answer.
        """
        recorder = cls(store, monotonic)
        if not recorder._registered.specs():
            raise ValueError(f"project {store.project!r}: the registry has no windowed view; run feast apply")
        try:
            recorder.follow([])
        except redis.RedisError:
            if not without_answer:
                raise
        return recorder

    @property
    def specs(self) -> tuple[ViewSpec, ...]:
        """The definitions that it writes."""
        return tuple(self._specs.values())

    def record(
        self, source: str, events: Sequence[Mapping[str, Any]], taken: Sequence[Taken] = ()
    ) -> list[int]:
        """``write``, of which only the known times are wanted."""
        return [each.known_us for each in self.write(source, events, taken)]

    def write(
        self, source: str, events: Sequence[Mapping[str, Any]], taken: Sequence[Taken] = ()
    ) -> list[Written]:
        """As ``EventRecorder.write``, but a view that cannot take an event does not keep it from the others.

        So it is with a filter that an event's values cannot be compared by, or with an event so old that its derived columns
        cannot be computed any more. Such a view lacks the event until history is loaded again; that is logged and, but for an
        old event, known to ``incomplete``.

        Raises:
            KeyError, TypeError, ValueError, LookupError: no view can take an event; the others are written. LackingValueError:
                a view needs what the event takes over, and that was not given.
        """
        found: list[Written] = []
        for each in self.write_each(source, events, taken):
            if isinstance(each, Exception):
                raise each
            found.append(each)
        return found

    def write_each(
        self, source: str, events: Sequence[Mapping[str, Any]], taken: Sequence[Taken] = ()
    ) -> list[Written | Exception]:
        """As ``write``, but what that raises of one event stands in its place.

        Raises:
            redis.RedisError: no answer.
        """
        with self._lock:
            self._require_followed()
            written = self._write(source, events, taken)
            for each in written:
                if isinstance(each, Written):
                    self._note(source, each.known_us)
            return written

    def passes_by(self, source: str, known_us: int) -> bool:
        """Whether no view reads the source. One that comes to read it then misses what was known up to ``known_us``.

        Raises:
            redis.ConnectionError: the store has not answered yet, so it is not known.
        """
        with self._lock:
            self._require_followed()
            unread = all(spec.source != source for spec in self._written.values())
            if unread:
                self._note(source, known_us)
            return unread

    def follow(self, read: Iterable[ViewSpec]) -> bool:
        """Renew what is registered and what is ``read`` here, and write what is live from now on.

        Returns:
            Whether the definitions that it writes are others than before.

        Raises:
            redis.RedisError: no answer; it writes on as before. Exception: whatever the registry raises; what is live is followed
                all the same, for whoever loads history waits for this recorder, and must know what it leaves out.
        """
        registered, failure = self._registered_now()
        live = self._say(registered, with_bases(read))
        if live.specs != self._raw:
            self._understood = {
                name: spec for name, text in live.specs.items() if (spec := _parse(name, text))
            }
            self._raw = live.specs
        specs = self._writable(live)
        changed = set(specs) != set(self._specs)
        if changed:
            self._take_up(specs)
            self._say([])
        self._followed = True
        # What is not written here goes on without what is recorded here.
        others = {
            name: json.loads(text)["source"] for name, text in self._raw.items() if name not in self._specs
        }
        say_missed(self._client, self.project, others, self._newest)
        _keep_loads(self._client, self.project, self._specs.values())
        if failure is not None:
            raise failure
        return changed

    def _require_followed(self) -> None:
        if not self._followed:
            raise redis.ConnectionError(
                "the online store has not answered yet; what to write into is not known"
            )

    def close(self) -> None:
        """Say what was recorded last, and that this recorder runs no more.

        One that is killed is taken for running for 15 seconds; what it recorded since it last followed is not said.

        Raises:
            redis.RedisError: no answer.
        """
        self._say([], breath=-1)

    def _registered_now(self) -> tuple[Sequence[ViewSpec], Exception | None]:
        """What is registered; nothing, and why, if it cannot be read."""
        try:
            return with_bases(self._registered.specs()), None
        except Exception as error:  # the registry may be anywhere and raises anything
            return (), error

    def _writable(self, live: Live) -> dict[str, ViewSpec]:
        """What is live and known to this code, but for views computed from states that lack history."""
        bases = {name: with_bases([spec])[1:] for name, spec in self._understood.items()}
        needed = [base for each in bases.values() for base in each]
        poor = (
            {name_of(base) for base in lacking(self._client, self.project, needed, live)} if needed else set()
        )
        return {
            name: spec
            for name, spec in self._understood.items()
            if poor.isdisjoint(name_of(base) for base in bases[name])
        }

    def _write(
        self, source: str, events: Sequence[Mapping[str, Any]], taken: Sequence[Taken]
    ) -> list[Written | Exception]:
        given = taken or [NOTHING] * len(events)
        if self._recorder.better_alone(source, events):
            return self._one_by_one(source, events, given)
        try:
            return [*self._recorder.write(source, events, given)]
        except (LookupError, TypeError, ValueError) as error:
            if len(events) > 1:
                return self._one_by_one(source, events, given)
            if isinstance(error, LackingValueError):
                return [error]
            try:
                return [self._write_apart(source, events[0], given[0], error)]
            except (LookupError, TypeError, ValueError) as why:
                return [why]

    def _one_by_one(
        self, source: str, events: Sequence[Mapping[str, Any]], taken: Sequence[Taken]
    ) -> list[Written | Exception]:
        each = zip(events, taken, strict=True)
        return [written for event, more in each for written in self._write(source, [event], [more])]

    def _write_apart(self, source: str, event: Mapping[str, Any], taken: Taken, error: Exception) -> Written:
        """Record an event into each view that can take it, under one known time."""
        views = {name: spec for name, spec in self._written.items() if spec.source == source}
        for spec in views.values():
            Computed(spec).require(event, taken)
        event = self._with_known_time(event, views.values())
        known: int | None = None
        values: Values = {}
        failed: dict[str, Exception] = {}
        for name, spec in views.items():
            try:
                recorder = EventRecorder.of(self._client, self.project, [spec])
                ((known, found),) = recorder.write(source, [event], [taken])
                values = {**values, **found}
            except (LookupError, TypeError, ValueError) as why:
                failed[name] = why
        if known is None:
            raise error
        for name, reason in failed.items():
            _log.error("%s lacks an event of %s until fraud backfill loads it: %s", name, source, reason)
        wrong = {name: source for name, reason in failed.items() if type(reason) is not LookupError}
        say_missed(self._client, self.project, wrong, {source: known})
        return Written(known, values)

    def _with_known_time(self, event: Mapping[str, Any], views: Iterable[ViewSpec]) -> Mapping[str, Any]:
        """The event as known now by the server's clock, if it does not say when."""
        columns = {spec.created for spec in views if spec.created and event.get(spec.created) is None}
        if not columns:
            return event
        seconds, micros = self._client.time()
        return {**event, **dict.fromkeys(columns, from_microseconds(int(seconds) * 1_000_000 + int(micros)))}

    def _note(self, source: str, known_us: int) -> None:
        self._newest[source] = max(self._newest.get(source, known_us), known_us)

    def _take_up(self, specs: dict[str, ViewSpec]) -> None:
        recorder = EventRecorder.of(self._client, self.project, specs.values())
        with self._lock:
            self._recorder, self._written, newest = recorder, specs, dict(self._newest)
        new = {name: spec.source for name, spec in specs.items() if name not in self._specs}
        say_missed(self._client, self.project, new, newest)
        self._specs = specs

    def _say(self, specs: Iterable[ViewSpec], read: Iterable[ViewSpec] = (), breath: int = BREATH_US) -> Live:
        with self._lock:
            newest = dict(self._newest)
        known = [part for source, time in newest.items() for part in (source, time)]
        # Who has just come up may be the first after a long night: whoever comes up beside it shall find its definitions.
        let_go = (self._monotonic() - self._opened) * 1_000_000 > LEASE_US
        return renew(
            self._client,
            self.project,
            specs,
            known,
            read=read,
            let_go=let_go,
            recorder=self._id,
            breath=breath,
            follows=self._specs,
        )


class _Registered:
    """The registry's windowed views, read again when they may have changed."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._seen: object = None
        self._specs: list[ViewSpec] = []

    def specs(self) -> list[ViewSpec]:
        """The views, resolved; a registry in a file is read only after it was written."""
        now = self._version()
        if now is None or now != self._seen:
            self._specs = windowed_specs(self._store)
            self._seen = now
        return self._specs

    def _version(self) -> object:
        file = getattr(getattr(self._store.registry, "_registry_store", None), "_filepath", None)
        if file is None:
            return None
        found = os.stat(file)
        return found.st_mtime_ns, found.st_size, found.st_ino


def _keep_loads(client: Any, project: str, specs: Iterable[ViewSpec]) -> None:
    """What was loaded stays loaded for as long as a recorder writes what has come since."""
    lifetimes = {
        key: (expiry_s(spec), lifetime_s(spec))
        for spec in specs
        for key in (loaded_key(project, spec), floor_key(project, spec))
    }
    if not lifetimes:
        return
    left = checked(exchange(client, [command("TTL", key) for key in lifetimes]))
    for ttl, (key, (least, lifetime)) in zip(left, lifetimes.items(), strict=True):
        # To look costs the server's log nothing.
        if 0 <= ttl < least:
            client.expire(key, lifetime)


def _parse(name: str, text: str) -> ViewSpec | None:
    """The definition, or None for one that this version of the code would not keep as it is kept there."""
    try:
        spec = view_from_data(json.loads(text))
    except (TypeError, KeyError, ValueError) as error:
        _log.warning(
            "definition %s is of another version of the code and is not written here: %r", name, error
        )
        return None
    return spec if name_of(spec) == name else None
