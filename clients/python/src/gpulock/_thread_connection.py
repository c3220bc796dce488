"""Connections of a lock outside of the client's pool, for threads: for waits, sessions and
calls with a timeout of their own."""

from __future__ import annotations

import os
import weakref
from typing import Any

from redis.exceptions import ConnectionError, TimeoutError

from ._commands import Argument

SHORT_TIMEOUT_S = 2.0


class DedicatedConnection:
    """A connection outside of the client's pool."""

    def __init__(self, client: Any, settings: dict[str, Any]) -> None:
        self._connection = client.connection_pool.connection_class(**settings)
        self.is_broken = False
        _dedicated_connections.add(self)

    def execute(self, *command: Argument, timeout_s: float | None = None) -> Any:
        """Sends a command, and returns the reply.

        ``timeout_s`` limits the time for the reply; None: the client's ``socket_timeout``.
        """
        try:
            self._connection.send_command(*command, check_health=False)
            if timeout_s is not None and not self._connection.can_read(timeout_s):
                raise TimeoutError(f"No reply within {timeout_s} s")
            reply = self._connection.read_response(disable_decoding=True)
        except (ConnectionError, TimeoutError):
            self._mark_broken()
            raise
        self.is_broken = False
        return reply

    def check(self) -> None:
        """Detects whether the peer has closed the connection."""
        try:
            self._connection.can_read(0)
        except (ConnectionError, TimeoutError, OSError):
            self._mark_broken()

    def close(self) -> None:
        """Closes the connection, which ends its session, at once or after the grace period."""
        self._connection.disconnect()

    def _mark_broken(self) -> None:
        self.is_broken = True
        self._connection.disconnect()


_dedicated_connections: weakref.WeakSet[DedicatedConnection] = weakref.WeakSet()


def _close_inherited_connections() -> None:
    """Otherwise the locks of a parent process that died would stay held by its child."""
    for connection in list(_dedicated_connections):
        connection.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited_connections)


def short_timeout_settings(client: Any) -> dict[str, Any]:
    """The connection settings of the client, with short timeouts and without retries."""
    settings = dict(client.connection_pool.connection_kwargs)
    for name in {"socket_timeout", "socket_connect_timeout"} & {"socket_timeout", *settings}:
        settings[name] = min(settings.get(name) or SHORT_TIMEOUT_S, SHORT_TIMEOUT_S)
    settings["retry"] = None
    return settings
