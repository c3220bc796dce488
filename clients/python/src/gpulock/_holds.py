"""The holds of one lock object, by thread, task, process and ``with`` block.

No I/O, and no settings: ``_lock_base`` has those.

A hold is renewed as long as something keeps it: the ``with`` statement, or else the thread or
task that acquired it; also the object, if others can release it. When all of these are gone,
the renewal ends, and the hold is reported as lost.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any, Callable, Generic, TypeVar

from ._types import Hold

RenewerT = TypeVar("RenewerT")
MethodT = TypeVar("MethodT", bound=Callable[..., Any])

_sequence = itertools.count()


class TrackedHold(Generic[RenewerT]):
    """A hold with its renewer, referenced only by what keeps it."""

    def __init__(
        self, hold: Hold, lost: Any, revoked: Any, holds: Holds, caller: Any, by_block: bool
    ) -> None:
        self.hold = hold
        self.lost, self.revoked = lost, revoked
        """The events of this hold only: the lock object may be used for another hold later."""
        self.caller = weakref.ref(caller)
        """The thread or task that acquired it."""
        self.by_block = by_block
        """Acquired by entering a ``with`` block."""
        self.order = next(_sequence)
        self.renewer: RenewerT | None = None
        self._finalizer: Any = None
        self._holds = weakref.ref(holds)

    def subject(self) -> Subject:
        """Makes calls of the lock object in a callback refer to this hold."""
        return Subject(self._holds, self.hold, weakref.ref(self))

    def set_renewer(self, renewer: Any) -> None:
        """Replaces the renewer."""
        previous, self.renewer = self.renewer, renewer
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = weakref.finalize(self, _abandon, renewer, self._holds, os.getpid())
        self._finalizer.atexit = False
        if previous is not None:
            previous.abandon()  # type: ignore[attr-defined]

    def abandon(self) -> None:
        """Stops the renewal, because no thread can be expected to release the lock."""
        self.lost.set()
        if self.renewer is not None:
            self.renewer.abandon()  # type: ignore[attr-defined]


def _abandon(renewer: Any, holds: weakref.ref[Holds], pid: int) -> None:
    """The renewer of a parent process does not run in its child. The end of the lock object
    itself is not reported."""
    if pid == os.getpid():
        renewer.abandon(is_reported=holds() is not None)


class Subject:
    """The hold that a callback is about."""

    def __init__(
        self, holds: weakref.ref[Holds], hold: Hold, tracked: weakref.ref[TrackedHold[Any]]
    ) -> None:
        self._holds, self._hold, self._tracked = holds, hold, tracked

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Runs a callback, or starts its task."""
        token = _subject.set(self)
        try:
            yield
        finally:
            _subject.reset(token)

    def is_of(self, holds: Holds) -> bool:
        """Whether it is a hold of this lock object."""
        return self._holds() is holds

    def current(self) -> tuple[Hold | None, TrackedHold[Any] | None]:
        """The hold, until it is released."""
        return (self._hold, self._tracked()) if self._hold.names else (None, None)


_subject: ContextVar[Subject | None] = ContextVar("gpulock_subject", default=None)


class _Keeper(dict[Any, TrackedHold[Any]]):
    """Keeps holds: by block, and by None the latest one that was acquired without a block."""


class _Thread:
    """Identifies a thread: its number can be that of a later thread."""


class Exit:
    """The exit of one block, which keeps the hold of the block.

    A ``with`` statement looks ``__exit__`` up before it calls ``__enter__``, and calls at its
    end what it found. So does ``ExitStack``. Each lookup therefore returns an exit of its own:
    it belongs to the block that is entered next in the same thread. That block is found again
    in whichever thread or task it is exited.
    """

    def __init__(self, lock: Any, kind: type) -> None:
        self._lock, self._kind = None if lock is None else weakref.ref(lock), kind
        self.keeper = _Keeper()
        self.block: Block | None = None

    def is_of(self, lock: Any) -> bool:
        """Whether it can be the exit of a block of this lock object."""
        return type(lock) is self._kind if self._lock is None else self._lock() is lock


class _LookedUp(threading.local):
    exit: weakref.ref[Exit] | None = None


_looked_up = _LookedUp()
"""The exit that this thread has looked up last, until it is used."""


class _ExitMethod:
    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        functools.update_wrapper(self, function)  # type: ignore[arg-type]

    def __get__(self, lock: Any, kind: type) -> Callable[..., Any]:
        end = Exit(lock, kind)
        _looked_up.exit = weakref.ref(end)
        arguments = () if lock is None else (lock,)
        return functools.partial(self._function, *arguments, end=end)


def exit_method(function: MethodT) -> MethodT:
    """Decorates ``__exit__``: each lookup passes an ``Exit`` of its own as ``end``."""
    return _ExitMethod(function)  # type: ignore[return-value]


def _use_looked_up_exit(lock: Any) -> Exit | None:
    reference, _looked_up.exit = _looked_up.exit, None
    end = None if reference is None else reference()
    return end if end is not None and end.is_of(lock) else None


class Block:
    """A ``with`` block, from its entry to its exit."""

    def __init__(self, lock: Any, holds: Holds, caller: Any) -> None:
        end = _use_looked_up_exit(lock)
        self.caller = weakref.ref(caller)
        self.is_by_hand = end is None
        """``__enter__`` was called by other code than a ``with`` statement or ExitStack. The
        thread or task keeps the hold."""
        self.end = None if end is None else weakref.ref(end)
        self._keeper = weakref.ref(holds.keeper_of(caller) if end is None else end.keeper)
        self._holds = weakref.ref(holds)
        self.hold: Hold | None = None
        self.lost: Any = None
        self.is_inherited = False
        """Entered by the parent process, before a fork."""
        self.is_changing = False
        """It is being entered or exited."""
        self.release_begun = False
        self.acquired_before = False
        """The hold was acquired explicitly, before the block."""
        self._tracked: weakref.ref[TrackedHold[Any]] | None = None

    @property
    def tracked(self) -> TrackedHold[Any] | None:
        """The ``TrackedHold``; None once nothing keeps it."""
        return None if self._tracked is None else self._tracked()

    @property
    def is_held(self) -> bool:
        """Whether the block has a hold of this process that is not released."""
        return self.hold is not None and bool(self.hold.names) and not self.is_inherited

    @property
    def can_be_exited(self) -> bool:
        """False: what would exit it was collected, such as an ExitStack."""
        return self.end is None or self.end() is not None

    def belongs_to(self, holds: Holds) -> bool:
        """Whether it is a block of this lock object."""
        return self._holds() is holds

    def bind(self, tracked: TrackedHold[Any]) -> None:
        """Makes this the hold of the block."""
        self.hold, self.lost = tracked.hold, tracked.lost
        self.acquired_before = not tracked.by_block
        self._tracked = weakref.ref(tracked)
        keeper = self._keeper()
        if keeper is not None:
            keeper[self] = tracked

    def unbind(self) -> None:
        """Ends the reference to the hold."""
        keeper = self._keeper()
        if keeper is not None:
            keeper.pop(self, None)


_operation: ContextVar[Block | None] = ContextVar("gpulock_operation", default=None)
"""The block that the current call enters or exits."""


class Holds:
    """The holds of one lock object."""

    def __init__(self, thread_local: bool) -> None:
        self.mutex = threading.RLock()
        self._thread_local = thread_local
        self.local: Any = _new_local(thread_local)
        self._threads: Any = _new_local(True)
        self.no_task = _Thread()
        self._blocks: list[Block] = []
        self._keepers: weakref.WeakKeyDictionary[Any, _Keeper] = weakref.WeakKeyDictionary()
        self._live: weakref.WeakSet[TrackedHold[Any]] = weakref.WeakSet()
        _all_holds.add(self)

    def current_thread(self) -> Any:
        """Identifies the current thread."""
        if self._threads.thread is None:
            self._threads.thread = _Thread()
        return self._threads.thread

    def keeper_of(self, caller: Any) -> _Keeper:
        """What keeps the holds of a thread or task that have no ``Exit``."""
        with self.mutex:
            keeper = self._keepers.get(caller)
            if keeper is None:
                keeper = self._keepers[caller] = _Keeper()
            return keeper

    @property
    def blocks(self) -> list[Block]:
        """The open blocks, in the order of their entries."""
        with self.mutex:
            self._blocks = [block for block in self._blocks if block.can_be_exited]
            return list(self._blocks)

    @contextmanager
    def operation(self, block: Block) -> Iterator[None]:
        """Makes calls of ``acquire`` and ``release`` apply to this block."""
        token = _operation.set(block)
        block.is_changing = True
        try:
            yield
        finally:
            block.is_changing = False
            _operation.reset(token)

    def current_operation(self) -> Block | None:
        """The block that the current call enters or exits."""
        block = _operation.get()
        if block is None or not block.belongs_to(self):
            return None
        # A signal may have interrupted the reset of the variable.
        return block if block.is_changing else None

    def subject(self) -> Subject | None:
        """The hold of this lock object that the current callback is about."""
        subject = _subject.get()
        return subject if subject is not None and subject.is_of(self) else None

    def block_of(self, caller: Any) -> Block | None:
        """The innermost open block of this thread or task."""
        own = [block for block in self.blocks if block.caller() is caller]
        return own[-1] if own else None

    def latest_of(self, caller: Any) -> TrackedHold[Any] | None:
        """What this thread or task has acquired last and still holds, by a block or without."""
        with self.mutex:
            keeper = self._keepers.get(caller)
            kept = [] if keeper is None else list(keeper.values())
        own = [block for block in self.blocks if block.caller() is caller]
        kept += [block.tracked for block in own if block.tracked and not block.is_inherited]
        held = [tracked for tracked in kept if tracked.hold.names]
        return max(held, key=lambda tracked: tracked.order, default=None)

    def store(self, tracked: TrackedHold[Any], caller: Any) -> None:
        """Makes this the hold of the current thread or task, and of the block that is being
        entered. A block whose own hold has ended continues with it."""
        with self.mutex:
            self.local.lost, self.local.revoked = tracked.lost, tracked.revoked
            self.local.hold, self.local.latest = tracked.hold, weakref.ref(tracked)
            self.local.token = tracked.hold.owner
            self._live.add(tracked)
            block = self.current_operation()
            if block is None:
                own = self.block_of(caller)
                has_ended = own is not None and (not own.is_held or own.lost.is_set())
                if own is not None and has_ended and not own.is_inherited:
                    block, tracked.by_block = own, True
            if block is not None:
                block.bind(tracked)
            else:
                self.keeper_of(caller)[None] = tracked
            if block is None or block.is_by_hand:
                # Another thread or task may release the latest hold of a shared object.
                self.local.tracked = tracked
            for task in list(self._keepers):
                # It may be referenced for longer than it runs.
                if hasattr(task, "done") and task.done():
                    del self._keepers[task]

    def discard(self, hold: Hold, owner: bytes | None) -> None:
        """Called after a release; ``owner`` is the current ``local.token``. Keeps the hold of
        another thread or task that was granted the lock meanwhile."""
        with self.mutex:
            for keeper in list(self._keepers.values()):
                if None in keeper and keeper[None].hold is hold:
                    del keeper[None]
            if self.local.tracked is not None and self.local.tracked.hold is hold:
                self.local.tracked = None
            latest: Hold | None = self.local.hold
            if latest is not None and latest.owner == owner:
                is_current = latest is hold
            else:
                is_current = owner == hold.owner
            if is_current:
                self.local.token = self.local.hold = self.local.latest = None

    def open(self, block: Block) -> None:
        """Adds a block that was entered."""
        with self.mutex:
            end = None if block.end is None else block.end()
            if end is not None:
                end.block = block
            self._blocks.append(block)

    def close(self, block: Block | None) -> None:
        """Removes a block that is exited."""
        if block is None:
            return
        block.is_changing = False
        with self.mutex:
            if block in self._blocks:
                self._blocks.remove(block)
            block.unbind()

    def is_nested(self, block: Block) -> bool:
        """Whether the hold was acquired outside of this block, or is used by another one: the
        exit does not release it."""
        others = [other for other in self.blocks if other is not block]
        is_shared = any(other.hold is block.hold for other in others)
        return block.hold is not None and (block.acquired_before or is_shared)

    def exited(self, end: Exit | None, caller: Any) -> list[Block]:
        """The block that is exited; several if that is ambiguous.

        Without an ``Exit`` of its own, it is the last block that this thread or task has
        entered by hand, or else the only one. Threads that share their holds may exit blocks of
        each other, so that there must be only one.
        """
        _looked_up.exit = None
        if end is not None and end.block is not None:
            return [end.block]
        blocks = self.blocks
        by_hand = [block for block in blocks if block.is_by_hand]
        own = [block for block in by_hand if block.caller() is caller]
        if own and (self._thread_local or own == by_hand):
            return own[-1:]
        return by_hand or [block for block in blocks if block.caller() is caller][-1:]

    def abandon_only(self) -> bool:
        """Stops the renewal of the only hold, unless it is one of a ``with`` statement, and
        returns whether there was one. The current thread, which neither holds nor has acquired
        the lock, has called release."""
        with self.mutex:
            live = [tracked for tracked in self._live if tracked.hold.names]
        in_blocks = [block.tracked for block in self.blocks if not block.is_by_hand]
        if len(live) != 1 or live[0] in in_blocks:
            return False
        live[0].abandon()
        return True

    def leave_to_parent(self) -> None:
        """Called in a child process after a fork: the parent still holds its locks."""
        # Another thread of the parent may have been using it.
        self.mutex = threading.RLock()
        for block in self._blocks:
            block.is_inherited = True
        for event in {tracked.lost for tracked in list(self._live)}:
            _set_after_fork(event)
        self.local.token = self.local.hold = self.local.latest = self.local.tracked = None
        self._keepers = weakref.WeakKeyDictionary()
        self._live = weakref.WeakSet()


def _set_after_fork(event: Any) -> None:
    """Another thread of the parent may have been using the event."""
    if hasattr(event, "_at_fork_reinit"):
        event._at_fork_reinit()
    with suppress(RuntimeError):  # The event loop of waiting tasks is closed.
        event.set()


def _new_local(thread_local: bool) -> Any:
    """Looked up for each lock, as in redis-py: gevent may replace it after the import."""
    return _per_thread(threading.local)() if thread_local else SimpleNamespace(**_NOTHING)


_NOTHING = {
    "token": None,
    "given_up_owner": None,
    "hold": None,  # The latest hold,
    "latest": None,  # its TrackedHold, by a weak reference,
    "tracked": None,  # and the latest one that has no Exit.
    "lost": None,
    "revoked": None,
    "has_acquired": False,
    "thread": None,
}


@functools.lru_cache
def _per_thread(base: type) -> type:
    return type("PerThread", (base,), dict(_NOTHING))


_all_holds: weakref.WeakSet[Holds] = weakref.WeakSet()


def _leave_all_to_parent() -> None:
    for holds in list(_all_holds):
        holds.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all_to_parent)
