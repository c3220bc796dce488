"""Makes connections as the client's pool does, and reads its settings, for threads and for
asyncio.

The connections themselves are in ``_thread_connection`` and ``_asyncio_connection``.
"""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import MutableMapping, MutableSet
from typing import Any

from redis.exceptions import (
    AskError,
    ClusterDownError,
    MasterDownError,
    SlotNotCoveredError,
    TryAgainError,
)

from ._commands import Argument, Command
from ._server import is_cluster

SHORT_TIMEOUT_S = 2.0
REDIRECTIONS = (AskError, ClusterDownError, MasterDownError, SlotNotCoveredError, TryAgainError)
"""Errors of a cluster node that the cluster client handles; MOVED is one of them."""


def new_connection(pool: Any) -> Any:
    """A connection as the pool makes it, unknown to the pool and not yet connected.

    Client-side caching is left out: it wraps connections in the pool of the client only, and
    caches no command of the module.
    """
    make = getattr(type(pool), "make_connection", None)
    if make is None or make.__module__.startswith("redis."):
        return pool.connection_class(**pool.connection_kwargs)
    # A subclass makes its connections in its own way. redis-py's pools count them in these
    # attributes.
    twin = copy.copy(pool)
    twin._created_connections, twin._connections, twin.cache = 0, [], None
    twin._available_connections, twin._in_use_connections = [], set()
    connection = make(twin)
    # redis-py's metrics count the connections that a discarded pool still had.
    twin._connections.clear()
    return connection


_default_timeouts_s: MutableMapping[type, float | None] = weakref.WeakKeyDictionary()


def socket_timeout_s(pool: Any) -> float | None:
    """The ``socket_timeout`` of the pool's connections, which may be the default of their
    class."""
    settings, connection_class = pool.connection_kwargs, pool.connection_class
    if "socket_timeout" in settings:
        timeout_s: float | None = settings["socket_timeout"]
        return timeout_s
    if connection_class not in _default_timeouts_s:
        _default_timeouts_s[connection_class] = new_connection(pool).socket_timeout
    return _default_timeouts_s[connection_class]


def cluster_socket_timeout_s(client: Any) -> float | None:
    """The ``socket_timeout`` of a cluster client, if it was set."""
    timeout_s: float | None = client.get_connection_kwargs().get("socket_timeout")
    return timeout_s


def short_timeout_s(pool: Any) -> float:
    """The timeout of a call that must end soon."""
    return min(socket_timeout_s(pool) or SHORT_TIMEOUT_S, SHORT_TIMEOUT_S)


def limit_time(connection: Any, timeout_s: float, no_retry: Any) -> None:
    """Limits the time of each step of connecting, and turns retries off."""
    for name in ("socket_timeout", "socket_connect_timeout"):
        setattr(connection, name, min(getattr(connection, name, None) or timeout_s, timeout_s))
    connection.retry = no_retry


class NodePool:
    """The settings of a cluster node of an asyncio client, which has no pool."""

    def __init__(self, node: Any) -> None:
        self.connection_class, self.connection_kwargs = (
            node.connection_class,
            node.connection_kwargs,
        )


def key_of(command: Command) -> Argument:
    """The first key, which decides about the node of a cluster."""
    key = command[2 if command[0] == "GPULOCK.ACQUIREANY" else 1]
    return bytes(key) if isinstance(key, memoryview) else key


_followers: MutableMapping[Any, MutableSet[Any]] = weakref.WeakKeyDictionary()
_followers_mutex = threading.Lock()


def follow_credentials(pool: Any, connection: Any) -> None:
    """Calls the connection's ``set_token`` with each new token of a streaming credential
    provider (redis-py 5.3 and newer).

    A provider reports to one function only, which redis-py has set, and which calls the pool.
    """
    provider = pool.connection_kwargs.get("credential_provider")
    if not hasattr(provider, "on_next") or not hasattr(pool, "re_auth_callback"):
        return
    with _followers_mutex:
        if pool not in _followers:
            _followers[pool] = weakref.WeakSet()
            pool.re_auth_callback = _forwarding_callback(weakref.ref(pool), _followers[pool])
        _followers[pool].add(connection)


def _forwarding_callback(pool: weakref.ref[Any], followers: MutableSet[Any]) -> Any:
    def re_auth_callback(token: Any) -> Any:
        with _followers_mutex:
            connections = list(followers)
        for connection in connections:
            connection.set_token(token)
        # Awaitable, if the pool is that of an asyncio client.
        owner: Any = pool()
        return type(owner).re_auth_callback(owner, token)

    return re_auth_callback


def client_retries(client: Any) -> bool:
    """Whether the client repeats a command whose reply was lost. False for a cluster client,
    whose own retries cannot be disabled."""
    if is_cluster(client):
        return False
    retry = new_connection(client.connection_pool).retry
    # redis-py 5 and 6.0 have no get_retries().
    return bool(retry.get_retries() if hasattr(retry, "get_retries") else retry._retries)


def without_single_connection(client: Any) -> Any:
    """A client that shares the pool of a client with ``single_connection_client=True``, but not
    its connection: the caller's own commands may occupy it, and before redis-py 5.3 the replies
    to two threads were mixed up."""
    # The names in redis-py's threaded client and in its asyncio client.
    names = [
        name
        for name in ("_single_connection_client", "single_connection_client")
        if hasattr(client, name)
    ]
    if getattr(client, "connection", None) is None and not any(
        getattr(client, name) for name in names
    ):
        return client
    copied = copy.copy(client)
    copied.connection, copied.auto_close_connection_pool = None, False
    for name in names:
        setattr(copied, name, False)
    return copied


class NoEvents:
    """An event dispatcher for a PubSub: redis-py's would make a streaming credential provider
    report to the subscription only, and no longer to the client's pool."""

    def dispatch(self, event: object) -> None:
        """Ignores the event."""
