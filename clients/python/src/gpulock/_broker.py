"""The client for the server with a Celery task's locks, from Celery's settings. No I/O.

kombu parses the broker's URL and options, so that the locks are on the server that the worker
consumes from, also through Sentinel.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import redis
from celery import Celery
from celery.exceptions import ImproperlyConfigured
from kombu.connection import Connection
from kombu.transport import virtual


def is_configured(app: Celery) -> bool:
    """Whether the app has a broker already: it may be set later."""
    return bool(app.conf.broker_read_url)


def is_redis(app: Celery) -> bool:
    """Whether the broker is Redis, with or without Sentinel."""
    url = app.conf.broker_read_url
    first = url if isinstance(url, str) or not url else url[0]
    return str(first).startswith(("redis", "sentinel"))


def client_for(app: Celery, url: str | None) -> redis.Redis:
    """The client for ``url``, or for the broker. Raises ImproperlyConfigured if that is not a
    Redis server."""
    conf = app.conf
    settings = (conf.broker_read_url, conf.broker_transport_options, conf.broker_use_ssl)
    key = url or repr(settings)
    clients = _clients.setdefault(app, {})
    if key not in clients:
        clients[key] = _new_client(app, url)
    return clients[key]


_clients: WeakKeyDictionary[Celery, dict[str, redis.Redis]] = WeakKeyDictionary()
"""The clients of each app, by what they were made from, which may change."""


def _new_client(app: Celery, url: str | None) -> redis.Redis:
    try:
        client: redis.Redis = redis.Redis.from_url(url) if url else _client_of_broker(app)
        pool = client.connection_pool
        # Makes a connection, without opening it, to detect unsupported options.
        pool.connection_class(**pool.connection_kwargs)
    except Exception as error:  # kombu's depend on the mistake: KeyError, TypeError and others.
        reason = str(error) if isinstance(error, _NotOneServerError) else repr(error)
        raise ImproperlyConfigured(
            f"the {'url' if url else 'broker'} of the GPU locks cannot be used: {reason}. "
            "Set the task's url or the app's gpulock_url to a URL such as redis://host:6379/0"
        ) from error
    return client


class _NotOneServerError(ValueError):
    """The broker is not Redis, or is several servers."""


def _client_of_broker(app: Celery) -> redis.Redis:
    connection = app.connection_for_read()
    transport = str(connection.transport_cls)
    if transport not in ("redis", "rediss", "sentinel"):
        raise _NotOneServerError(f"it is not Redis, but {transport}")
    if transport != "sentinel" and len(set(connection.alt)) > 1:
        raise _NotOneServerError("it is several servers, and a lock is on one")
    client: redis.Redis = _channel(connection)._create_client()
    return client


def _channel(connection: Connection) -> Any:
    """A channel that makes clients as kombu's does, and is not connected."""
    transport: Any = connection.transport

    class Channel(transport.Channel):  # type: ignore[misc]
        Client = redis.Redis

        def __init__(self) -> None:
            # Not kombu's constructor of Redis channels, which connects to the server.
            virtual.Channel.__init__(self, transport)  # type: ignore[no-untyped-call]

        def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
            # Without kombu's limit of 10 connections, which more than 10 threads would exceed;
            # and with redis-py's default timeouts, which kombu disables with None.
            settings = super()._connparams(asynchronous)
            settings["max_connections"] = None
            return {name: value for name, value in settings.items() if value is not None}

    return Channel()
