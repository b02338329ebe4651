"""The feature store for serving: as everyone opens it, with a client that does not wait."""

from typing import Any

import redis
from feast import FeatureStore
from redis.backoff import NoBackoff
from redis.retry import Retry

from feature_repo.store import open_store

__all__ = ["STORE_TIMEOUT_S", "online_client", "open_serving_store"]

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
        socket_timeout=STORE_TIMEOUT_S, socket_connect_timeout=STORE_TIMEOUT_S
    )
    client.connection_pool.disconnect()
    return store


def online_client(store: FeatureStore) -> Any:
    """The store's client of its online store, the same each time."""
    return store._get_provider().online_store._get_client(store.config.online_store)
