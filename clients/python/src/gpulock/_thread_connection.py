"""Connections of a lock outside of the client's pool, for threads: for waits, sessions,
renewals and calls with a timeout of their own.

When they are opened and what is sent on them is decided in ``_thread_runtime``.
"""

from __future__ import annotations

import os
import time
import weakref
from typing import Any

from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError, TimeoutError
from redis.retry import Retry

from ._commands import Argument
from ._connection import limit_time, new_connection


class DedicatedConnection:
    """A connection outside of the client's pool. It is opened by the first command, and opened
    again by the first command after it broke."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._connection: Any = None
        self._timeout_s: float | None = None
        self.is_broken = False
        _dedicated_connections.add(self)

    def execute(self, *command: Argument, timeout_s: float | None = None) -> Any:
        """Sends a command, and returns the reply.

        ``timeout_s`` limits the time for connecting and for the reply together; None: the
        client's timeouts and retries apply.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        if self._connection is None:
            self._open(timeout_s)
        try:
            self._connection.send_command(*command, check_health=False)
            limit_s = self._timeout_s if until is None else max(0.0, until - time.monotonic())
            if limit_s is not None and not self._connection.can_read(limit_s):
                raise TimeoutError("Timeout reading from the dedicated connection of the lock")
            reply = self._connection.read_response(disable_decoding=True)
        except ResponseError:
            raise
        except BaseException:
            self.is_broken = True
            self.close()
            raise
        self.is_broken = False
        return reply

    def _open(self, timeout_s: float | None) -> None:
        """Connects as the pool does. A command on a connection that is not connected would
        bypass the ``connect`` of a subclass, such as Sentinel's, which finds the server."""
        # A new object each time: the pool's settings may have changed.
        connection = new_connection(self._pool)
        self._timeout_s = connection.socket_timeout
        if timeout_s is not None:
            limit_time(connection, timeout_s, Retry(NoBackoff(), 0))
        try:
            connection.connect()
        except BaseException:
            self.is_broken = True
            connection.disconnect()
            raise
        self._connection = connection

    def check(self) -> None:
        """Detects whether the peer has closed the connection."""
        if self._connection is None:
            return
        try:
            self._connection.can_read(0)
        except (RedisError, OSError):
            self.is_broken = True
            self.close()

    def close(self) -> None:
        """Closes the connection, which ends its session, at once or after the grace period."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()


_dedicated_connections: weakref.WeakSet[DedicatedConnection] = weakref.WeakSet()


def _close_inherited_connections() -> None:
    """Otherwise the locks of a parent process that died would stay held by its child. redis-py
    closes only the file descriptor of a connection made by another process."""
    for connection in list(_dedicated_connections):
        connection.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited_connections)
