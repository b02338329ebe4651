"""Who is let in, and how much: keys and scopes, requests a second, requests at a time. Some microseconds a request."""

import ipaddress
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

from bento.api_keys import SCOPES, ApiKey
from bento.keyring import Keyring
from bento.problem import Problem
from bento.scopes import ANY
from bento.service_settings import ServiceSettings

__all__ = ["Access", "is_loopback"]

# What a proxy adds. A request that has one was made elsewhere, whatever address it seems to come from: uvicorn takes the
# address from such a header where it trusts the proxy, so that a caller could write 127.0.0.1 there.
_FORWARDED = frozenset(
    {b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"}
)
_log = logging.getLogger(__name__)


class Access:
    """The admission of one worker process's requests. Not thread-safe: for the event loop's thread.

    Attributes:
        in_flight: requests that were let in and are not answered yet, by the scope that they needed. Each has places of its
            own: chargebacks that wait for the lake take none from transactions that wait for a decision.
        deadline_s: how long a request may have waited when work on it begins.
    """

    def __init__(
        self,
        limits: ServiceSettings,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.in_flight, self.deadline_s = dict.fromkeys((*SCOPES, ANY), 0), limits.deadline_s
        self.monotonic = monotonic
        self._keyring = Keyring(limits.api_keys, clock, monotonic)
        self._max_in_flight, self._rate = limits.max_in_flight, limits.rate_per_key
        self._buckets: dict[str, tuple[float, float]] = {}
        if not self._keyring.required:
            _log.warning(
                "no API key is configured: requests from this machine only are answered; "
                "fraud keys create makes a key",
                extra={"path": str(limits.api_keys)},
            )

    def admit(
        self, scope: str, path: str, headers: Mapping[bytes, bytes], client: tuple[str, int] | None
    ) -> None:
        """Let a request in; whoever calls counts it in ``in_flight`` from then on.

        Args:
            scope: what the path asks for.
            headers: the request's, names in lower case. client: the peer's address and port.

        Raises:
            Problem: it is not let in.
        """
        if self._keyring.required:
            key = self._keyring.holder(headers.get(b"authorization"))
            _check_scope(key, scope, path)
            self._spend(key)
        else:
            _check_local(headers, client)
        if self.in_flight[scope] >= self._max_in_flight:
            raise Problem(
                "overloaded",
                f"{self.in_flight[scope]} requests like it are being worked on; send it again in a moment",
            )

    def _spend(self, key: ApiKey) -> None:
        """Take one request from what the key may send: a token bucket that holds a second's worth, one at least."""
        rate = key.rate if key.rate is not None else self._rate
        if rate is None:
            return
        now = self.monotonic()
        room = max(rate, 1.0)
        left, at = self._buckets.get(key.id, (room, now))
        left = min(room, left + (now - at) * rate)
        if left < 1:
            self._buckets[key.id] = (left, now)
            wait_s = max(1, math.ceil((1 - left) / rate))
            raise Problem(
                "rate-limited",
                f"the API key {key.name} may send {rate:g} requests a second; send it again in {wait_s} s",
                headers=((b"retry-after", str(wait_s).encode()),),
            )
        self._buckets[key.id] = (left - 1, now)


def _check_scope(key: ApiKey, scope: str, path: str) -> None:
    if scope == ANY or scope in key.scopes:
        return
    challenge = f'Bearer realm="fraud", error="insufficient_scope", scope="{scope}"'
    raise Problem(
        "forbidden",
        f"{path[:128]}: the API key {key.name} lacks the scope {scope} ({SCOPES[scope]}); use a key that has it",
        headers=((b"www-authenticate", challenge.encode()),),
    )


def _check_local(headers: Mapping[bytes, bytes], client: tuple[str, int] | None) -> None:
    way_out = "on the service's machine, run: fraud keys create NAME --scope score; then send that key"
    rule = "no API key is configured, so requests from the service's own machine only are answered"
    forwarded = _first(_FORWARDED, headers)
    if forwarded is not None:
        raise Problem("forbidden", f"{rule}, and this one came through a proxy ({forwarded}); {way_out}")
    if client is None or not is_loopback(client[0]):
        peer = "an unknown address" if client is None else client[0]
        raise Problem("forbidden", f"{rule}, and this one came from {peer}; {way_out}")


def _first(names: Iterable[bytes], headers: Mapping[bytes, bytes]) -> str | None:
    return next((name.decode() for name in names if name in headers), None)


@lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own, IPv4 or IPv6; names other than ``localhost`` are not."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
