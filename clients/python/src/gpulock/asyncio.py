"""``gpulock.asyncio.Lock`` and ``Pool``: redis-py's asyncio Lock on the commands of the module,
and any so many of some locks.

The same as ``gpulock.Lock`` and ``gpulock.Pool``, with ``await``.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from dataclasses import replace
from types import TracebackType
from typing import Any, Callable, Literal, TypeVar

from redis.exceptions import LockError

from . import _asking, _holding, _keeping, _words
from ._devices import Gpus
from ._hold import Hold, Loss, Wish
from ._locking import Kept, Locking, Number
from ._pooling import Pooling
from ._steps import Steps, ask
from ._tasks import Keeper, TaskDoer, run
from ._words import Name

logger = logging.getLogger("gpulock")
T = TypeVar("T")


class TaskLocking(Locking):
    """Acquire and release for tasks: what Lock and Pool have in common."""

    async def _enter(self) -> None:
        if not await self._acquire(self._wish(None, None, None, None)):
            raise self._error("Unable to acquire lock within the time specified")

    async def _leave(self) -> None:
        try:
            await self.release()
        except LockError:
            if self.raise_on_release_error:
                raise
            logger.warning("Lock was unlocked or no longer owned when exiting context manager.")

    @property
    def lost(self) -> asyncio.Event:
        """Set when the lock is lost, or will be before long."""
        if self.local.lost is None:
            self.local.lost = asyncio.Event()
        event: asyncio.Event = self.local.lost
        return event

    async def release(self, reason: str = "normal") -> None:
        """Gives the lock back; ``reason`` is told to those who listen, and logged.

        When the server cannot be reached, the token is kept, and it can be tried again.
        """
        hold = self._hold_to("Cannot release a lock that's not owned or is already unlocked.")
        kept = self._kept(hold)
        keeper = None if kept is None else kept.keeper
        if keeper is not None:
            await keeper.stop()
        all_held = await self._run(_holding.release(hold, self._server, reason))
        if keeper is not None:
            await keeper.close()
        self._forget(hold)
        if not all_held:
            raise _holding.not_owned(
                self.names[0], "Cannot release a lock that's no longer owned"
            )

    async def ensure_held(self) -> None:
        """Raises LockNotOwnedError unless the lock is held still: asks the server."""
        hold = self._hold_to("Cannot work under an unlocked lock")
        kept = self._kept(hold)
        lost = kept is not None and kept.lost.is_set()
        if lost or not await self._run(_holding.is_held(hold)):
            raise _holding.not_owned(self.names[0], "The lock is no longer owned")

    async def _acquire(self, wish: Wish) -> bool:
        before = self.held()
        if before is not None and before.doubtful:
            # What could not be given back would be waited for.
            await self.release()
        elif before is not None and before.owner == wish.owner:
            wish = replace(wish, mine=before)
        doer = TaskDoer(self.redis)
        hold = await run(_asking.acquire(wish, self._server), doer)
        if hold is None:
            return False
        self._store(self._keep(hold, wish, doer))
        return True

    def _keep(self, hold: Hold, wish: Wish, doer: TaskDoer) -> Kept[Keeper]:
        lost = asyncio.Event()
        if not self._needs_keeper(hold):
            return Kept(hold, None, lost)
        steps = _keeping.keep(hold, wish, self._server, self.renew)
        unwatched = _keeping.unwatched(hold)
        keeper = Keeper(steps, doer, lost, self.on_lost, unwatched)
        kept = Kept(hold, keeper, lost)
        weakref.finalize(kept, keeper.abandon)
        return kept

    async def _run(self, steps: Steps[T]) -> T:
        return await run(steps, TaskDoer(self.redis))


class Lock(TaskLocking):
    """A lock that tasks, processes and machines share.

    Everything that redis-py's asyncio ``Lock`` takes and does, and all that ``gpulock.Lock``
    has beyond it. Renewal is a task of the same event loop: a loop that is blocked renews
    nothing. ``on_lost`` may be a coroutine function. A cancelled acquire gives back what it
    had been granted.
    """

    def __init__(
        self,
        redis: Any,
        name: Name,
        timeout: Number | None = None,
        sleep: Number = 0.1,
        blocking: bool = True,
        blocking_timeout: Number | None = None,
        thread_local: bool = True,
        raise_on_release_error: bool = True,
        *,
        owner: str | bytes | None = None,
        fair: bool = False,
        session: bool = False,
        grace: Number = 0,
        renew: bool | None = None,
        on_lost: Callable[[Loss], Any] | None = None,
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
        )

    async def __aenter__(self) -> Lock:
        await self._enter()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._leave()

    @property
    def token(self) -> int | None:
        """The fencing token: it rises with every grant, so that a store can turn away a
        writer that has lost the lock. None: the lock is not held here, or was taken over by
        setting ``local.token``."""
        return self._tokens().get(self.name)

    async def acquire(
        self,
        sleep: Number | None = None,
        blocking: bool | None = None,
        blocking_timeout: Number | None = None,
        token: str | bytes | None = None,
    ) -> bool:
        """Takes the lock, and answers whether it is held now.

        ``token`` is redis-py's: what to write into the key. It says nothing of who else uses
        it; prefer the lock's ``owner``.
        """
        return await self._acquire(self._wish(sleep, blocking, blocking_timeout, token))

    async def locked(self) -> bool:
        """Whether anybody holds the lock."""
        return await self._run(_get(self.name)) is not None

    async def owned(self) -> bool:
        """Whether this lock holds it."""
        hold = self.held()
        value = await self._run(_get(self.name))
        return hold is not None and value is not None and _words.as_bytes(value) == hold.owner

    async def extend(self, additional_time: Number, replace_ttl: bool = False) -> Literal[True]:
        """Adds time to the lease, or sets it anew with ``replace_ttl``."""
        hold = self._hold_with_timeout_to("extend")
        more_ms = int(additional_time * 1000)
        if replace_ttl:
            steps = _holding.extend(hold, self._server, more_ms)
        else:
            steps = _holding.add(hold, self._server, more_ms)
        return await self._extended(hold, steps, "extend")

    async def reacquire(self) -> Literal[True]:
        """Sets the lease back to ``timeout``."""
        hold = self._hold_with_timeout_to("reacquire")
        lease_ms = int((self.timeout or 0) * 1000)
        steps = _holding.extend(hold, self._server, lease_ms)
        return await self._extended(hold, steps, "reacquire")

    async def _extended(self, hold: Hold, steps: Steps[bool], doing: str) -> Literal[True]:
        held = await self._run(steps)
        kept = self._kept(hold)
        if not held:
            (self.lost if kept is None else kept.lost).set()
            raise _holding.not_owned(self.name, f"Cannot {doing} a lock that's no longer owned")
        if kept is not None and kept.keeper is not None:
            kept.keeper.wake()
        return True


def _get(name: Name) -> Steps[Any]:
    value = yield ask("GET", name)
    return value


class Pool(Pooling, TaskLocking):
    """Any ``n`` of some locks, all at once or none: ``gpulock.Pool`` with ``await``."""

    async def acquire(
        self,
        sleep: Number | None = None,
        blocking: bool | None = None,
        blocking_timeout: Number | None = None,
    ) -> bool:
        """Takes ``n`` locks, and answers whether they are held now: see ``gpus``."""
        return await self._acquire(self._wish(sleep, blocking, blocking_timeout, None))

    async def __aenter__(self) -> Gpus:
        await self._enter()
        return self.gpus

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._leave()
