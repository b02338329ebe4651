"""Which definitions are kept up by recorders while they run, so that a view can change under a running service.

One hash in Redis says it, for every process that records or reads::

    spec:VIEW:DIGEST      a definition, as JSON          until:VIEW:DIGEST   when its lease ends
    read:VIEW:DIGEST      until when a model reads it
    missed:VIEW:DIGEST    events known up to and including this were recorded without it
    known:SOURCE          the newest known time recorded of a source
    recorder:ID           a running recorder: when its own lease ends, and the definitions it writes

Recorders renew the leases of what is registered, readers those of what they read. Every recorder writes into the state of
every definition that stands here, so ``feast apply`` starts the state of a new one, and the state of the old one is kept up
for as long as a served model reads it. A definition that nobody has renewed for ``LEASE_US`` is let go.

A state is complete if a load of history ended after ``missed``: what the load did not bring was recorded live. It holds
whichever of apply, take-up, load and restart comes first, and it is why nothing is lost between a load's end and the moment
at which a recorder took the definition up.

A view with derived columns is written only while all states that they are computed from are complete: of others the values
would be wrong, and kept. Until then events miss it, as they miss what no recorder has taken up.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from feast import FeatureStore

from feature_repo.windows.keys import expiry_s, floor_key, lifetime_s, loaded_key, project_prefix
from feature_repo.windows.plain_data import to_data
from feature_repo.windows.recorder import EventRecorder, windowed_specs
from feature_repo.windows.resolve import view_from_data, with_bases
from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.state import from_microseconds
from feature_repo.windows.wire import checked, command, exchange

__all__ = [
    "LEASE_US",
    "Live",
    "LiveRecorder",
    "await_recorders",
    "claim",
    "incomplete",
    "lacking",
    "let_go",
    "live_key",
    "read_live",
]

LEASE_US = 3_600_000_000
"""How long a definition is kept up after its last reader: in this time one may go back to it."""

# A recorder that has said nothing for so long does not run any more.
_BREATH_US = 15_000_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Live:
    """The hash, read.

    Attributes:
        specs: definitions by name (``VIEW:DIGEST``) as JSON text.
        missed: by name, microseconds. known: by source, microseconds.
        follows: the names that each running recorder writes.
    """

    specs: Mapping[str, str]
    missed: Mapping[str, int]
    known: Mapping[str, int]
    follows: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, fields: Mapping[bytes, bytes]) -> "Live":
        """From the hash's fields."""
        parts: dict[str, dict[str, str]] = {}
        for field, value in fields.items():
            kind, _, name = field.decode().partition(":")
            parts.setdefault(kind, {})[name] = value.decode()
        return cls(
            specs=parts.get("spec", {}),
            missed={name: int(value) for name, value in parts.get("missed", {}).items()},
            known={name: int(value) for name, value in parts.get("known", {}).items()},
            follows={
                name: frozenset(value.split(" ")[1:]) for name, value in parts.get("recorder", {}).items()
            },
        )

    def missed_by(self, spec: ViewSpec) -> int | None:
        """Up to which known time events were recorded without this definition, microseconds; None: there are none."""
        name = _name(spec)
        return self.missed.get(name) if name in self.specs else self.known.get(spec.source)


def live_key(project: str) -> bytes:
    """The hash's name; no view is called by an empty name."""
    return project_prefix(project) + b":live"


def read_live(client: Any, project: str) -> Live:
    """The hash as it stands; empty where no recorder has ever run."""
    return Live.of(client.hgetall(live_key(project)))


def claim(client: Any, project: str, specs: Iterable[ViewSpec]) -> Live:
    """Renew the leases of definitions that are read, or begin them."""
    return _renew(client, project, [], [], read=with_bases(specs))


def incomplete(client: Any, project: str, specs: Iterable[ViewSpec]) -> list[str]:
    """Names of ``lacking``, each once."""
    return list(dict.fromkeys(spec.view for spec in lacking(client, project, specs)))


def lacking(client: Any, project: str, specs: Iterable[ViewSpec], live: Live | None = None) -> list[ViewSpec]:
    """Those of the views, and of what they are computed from, whose state lacks events.

    No history was loaded under this definition, or only up to before ``missed``.

    Args:
        live: the hash, if it is at hand.
    """
    specs, live = with_bases(specs), live or read_live(client, project)
    loaded = client.mget([loaded_key(project, spec) for spec in specs]) if specs else []
    return [
        spec
        for spec, end in zip(specs, loaded, strict=True)
        if end is None or _lacks(live.missed_by(spec), int(end))
    ]


def await_recorders(
    client: Any,
    project: str,
    spec: ViewSpec,
    end: int,
    *,
    wait_s: float = 20.0,
    sleep: Callable[[float], None] = time.sleep,
) -> int | None:
    """Before history up to ``end`` is loaded: wait until every running recorder writes this definition.

    Returns:
        ``Live.missed_by``: the history must hold every event known up to then.

    Raises:
        ValueError: a recorder does not take it up, or cannot yet; or ``end`` lies before what was recorded without it.
    """
    name, live = _name(spec), read_live(client, project)
    bases = [base.view for base in lacking(client, project, with_bases([spec])[1:], live)]
    if bases and live.follows:
        raise ValueError(
            f"{spec.view}: recorders run, and its columns are computed from {', '.join(bases)}, which lack history; "
            "materialize those first (fraud backfill does)"
        )
    for _ in range(round(wait_s / 0.2)):
        if all(name in follows for follows in live.follows.values()):
            break
        sleep(0.2)
        # A recorder that has ended is struck off by whoever renews next.
        live = _renew(client, project, [], [])
    else:
        behind = sorted(each for each, follows in live.follows.items() if name not in follows)
        raise ValueError(
            f"{spec.view}: recorders {', '.join(behind)} run and do not write its present definition after {wait_s:.0f} s, so "
            "their events would be lost; run feast apply, see the service's log, or end it; then materialize again"
        )
    missed = live.missed_by(spec)
    if missed is not None and end <= missed:
        raise ValueError(
            f"{spec.view}: events known up to {from_microseconds(missed)} were recorded without its present definition, and "
            f"the end {from_microseconds(end)} leaves some of them out; materialize until after that time"
        )
    return missed


def let_go(client: Any, project: str, view: str) -> tuple[bytes, ...]:
    """A view is deleted: its definitions are kept up no more, but for those that a model reads.

    Returns:
        What the state keys of those that are read start with.
    """
    fields = client.hgetall(live_key(project))
    seconds, micros = client.time()
    start, now = f"{view}:", int(seconds) * 1_000_000 + int(micros)
    names = [name for name in Live.of(fields).specs if name.startswith(start)]
    read = {name for name in names if int(fields.get(f"read:{name}".encode(), 0)) > now}
    gone = [
        f"{kind}:{name}" for name in names if name not in read for kind in ("spec", "until", "missed", "read")
    ]
    if gone:
        client.hdel(live_key(project), *gone)
    return tuple(project_prefix(project) + f"{name}:".encode() for name in sorted(read))


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

    @classmethod
    def open(cls, store: FeatureStore, monotonic: Callable[[], float] = time.monotonic) -> "LiveRecorder":
        """Take up everything that is registered, and what is live already.

        Raises:
            ValueError: the registry holds no windowed view (run ``feast apply``). redis.RedisError: no answer.
        """
        recorder = cls(store, monotonic)
        if not recorder._registered.specs():
            raise ValueError(f"project {store.project!r}: the registry has no windowed view; run feast apply")
        recorder.follow([])
        return recorder

    @property
    def specs(self) -> tuple[ViewSpec, ...]:
        """The definitions that it writes."""
        return tuple(self._specs.values())

    def record(self, source: str, events: Sequence[Mapping[str, Any]]) -> list[int]:
        """As ``EventRecorder.record``, but a view that cannot take an event does not keep it from the others.

        So it is with a filter that an event's values cannot be compared by, or with an event so old that its derived columns
        cannot be computed any more. Such a view lacks the event until history is loaded again; that is logged and, but for an
        old event, known to ``incomplete``.

        Raises:
            KeyError, TypeError, ValueError, LookupError: no view can take the event.
        """
        with self._lock:
            known = self._record(source, events)
            for each in known:
                self._note(source, each)
            return known

    def passes_by(self, source: str, known_us: int) -> bool:
        """Whether no view reads the source. One that comes to read it then misses what was known up to ``known_us``."""
        with self._lock:
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
        # What is not written here goes on without what is recorded here.
        others = {
            name: json.loads(text)["source"] for name, text in self._raw.items() if name not in self._specs
        }
        self._say_missed(others, self._newest)
        _keep_loads(self._client, self.project, self._specs.values())
        if failure is not None:
            raise failure
        return changed

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
            {_name(base) for base in lacking(self._client, self.project, needed, live)} if needed else set()
        )
        return {
            name: spec
            for name, spec in self._understood.items()
            if poor.isdisjoint(_name(base) for base in bases[name])
        }

    def _record(self, source: str, events: Sequence[Mapping[str, Any]]) -> list[int]:
        try:
            return self._recorder.record(source, events)
        except (LookupError, TypeError, ValueError) as error:
            if len(events) > 1:
                return [known for event in events for known in self._record(source, [event])]
            return [self._record_apart(source, events[0], error)]

    def _record_apart(self, source: str, event: Mapping[str, Any], error: Exception) -> int:
        """Record an event into each view that can take it, under one known time; returns that."""
        views = {name: spec for name, spec in self._written.items() if spec.source == source}
        event = self._with_known_time(event, views.values())
        known: int | None = None
        failed: dict[str, Exception] = {}
        for name, spec in views.items():
            try:
                (known,) = EventRecorder.of(self._client, self.project, [spec]).record(source, [event])
            except (LookupError, TypeError, ValueError) as why:
                failed[name] = why
        if known is None:
            raise error
        for name, reason in failed.items():
            _log.error("%s lacks an event of %s until fraud backfill loads it: %s", name, source, reason)
        wrong = {name: source for name, reason in failed.items() if type(reason) is not LookupError}
        self._say_missed(wrong, {source: known})
        return known

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
        self._say_missed(new, newest)
        self._specs = specs

    def _say_missed(self, sources: Mapping[str, str], newest: Mapping[str, int]) -> None:
        """Say of definitions, each with its source, up to when events were recorded without them."""
        without = [
            part for name, source in sources.items() if source in newest for part in (name, newest[source])
        ]
        if without:
            self._client.eval(_text("missed"), 1, live_key(self.project), *without)

    def _say(
        self, specs: Iterable[ViewSpec], read: Iterable[ViewSpec] = (), breath: int = _BREATH_US
    ) -> Live:
        with self._lock:
            newest = dict(self._newest)
        known = [part for source, time in newest.items() for part in (source, time)]
        # Who has just come up may be the first after a long night: whoever comes up beside it shall find its definitions.
        let_go = (self._monotonic() - self._opened) * 1_000_000 > LEASE_US
        return _renew(
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


def _renew(
    client: Any,
    project: str,
    specs: Iterable[ViewSpec],
    known: Sequence[object],
    *,
    read: Iterable[ViewSpec] = (),
    let_go: bool = False,
    recorder: str = "",
    breath: int = _BREATH_US,
    follows: Iterable[str] = (),
) -> Live:
    claims = [
        part
        for kind, some in (("", specs), ("1", read))
        for spec in some
        for part in (_name(spec), spec.source, json.dumps(to_data(spec)), kind)
    ]
    head = [LEASE_US, int(let_go), recorder, breath, " ".join(follows), len(known) // 2]
    flat = client.eval(_text("live"), 1, live_key(project), *head, *known, *claims)
    return Live.of(dict(zip(flat[::2], flat[1::2], strict=True)))


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


@cache
def _text(script: str) -> str:
    return (Path(__file__).parent / f"{script}.lua").read_text()


def _lacks(missed: int | None, end: int) -> bool:
    return missed is not None and end <= missed


def _name(spec: ViewSpec) -> str:
    return f"{spec.view}:{spec.state_digest}"


def _parse(name: str, text: str) -> ViewSpec | None:
    """The definition, or None for one that this version of the code would not keep as it is kept there."""
    try:
        spec = view_from_data(json.loads(text))
    except (TypeError, KeyError, ValueError) as error:
        _log.warning(
            "definition %s is of another version of the code and is not written here: %r", name, error
        )
        return None
    return spec if _name(spec) == name else None
