"""``gpulock.asyncio.Lock``, a drop-in replacement for redis-py's asyncio Lock, and ``Pool``.

The same as ``gpulock.Lock`` and ``gpulock.Pool``, with ``await``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import replace
from types import TracebackType
from typing import Any, Callable, Literal, TypeVar

from redis.exceptions import LockError, RedisError

from . import _acquire, _commands, _ownership, _settings
from ._asyncio_renewer import Renewer
from ._asyncio_runtime import AsyncioRuntime, complete, run
from ._commands import Name, NameLike
from ._devices import Gpus
from ._holds import Block, Exit, exit_method
from ._lock_base import LockBase, Number
from ._operations import Routine, execute
from ._pool_base import PoolBase
from ._reservation import ReservationBase, end_of
from ._types import AcquireRequest, Hold, Loss, Notice

__all__ = ["Lock", "Pool", "Reservation"]

logger = logging.getLogger("gpulock")
T = TypeVar("T")

CANCELLED_RELEASE_S = 3.0
"""How long a task that is cancelled during a release waits for the release to complete."""


class Reservation(ReservationBase):
    """Locks that are held for a fixed time, and by no process: ``gpulock.Reservation`` with
    ``await``."""

    async def release(self, reason: str = "normal") -> None:
        """Releases the locks. Raises LockNotOwnedError if one was no longer held."""
        _settings.require_reason(reason)
        await _complete(
            self._hold, lambda: run(self._releasing(reason), AsyncioRuntime(self.redis))
        )


async def _complete(hold: Hold, release: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Completes a release before a cancellation is raised."""
    try:
        await complete(release, CANCELLED_RELEASE_S)
    except asyncio.CancelledError as cancellation:
        if hold.names:
            _ownership.log_not_released(hold, cancellation.__cause__)
        raise


class AsyncioLockBase(LockBase):
    """Acquire and release with asyncio tasks, shared by Lock and Pool."""

    _needs_asyncio = True

    async def acquire(self) -> bool:
        """Acquires the lock, and returns whether it is held now."""
        raise NotImplementedError

    async def _enter(self) -> None:
        block = self._new_block()
        try:
            with self._holds.operation(block):
                acquired = await self.acquire()
            if not acquired:
                raise self._error("Unable to acquire lock within the time specified")
            self._holds.open(block)
        except BaseException:
            # A subclass was interrupted after it had acquired the lock.
            await self._finish_exit(block)
            raise

    @exit_method
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
        *,
        end: Exit | None = None,
    ) -> None:
        block = self._exited_block(end)
        try:
            await self._exit(block, exc_type)
        except RedisError:
            raise
        except BaseException:
            # A subclass was interrupted before it released the lock.
            if block is not None:
                await self._finish_exit(block)
            raise
        finally:
            self._holds.close(block)

    async def _exit(self, block: Block | None, exc_type: type[BaseException] | None) -> None:
        try:
            if block is None:
                await self.release()
            elif block.is_inherited:
                if exc_type is None:
                    raise _ownership.not_owned(
                        self.names[0], "The lock belongs to the parent process"
                    )
            elif not self._holds.is_nested(block):
                with self._holds.operation(block):
                    await self.release()
        except LockError:
            if self.raise_on_release_error:
                raise
            logger.warning("Lock was unlocked or no longer owned when exiting context manager.")
        except _ownership.CONNECTION_ERRORS:
            # No one repeats the release of a block.
            if block is None or not await complete(
                lambda: self._released_on_new_connection(block), CANCELLED_RELEASE_S
            ):
                raise

    async def _released_on_new_connection(self, block: Block) -> bool:
        """Repeats a failed release once. The session ends in any case."""
        hold, tracked = block.hold, block.tracked
        if hold is None:
            return False
        try:
            await self._run(_ownership.finish_release(hold, self._server, "normal"))
        except RedisError:
            return False
        finally:
            if tracked is not None and tracked.renewer is not None:
                await tracked.renewer.close()
        self._discard(hold)
        return True

    async def _finish_exit(self, block: Block) -> None:
        """Releases the hold of a block. If its release has begun, it was given up: only the
        session ends."""
        hold, tracked = block.hold, block.tracked
        if hold is None or not block.is_held or self._holds.is_nested(block):
            return
        if not block.release_begun:
            await self._complete_release(hold, tracked, "normal")
        elif tracked is not None and tracked.renewer is not None:
            await tracked.renewer.close()

    @property
    def lost(self) -> asyncio.Event:
        """Set when the lock is lost or about to be."""
        event: asyncio.Event = self._event("lost")
        return event

    @property
    def revoked(self) -> asyncio.Event:
        """Set when the lock was given notice (FORCERELEASE AFTER): see ``notice``, and release
        it before the deadline."""
        event: asyncio.Event = self._event("revoked")
        return event

    async def release(self, reason: str = "normal") -> None:
        """Releases the lock; ``reason`` appears in the event and in the log.

        If the server cannot be reached, the token is kept, and the call can be repeated.
        """
        _settings.require_reason(reason)
        hold, tracked = self._to_release()
        await self._complete_release(hold, tracked, reason)

    async def _complete_release(self, hold: Hold, tracked: Any, reason: str) -> None:
        caller = asyncio.current_task()
        block = self._holds.current_operation()
        if block is not None:
            block.release_begun = True
        await _complete(hold, lambda: self._release(hold, tracked, reason, caller))

    async def _release(
        self, hold: Hold, tracked: Any, reason: str, caller: asyncio.Task[Any] | None
    ) -> None:
        renewer = None if tracked is None else tracked.renewer
        if renewer is not None:
            await renewer.stop(caller)
        all_owned = await self._run(_ownership.release(hold, self._server, reason))
        if renewer is not None:
            await renewer.close()
        self._discard(hold)
        if not all_owned:
            raise _ownership.not_owned(
                self.names[0], "Cannot release a lock that's no longer owned"
            )

    async def reserve(
        self,
        for_s: Number,
        blocking: bool | None = None,
        blocking_timeout: Number | None = None,
    ) -> Reservation | None:
        """Acquires the lock for a fixed time, which nothing renews; None: not granted in time.

        No process and no object holds it: it lasts until ``for_s`` seconds after the grant, or
        until a process releases the reservation.
        """
        request = self._reservation_request(for_s, blocking, blocking_timeout)
        hold = await self._run(_acquire.reserve(request, self._server))
        if hold is None:
            return None
        return Reservation(
            self.redis,
            hold.owner.decode(),
            hold.tokens,
            end_of(hold, for_s),
            devices=self._devices_of(hold),
        )

    async def ensure_held(self) -> None:
        """Asks the server, and raises LockNotOwnedError if the lock is no longer held."""
        hold, tracked = self._require_current("Cannot confirm a lock that is not held here")
        lost = tracked is not None and tracked.lost.is_set()
        if lost or not await self._run(_ownership.is_held(hold)):
            raise _ownership.not_owned(self.names[0], "The lock is no longer owned")

    async def _acquire(self, request: AcquireRequest) -> bool:
        self.local.has_acquired = True
        current, tracked = self._current()
        if current is not None and current.release_uncertain:
            # Otherwise this call would wait for a lock that the failed release left held.
            await self.release()
        elif current is not None and current.owner == request.owner:
            request = replace(request, current_hold=current)
        runtime = AsyncioRuntime(self.redis)
        hold = await run(_acquire.acquire(request, self._server), runtime)
        if hold is None:
            self._give_up(request)
            return False
        return self._store(hold, request, tracked, runtime)

    def _new_event(self) -> asyncio.Event:
        return asyncio.Event()

    def _new_renewer(self, *arguments: Any, **settings: Any) -> Renewer:
        return Renewer(*arguments, **settings)

    def _caller(self) -> Any:
        try:
            task = asyncio.current_task()
        except RuntimeError:  # No event loop runs in this thread.
            task = None
        return task or self._holds.no_task

    async def _run(self, routine: Routine[T]) -> T:
        return await run(routine, AsyncioRuntime(self.redis))


class Lock(AsyncioLockBase):
    """A lock shared by tasks, processes and machines.

    It accepts all arguments of redis-py's asyncio ``Lock``, and those that ``gpulock.Lock``
    adds. Renewal is a task of the same event loop: a blocked loop renews nothing. ``on_lost``
    may be a coroutine function. A cancelled acquire releases what it had been granted.
    """

    def __init__(
        self,
        redis: Any,
        name: NameLike,
        timeout: Number | None = None,
        sleep: Number = 0.1,
        blocking: bool = True,
        blocking_timeout: Number | None = None,
        thread_local: bool = True,
        raise_on_release_error: bool = True,
        *,
        owner: NameLike | None = None,
        fair: bool = False,
        session: bool = False,
        grace: Number = 0,
        renew: bool | None = None,
        on_lost: Callable[[Loss], Any] | None = None,
        on_revoked: Callable[[Notice], Any] | None = None,
        priority: int = 0,
        share: NameLike | None = None,
    ) -> None:
        self.name = name
        super().__init__(
            redis,
            (name,),
            None,
            timeout=timeout,
            sleep=sleep,
            blocking=blocking,
            blocking_timeout=blocking_timeout,
            thread_local=thread_local,
            raise_on_release_error=raise_on_release_error,
            owner=owner,
            fair=fair,
            session=session,
            grace=grace,
            renew=renew,
            on_lost=on_lost,
            on_revoked=on_revoked,
            priority=priority,
            share=share,
        )

    async def __aenter__(self) -> Lock:
        await self._enter()
        return self

    @property
    def token(self) -> int | None:
        """The fencing token. It rises with every grant, so that a store can reject a writer
        that has lost the lock. None: the lock is not held here, or was handed over by setting
        ``local.token``."""
        return self._tokens().get(self.names[0])

    async def acquire(
        self,
        sleep: Number | None = None,
        blocking: bool | None = None,
        blocking_timeout: Number | None = None,
        token: str | bytes | None = None,
    ) -> bool:
        """Acquires the lock, and returns whether it is held now.

        ``token`` is redis-py's argument: the value to write into the key. Several holders may
        use the same one, so the lock's ``owner`` is the better choice.
        """
        return await self._acquire(self._request(sleep, blocking, blocking_timeout, token))

    async def locked(self) -> bool:
        """Whether the lock is held, here or elsewhere."""
        return await self._run(_get(self.names[0])) is not None

    async def owned(self) -> bool:
        """Whether this object holds the lock."""
        hold = self._held()
        value = await self._run(_get(self.names[0]))
        return (
            hold is not None and value is not None and _commands.as_bytes(value) == hold.owner
        )

    async def extend(self, additional_time: Number, replace_ttl: bool = False) -> Literal[True]:
        """Adds time to the lease, or replaces it with ``replace_ttl``."""
        hold = self._require_hold_with_timeout("extend")
        routine = self._extending(hold, additional_time, replace_ttl)
        return await self._extended(hold, routine, "extend")

    async def reacquire(self) -> Literal[True]:
        """Sets the lease back to ``timeout``."""
        hold = self._require_hold_with_timeout("reacquire")
        routine = self._reacquiring(hold)
        return await self._extended(hold, routine, "reacquire")

    async def _extended(self, hold: Hold, routine: Routine[bool], action: str) -> Literal[True]:
        return self._use_extension(hold, await self._run(routine), action)


def _get(name: Name) -> Routine[Any]:
    value = yield execute(_commands.GET, name)
    return value


class Pool(PoolBase, AsyncioLockBase):
    """Any ``n`` of several locks, all of them or none: ``gpulock.Pool`` with ``await``."""

    async def acquire(
        self,
        sleep: Number | None = None,
        blocking: bool | None = None,
        blocking_timeout: Number | None = None,
    ) -> bool:
        """Acquires ``n`` locks, and returns whether they are held now. See ``gpus``."""
        return await self._acquire(self._request(sleep, blocking, blocking_timeout, None))

    async def __aenter__(self) -> Gpus:
        await self._enter()
        return self.gpus
