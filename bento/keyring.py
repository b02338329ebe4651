"""The API keys as a running service sees them: reread within a second of a change, never fewer for a damaged file."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from bento.api_keys import ApiKey, load_keys, matches
from bento.problem import Problem

__all__ = ["LOOK_EVERY_S", "Keyring"]

LOOK_EVERY_S = 1.0
"""How soon a created or revoked key counts."""

_SCHEME = b"bearer "
_log = logging.getLogger(__name__)


class Keyring:
    """The keys in ``path``.

    Once there were keys, they are asked for until the process ends: a file that is gone, or cannot be read, leaves the keys
    as they were. Else a slip of the hand would open the service.

    Args:
        clock: seconds since 1970. monotonic: seconds, when to look at the file again.

    Raises:
        ValueError: the file is damaged, or others may write to it. OSError: it cannot be read.
    """

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._clock, self._monotonic = path, clock, monotonic
        self._keys: Mapping[bytes, ApiKey] | None = None
        self._read_as: tuple[int, int, int] | None = None
        self._look_at = monotonic() + LOOK_EVERY_S
        self._refresh()

    @property
    def required(self) -> bool:
        """Whether a key is asked for, as of the last look at the file, at most a second ago if asked often."""
        if self._monotonic() >= self._look_at:
            self._look_at = self._monotonic() + LOOK_EVERY_S
            self._look()
        return self._keys is not None

    def holder(self, authorization: bytes | None) -> ApiKey:
        """The key in an ``Authorization`` header.

        Raises:
            Problem: there is none, or it is no key of this service, or no longer.
        """
        if authorization is None:
            raise _unauthorized("no API key was sent")
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            raise _unauthorized("the Authorization header is not of the scheme Bearer")
        presented = authorization[len(_SCHEME) :].strip()
        # fraud_<id>_<secret>; whatever else was sent finds nothing.
        key = (self._keys or {}).get(presented[6:14])
        if key is None or not matches(key, presented):
            raise _unauthorized("the API key is not known here", "invalid_token")
        if key.expires is not None and self._clock() >= key.expires.timestamp():
            raise _unauthorized(f"the API key {key.name} expired {key.expires.isoformat()}", "invalid_token")
        return key

    def _look(self) -> None:
        try:
            self._refresh()
        except (OSError, ValueError) as error:
            _log.error("%s; the keys stay as they were", error)

    def _refresh(self) -> None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            if self._keys is not None and self._read_as is not None:
                _log.error("API keys: %s is gone; the keys stay as they were", self._path)
            self._read_as = None
            return
        signature = (found.st_mtime_ns, found.st_ino, found.st_size)
        if signature == self._read_as:
            return
        # Also of a file that cannot be used: that is said once, not every second.
        self._read_as = signature
        keys = load_keys(self._path)
        if keys is not None:
            self._keys = {key.id.encode(): key for key in keys.values()}
            names = ", ".join(sorted(key.name for key in keys.values())) or "none"
            _log.info("API keys: %s", names, extra={"path": str(self._path)})


def _unauthorized(why: str, error: str | None = None) -> Problem:
    challenge = 'Bearer realm="fraud"' + ("" if error is None else f', error="{error}"')
    way_out = "send 'Authorization: Bearer <key>' with a key that `fraud keys create` gave"
    return Problem("unauthorized", f"{why}; {way_out}", headers=((b"www-authenticate", challenge.encode()),))
