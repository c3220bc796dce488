"""Runs routines in threads, with blocking I/O: through the client, and on the dedicated
connection of a lock (``_thread_connection``)."""

from __future__ import annotations

import copy
import inspect
import math
import queue
import time
from contextlib import suppress
from typing import Any, Callable, TypeVar

from redis.backoff import NoBackoff
from redis.client import NEVER_DECODE, PubSub
from redis.exceptions import ConnectionError, RedisError, ResponseError, TimeoutError
from redis.retry import Retry

from . import _clock
from ._commands import Argument, Command, Name
from ._connection import (
    REDIRECTIONS,
    NoEvents,
    client_retries,
    key_of,
    short_timeout_s,
    without_single_connection,
)
from ._operations import Operation, Routine
from ._renewal import Wakeup
from ._server import is_cluster
from ._thread_connection import DedicatedConnection, SubscriptionPool
from ._types import Loss, Notice
from ._watchdog import Watchdog

T = TypeVar("T")

CONNECTION_CHECK_S = 0.2


def run(routine: Routine[T], runtime: ThreadRuntime) -> T:
    """Performs the operations of the routine in this thread."""
    try:
        return _advance(routine, lambda: next(routine), runtime)
    except BaseException as error:
        if inspect.getgeneratorstate(routine) != inspect.GEN_SUSPENDED:
            raise
        # A signal arrived between two operations: the routine has to clean up.
        interruption = error
        return _advance(routine, lambda: routine.throw(interruption), runtime)
    finally:
        runtime.unsubscribe()


def _advance(routine: Routine[T], resume: Callable[[], Operation], runtime: ThreadRuntime) -> T:
    try:
        operation = resume()
        while True:
            try:
                result = operation(runtime)
            except BaseException as error:
                operation = routine.throw(error)
            else:
                operation = routine.send(result)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


class ThreadRuntime:
    """Performs operations for one lock, in one thread at a time."""

    def __init__(self, client: Any) -> None:
        self._client = without_single_connection(client)
        self._dedicated: DedicatedConnection | None = None
        self._replacement: DedicatedConnection | None = None
        self._dedicated_node = ""
        self._client_is_next = False
        self._pubsub: Any = None
        self._subscribe_failed = False
        self._watchdog: Watchdog | None = None
        # Not an Event: its lock stays locked if a signal or finalizer interrupts it.
        self._wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.is_stopped = False
        self.report_loss: Callable[[Loss], None] = lambda loss: None
        """Called by the watchdog."""
        self.notice_received: Callable[[Notice], None] = lambda notice: None
        """Called by ``report_notice``."""

    def execute(self, *command: Argument) -> Any:
        """Sends a command through the client."""
        try:
            return self._client.execute_command(*command, **{NEVER_DECODE: True})
        except (RedisError, OSError):
            raise
        except BaseException:
            self._close_idle_connections()
            raise

    def _close_idle_connections(self) -> None:
        """redis-py returns a connection to its pool even when a signal came between a command
        and its reply: the next user of that connection would read that reply."""
        # Before redis-py 6, BlockingConnectionPool closed the connections in use as well.
        with suppress(TypeError):
            if not is_cluster(self._client):
                self._client.connection_pool.disconnect(inuse_connections=False)

    def execute_once(self, *command: Argument) -> Any:
        """Sends a command through the client's pool, without the client's retries."""
        if is_cluster(self._client):
            return self.execute(*command)
        pool = self._client.connection_pool
        connection = _get_connection(pool)
        # A copy of the client, so that instrumentation of its commands sees this one.
        once = copy.copy(self._client)
        once.connection, once.auto_close_connection_pool = connection, False
        retry, connection.retry = connection.retry, Retry(NoBackoff(), 0)
        try:
            return once.execute_command(*command, **{NEVER_DECODE: True})
        except ResponseError:
            raise
        except BaseException:
            connection.disconnect()
            raise
        finally:
            once.connection, connection.retry = None, retry
            pool.release(connection)

    def client_retries(self) -> bool:
        """Whether the client repeats a command whose reply was lost."""
        return client_retries(self._client)

    def execute_with_short_timeout(self, *command: Argument) -> Any:
        """Sends a command on a new connection with a short timeout."""
        try:
            pool, _ = self._pool_for(command)
            connection = DedicatedConnection(pool)
            try:
                return connection.execute(*command, timeout_s=short_timeout_s(pool))
            finally:
                connection.close()
        except REDIRECTIONS:
            return self.execute(*command)

    def execute_keyless(self, *command: Argument) -> Any:
        """Sends a command without a key through the client."""
        if is_cluster(self._client):
            node = self._client.get_default_node()
            return self._client.execute_command(*command, target_nodes=node)
        return self.execute(*command)

    def execute_dedicated(self, *command: Argument, timeout_s: float | None = None) -> Any:
        """Sends a command on the dedicated connection of the lock."""
        if self._client_is_next:
            # The client follows redirections, and finds the new primary of a failed node.
            self._client_is_next = False
            return self.execute(*command)
        try:
            pool, name = self._pool_for(command)
            if self._dedicated is None or self._dedicated_node != name:
                self.close_dedicated()
                self._dedicated, self._dedicated_node = DedicatedConnection(pool), name
            return self._dedicated.execute(*command, timeout_s=timeout_s)
        except REDIRECTIONS:
            return self.execute(*command)
        except (ConnectionError, TimeoutError):
            self._client_is_next = is_cluster(self._client)
            raise

    def _pool_for(self, command: Command) -> tuple[Any, str]:
        """The pool for this command, and the name of its node in a cluster."""
        if not is_cluster(self._client):
            return self._client.connection_pool, ""
        node = self._client.get_node_from_key(key_of(command))
        return self._client.get_redis_connection(node).connection_pool, node.name

    def close_dedicated(self) -> None:
        """Closes the dedicated connection of the lock, and its replacement."""
        if self._dedicated is not None:
            dedicated, self._dedicated = self._dedicated, None
            dedicated.close()
        self.close_replacement()

    def execute_on_replacement(self, *command: Argument, timeout_s: float | None = None) -> Any:
        """Sends a command on the connection that may replace the dedicated one."""
        if self._replacement is None:
            self._replacement = self._new_connection()
        return self._replacement.execute(*command, timeout_s=timeout_s)

    def use_replacement(self) -> None:
        """Replaces the dedicated connection."""
        replaced, self._dedicated = self._dedicated, self._replacement
        self._replacement = None
        if replaced is not None:
            replaced.close()

    def close_replacement(self) -> None:
        """Closes the connection that was to replace the dedicated one."""
        if self._replacement is not None:
            replacement, self._replacement = self._replacement, None
            replacement.close()

    def _new_connection(self) -> DedicatedConnection:
        return DedicatedConnection(self._client.connection_pool)

    def sleep(self, seconds: float) -> None:
        """Sleeps."""
        time.sleep(seconds)

    def wait_for_message(self, channel: Name, seconds: float) -> None:
        """Waits for a message on the channel."""
        until = time.monotonic() + seconds
        try:
            if not self._subscribe_failed and self._received_message(channel, until):
                return
        except (RedisError, OSError):
            # This user may not subscribe, or the connection broke: only poll from now on.
            self._subscribe_failed = True
            self.unsubscribe()
        time.sleep(max(0.0, until - time.monotonic()))

    def _received_message(self, channel: Name, until: float) -> bool:
        if self._pubsub is None:
            self._pubsub = self._new_pubsub()
            self._pubsub.subscribe(channel)
        while (remaining := until - time.monotonic()) > 0:
            message = self._pubsub.get_message(timeout=remaining)
            if message is not None and message["type"] == "message":
                return True
        return False

    def _new_pubsub(self) -> Any:
        if is_cluster(self._client):
            return self._client.pubsub()
        pubsub: Any = PubSub(SubscriptionPool(self._client.connection_pool))
        pubsub._event_dispatcher = NoEvents()
        return pubsub

    def unsubscribe(self) -> None:
        """Ends the subscription."""
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            pubsub.close()

    def stop(self) -> None:
        """Ends the current wait for a wakeup, and all later ones."""
        self.is_stopped = True
        self._wakeups.put(None)

    def notify_lease_changed(self) -> None:
        """Ends the current wait for a wakeup, or the next one."""
        self._wakeups.put(None)

    def wait_for_wakeup(self, seconds: float, watch_connection: bool) -> Wakeup:
        """Waits until the time is over, the connection is closed, or the holder calls."""
        until = _clock.now() + seconds
        while True:
            if self.is_stopped:
                return Wakeup.STOP
            # The holder may close the connection meanwhile.
            dedicated = self._dedicated
            if watch_connection and dedicated is not None:
                dedicated.check()
                if dedicated.is_broken:
                    return Wakeup.STOP if self.is_stopped else Wakeup.DISCONNECTED
            remaining = until - _clock.now()
            if remaining <= 0:
                return Wakeup.TIMEOUT
            limit = CONNECTION_CHECK_S if watch_connection else _clock.MAX_SLEEP_S
            with suppress(queue.Empty):
                self._wakeups.get(timeout=min(remaining, limit))
                return Wakeup.STOP if self.is_stopped else Wakeup.LEASE_CHANGED

    def report_notice(self, notice: Notice) -> None:
        """Reports a notice to the holder."""
        self.notice_received(notice)

    def start_watchdog(self, at: float, loss: Loss) -> None:
        """Reports the loss to the holder if this thread hangs until this time of ``_clock``."""
        if at < math.inf:
            self._watchdog = Watchdog(at, lambda: self.report_loss(loss))

    def stop_watchdog(self) -> bool:
        """Stops the watchdog, and returns whether it has fired."""
        watchdog, self._watchdog = self._watchdog, None
        return watchdog is not None and watchdog.stop()


def _get_connection(pool: Any) -> Any:
    """A connection of the pool; redis-py 5 requires the name of the command."""
    try:
        return pool.get_connection()
    except TypeError:
        return pool.get_connection("GPULOCK.RELEASE")
