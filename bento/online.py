"""The feature store for serving: as everyone opens it, with a client that does not wait."""

from itertools import count
from typing import Any

import redis
from feast import FeatureStore
from redis.backoff import NoBackoff
from redis.retry import Retry

from feature_repo.settings import settings
from feature_repo.store import open_store
from feature_repo.windows.embedded import ensure_running

__all__ = ["STORE_TIMEOUT_S", "connections_made", "online_client", "open_serving_store", "revive"]

STORE_TIMEOUT_S = 0.2
"""How long the online store may take to connect, and to answer: a read takes a millisecond."""


def open_serving_store() -> FeatureStore:
    """The store whose online client gives up after ``STORE_TIMEOUT_S``; a lost connection is made anew once.

    As it comes, redis-py waits for an answer for ever and tries a lost server for several seconds: a service
    that decides payments would stand still with it, and the rules could not take over.
    """
    store = open_store()
    client = online_client(store)
    client.set_retry(Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)))
    client.get_connection_kwargs().update(
        socket_timeout=STORE_TIMEOUT_S,
        socket_connect_timeout=STORE_TIMEOUT_S,
        redis_connect_func=_CONNECTIONS.connected,
    )
    client.connection_pool.disconnect()
    return store


class _Connections:
    """Counts the connections of this process's clients: at each the server may be another one than before."""

    def __init__(self) -> None:
        self.made = 0
        self._next = count(1)

    def connected(self, connection: Any) -> None:
        """What redis-py does as a connection is made, and count it."""
        connection.on_connect()
        self.made = next(self._next)


_CONNECTIONS = _Connections()


def connections_made() -> int:
    """How many connections to online stores this process has made."""
    return _CONNECTIONS.made


def revive() -> None:
    """Start the embedded server again if it has died; a server elsewhere is its owner's business.

    Raises:
        RuntimeError, OSError: it lives and does not answer, or cannot be started.
    """
    if settings().redis is None:
        ensure_running(settings().home)


def online_client(store: FeatureStore) -> Any:
    """The store's client of its online store, the same each time."""
    return store._get_provider().online_store._get_client(store.config.online_store)
