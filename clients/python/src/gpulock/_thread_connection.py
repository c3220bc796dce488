"""Connections of a lock outside of the client's pool, for threads: for waits, sessions,
renewals and calls with a timeout of their own.

When they are opened and what is sent on them is decided in ``_thread_runtime``.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from typing import Any

from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError, TimeoutError
from redis.retry import Retry

from ._commands import Argument, Command
from ._connection import follow_credentials, limit_time, new_connection

logger = logging.getLogger("gpulock")


class DedicatedConnection:
    """A connection outside of the client's pool. It is opened by the first command, and opened
    again by the first command after it broke."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._connection: Any = None
        self._timeout_s: float | None = None
        self._token: Any = None
        self.is_broken = False
        self._has_late_reply = False
        _dedicated_connections.add(self)

    def execute(self, *command: Argument, timeout_s: float | None = None) -> Any:
        """Sends a command, and returns the reply.

        ``timeout_s`` limits the time for each step of connecting, and for the reply; None: the
        client's timeouts and retries apply. After a timeout for the reply the connection stays
        open, because closing it may end a session, until the next command, which must not read
        the late reply.
        """
        if self._has_late_reply:
            self.close()
        if self._connection is None:
            self._open(timeout_s)
        until = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            if self._token is not None:
                self._authenticate_again(until)
            reply = self._exchange(command, until)
        except ResponseError:
            raise
        except BaseException:
            if not self._has_late_reply:
                self.is_broken = True
                self.close()
            raise
        self.is_broken = False
        return reply

    def _exchange(self, command: Command, until: float | None) -> Any:
        self._connection.send_command(*command, check_health=False)
        limit_s = self._timeout_s if until is None else max(0.0, until - time.monotonic())
        if limit_s is not None and not self._connection.can_read(limit_s):
            self._has_late_reply = until is not None
            raise TimeoutError("Timeout reading from the dedicated connection of the lock")
        return self._connection.read_response(disable_decoding=True)

    def set_token(self, token: Any) -> None:
        """The next command is preceded by AUTH with this token. Can be called in any
        thread."""
        self._token = token

    def _authenticate_again(self, until: float | None) -> None:
        token, self._token = self._token, None
        try:
            self._exchange(("AUTH", token.try_get("oid"), token.get_value()), until)
        except ResponseError as error:
            logger.warning("the server rejects the new credentials: %s", error)

    def _open(self, timeout_s: float | None) -> None:
        """Connects as the pool does. A command on a connection that is not connected would
        bypass the ``connect`` of a subclass, such as Sentinel's, which finds the server."""
        # A new object each time: the pool's settings may have changed.
        connection = new_connection(self._pool)
        self._timeout_s, self._token = connection.socket_timeout, None
        follow_credentials(self._pool, self)
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
        self._has_late_reply = False
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()


class SubscriptionPool:
    """The part of a pool that redis-py's PubSub uses: connections that the pool of the client
    does not count, because the lock itself may need the last one."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def get_encoder(self) -> Any:
        """The encoder for channel names."""
        return self._pool.get_encoder()

    def get_connection(self, *_command_name: Any) -> Any:
        """A new connection."""
        connection = new_connection(self._pool)
        try:
            connection.connect()
        except BaseException:
            connection.disconnect()
            raise
        return connection

    def release(self, connection: Any) -> None:
        """Closes the connection."""
        connection.disconnect()


_dedicated_connections: weakref.WeakSet[DedicatedConnection] = weakref.WeakSet()


def _close_inherited_connections() -> None:
    """Otherwise the locks of a parent process that died would stay held by its child. redis-py
    closes only the file descriptor of a connection made by another process."""
    for connection in list(_dedicated_connections):
        connection.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited_connections)
