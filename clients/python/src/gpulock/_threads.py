"""What steps ask for, done by threads that block: the client, a connection of the lock's own,
and the keeper's thread. What to do and when is not decided here."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from typing import Any, Callable, TypeVar

from redis.exceptions import ConnectionError, TimeoutError

from ._hold import Loss
from ._keeping import Event
from ._server import is_cluster
from ._steps import Step, Steps
from ._words import Word

logger = logging.getLogger("gpulock")
T = TypeVar("T")

CUT_IS_SEEN_WITHIN_S = 0.2
LAST_CALL_S = 1.0


def run(steps: Steps[T], doer: ThreadDoer) -> T:
    """Does one step after the other in this thread."""
    try:
        step: Step = next(steps)
        while True:
            try:
                result = step(doer)
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        doer.deafen()


class OwnConnection:
    """A connection that no pool lends to anybody else."""

    def __init__(self, client: Any) -> None:
        pool = client.connection_pool
        self._connection = pool.connection_class(**pool.connection_kwargs)
        self.is_cut = False
        _own_connections.add(self)

    def ask(self, *words: Word) -> Any:
        """Sends a command, and answers its reply."""
        try:
            self._connection.send_command(*words, check_health=False)
            reply = self._connection.read_response()
        except (ConnectionError, TimeoutError):
            self._cut()
            raise
        self.is_cut = False
        return reply

    def look(self) -> None:
        """Notices when the other side has closed it."""
        try:
            self._connection.can_read(0)
        except (ConnectionError, TimeoutError, OSError):
            self._cut()

    def close(self) -> None:
        """Closes it: the lock that is tied to it ends, at once or after its grace."""
        self._connection.disconnect()

    def _cut(self) -> None:
        self.is_cut = True
        self._connection.disconnect()


_own_connections: weakref.WeakSet[OwnConnection] = weakref.WeakSet()


def _leave_to_the_parent() -> None:
    """A child that kept the parent's connections open would keep its locks after its death."""
    for connection in list(_own_connections):
        connection.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)


class ThreadDoer:
    """Does what steps ask for, for one lock in one thread at a time."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._own: OwnConnection | None = None
        self._ears: Any = None
        self._alarm: threading.Timer | None = None
        self._rung = threading.Event()
        self.stopped = threading.Event()
        self.tell: Callable[[Loss], None] = lambda loss: None
        """What the alarm does."""

    def ask(self, *words: Word) -> Any:
        """Sends a command through the client."""
        return self._client.execute_command(*words)

    def ask_anywhere(self, *words: Word) -> Any:
        """Sends a command without a key through the client."""
        if is_cluster(self._client):
            node = self._client.get_default_node()
            return self._client.execute_command(*words, target_nodes=node)
        return self._client.execute_command(*words)

    def ask_own(self, *words: Word) -> Any:
        """Sends a command on the lock's own connection."""
        if self._own is None:
            self._own = OwnConnection(self._client)
        return self._own.ask(*words)

    def close_own(self) -> None:
        """Closes the lock's own connection."""
        if self._own is not None:
            self._own.close()
            self._own = None

    def pause(self, seconds: float) -> None:
        """Sleeps."""
        time.sleep(seconds)

    def hear(self, channel: bytes, seconds: float) -> None:
        """Waits for a message on the channel."""
        until = time.monotonic() + seconds
        if self._ears is None:
            self._ears = self._client.pubsub()
            self._ears.subscribe(channel)
        left = seconds
        while left > 0:
            message = self._ears.get_message(timeout=left)
            if message is not None and message["type"] == "message":
                return
            left = until - time.monotonic()

    def deafen(self) -> None:
        """Ends the subscription."""
        if self._ears is not None:
            self._ears.close()
            self._ears = None

    def watch(self, seconds: float) -> Event:
        """Waits for the end of the time, of the connection or of the hold."""
        until = time.monotonic() + seconds
        while True:
            if self._own is not None:
                self._own.look()
                if self._own.is_cut:
                    return Event.CUT
            left = until - time.monotonic()
            if left <= 0:
                return Event.STOP if self.stopped.is_set() else Event.TIME
            nap = min(left, threading.TIMEOUT_MAX)
            if self.stopped.wait(min(nap, CUT_IS_SEEN_WITHIN_S) if self._own else nap):
                return Event.STOP

    def alarm(self, seconds: float, loss: Loss) -> None:
        """Tells the holder of the loss when this thread hangs for longer than this."""
        if seconds < threading.TIMEOUT_MAX:
            self._alarm = threading.Timer(max(0.0, seconds), self._ring, [loss])
            self._alarm.daemon = True
            self._alarm.start()

    def disarm(self) -> bool:
        """Calls the alarm off, and answers whether it has rung."""
        if self._alarm is not None:
            self._alarm.cancel()
        return self._rung.is_set()

    def _ring(self, loss: Loss) -> None:
        self._rung.set()
        self.tell(loss)


class Keeper:
    """The thread in which a lock is looked after."""

    def __init__(
        self,
        steps: Steps[Loss | None],
        doer: ThreadDoer,
        lost: threading.Event,
        on_lost: Callable[[Loss], Any] | None,
    ) -> None:
        self._doer, self._lost, self._on_lost = doer, lost, on_lost
        self._abandoned = False
        doer.tell = self._tell
        self._thread = threading.Thread(
            target=self._keep, args=(steps,), name="gpulock-keeper", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """No renewal comes after this."""
        self._doer.stopped.set()
        # on_lost may give the lock back, and runs in the keeper's own thread.
        if self._thread is not threading.current_thread():
            # A call that hangs may come to its end later: it does not fit the lock any more.
            self._thread.join(LAST_CALL_S)

    def close(self) -> None:
        """Closes the connection that the lock was tied to."""
        self._doer.close_own()

    def abandon(self) -> None:
        """The holder is no more: nobody waits for what is under way."""
        self._abandoned = True
        self._doer.stopped.set()

    def _keep(self, steps: Steps[Loss | None]) -> None:
        try:
            loss = run(steps, self._doer)
        except Exception:  # The thread is the last one who could tell.
            logger.exception("gpulock: nobody looks after a lock any more; its lease will end")
            return
        if self._abandoned:
            self._doer.close_own()
        if loss is not None:
            self._tell(loss)

    def _tell(self, loss: Loss) -> None:
        if self._doer.stopped.is_set():
            return  # The holder has given the lock back meanwhile.
        self._lost.set()
        logger.error("gpulock: lost %s of %s: %s", loss.name, loss.owner, loss.reason)
        if self._on_lost is not None:
            self._on_lost(loss)
