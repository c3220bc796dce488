"""Whose hold is it: the holds of one lock object, by thread, task, process and ``with`` block.

No I/O, and no settings: ``_lock_base`` has those.
"""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import FrameType, SimpleNamespace
from typing import Any, Generic, TypeVar

from ._types import Hold

RenewerT = TypeVar("RenewerT")


class TrackedHold(Generic[RenewerT]):
    """A hold with its renewer. Only the holder references it: when the holder's thread or lock
    object ends, this object is collected, which stops the renewer."""

    def __init__(
        self, hold: Hold, lost: Any, revoked: Any, caller: Any, by_block: bool
    ) -> None:
        self.hold = hold
        self.lost, self.revoked = lost, revoked
        """The events of this hold only: the lock object may be used for another hold later."""
        self.caller = caller
        """The thread or task that acquired it."""
        self.by_block = by_block
        """Acquired by entering a ``with`` block."""
        self.renewer: RenewerT | None = None

    def set_renewer(self, renewer: Any) -> None:
        """Replaces the renewer."""
        previous, self.renewer = self.renewer, renewer
        weakref.finalize(self, _abandon_in_process, renewer, os.getpid())
        if previous is not None:
            previous.abandon()  # type: ignore[attr-defined]

    def abandon(self) -> None:
        """Stops the renewal, because no thread can be expected to release the lock."""
        self.lost.set()
        if self.renewer is not None:
            self.renewer.abandon()  # type: ignore[attr-defined]


def _abandon_in_process(renewer: Any, pid: int) -> None:
    """The renewer of a parent process does not run in its child."""
    if pid == os.getpid():
        renewer.abandon()


class _KeptHolds(set[TrackedHold[Any]]):
    """The holds of the open blocks of one thread, which end with the thread."""


class Block:
    """A ``with`` block, from its entry to its exit."""

    def __init__(self, caller: Any, frame: FrameType | None) -> None:
        self.caller, self.frame = caller, frame
        self.hold: Hold | None = None
        self.lost: Any = None
        self.is_inherited = False
        """Entered by the parent process, before a fork."""
        self.is_changing = False
        """It is being entered or exited."""
        self.acquired_before = False
        """The hold was acquired explicitly, before the block."""
        self._tracked: Any = None
        self._kept: Any = None

    @property
    def tracked(self) -> Any:
        """The ``TrackedHold``; None once the thread that entered the block has ended."""
        return None if self._tracked is None else self._tracked()

    @property
    def is_held(self) -> bool:
        """Whether the block has a hold of this process that is not released."""
        return self.hold is not None and bool(self.hold.names) and not self.is_inherited

    def bind(self, tracked: TrackedHold[Any], kept: _KeptHolds) -> None:
        """Makes this the hold of the block."""
        self.unbind()
        self.hold, self.lost = tracked.hold, tracked.lost
        self.acquired_before = not tracked.by_block
        self._tracked, self._kept = weakref.ref(tracked), weakref.ref(kept)
        kept.add(tracked)

    def unbind(self) -> None:
        """Ends the reference to the hold."""
        kept, tracked = self._kept and self._kept(), self.tracked
        if kept is not None and tracked is not None:
            kept.discard(tracked)


_operation: ContextVar[tuple[Holds, Block] | None] = ContextVar(
    "gpulock_operation", default=None
)
"""The block that the current call enters or exits."""


class Holds:
    """The holds of one lock object."""

    def __init__(self, thread_local: bool) -> None:
        self.mutex = threading.RLock()
        self.local: Any = _new_local(thread_local)
        self.blocks: list[Block] = []
        self._live: weakref.WeakSet[TrackedHold[Any]] = weakref.WeakSet()
        _all_holds.add(self)

    @contextmanager
    def operation(self, block: Block) -> Iterator[None]:
        """Makes calls of ``acquire`` and ``release`` apply to this block."""
        token = _operation.set((self, block))
        block.is_changing = True
        try:
            yield
        finally:
            block.is_changing = False
            _operation.reset(token)

    def current_operation(self) -> Block | None:
        """The block that the current call enters or exits."""
        operation = _operation.get()
        if operation is None or operation[0] is not self:
            return None
        # A signal may have interrupted the reset of the variable.
        return operation[1] if operation[1].is_changing else None

    def block_of(self, caller: Any) -> Block | None:
        """The innermost open block of this thread or task."""
        with self.mutex:
            own = [block for block in self.blocks if block.caller == caller]
        return own[-1] if own else None

    def store(self, tracked: TrackedHold[Any]) -> None:
        """Makes this the hold of the current thread, and of the block that is being entered.
        A block whose own hold has ended continues with it."""
        with self.mutex:
            self.local.lost, self.local.revoked = tracked.lost, tracked.revoked
            self.local.tracked = tracked
            self.local.token = tracked.hold.owner
            self._live.add(tracked)
            block = self.current_operation()
            if block is None:
                own = self.block_of(tracked.caller)
                if own is not None and (not own.is_held or own.lost.is_set()):
                    block, tracked.by_block = own, True
            if block is not None:
                if self.local.kept is None:
                    self.local.kept = _KeptHolds()
                block.bind(tracked, self.local.kept)

    def discard(self, hold: Hold, owner: bytes | None) -> None:
        """Called after a release; ``owner`` is the current ``local.token``. Keeps the hold of
        another thread or task that was granted the lock meanwhile."""
        with self.mutex:
            tracked = self.local.tracked
            if tracked is not None and tracked.hold.owner == owner:
                is_current = tracked.hold is hold
            else:
                is_current = owner == hold.owner
            if is_current:
                self.local.token = self.local.tracked = None

    def open(self, block: Block) -> None:
        """Adds a block that was entered."""
        with self.mutex:
            self.blocks.append(block)

    def close(self, block: Block | None) -> None:
        """Removes a block that is exited."""
        if block is None:
            return
        block.is_changing = False
        with self.mutex:
            is_nested = self.is_nested(block)
            if block in self.blocks:
                self.blocks.remove(block)
            if not is_nested:
                block.unbind()

    def is_nested(self, block: Block) -> bool:
        """Whether the hold was acquired outside of this block, or is used by another one: the
        exit does not release it."""
        with self.mutex:
            others = [other for other in self.blocks if other is not block]
        is_shared = any(other.hold is block.hold for other in others)
        return block.hold is not None and (block.acquired_before or is_shared)

    def exited(self, frame: FrameType | None, caller: Any) -> list[Block]:
        """The block that is exited; several if that is ambiguous.

        A ``with`` statement enters and exits in the same frame, even when a generator is
        continued by another thread. A call from elsewhere exits the last block of its thread or
        task, or else the only one.
        """
        with self.mutex:
            in_frame = [block for block in self.blocks if frame and block.frame is frame]
            own = in_frame or [block for block in self.blocks if block.caller == caller]
            return own[-1:] or list(self.blocks)

    def abandon_only(self) -> bool:
        """Stops the renewal of the only hold, and returns whether there was exactly one. The
        current thread, which neither holds nor has acquired the lock, has called release."""
        with self.mutex:
            live = [tracked for tracked in self._live if tracked.hold.names]
        if len(live) == 1:
            live[0].abandon()
        return len(live) == 1

    def leave_to_parent(self) -> None:
        """Called in a child process after a fork: the parent still holds its locks."""
        # Another thread of the parent may have been using it.
        self.mutex = threading.RLock()
        tracked = self.local.tracked
        for block in self.blocks:
            block.is_inherited = True
        for event in {block.lost for block in self.blocks} | {tracked and tracked.lost}:
            if event is not None:
                _set_after_fork(event)
        self.local.token = self.local.tracked = self.local.kept = None
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
    "tracked": None,
    "lost": None,
    "revoked": None,
    "kept": None,
    "has_acquired": False,
}


@functools.lru_cache
def _per_thread(base: type) -> type:
    return type("PerThread", (base,), dict(_NOTHING))


def caller_frame(frame: FrameType) -> FrameType | None:
    """The frame of a ``with`` statement. ``ExitStack`` has none."""
    return None if frame.f_globals.get("__name__") == "contextlib" else frame


_all_holds: weakref.WeakSet[Holds] = weakref.WeakSet()


def _leave_all_to_parent() -> None:
    for holds in list(_all_holds):
        holds.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all_to_parent)
