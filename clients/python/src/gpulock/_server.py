"""Detects what a server supports: on the first call, and again when that may have changed.

The result belongs to a client, so that all of its locks share it.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import redis.asyncio.client
import redis.asyncio.cluster
import redis.client
import redis.cluster
from redis.exceptions import ResponseError

from . import _commands
from ._operations import Routine, execute_keyless

logger = logging.getLogger("gpulock")


@dataclass(frozen=True)
class Capabilities:
    """The commands useful for a lock that the server has."""

    module: bool
    delex: bool = False
    delifeq: bool = False
    detected: bool = True
    """False: this user may not run COMMAND, so the module is only assumed."""


class Server:
    """What is known about the server behind one client."""

    def __init__(self) -> None:
        self.has_keep = True
        """False once the module has refused KEEP: it is a version without it."""
        self.has_warned_without_inspect = False
        self._known: Capabilities | None = None
        self._logged_module: bool | None = None

    def capabilities(self) -> Routine[Capabilities]:
        """Queries the server if nothing is known, and each time while the module is missing:
        a server with the module may have replaced it, and redis-py reports no reconnects."""
        known = self._known  # Another thread may invalidate it at any time.
        if known is None or not known.module:
            known = self._known = yield from _detect()
            self._log_change(known)
        return known

    def invalidate(self) -> None:
        """To be called when the connection broke, or when a known command was unknown."""
        self._known, self.has_keep = None, True

    def _log_change(self, capabilities: Capabilities) -> None:
        if self._logged_module == capabilities.module:
            return
        if not capabilities.module:
            logger.warning(
                "This server has no GPULOCK module: locks are acquired by polling, "
                "without wait queues, sessions or fencing tokens."
            )
        elif self._logged_module is False:
            logger.warning(
                "This server has the GPULOCK module now: waiters are queued in the server."
            )
        self._logged_module = capabilities.module


def _detect() -> Routine[Capabilities]:
    try:
        reply = yield execute_keyless("COMMAND INFO", _commands.ACQUIRE, "DELEX", "DELIFEQ")
    except ResponseError:
        # This user may not run COMMAND. If the module is missing, ACQUIRE will fail.
        return Capabilities(module=True, detected=False)
    known = [bool(entry) for entry in reply]
    return Capabilities(*known)


def is_unknown_command(error: ResponseError) -> bool:
    """Whether the server does not know the command; the error has no code of its own."""
    return str(error).lower().startswith("unknown command")


def is_cluster(client: Any) -> bool:
    """Whether the client connects to several servers, with a pool for each."""
    return not hasattr(client, "connection_pool")


PIPELINES = (
    redis.client.Pipeline,
    redis.cluster.ClusterPipeline,
    redis.asyncio.client.Pipeline,
    redis.asyncio.cluster.ClusterPipeline,
)

_servers: MutableMapping[Any, Server] = weakref.WeakKeyDictionary()


def require_client(client: Any, needs_asyncio: bool) -> None:
    """Rejects what is not a client of redis-py, of the required kind.

    Errors of other packages, such as valkey-py, are not redis-py's. A pipeline queues its
    commands, and returns no replies. An object that passes all calls on to a client of redis-py
    is accepted.
    """
    pool = getattr(client, "connection_pool", None)
    classes: Any = (type(client), client.__class__, type(pool))
    if _needs_asyncio(*classes) != needs_asyncio:
        expected = "redis.asyncio.Redis" if needs_asyncio else "redis.Redis"
        kind = type(client)
        raise TypeError(
            f"expected a client of redis-py, such as {expected}, "
            f"not {kind.__module__}.{kind.__qualname__}"
        )


@functools.lru_cache
def _needs_asyncio(*classes: type) -> bool | None:
    """Whether a client with these classes is one of ``redis.asyncio``; None: no client."""
    # Not by their methods, which instrumentation may have replaced.
    modules = {base.__module__ for kind in classes for base in kind.__mro__}
    is_redis_py = any(module.split(".")[0] == "redis" for module in modules)
    if not is_redis_py or any(issubclass(kind, PIPELINES) for kind in classes):
        return None
    return any(module.startswith("redis.asyncio") for module in modules)


def server_of(client: Any) -> Server:
    """The server of this client."""
    return _servers.setdefault(client, Server())
