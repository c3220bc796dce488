"""Runs routines in asyncio tasks: the counterpart of ``_thread_runtime``."""

from __future__ import annotations

import asyncio
import copy
import math
import sys
import time
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from typing import Any, Callable, TypeVar

from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.client import NEVER_DECODE
from redis.exceptions import ConnectionError, RedisError, ResponseError, TimeoutError

from . import _clock
from ._asyncio_connection import DedicatedConnection, SubscriptionPool
from ._commands import Argument, Command, Name
from ._connection import (
    REDIRECTIONS,
    NodePool,
    NoEvents,
    client_retries,
    key_of,
    short_timeout_s,
    without_single_connection,
)
from ._operations import Operation, Routine
from ._renewal import Wakeup
from ._server import is_cluster
from ._types import Loss, Notice

T = TypeVar("T")

CANCEL_AGAIN_S = 0.5
"""When to repeat a cancellation that may have been lost."""


async def run(routine: Routine[T], runtime: AsyncioRuntime) -> T:
    """Performs the operations of the routine in this task."""
    try:
        return await _advance(routine, lambda: next(routine), runtime)
    finally:
        await runtime.unsubscribe()


async def _advance(
    routine: Routine[T], resume: Callable[[], Operation], runtime: AsyncioRuntime
) -> T:
    try:
        operation = resume()
        while True:
            try:
                result = await _perform(operation(runtime))
            except asyncio.CancelledError as error:
                return await _clean_up(routine, error, runtime)
            except BaseException as error:
                operation = routine.throw(error)
            else:
                operation = routine.send(result)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


async def _perform(operation: Awaitable[Any]) -> Any:
    """Performs an operation in a task of its own. Before Python 3.12, ``wait_for``, which
    redis-py calls, can lose a cancellation: the operation would go on, and wait for the lock.
    """
    if sys.version_info >= (3, 12):
        return await operation
    task = asyncio.ensure_future(operation)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        while not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task}, timeout=CANCEL_AGAIN_S)
        if not task.cancelled():
            task.exception()  # Otherwise asyncio logs it as never retrieved.
        raise
    return task.result()


async def _clean_up(
    routine: Routine[T], error: asyncio.CancelledError, runtime: AsyncioRuntime
) -> T:
    """Lets the routine finish its cleanup after a cancellation, even if the task is cancelled
    again meanwhile."""
    resumed = _advance(routine, lambda: routine.throw(error), runtime)
    return await asyncio.shield(asyncio.ensure_future(resumed))


async def complete(attempt: Callable[[], Coroutine[Any, Any, T]], limit_s: float) -> T:
    """Runs an attempt to its end, even if this task is cancelled meanwhile, and raises the
    cancellation afterwards.

    A cancelled task waits for at most ``limit_s``, then it cancels the attempt. An attempt that
    is cancelled by others is repeated: ``asyncio.run`` cancels all tasks when it ends.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(attempt())
    cancellation: asyncio.CancelledError | None = None
    deadline: float | None = None
    while True:
        try:
            timeout = None if deadline is None else max(0.0, deadline - loop.time())
            await asyncio.wait({task}, timeout=timeout)
        except asyncio.CancelledError as error:
            cancellation = cancellation or error
            deadline = deadline or loop.time() + limit_s
            continue
        is_late = deadline is not None and loop.time() >= deadline
        if task.cancelled() and not is_late:
            deadline = deadline or loop.time() + limit_s
            task = loop.create_task(attempt())
        elif task.done() or is_late:
            break
    if cancellation is None:
        return task.result()
    if not task.cancel() and not task.cancelled():
        raise cancellation from task.exception()
    raise cancellation


class AsyncioRuntime:
    """Performs operations for one lock, in one task at a time."""

    def __init__(self, client: Any) -> None:
        self._client = without_single_connection(client)
        self._dedicated: DedicatedConnection | None = None
        self._replacement: DedicatedConnection | None = None
        self._dedicated_node = ""
        self._client_is_next = False
        self._pubsub: Any = None
        self._subscribe_failed = False
        self._watchdog: asyncio.TimerHandle | None = None
        self._watchdog_fired = False
        self._wakeup = asyncio.Event()
        self.is_stopped = False
        self.report_loss: Callable[[Loss], Any] = lambda loss: None
        """Called by the watchdog."""
        self.notice_received: Callable[[Notice], Any] = lambda notice: None
        """Called by ``report_notice``."""

    async def execute(self, *command: Argument) -> Any:
        """Sends a command through the client."""
        return await self._client.execute_command(*command, **{NEVER_DECODE: True})

    async def execute_once(self, *command: Argument) -> Any:
        """Sends a command through the client's pool, without the client's retries."""
        if is_cluster(self._client):
            return await self.execute(*command)
        pool = self._client.connection_pool
        connection = await _get_connection(pool)
        # A copy of the client, so that instrumentation of its commands sees this one.
        once = copy.copy(self._client)
        once.connection, once.auto_close_connection_pool = connection, False
        retry, connection.retry = connection.retry, Retry(NoBackoff(), 0)
        try:
            return await once.execute_command(*command, **{NEVER_DECODE: True})
        except ResponseError:
            raise
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            once.connection, connection.retry = None, retry
            await pool.release(connection)

    async def client_retries(self) -> bool:
        """Whether the client repeats a command whose reply was lost."""
        return client_retries(self._client)

    async def execute_with_short_timeout(self, *command: Argument) -> Any:
        """Sends a command on a new connection with a short timeout."""
        try:
            pool, _ = await self._pool_for(command)
            connection = DedicatedConnection(pool)
            try:
                return await connection.execute(*command, timeout_s=short_timeout_s(pool))
            finally:
                await connection.close()
        except REDIRECTIONS:
            return await self.execute(*command)

    async def execute_keyless(self, *command: Argument) -> Any:
        """Sends a command without a key through the client."""
        if is_cluster(self._client):
            await self._client.initialize()
            node = self._client.get_default_node()
            return await self._client.execute_command(*command, target_nodes=node)
        return await self.execute(*command)

    async def execute_dedicated(
        self, *command: Argument, timeout_s: float | None = None
    ) -> Any:
        """Sends a command on the dedicated connection of the lock."""
        if self._client_is_next:
            # The client follows redirections, and finds the new primary of a failed node.
            self._client_is_next = False
            return await self.execute(*command)
        try:
            pool, name = await self._pool_for(command)
            if self._dedicated is None or self._dedicated_node != name:
                await self.close_dedicated()
                self._dedicated, self._dedicated_node = DedicatedConnection(pool), name
            return await self._dedicated.execute(*command, timeout_s=timeout_s)
        except REDIRECTIONS:
            return await self.execute(*command)
        except (ConnectionError, TimeoutError):
            self._client_is_next = is_cluster(self._client)
            raise

    async def _pool_for(self, command: Command) -> tuple[Any, str]:
        """The pool for this command, and the name of its node in a cluster."""
        if not is_cluster(self._client):
            return self._client.connection_pool, ""
        await self._client.initialize()
        node = self._client.get_node_from_key(key_of(command))
        return NodePool(node), node.name

    async def close_dedicated(self) -> None:
        """Closes the dedicated connection of the lock, and its replacement."""
        if self._dedicated is not None:
            dedicated, self._dedicated = self._dedicated, None
            await dedicated.close()
        await self.close_replacement()

    async def execute_on_replacement(
        self, *command: Argument, timeout_s: float | None = None
    ) -> Any:
        """Sends a command on the connection that may replace the dedicated one."""
        if self._replacement is None:
            self._replacement = self._new_connection()
        return await self._replacement.execute(*command, timeout_s=timeout_s)

    async def use_replacement(self) -> None:
        """Replaces the dedicated connection."""
        replaced, self._dedicated = self._dedicated, self._replacement
        self._replacement = None
        if replaced is not None:
            await replaced.close()

    async def close_replacement(self) -> None:
        """Closes the connection that was to replace the dedicated one."""
        if self._replacement is not None:
            replacement, self._replacement = self._replacement, None
            await replacement.close()

    def _new_connection(self) -> DedicatedConnection:
        return DedicatedConnection(self._client.connection_pool)

    async def sleep(self, seconds: float) -> None:
        """Sleeps."""
        await asyncio.sleep(seconds)

    async def wait_for_message(self, channel: Name, seconds: float) -> None:
        """Waits for a message on the channel."""
        until = time.monotonic() + seconds
        try:
            if not self._subscribe_failed and await self._received_message(channel, until):
                return
        except (RedisError, OSError):
            # This user may not subscribe, or the connection broke: only poll from now on.
            self._subscribe_failed = True
            await self.unsubscribe()
        await asyncio.sleep(max(0.0, until - time.monotonic()))

    async def _received_message(self, channel: Name, until: float) -> bool:
        if is_cluster(self._client):
            return False  # redis-py's asyncio cluster client has no Pub/Sub.
        if self._pubsub is None:
            pool: Any = SubscriptionPool(self._client.connection_pool)
            self._pubsub = PubSub(pool)
            self._pubsub._event_dispatcher = NoEvents()
            await self._pubsub.subscribe(channel)
        while (remaining := until - time.monotonic()) > 0:
            message = await self._pubsub.get_message(timeout=remaining)
            if message is not None and message["type"] == "message":
                return True
        return False

    async def unsubscribe(self) -> None:
        """Ends the subscription."""
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            # redis-py 5.0.0 has no aclose yet.
            await getattr(pubsub, "aclose", pubsub.close)()

    def stop(self) -> None:
        """Ends the current wait for a wakeup, and all later ones."""
        self.is_stopped = True
        self._wakeup.set()

    def notify_lease_changed(self) -> None:
        """Ends the current wait for a wakeup, or the next one."""
        self._wakeup.set()

    async def wait_for_wakeup(self, seconds: float, watch_connection: bool) -> Wakeup:
        """Waits until the time is over, the connection is closed, or the holder calls."""
        wakeup = asyncio.ensure_future(self._wakeup.wait())
        awaited: set[asyncio.Future[Any]] = {wakeup}
        if watch_connection and self._dedicated is not None:
            await self._dedicated.check()
            if self._dedicated.is_broken:
                wakeup.cancel()
                return Wakeup.DISCONNECTED
            awaited.add(self._dedicated.pending_read())
        try:
            await asyncio.wait(awaited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            wakeup.cancel()
        if self.is_stopped:
            return Wakeup.STOP
        if watch_connection and self._dedicated is not None:
            await self._dedicated.check()
            if self._dedicated.is_broken:
                return Wakeup.DISCONNECTED
        if self._wakeup.is_set():
            self._wakeup.clear()
            return Wakeup.LEASE_CHANGED
        return Wakeup.TIMEOUT

    async def report_notice(self, notice: Notice) -> None:
        """Reports a notice to the holder."""
        self.notice_received(notice)

    async def start_watchdog(self, at: float, loss: Loss) -> None:
        """Reports the loss to the holder if this task hangs until this time of ``_clock``."""
        self._watchdog_fired = False
        if at < math.inf:
            self._watch(at, loss)

    async def stop_watchdog(self) -> bool:
        """Stops the watchdog, and returns whether it has fired."""
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        return self._watchdog_fired

    def _watch(self, at: float, loss: Loss) -> None:
        remaining = at - _clock.now()
        self._watchdog_fired = remaining <= 0
        if self._watchdog_fired:
            self.report_loss(loss)
        else:
            delay = min(remaining, _clock.MAX_SLEEP_S)
            loop = asyncio.get_running_loop()
            self._watchdog = loop.call_later(delay, self._watch, at, loss)


async def _get_connection(pool: Any) -> Any:
    """A connection of the pool; redis-py 5 requires the name of the command."""
    try:
        return await pool.get_connection()
    except TypeError:
        return await pool.get_connection("GPULOCK.RELEASE")
