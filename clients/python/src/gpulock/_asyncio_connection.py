"""Connections of a lock outside of the client's pool, for asyncio: the counterpart of
``_thread_connection``."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import weakref
from typing import Any

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError, TimeoutError

from ._commands import Argument, Command
from ._connection import follow_credentials, limit_time, new_connection

logger = logging.getLogger("gpulock")

NO_TIMEOUT_S = 1e9
CLOSE_TIMEOUT_S = 1.0
CONNECTING_STEPS = 4
"""TCP, TLS, authentication, settings: the connection limits the time of each step, and this
limits the time of all, for classes whose ``connect`` does more."""


class DedicatedConnection:
    """A connection outside of the client's pool. It is opened by the first command, and opened
    again by the first command after it broke. A read is always pending on it, so that its
    closing is noticed immediately."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._connection: Any = None
        self._timeout_s: float | None = None
        self._token: Any = None
        self._pending_read: asyncio.Future[Any] | None = None
        self.is_broken = False
        self._has_late_reply = False
        _dedicated_connections.add(self)

    async def execute(self, *command: Argument, timeout_s: float | None = None) -> Any:
        """Sends a command, and returns the reply.

        ``timeout_s`` limits the time for each step of connecting, and for the reply; None: the
        client's timeouts and retries apply. After a timeout for the reply the connection stays
        open, because closing it may end a session, until the next command, which must not read
        the late reply.
        """
        if self._has_late_reply:
            await self.close()
        if self._connection is None:
            await self._open(timeout_s)
        until = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            if self._token is not None:
                await self._authenticate_again(until)
            reply = await self._exchange(command, until)
        except ResponseError:
            raise
        except BaseException:
            if not self._has_late_reply:
                self.is_broken = True
                await self.close()
            raise
        self.is_broken = False
        return reply

    async def _exchange(self, command: Command, until: float | None) -> Any:
        await self._connection.send_command(*command, check_health=False)
        limit_s = self._timeout_s if until is None else max(0.0, until - time.monotonic())
        # Not wait_for: before Python 3.12 it can lose a cancellation.
        await asyncio.wait({self.pending_read()}, timeout=limit_s)
        if not self.pending_read().done():
            self._has_late_reply = until is not None
            raise TimeoutError("Timeout reading from the dedicated connection of the lock")
        read, self._pending_read = self.pending_read(), None
        return read.result()

    def set_token(self, token: Any) -> None:
        """The next command is preceded by AUTH with this token. Can be called in any
        thread."""
        self._token = token

    async def _authenticate_again(self, until: float | None) -> None:
        token, self._token = self._token, None
        try:
            await self._exchange(("AUTH", token.try_get("oid"), token.get_value()), until)
        except ResponseError as error:
            logger.warning("the server rejects the new credentials: %s", error)

    async def _open(self, timeout_s: float | None) -> None:
        """Connects as the pool does: see ``_thread_connection``."""
        self._connection = new_connection(self._pool)
        self._timeout_s, self._token = self._connection.socket_timeout, None
        follow_credentials(self._pool, self)
        if timeout_s is not None:
            limit_time(self._connection, timeout_s, Retry(NoBackoff(), 0))
        connecting = asyncio.ensure_future(self._connection.connect())
        try:
            limit_s = None if timeout_s is None else timeout_s * CONNECTING_STEPS
            await asyncio.wait({connecting}, timeout=limit_s)
            if not connecting.done():
                raise TimeoutError("Timeout opening the dedicated connection of the lock")
            connecting.result()
        except BaseException:
            self.is_broken = True
            try:
                await _cancel(connecting)
            finally:
                await self.close()
            raise

    def pending_read(self) -> asyncio.Future[Any]:
        """Completes with the next reply, or when the connection is closed."""
        if self._pending_read is None:
            read = self._connection.read_response(disable_decoding=True, timeout=NO_TIMEOUT_S)
            self._pending_read = asyncio.ensure_future(read)
        return self._pending_read

    async def check(self) -> None:
        """Detects whether the peer has closed the connection."""
        if self._pending_read is not None and self._pending_read.done():
            read, self._pending_read = self._pending_read, None
            error = read.exception()
            # A late reply may be an error.
            if error is not None and not isinstance(error, ResponseError):
                self.is_broken = True
                await self.close()

    async def close(self) -> None:
        """Closes the connection, which ends its session, at once or after the grace period."""
        self._has_late_reply = False
        read, self._pending_read = self._pending_read, None
        connection, self._connection = self._connection, None
        if connection is None:
            return
        writer = getattr(connection, "_writer", None)
        # First and without waiting: a cancellation must not leave the connection open.
        await connection.disconnect(nowait=True)
        if read is not None:
            await _cancel(read)
        if writer is not None:
            closing = asyncio.ensure_future(writer.wait_closed())
            await asyncio.wait({closing}, timeout=CLOSE_TIMEOUT_S)
            await _cancel(closing)

    def detach_in_child(self) -> None:
        """Replaces the socket in a child process, and leaves it open in the parent. The file
        descriptor stays in use: the inherited event loop refers to it by number."""
        writer = None if self._connection is None else self._connection._writer
        if writer is not None:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, writer.get_extra_info("socket").fileno())
            os.close(null)


class SubscriptionPool:
    """The part of a pool that redis-py's PubSub uses: connections that the pool of the client
    does not count, because the lock itself may need the last one."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def get_encoder(self) -> Any:
        """The encoder for channel names."""
        return self._pool.get_encoder()

    async def get_connection(self, *_command_name: Any) -> Any:
        """A new connection."""
        connection = new_connection(self._pool)
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect()
            raise
        return connection

    async def release(self, connection: Any) -> None:
        """Closes the connection."""
        await connection.disconnect()


async def _cancel(future: asyncio.Future[Any]) -> None:
    """Waits for the end of the cancelled future, and ignores its result."""
    future.cancel()
    await asyncio.wait({future})
    if not future.cancelled():
        future.exception()


_dedicated_connections: weakref.WeakSet[DedicatedConnection] = weakref.WeakSet()


def _detach_inherited_connections() -> None:
    """Otherwise the locks of a parent process that died would stay held by its child."""
    for connection in list(_dedicated_connections):
        connection.detach_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_detach_inherited_connections)
