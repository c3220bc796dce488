"""What steps ask for, done by tasks of asyncio: the client, a connection of the lock's own,
and the keeper's task. The same as ``_threads``, with ``await``."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from typing import Any, Callable, TypeVar

from redis.exceptions import ResponseError, TimeoutError

from ._hold import Loss
from ._keeping import Event
from ._server import is_cluster
from ._steps import Step, Steps
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

    def __init__(self, client: Any) -> None:
        pool = client.connection_pool
        self._connection = pool.connection_class(**pool.connection_kwargs)
        self._patience_s = pool.connection_kwargs.get("socket_timeout")
        self._reading: asyncio.Future[Any] | None = None
        self.is_cut = False

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
            read = self._connection.read_response(timeout=FOR_EVER_S)
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

    async def _cut(self) -> None:
        self.is_cut = True
        await self.close()


class TaskDoer:
    """Does what steps ask for, for one lock in one task at a time."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._own: OwnConnection | None = None
        self._ears: Any = None
        self._alarm: asyncio.TimerHandle | None = None
        self._rung = False
        self.stopped = asyncio.Event()
        self.tell: Callable[[Loss], Any] = lambda loss: None
        """What the alarm does."""

    async def ask(self, *words: Word) -> Any:
        """Sends a command through the client."""
        return await self._client.execute_command(*words)

    async def ask_anywhere(self, *words: Word) -> Any:
        """Sends a command without a key through the client."""
        if is_cluster(self._client):
            await self._client.initialize()
            node = self._client.get_default_node()
            return await self._client.execute_command(*words, target_nodes=node)
        return await self._client.execute_command(*words)

    async def ask_own(self, *words: Word) -> Any:
        """Sends a command on the lock's own connection."""
        if self._own is None:
            self._own = OwnConnection(self._client)
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
        if self._ears is None:
            self._ears = self._client.pubsub()
            await self._ears.subscribe(channel)
        left = seconds
        while left > 0:
            message = await self._ears.get_message(timeout=left)
            if message is not None and message["type"] == "message":
                return
            left = until - time.monotonic()

    async def deafen(self) -> None:
        """Ends the subscription."""
        if self._ears is not None:
            ears, self._ears = self._ears, None
            await ears.aclose()

    async def watch(self, seconds: float) -> Event:
        """Waits for the end of the time, of the connection or of the hold."""
        stop = asyncio.ensure_future(self.stopped.wait())
        awaited: set[asyncio.Future[Any]] = {stop}
        if self._own is not None:
            await self._own.look()
            if self._own.is_cut:
                stop.cancel()
                return Event.CUT
            awaited.add(self._own.reading())
        try:
            await asyncio.wait(
                awaited,
                timeout=min(seconds, FOR_EVER_S),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            stop.cancel()
        if self.stopped.is_set():
            return Event.STOP
        if self._own is not None:
            await self._own.look()
            if self._own.is_cut:
                return Event.CUT
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


class Keeper:
    """The task in which a lock is looked after."""

    def __init__(
        self,
        steps: Steps[Loss | None],
        doer: TaskDoer,
        lost: asyncio.Event,
        on_lost: Callable[[Loss], Any] | None,
    ) -> None:
        self._doer, self._lost, self._on_lost = doer, lost, on_lost
        self._loop = asyncio.get_running_loop()
        self._abandoned = False
        self._telling: asyncio.Task[None] | None = None
        doer.tell = self._ring
        self._task = self._loop.create_task(self._keep(steps))

    async def stop(self) -> None:
        """No renewal comes after this."""
        self._doer.stopped.set()
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
            self._loop.call_soon_threadsafe(self._doer.stopped.set)

    async def _keep(self, steps: Steps[Loss | None]) -> None:
        try:
            loss = await run(steps, self._doer)
        except Exception:  # The task is the last one who could tell.
            logger.exception("gpulock: nobody looks after a lock any more; its lease will end")
            return
        if self._abandoned:
            await self._doer.close_own()
        if loss is not None:
            await self._tell(loss)

    def _ring(self, loss: Loss) -> None:
        self._telling = self._loop.create_task(self._tell(loss))

    async def _tell(self, loss: Loss) -> None:
        if self._doer.stopped.is_set():
            return  # The holder has given the lock back meanwhile.
        self._lost.set()
        logger.error("gpulock: lost %s of %s: %s", loss.name, loss.owner, loss.reason)
        if self._on_lost is not None:
            told = self._on_lost(loss)
            if inspect.isawaitable(told):
                await told
