"""Connections of a lock outside of the client's pool, for asyncio: the counterpart of
``_thread_connection``."""

from __future__ import annotations

import asyncio
import os
import weakref
from typing import Any

from redis.exceptions import ResponseError, TimeoutError

from ._commands import Argument

NO_TIMEOUT_S = 1e9


class DedicatedConnection:
    """A connection outside of the client's pool. A read is always pending on it, so that its
    closing is noticed immediately."""

    def __init__(self, client: Any, settings: dict[str, Any]) -> None:
        self._connection = client.connection_pool.connection_class(**settings)
        self._timeout_s = settings.get("socket_timeout")
        self._pending_read: asyncio.Future[Any] | None = None
        self.is_broken = False
        _dedicated_connections.add(self)

    async def execute(self, *command: Argument, timeout_s: float | None = None) -> Any:
        """Sends a command, and returns the reply.

        ``timeout_s`` limits the time for the reply; None: the client's ``socket_timeout``.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            await self._connection.send_command(*command, check_health=False)
            # Not wait_for: before Python 3.12 it can lose a cancellation.
            await asyncio.wait({self.pending_read()}, timeout=timeout_s)
            if not self.pending_read().done():
                raise TimeoutError("Timeout reading from the dedicated connection of the lock")
            read, self._pending_read = self.pending_read(), None
            reply = read.result()
        except ResponseError:
            raise
        except BaseException:
            await self._mark_broken()
            raise
        self.is_broken = False
        return reply

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
            if read.exception() is not None:
                await self._mark_broken()

    async def close(self) -> None:
        """Closes the connection, which ends its session, at once or after the grace period."""
        if self._pending_read is not None:
            self._pending_read.cancel()
            await asyncio.wait({self._pending_read})
            self._pending_read = None
        await self._connection.disconnect()

    def detach_in_child(self) -> None:
        """Replaces the socket in a child process, and leaves it open in the parent. The file
        descriptor stays in use: the inherited event loop refers to it by number."""
        writer = self._connection._writer
        if writer is not None:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, writer.get_extra_info("socket").fileno())
            os.close(null)

    async def _mark_broken(self) -> None:
        self.is_broken = True
        await self.close()


_dedicated_connections: weakref.WeakSet[DedicatedConnection] = weakref.WeakSet()


def _detach_inherited_connections() -> None:
    """Otherwise the locks of a parent process that died would stay held by its child."""
    for connection in list(_dedicated_connections):
        connection.detach_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_detach_inherited_connections)
