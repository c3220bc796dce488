"""``gpulock.Lock``: a drop-in replacement for redis-py's Lock, for threads.

The logic is in ``_acquire``, ``_ownership`` and ``_renewal``.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from types import TracebackType
from typing import Any, Callable, Literal, TypeVar

from redis.exceptions import LockError, RedisError

from . import _acquire, _commands, _ownership, _settings
from ._commands import Name, NameLike
from ._holds import Block, Exit, exit_method
from ._lock_base import LockBase, Number
from ._operations import Routine, execute
from ._reservation import ReservationBase, end_of
from ._thread_renewer import Renewer
from ._thread_runtime import ThreadRuntime, run
from ._types import AcquireRequest, Hold, Loss, Notice

logger = logging.getLogger("gpulock")
T = TypeVar("T")


FINISH_ATTEMPTS = 3
"""How often a release is begun again when further signals interrupt its completion."""


class Reservation(ReservationBase):
    """Locks that are held for a fixed time, and by no process: ``Lock.reserve`` and
    ``Pool.reserve`` return it.

    Another process makes it from the owner and the tokens, or with ``from_environment``.
    """

    def release(self, reason: str = "normal") -> None:
        """Releases the locks. Raises LockNotOwnedError if one was no longer held."""
        try:
            _settings.require_reason(reason)
            self._run(self._releasing(reason))
        except (RedisError, TypeError):
            raise
        except BaseException:
            finishing = _ownership.finish_release
            _finish(self._hold, lambda: self._run(finishing(self._hold, self._server, reason)))
            raise

    def _run(self, routine: Routine[T]) -> T:
        return run(routine, ThreadRuntime(self.redis))


def _finish(hold: Hold, attempt: Callable[[], None]) -> None:
    """Completes a release that was interrupted at any point."""
    failure: BaseException | None = None
    for _ in range(FINISH_ATTEMPTS):
        try:
            attempt()
            return
        except RedisError as error:
            failure = error
            break
        except BaseException as error:  # Another signal.
            failure = error
    _ownership.log_not_released(hold, failure)


class ThreadLockBase(LockBase):
    """Acquire and release with threads, shared by Lock and Pool.

    A signal handler can raise at any point. An interrupted call completes its release, on a new
    connection with a short timeout, and then raises.
    """

    def acquire(self) -> bool:
        """Acquires the lock, and returns whether it is held now."""
        raise NotImplementedError

    def _enter(self, entered: Callable[[], T]) -> T:
        """Enters a ``with`` block, and returns its value."""
        block = None
        try:
            block = self._new_block()
            with self._holds.operation(block):
                acquired = self.acquire()
            if not acquired:
                raise self._error("Unable to acquire lock within the time specified")
            self._holds.open(block)
            return entered()
        except BaseException:
            if block is not None and block.hold is not None:
                self._finish_exit(block)
            raise

    @exit_method
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
        *,
        end: Exit | None = None,
    ) -> None:
        block = None
        try:
            block = self._exited_block(end)
            self._exit(block, exc_type)
        except RedisError:
            self._holds.close(block)
            raise
        except BaseException:
            block = block or self._exited_block(end)
            if block is not None:
                self._finish_exit(block)
            raise

    def _exit(self, block: Block | None, exc_type: type[BaseException] | None) -> None:
        try:
            if block is None:
                self.release()
            elif block.is_inherited:
                if exc_type is None:
                    raise _ownership.not_owned(
                        self.names[0], "The lock belongs to the parent process"
                    )
            elif not self._holds.is_nested(block):
                with self._holds.operation(block):
                    self.release()
        except LockError:
            if self.raise_on_release_error:
                raise
            logger.warning("Lock was unlocked or no longer owned when exiting context manager.")
        except _ownership.CONNECTION_ERRORS:
            # No one repeats the release of a block.
            if block is None or not self._released_on_new_connection(block):
                raise
        self._holds.close(block)

    def _released_on_new_connection(self, block: Block) -> bool:
        """Repeats a failed release once. The session ends in any case."""
        hold, tracked = block.hold, block.tracked
        if hold is None:
            return False
        try:
            self._run(_ownership.finish_release(hold, self._server, "normal"))
        except RedisError:
            return False
        finally:
            if tracked is not None and tracked.renewer is not None:
                tracked.renewer.close()
        self._discard(hold)
        return True

    def _finish_exit(self, block: Block) -> None:
        """Completes the exit of a block, or the end of one that was not entered."""
        hold, tracked = block.hold, block.tracked
        if hold is not None and block.is_held and not self._holds.is_nested(block):
            self._finish_release(hold, tracked, "normal")
            if tracked is not None and tracked.renewer is not None:
                tracked.renewer.close()
        self._holds.close(block)

    @property
    def lost(self) -> threading.Event:
        """Set when the lock that this thread holds is lost or about to be. Pass the event to
        other threads that work for this one."""
        event: threading.Event = self._event("lost")
        return event

    @property
    def revoked(self) -> threading.Event:
        """Set when the lock that this thread holds was given notice (FORCERELEASE AFTER): see
        ``notice``, and release it before the deadline."""
        event: threading.Event = self._event("revoked")
        return event

    def release(self, reason: str = "normal") -> None:
        """Releases the lock; ``reason`` appears in the event and in the log.

        If the server cannot be reached, the token is kept, and the call can be repeated.
        """
        hold: Hold | None = None
        tracked: Any = None
        try:
            _settings.require_reason(reason)
            hold, tracked = self._to_release()
            self._release(hold, tracked, reason)
        except RedisError:
            raise
        except BaseException:
            if not isinstance(reason, str):
                raise  # The release has not begun.
            if hold is None:
                hold, tracked = self._to_release()
            self._finish_release(hold, tracked, reason)
            raise

    def _release(self, hold: Hold, tracked: Any, reason: str) -> None:
        renewer = None if tracked is None else tracked.renewer
        if renewer is not None:
            renewer.stop()
        all_owned = self._run(_ownership.release(hold, self._server, reason))
        if renewer is not None:
            renewer.close()
        self._discard(hold)
        if not all_owned:
            raise _ownership.not_owned(
                self.names[0], "Cannot release a lock that's no longer owned"
            )

    def _finish_release(self, hold: Hold, tracked: Any, reason: str) -> None:
        def attempt() -> None:
            renewer = None if tracked is None else tracked.renewer
            if renewer is not None:
                renewer.stop()
            self._run(_ownership.finish_release(hold, self._server, reason))
            if renewer is not None:
                renewer.close()
            self._discard(hold)

        _finish(hold, attempt)

    def reserve(
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
        results: list[Hold | None] = []
        try:
            reserving = _acquire.reserve(request, self._server)
            self._run(_acquire.recorded(reserving, results))
            (hold,) = results
            if hold is None:
                return None
            return Reservation(
                self.redis,
                hold.owner.decode(),
                hold.tokens,
                end_of(hold, for_s),
                devices=self._devices_of(hold),
            )
        except RedisError:
            raise
        except BaseException:
            for hold in results:
                if hold is not None:
                    self._finish_release(hold, None, "cancelled")
            raise

    def ensure_held(self) -> None:
        """Asks the server, and raises LockNotOwnedError if the lock is no longer held."""
        hold, tracked = self._require_current("Cannot confirm a lock that is not held here")
        lost = tracked is not None and tracked.lost.is_set()
        if lost or not self._run(_ownership.is_held(hold)):
            raise _ownership.not_owned(self.names[0], "The lock is no longer owned")

    def _acquire(self, request: AcquireRequest) -> bool:
        self.local.has_acquired = True
        current, tracked = self._current()
        if current is not None and current.release_uncertain:
            # Otherwise this call would wait for a lock that the failed release left held.
            self.release()
        elif current is not None and current.owner == request.owner:
            request = replace(request, current_hold=current)
        runtime = ThreadRuntime(self.redis)
        results: list[Hold | None] = []
        try:
            acquiring = _acquire.acquire(request, self._server)
            run(_acquire.recorded(acquiring, results), runtime)
            (hold,) = results
            if hold is None:
                self._give_up(request)
                return False
            return self._store(hold, request, tracked, runtime)
        except RedisError:
            raise
        except BaseException:
            # A signal, or the thread could not be started: the lock would not be renewed.
            for hold in results:
                if hold is not None:
                    self._withdraw(hold, request, runtime)
            raise

    def _withdraw(self, hold: Hold, request: AcquireRequest, runtime: ThreadRuntime) -> None:
        """Releases what a call was granted that cannot return it."""
        if _ownership.is_repeated(hold, request.current_hold):
            return
        runtime.stop()
        runtime.close_dedicated()
        self._finish_release(hold, None, "cancelled")

    def _new_event(self) -> threading.Event:
        return threading.Event()

    def _new_renewer(self, *arguments: Any, **settings: Any) -> Renewer:
        return Renewer(*arguments, **settings)

    def _caller(self) -> Any:
        return self._holds.current_thread()

    def _run(self, routine: Routine[T]) -> T:
        return run(routine, ThreadRuntime(self.redis))


class Lock(ThreadLockBase):
    """A lock shared by threads, processes and machines.

    It accepts all arguments of redis-py's ``Lock`` and behaves like it. In addition:

    ``timeout`` is the lease. Without it, the lock lasts until it is released: it gets the
    server's default lease, which is renewed while this thread, this process and this object
    exist.

    A waiter joins the wait queue in the server, first come, first served. ``sleep`` is used
    only on a server without the module; ``fair=True`` rejects such a server.

    ``owner`` is the value of the key; by default it is a random name for each call. Pass one
    only if it identifies a single holder (a run of a job): acquiring again then succeeds, with
    the same token.

    ``session=True`` ties the lock to a dedicated connection: when the process ends, for any
    reason, the lock is released, at once or after ``grace`` seconds. A connection that breaks
    is replaced within that time.

    ``renew=True`` renews the lease whenever a third of it has passed, in a separate thread.

    ``priority`` (-100 to 100) and ``share`` (the name of a user or team) order the wait queue.

    ``on_lost`` is called in that thread with a ``Loss``: before the lease expires if renewal
    fails, otherwise as soon as the loss is known. ``lost`` is set first.

    ``on_revoked`` is called in its own thread with a ``Notice`` when an operator has given
    notice (FORCERELEASE AFTER): the hold ends at the deadline. ``revoked`` is set first.
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

    def __enter__(self) -> Lock:
        return self._enter(lambda: self)

    @property
    def token(self) -> int | None:
        """The fencing token. It rises with every grant, so that a store can reject a writer
        that has lost the lock. None: the lock is not held here, or was handed over by setting
        ``local.token``."""
        return self._tokens().get(self.names[0])

    def acquire(
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
        return self._acquire(self._request(sleep, blocking, blocking_timeout, token))

    def locked(self) -> bool:
        """Whether the lock is held, here or elsewhere."""
        return self._run(_get(self.names[0])) is not None

    def owned(self) -> bool:
        """Whether this object holds the lock."""
        hold = self._held()
        value = self._run(_get(self.names[0]))
        return (
            hold is not None and value is not None and _commands.as_bytes(value) == hold.owner
        )

    def extend(self, additional_time: Number, replace_ttl: bool = False) -> Literal[True]:
        """Adds time to the lease, or replaces it with ``replace_ttl``."""
        hold = self._require_hold_with_timeout("extend")
        routine = self._extending(hold, additional_time, replace_ttl)
        return self._extended(hold, routine, "extend")

    def reacquire(self) -> Literal[True]:
        """Sets the lease back to ``timeout``."""
        hold = self._require_hold_with_timeout("reacquire")
        routine = self._reacquiring(hold)
        return self._extended(hold, routine, "reacquire")

    def _extended(self, hold: Hold, routine: Routine[bool], action: str) -> Literal[True]:
        return self._use_extension(hold, self._run(routine), action)


def _get(name: Name) -> Routine[Any]:
    value = yield execute(_commands.GET, name)
    return value
