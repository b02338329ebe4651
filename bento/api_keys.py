"""API keys: who may call the service, and for what.

A key reads ``fraud_<id>_<secret>``. The id is public: it finds the key without comparing it with every other, and names it
in a log. The file keeps a key's SHA-256, never the key. A slow hash with a salt, as passwords need, would add nothing and
cost every request milliseconds: a secret is 256 random bits, so there is no dictionary to try and no second key alike.

The file is a JSON list, one object a key, and is replaced as a whole, so a reader sees the old or the new one. Without the
file there are no keys, and the service answers its own machine only. An empty list is no such thing: the last key was
revoked, and nobody may call.
"""

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feature_repo.settings import make_private

__all__ = ["KEY_PATTERN", "SCOPES", "ApiKey", "create_key", "load_keys", "matches", "revoke_key"]

SCOPES = {
    "score": "decide on transactions, and ask about a batch of them",
    "record": "record transactions and chargebacks",
    "read": "read decisions, features, and what serves",
    "metrics": "scrape /metrics",
    "admin": "every path that no other scope opens",
}
"""What a key may be good for; none includes another."""

KEY_PATTERN = r"fraud_[0-9a-f]{8}_[A-Za-z0-9_-]{43}"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_FIELDS = {"name", "id", "sha256", "scopes", "created", "expires", "rate"}


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept.

    Attributes:
        id: the public part, 8 hex digits. digest: SHA-256 of the whole key, 32 bytes.
        expires: the first instant at which it is no longer good, UTC; None is never.
        rate: requests a second to one worker, None where the deployment's own holds.
    """

    name: str
    id: str
    digest: bytes
    scopes: frozenset[str]
    created: datetime
    expires: datetime | None = None
    rate: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The key as the file has it."""
        return {
            "name": self.name,
            "id": self.id,
            "sha256": self.digest.hex(),
            "scopes": sorted(self.scopes),
            "created": self.created.isoformat(),
            "expires": None if self.expires is None else self.expires.isoformat(),
            "rate": self.rate,
        }


def matches(key: ApiKey, presented: bytes) -> bool:
    """Whether it is this key that was presented; how long that takes tells nothing of where they differ."""
    return hmac.compare_digest(hashlib.sha256(presented).digest(), key.digest)


def load_keys(path: Path) -> dict[str, ApiKey] | None:
    """The keys by their ids; None if there is no file.

    Raises:
        ValueError: the file is damaged, or others may write to it. OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read()
    except FileNotFoundError:
        return None
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError(
            f"API keys: {path}: others may write to it (mode {stat.S_IMODE(mode):o}); chmod 600 {path}"
        )
    try:
        given = json.loads(text)
        if not isinstance(given, list):
            raise TypeError("no list")
        keys = [_from_dict(each) for each in given]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"API keys: {path}: is not as `fraud keys` writes it ({error!r}); restore it"
        ) from None
    found = {key.id: key for key in keys}
    if len(found) != len(keys):
        raise ValueError(f"API keys: {path}: two keys have one id; restore it")
    return found


def create_key(
    path: Path,
    name: str,
    scopes: frozenset[str],
    now: datetime,
    expires: datetime | None = None,
    rate: float | None = None,
) -> str:
    """Add a key to the file, made if absent and for its owner alone; returns the key, which is kept nowhere.

    Raises:
        ValueError: a name that is taken or cannot be used, no scope or an unknown one, an expiry that is past, a rate of 0.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"API key {name!r}: a name has 1 to 64 letters, digits, dots, dashes; give another")
    unknown = sorted(scopes.difference(SCOPES))
    if unknown or not scopes:
        what = f"scope {unknown[0]!r} is unknown" if unknown else "it would be good for nothing"
        raise ValueError(f"API key {name}: {what}; give one or more of {', '.join(SCOPES)}")
    if expires is not None and expires <= now:
        raise ValueError(f"API key {name}: expires {expires.isoformat()}: that is past; give a later time")
    if rate is not None and not 0 < rate < float("inf"):
        raise ValueError(f"API key {name}: rate {rate}: give requests a second above 0, or none")
    with _changing(path) as keys:
        if any(key.name == name for key in keys.values()):
            raise ValueError(f"API key {name}: there is one; revoke it, or give the new one another name")
        key_id = secrets.token_hex(4)
        while key_id in keys:
            key_id = secrets.token_hex(4)
        whole = f"fraud_{key_id}_{secrets.token_urlsafe(32)}"
        digest = hashlib.sha256(whole.encode()).digest()
        keys[key_id] = ApiKey(name, key_id, digest, scopes, now, expires, rate)
    return whole


def revoke_key(path: Path, name: str) -> None:
    """Take a key out of the file; the file stays, also without any key.

    Raises:
        LookupError: there is none of this name.
    """
    with _changing(path) as keys:
        found = [key.id for key in keys.values() if key.name == name]
        if not found:
            names = ", ".join(sorted(key.name for key in keys.values())) or "none"
            raise LookupError(f"API key {name}: there is none in {path}; there are: {names}")
        del keys[found[0]]


@contextmanager
def _changing(path: Path) -> Iterator[dict[str, ApiKey]]:
    """The keys, to be changed; written when the block ends well. One process at a time."""
    make_private(path.parent)
    with os.fdopen(os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = load_keys(path) or {}
        yield keys
        _replace(path, json.dumps([key.as_dict() for key in keys.values()], indent=1) + "\n")


def _replace(path: Path, text: str) -> None:
    """Write the file anew, for its owner alone; one that was there keeps its mode, for others may have to read it."""
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o600
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    os.replace(fresh, path)


def _from_dict(given: Mapping[str, Any]) -> ApiKey:
    if set(given) != _FIELDS:
        raise ValueError(f"fields {sorted(given)}")
    scopes = frozenset(given["scopes"])
    if not scopes or not scopes <= set(SCOPES):
        raise ValueError(f"scopes {sorted(scopes)}")
    digest = bytes.fromhex(given["sha256"])
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError(f"sha256 of {len(digest)} bytes")
    return ApiKey(
        str(given["name"]),
        str(given["id"]),
        digest,
        scopes,
        _instant(given["created"]),
        None if given["expires"] is None else _instant(given["expires"]),
        None if given["rate"] is None else float(given["rate"]),
    )


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"{text} has no zone")
    return instant.astimezone(UTC)
