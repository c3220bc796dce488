"""What steps ask for, done by tasks of asyncio: the client, a connection of the lock's own,
and the keeper's task. The same as ``_threads``, with ``await``."""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
import os
import time
import weakref
from typing import Any, Callable, TypeVar

from redis.asyncio import ConnectionPool
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.client import NEVER_DECODE
from redis.exceptions import RedisError, ResponseError, TimeoutError

from ._hold import Loss
from ._keeping import Event
from ._server import is_cluster
from ._steps import Step, Steps
from ._threads import brief, retries, weakly
from ._words import Word

logger = logging.getLogger("gpulock")
T = TypeVar("T")

FOR_EVER_S = 1e9
LAST_CALL_S = 1.0


async def run(steps: Steps[T], doer: TaskDoer) -> T:
    """Does one step after the other in this task."""
    try:
        return await _go_on(steps, lambda: next(steps), doer)
    finally:
        await doer.deafen()


async def _go_on(steps: Steps[T], begin: Callable[[], Step], doer: TaskDoer) -> T:
    try:
        step = begin()
        while True:
            try:
                result = await step(doer)
            except asyncio.CancelledError as error:
                return await _clean_up(steps, error, doer)
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


async def _clean_up(steps: Steps[T], error: asyncio.CancelledError, doer: TaskDoer) -> T:
    """What the steps do about a cancelled call is done to its end, however often the task is
    cancelled meanwhile."""
    rest = asyncio.ensure_future(_go_on(steps, lambda: steps.throw(error), doer))
    return await asyncio.shield(rest)


class OwnConnection:
    """A connection that no pool lends to anybody else. Somebody always reads from it, so that
    its end is noticed at once."""

    def __init__(self, client: Any, settings: dict[str, Any]) -> None:
        self._connection = client.connection_pool.connection_class(**settings)
        self._patience_s = settings.get("socket_timeout")
        self._reading: asyncio.Future[Any] | None = None
        self.is_cut = False
        _own_connections.add(self)

    async def ask(self, *words: Word) -> Any:
        """Sends a command, and answers its reply."""
        try:
            await self._connection.send_command(*words, check_health=False)
            # Not wait_for: before Python 3.12 it forgets that it was cancelled.
            await asyncio.wait({self.reading()}, timeout=self._patience_s)
            if not self.reading().done():
                raise TimeoutError("Timeout reading from the lock's own connection")
            reading, self._reading = self.reading(), None
            reply = reading.result()
        except ResponseError:
            raise
        except BaseException:
            await self._cut()
            raise
        self.is_cut = False
        return reply

    def reading(self) -> asyncio.Future[Any]:
        """What comes next: a reply, or the news that the connection is closed."""
        if self._reading is None:
            read = self._connection.read_response(disable_decoding=True, timeout=FOR_EVER_S)
            self._reading = asyncio.ensure_future(read)
        return self._reading

    async def look(self) -> None:
        """Takes note of what was read while nothing was asked for."""
        if self._reading is not None and self._reading.done():
            reading, self._reading = self._reading, None
            if reading.exception() is not None:
                await self._cut()

    async def close(self) -> None:
        """Closes it: the lock that is tied to it ends, at once or after its grace."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})
            self._reading = None
        await self._connection.disconnect()

    def leave_to_the_parent(self) -> None:
        """In a child: the socket is let go of, and stays open in the parent. Its number stays
        taken, since the parent's event loop is known here by numbers too."""
        writer = self._connection._writer
        if writer is not None:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, writer.get_extra_info("socket").fileno())
            os.close(nothing)

    async def _cut(self) -> None:
        self.is_cut = True
        await self.close()


_own_connections: weakref.WeakSet[OwnConnection] = weakref.WeakSet()


def _leave_to_the_parent() -> None:
    """A child that kept the parent's connections open would keep its locks after its death."""
    for connection in list(_own_connections):
        connection.leave_to_the_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)


class TaskDoer:
    """Does what steps ask for, for one lock in one task at a time."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._own: OwnConnection | None = None
        self._ears: Any = None
        self._ears_pool: Any = None
        self._is_deaf = False
        self._alarm: asyncio.TimerHandle | None = None
        self._rung = False
        self._news = asyncio.Event()
        self.is_stopped = False
        self.tell: Callable[[Loss], Any] = lambda loss: None
        """What the alarm does."""

    async def ask(self, *words: Word) -> Any:
        """Sends a command through the client."""
        return await self._client.execute_command(*words, **{NEVER_DECODE: True})

    async def ask_once(self, *words: Word) -> Any:
        """Sends a command through the client's pool, without the client's retries."""
        if is_cluster(self._client):
            return await self.ask(*words)
        pool = self._client.connection_pool
        connection = await _lent_by(pool)
        # The same client in all else, so that whoever watches its commands sees this one.
        once = copy.copy(self._client)
        once.connection, once.auto_close_connection_pool = connection, False
        patience, connection.retry = connection.retry, Retry(NoBackoff(), 0)
        try:
            return await once.execute_command(*words, **{NEVER_DECODE: True})
        except ResponseError:
            raise
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            once.connection, connection.retry = None, patience
            await pool.release(connection)

    async def retries(self) -> bool:
        """Whether the client repeats a command whose answer was lost."""
        return retries(self._client)

    async def ask_briefly(self, *words: Word) -> Any:
        """Sends a command on a new connection, and does not wait long for the reply."""
        if is_cluster(self._client):
            return await self.ask(*words)
        connection = OwnConnection(self._client, brief(self._client))
        try:
            return await connection.ask(*words)
        finally:
            await connection.close()

    async def ask_anywhere(self, *words: Word) -> Any:
        """Sends a command without a key through the client."""
        if is_cluster(self._client):
            await self._client.initialize()
            node = self._client.get_default_node()
            return await self._client.execute_command(*words, target_nodes=node)
        return await self.ask(*words)

    async def ask_own(self, *words: Word) -> Any:
        """Sends a command on the lock's own connection."""
        if is_cluster(self._client):
            return await self.ask(*words)
        if self._own is None:
            settings = self._client.connection_pool.connection_kwargs
            self._own = OwnConnection(self._client, settings)
        return await self._own.ask(*words)

    async def close_own(self) -> None:
        """Closes the lock's own connection."""
        if self._own is not None:
            own, self._own = self._own, None
            await own.close()

    async def pause(self, seconds: float) -> None:
        """Sleeps."""
        await asyncio.sleep(seconds)

    async def hear(self, channel: bytes, seconds: float) -> None:
        """Waits for a message on the channel."""
        until = time.monotonic() + seconds
        try:
            if not self._is_deaf and await self._has_heard(channel, until):
                return
        except (RedisError, OSError):
            # A user without channels, a connection that broke: who does not hear looks.
            self._is_deaf = True
            await self.deafen()
        await asyncio.sleep(max(0.0, until - time.monotonic()))

    async def _has_heard(self, channel: bytes, until: float) -> bool:
        if is_cluster(self._client):
            return False  # redis-py's client of a cluster hears nothing.
        if self._ears is None:
            # Beside the client's pool, whose last connection the lock itself may need.
            pool = self._client.connection_pool
            self._ears_pool = ConnectionPool(pool.connection_class, **pool.connection_kwargs)
            self._ears = PubSub(self._ears_pool)
            await self._ears.subscribe(channel)
        while (left := until - time.monotonic()) > 0:
            message = await self._ears.get_message(timeout=left)
            if message is not None and message["type"] == "message":
                return True
        return False

    async def deafen(self) -> None:
        """Ends the subscription."""
        ears, pool, self._ears, self._ears_pool = self._ears, self._ears_pool, None, None
        if ears is not None:
            # redis-py 5.0.0 has no aclose yet.
            await getattr(ears, "aclose", ears.close)()
        if pool is not None:
            await pool.disconnect()

    def stop(self) -> None:
        """Ends a watch, and all that come."""
        self.is_stopped = True
        self._news.set()

    def wake(self) -> None:
        """Ends a watch, or the next one: the lease was set anew."""
        self._news.set()

    async def watch(self, seconds: float) -> Event:
        """Waits for the end of the time, of the connection or of the hold."""
        news = asyncio.ensure_future(self._news.wait())
        awaited: set[asyncio.Future[Any]] = {news}
        if self._own is not None:
            await self._own.look()
            if self._own.is_cut:
                news.cancel()
                return Event.CUT
            awaited.add(self._own.reading())
        try:
            await asyncio.wait(
                awaited,
                timeout=min(seconds, FOR_EVER_S),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            news.cancel()
        if self.is_stopped:
            return Event.STOP
        if self._own is not None:
            await self._own.look()
            if self._own.is_cut:
                return Event.CUT
        if self._news.is_set():
            self._news.clear()
            return Event.CHANGED
        return Event.TIME

    async def alarm(self, seconds: float, loss: Loss) -> None:
        """Tells the holder of the loss when this task hangs for longer than this."""
        if seconds < FOR_EVER_S:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(max(0.0, seconds), self._ring, loss)

    async def disarm(self) -> bool:
        """Calls the alarm off, and answers whether it has rung."""
        if self._alarm is not None:
            self._alarm.cancel()
        return self._rung

    def _ring(self, loss: Loss) -> None:
        self._rung = True
        self.tell(loss)


async def _lent_by(pool: Any) -> Any:
    """A connection of the pool; redis-py 5 wants to be told what for."""
    try:
        return await pool.get_connection()
    except TypeError:
        return await pool.get_connection("GPULOCK.RELEASE")


class Keeper:
    """The task in which a lock is looked after."""

    def __init__(
        self,
        steps: Steps[Loss | None],
        doer: TaskDoer,
        lost: asyncio.Event,
        on_lost: Callable[[Loss], Any] | None,
        unwatched: Loss,
    ) -> None:
        self._unwatched = unwatched
        self._doer, self._lost, self._on_lost = doer, lost, weakly(on_lost)
        self._loop = asyncio.get_running_loop()
        self._abandoned = False
        self._telling: asyncio.Task[None] | None = None
        doer.tell = self._ring
        self._task = self._loop.create_task(self._keep(steps))
        self._task.add_done_callback(self._look_after)

    async def stop(self) -> None:
        """No renewal comes after this."""
        self._doer.stop()
        # on_lost may give the lock back, and runs in a task of the keeper.
        if asyncio.current_task() not in (self._task, self._telling):
            # A call that hangs may come to its end later: it does not fit the lock any more.
            await asyncio.wait({self._task}, timeout=LAST_CALL_S)

    async def close(self) -> None:
        """Closes the connection that the lock was tied to."""
        await self._doer.close_own()

    def abandon(self) -> None:
        """The holder is no more. Called by whichever thread has noticed it."""
        self._abandoned = True
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._doer.stop)

    def wake(self) -> None:
        """The holder has set the lease anew."""
        self._doer.wake()

    async def _keep(self, steps: Steps[Loss | None]) -> None:
        loss = await run(steps, self._doer)
        if self._abandoned:
            await self._doer.close_own()
        if loss is not None:
            await self._tell(loss)

    def _look_after(self, task: asyncio.Task[None]) -> None:
        """A task that was cancelled before it began has told nobody."""
        if task.cancelled() and not self._lost.is_set():
            self._ring(self._unwatched)

    def _ring(self, loss: Loss) -> None:
        self._telling = self._loop.create_task(self._tell(loss))

    async def _tell(self, loss: Loss) -> None:
        if self._doer.is_stopped:
            return  # The holder has given the lock back meanwhile.
        self._lost.set()
        logger.error("gpulock: lost %s of %s: %s", loss.name, loss.owner, loss.reason)
        on_lost = self._on_lost()
        if on_lost is not None:
            told = on_lost(loss)
            if inspect.isawaitable(told):
                await told
