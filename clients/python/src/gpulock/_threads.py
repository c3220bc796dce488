"""What steps ask for, done by threads that block: the client, a connection of the lock's own,
and the keeper's thread. What to do and when is not decided here."""

from __future__ import annotations

import copy
import inspect
import logging
import os
import threading
import time
import weakref
from contextlib import suppress
from typing import Any, Callable, TypeVar

from redis.backoff import NoBackoff
from redis.client import NEVER_DECODE, PubSub
from redis.connection import ConnectionPool
from redis.exceptions import ConnectionError, RedisError, ResponseError, TimeoutError
from redis.retry import Retry

from ._hold import Loss
from ._keeping import Event
from ._server import is_cluster
from ._steps import Step, Steps
from ._words import Word

logger = logging.getLogger("gpulock")
T = TypeVar("T")

CUT_IS_SEEN_WITHIN_S = 0.2
LAST_CALL_S = 1.0
BRIEF_S = 2.0


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

    def __init__(self, client: Any, settings: dict[str, Any]) -> None:
        self._connection = client.connection_pool.connection_class(**settings)
        self.is_cut = False
        _own_connections.add(self)

    def ask(self, *words: Word) -> Any:
        """Sends a command, and answers its reply."""
        try:
            self._connection.send_command(*words, check_health=False)
            reply = self._connection.read_response(disable_decoding=True)
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
        self._ears_pool: Any = None
        self._is_deaf = False
        self._alarm: threading.Timer | None = None
        self._rung = threading.Event()
        self._news = threading.Event()
        self.is_stopped = False
        self.tell: Callable[[Loss], None] = lambda loss: None
        """What the alarm does."""

    def ask(self, *words: Word) -> Any:
        """Sends a command through the client."""
        try:
            return self._client.execute_command(*words, **{NEVER_DECODE: True})
        except (RedisError, OSError):
            raise
        except BaseException:
            self._drop_idle_connections()
            raise

    def _drop_idle_connections(self) -> None:
        """redis-py gives a connection back to its pool even when a signal has come between a
        command and its reply: the next one who asks would read that reply."""
        # A pool that blocks closed all of its connections before redis-py 6, also those in use.
        with suppress(TypeError):
            if not is_cluster(self._client):
                self._client.connection_pool.disconnect(inuse_connections=False)

    def ask_once(self, *words: Word) -> Any:
        """Sends a command through the client's pool, without the client's retries."""
        if is_cluster(self._client):
            return self.ask(*words)
        pool = self._client.connection_pool
        connection = _lent_by(pool)
        # The same client in all else, so that whoever watches its commands sees this one.
        once = copy.copy(self._client)
        once.connection, once.auto_close_connection_pool = connection, False
        patience, connection.retry = connection.retry, Retry(NoBackoff(), 0)
        try:
            return once.execute_command(*words, **{NEVER_DECODE: True})
        except ResponseError:
            raise
        except BaseException:
            connection.disconnect()
            raise
        finally:
            once.connection, connection.retry = None, patience
            pool.release(connection)

    def retries(self) -> bool:
        """Whether the client repeats a command whose answer was lost."""
        return retries(self._client)

    def ask_briefly(self, *words: Word) -> Any:
        """Sends a command on a new connection, and does not wait long for the reply."""
        if is_cluster(self._client):
            return self.ask(*words)
        connection = OwnConnection(self._client, brief(self._client))
        try:
            return connection.ask(*words)
        finally:
            connection.close()

    def ask_anywhere(self, *words: Word) -> Any:
        """Sends a command without a key through the client."""
        if is_cluster(self._client):
            node = self._client.get_default_node()
            return self._client.execute_command(*words, target_nodes=node)
        return self.ask(*words)

    def ask_own(self, *words: Word) -> Any:
        """Sends a command on the lock's own connection."""
        if is_cluster(self._client):
            return self.ask(*words)
        if self._own is None:
            settings = self._client.connection_pool.connection_kwargs
            self._own = OwnConnection(self._client, settings)
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
        try:
            if not self._is_deaf and self._has_heard(channel, until):
                return
        except (RedisError, OSError):
            # A user without channels, a connection that broke: who does not hear looks.
            self._is_deaf = True
            self.deafen()
        time.sleep(max(0.0, until - time.monotonic()))

    def _has_heard(self, channel: bytes, until: float) -> bool:
        if self._ears is None:
            self._ears = self._new_ears()
            self._ears.subscribe(channel)
        while (left := until - time.monotonic()) > 0:
            message = self._ears.get_message(timeout=left)
            if message is not None and message["type"] == "message":
                return True
        return False

    def _new_ears(self) -> Any:
        """Beside the client's pool, whose last connection the lock itself may need."""
        if is_cluster(self._client):
            return self._client.pubsub()
        pool = self._client.connection_pool
        self._ears_pool = ConnectionPool(pool.connection_class, **pool.connection_kwargs)
        return PubSub(self._ears_pool)

    def deafen(self) -> None:
        """Ends the subscription."""
        ears, pool, self._ears, self._ears_pool = self._ears, self._ears_pool, None, None
        if ears is not None:
            ears.close()
        if pool is not None:
            pool.disconnect()

    def stop(self) -> None:
        """Ends a watch, and all that come."""
        self.is_stopped = True
        self._news.set()

    def wake(self) -> None:
        """Ends a watch, or the next one: the lease was set anew."""
        self._news.set()

    def watch(self, seconds: float) -> Event:
        """Waits for the end of the time, of the connection or of the hold."""
        until = time.monotonic() + seconds
        while True:
            if self._own is not None:
                self._own.look()
                if self._own.is_cut:
                    return Event.CUT
            if self.is_stopped:
                return Event.STOP
            left = until - time.monotonic()
            if left <= 0:
                return Event.TIME
            nap = min(left, threading.TIMEOUT_MAX)
            if self._news.wait(min(nap, CUT_IS_SEEN_WITHIN_S) if self._own else nap):
                self._news.clear()
                return Event.STOP if self.is_stopped else Event.CHANGED

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


def _lent_by(pool: Any) -> Any:
    """A connection of the pool; redis-py 5 wants to be told what for."""
    try:
        return pool.get_connection()
    except TypeError:
        return pool.get_connection("GPULOCK.RELEASE")


def retries(client: Any) -> bool:
    """Whether the client repeats a command whose answer was lost. A cluster's client does it
    in its own way, and cannot be kept from it."""
    if is_cluster(client):
        return False
    retry = client.connection_pool.connection_kwargs.get("retry")
    return retry is not None and retry._retries != 0


def brief(client: Any) -> dict[str, Any]:
    """The client's settings, for one who has no time: what they name of patience is cut."""
    settings = dict(client.connection_pool.connection_kwargs)
    for name in {"socket_timeout", "socket_connect_timeout"} & {"socket_timeout", *settings}:
        settings[name] = min(settings.get(name) or BRIEF_S, BRIEF_S)
    settings["retry"] = None
    return settings


def weakly(on_lost: Callable[[Loss], Any] | None) -> Callable[[], Any]:
    """How a keeper knows whom to tell. A method's object may own the lock: the keeper must
    not be what keeps both alive."""
    return weakref.WeakMethod(on_lost) if inspect.ismethod(on_lost) else lambda: on_lost


class Keeper:
    """The thread in which a lock is looked after."""

    def __init__(
        self,
        steps: Steps[Loss | None],
        doer: ThreadDoer,
        lost: threading.Event,
        on_lost: Callable[[Loss], Any] | None,
    ) -> None:
        self._doer, self._lost, self._on_lost = doer, lost, weakly(on_lost)
        self._abandoned = False
        doer.tell = self._tell
        self._thread = threading.Thread(
            target=self._keep, args=(steps,), name="gpulock-keeper", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """No renewal comes after this."""
        self._doer.stop()
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
        self._doer.stop()

    def wake(self) -> None:
        """The holder has set the lease anew."""
        self._doer.wake()

    def _keep(self, steps: Steps[Loss | None]) -> None:
        loss = run(steps, self._doer)
        if self._abandoned:
            self._doer.close_own()
        if loss is not None:
            self._tell(loss)

    def _tell(self, loss: Loss) -> None:
        if self._doer.is_stopped:
            return  # The holder has given the lock back meanwhile.
        self._lost.set()
        logger.error("gpulock: lost %s of %s: %s", loss.name, loss.owner, loss.reason)
        on_lost = self._on_lost()
        if on_lost is not None:
            on_lost(loss)
