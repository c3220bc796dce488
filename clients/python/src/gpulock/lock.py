"""``gpulock.Lock``: redis-py's Lock on the commands of the module, for threads.

What it does in which order stands in ``_asking``, ``_holding`` and ``_keeping``.
"""

from __future__ import annotations

import logging
import threading
import weakref
from dataclasses import replace
from types import TracebackType
from typing import Any, Callable, Literal, TypeVar

from redis.exceptions import LockError

from . import _asking, _holding, _keeping, _words
from ._hold import Hold, Loss, Wish
from ._locking import Kept, Locking, Number
from ._steps import Steps, ask
from ._threads import Keeper, ThreadDoer, run
from ._words import Name

logger = logging.getLogger("gpulock")
T = TypeVar("T")


class ThreadLocking(Locking):
    """Acquire and release for threads: what Lock and Pool have in common."""

    def _enter(self) -> None:
        if not self._acquire(self._wish(None, None, None, None)):
            raise self._error("Unable to acquire lock within the time specified")

    def _leave(self) -> None:
        try:
            self.release()
        except LockError:
            if self.raise_on_release_error:
                raise
            logger.warning("Lock was unlocked or no longer owned when exiting context manager.")

    @property
    def lost(self) -> threading.Event:
        """Set when the lock that this thread holds is lost, or will be before long. Take it
        along to a thread that works for this one."""
        if self.local.lost is None:
            self.local.lost = threading.Event()
        event: threading.Event = self.local.lost
        return event

    def release(self, reason: str = "normal") -> None:
        """Gives the lock back; ``reason`` is told to those who listen, and logged.

        When the server cannot be reached, the token is kept, and it can be tried again.
        """
        hold = self._hold_to("Cannot release a lock that's not owned or is already unlocked.")
        kept = self._kept(hold)
        keeper = None if kept is None else kept.keeper
        if keeper is not None:
            keeper.stop()
        all_held = self._run(_holding.release(hold, self._server, reason))
        if keeper is not None:
            keeper.close()
        self._forget(hold)
        if not all_held:
            raise _holding.not_owned(
                self.names[0], "Cannot release a lock that's no longer owned"
            )

    def ensure_held(self) -> None:
        """Raises LockNotOwnedError unless the lock is held still: asks the server."""
        hold = self._hold_to("Cannot work under an unlocked lock")
        kept = self._kept(hold)
        lost = kept is not None and kept.lost.is_set()
        if lost or not self._run(_holding.is_held(hold)):
            raise _holding.not_owned(self.names[0], "The lock is no longer owned")

    def _acquire(self, wish: Wish) -> bool:
        before = self.held()
        if before is not None and before.doubtful:
            # What could not be given back would be waited for.
            self.release()
        elif before is not None and before.owner == wish.owner:
            wish = replace(wish, mine=before)
        doer = ThreadDoer(self.redis)
        hold = run(_asking.acquire(wish, self._server), doer)
        if hold is None:
            return False
        try:
            kept = self._keep(hold, wish, doer)
        except BaseException:
            # No thread is to be had: nobody would look after the lock.
            doer.close_own()
            self._run(_holding.release(hold, self._server, "cancelled"))
            raise
        self._store(kept)
        return True

    def _keep(self, hold: Hold, wish: Wish, doer: ThreadDoer) -> Kept[Keeper]:
        lost = threading.Event()
        if not self._needs_keeper(hold):
            return Kept(hold, None, lost)
        steps = _keeping.keep(hold, wish, self._server, self.renew)
        keeper = Keeper(steps, doer, lost, self.on_lost)
        kept = Kept(hold, keeper, lost)
        weakref.finalize(kept, keeper.abandon)
        return kept

    def _run(self, steps: Steps[T]) -> T:
        return run(steps, ThreadDoer(self.redis))


class Lock(ThreadLocking):
    """A lock that threads, processes and machines share.

    Everything that redis-py's ``Lock`` takes and does, and beyond it:

    ``timeout`` is the lease. Without one, the lock lasts until it is given back: its lease is
    the server's default and is renewed as long as this thread, this process and this object
    live.

    Waiting is done in the server, first come, first served; ``sleep`` is used on a server
    without the module only. ``fair=True`` refuses such a server.

    ``owner`` is what stands in the key, a random name for each call if left out. Give one if
    it names exactly one holder (a run of a job): asking again then answers "already yours".

    ``session=True`` ties the lock to a connection of its own: when the process ends, however
    it ends, the lock is free, at once or after ``grace`` seconds, in which a connection that
    broke is replaced.

    ``renew=True`` renews the lease at a third of it, in a thread of its own.

    ``on_lost`` is called with a ``Loss``, in that thread, while the lease still holds, or as
    soon as the lock is known to be lost. ``lost`` is set before.
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

    def __enter__(self) -> Lock:
        self._enter()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()

    @property
    def token(self) -> int | None:
        """The fencing token: it rises with every grant, so that a store can turn away a
        writer that has lost the lock. None: the lock is not held here, or was taken over by
        setting ``local.token``."""
        return self._tokens().get(self.name)

    def acquire(
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
        return self._acquire(self._wish(sleep, blocking, blocking_timeout, token))

    def locked(self) -> bool:
        """Whether anybody holds the lock."""
        return self._run(_get(self.name)) is not None

    def owned(self) -> bool:
        """Whether this lock holds it."""
        hold = self.held()
        value = self._run(_get(self.name))
        return hold is not None and value is not None and _words.as_bytes(value) == hold.owner

    def extend(self, additional_time: Number, replace_ttl: bool = False) -> Literal[True]:
        """Adds time to the lease, or sets it anew with ``replace_ttl``."""
        hold = self._hold_with_timeout_to("extend")
        more_ms = int(additional_time * 1000)
        if replace_ttl:
            steps = _holding.extend(hold, self._server, more_ms)
        else:
            steps = _holding.add(hold, self._server, more_ms)
        return self._extended(hold, steps, "extend")

    def reacquire(self) -> Literal[True]:
        """Sets the lease back to ``timeout``."""
        hold = self._hold_with_timeout_to("reacquire")
        lease_ms = int((self.timeout or 0) * 1000)
        steps = _holding.extend(hold, self._server, lease_ms)
        return self._extended(hold, steps, "reacquire")

    def _extended(self, hold: Hold, steps: Steps[bool], doing: str) -> Literal[True]:
        held = self._run(steps)
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
