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
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from feature_repo.windows.keys import loaded_key, project_prefix
from feature_repo.windows.plain_data import to_data
from feature_repo.windows.resolve import with_bases
from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.state import from_microseconds

__all__ = [
    "BREATH_US",
    "LEASE_US",
    "Live",
    "await_recorders",
    "claim",
    "incomplete",
    "lacking",
    "let_go",
    "live_key",
    "name_of",
    "read_live",
    "renew",
    "say_missed",
]

LEASE_US = 3_600_000_000
"""How long a definition is kept up after its last reader: in this time one may go back to it."""

BREATH_US = 15_000_000
"""A recorder that has said nothing for so long does not run any more."""


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
        name = name_of(spec)
        return self.missed.get(name) if name in self.specs else self.known.get(spec.source)


def live_key(project: str) -> bytes:
    """The hash's name; no view is called by an empty name."""
    return project_prefix(project) + b":live"


def read_live(client: Any, project: str) -> Live:
    """The hash as it stands; empty where no recorder has ever run."""
    return Live.of(client.hgetall(live_key(project)))


def claim(client: Any, project: str, specs: Iterable[ViewSpec]) -> Live:
    """Renew the leases of definitions that are read, or begin them."""
    return renew(client, project, [], [], read=with_bases(specs))


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
    name, live = name_of(spec), read_live(client, project)
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
        live = renew(client, project, [], [])
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


def renew(
    client: Any,
    project: str,
    specs: Iterable[ViewSpec],
    known: Sequence[object],
    *,
    read: Iterable[ViewSpec] = (),
    let_go: bool = False,
    recorder: str = "",
    breath: int = BREATH_US,
    follows: Iterable[str] = (),
) -> Live:
    """Renew leases, and say what a recorder has to say; returns the hash as it is then.

    Args:
        specs, read: definitions that are registered, and that are read. known: (source, newest known time recorded) each.
        let_go: whether definitions whose leases have ended go.
        recorder: who says so, or empty; it runs for ``breath`` microseconds more, and writes the names in ``follows``.

    Raises:
        redis.RedisError: no answer.
    """
    claims = [
        part
        for kind, some in (("", specs), ("1", read))
        for spec in some
        for part in (name_of(spec), spec.source, json.dumps(to_data(spec)), kind)
    ]
    head = [LEASE_US, int(let_go), recorder, breath, " ".join(follows), len(known) // 2]
    flat = client.eval(_text("live"), 1, live_key(project), *head, *known, *claims)
    return Live.of(dict(zip(flat[::2], flat[1::2], strict=True)))


def say_missed(client: Any, project: str, sources: Mapping[str, str], newest: Mapping[str, int]) -> None:
    """Say of definitions by name, each with its source, up to when events of that were recorded without them.

    Args:
        newest: the newest known time recorded, by source; one that is not there is not missed.
    """
    without = [
        part for name, source in sources.items() if source in newest for part in (name, newest[source])
    ]
    if without:
        client.eval(_text("missed"), 1, live_key(project), *without)


@cache
def _text(script: str) -> str:
    return (Path(__file__).parent / f"{script}.lua").read_text()


def _lacks(missed: int | None, end: int) -> bool:
    return missed is not None and end <= missed


def name_of(spec: ViewSpec) -> str:
    """What a definition is called here: ``VIEW:DIGEST``."""
    return f"{spec.view}:{spec.state_digest}"
