"""The task that maintains a hold: the asyncio counterpart of ``_thread_renewer``."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable
from typing import Any, Callable

from ._asyncio_runtime import AsyncioRuntime, run
from ._holds import Subject
from ._operations import Routine
from ._thread_renewer import (
    STOP_TIMEOUT_S,
    call_and_log_errors,
    log_loss,
    log_notice,
    weak_callback,
)
from ._types import Loss, Notice

logger = logging.getLogger("gpulock")


class Renewer:
    """The task that maintains a hold."""

    def __init__(
        self,
        routine: Routine[Loss | None],
        runtime: AsyncioRuntime,
        events: tuple[asyncio.Event, asyncio.Event],
        on_lost: Callable[[Loss], Any] | None,
        on_revoked: Callable[[Notice], Any] | None,
        *,
        keeps_connection: bool,
        renewal_ended: Loss,
        subject: Subject,
    ) -> None:
        """``events`` are ``lost`` and ``revoked``. ``keeps_connection``: a loss does not close
        the connection, which is the session of locks that the holder still uses.
        ``renewal_ended`` is reported when the task is cancelled, or the holder has ended
        without a release. Callbacks refer to the hold of ``subject``."""
        self._runtime, (self._lost, self._revoked) = runtime, events
        self._on_lost, self._on_revoked = weak_callback(on_lost), weak_callback(on_revoked)
        self._keeps_connection, self._abandoned = keeps_connection, False
        self._renewal_ended, self._end_is_reported = renewal_ended, False
        self._loop = asyncio.get_running_loop()
        self._callbacks: set[asyncio.Task[None]] = set()
        runtime.report_loss, runtime.notice_received = self._start_report, self._report_notice
        with subject.applied():
            # All callbacks and tasks inherit the context.
            self._task = self._loop.create_task(self._maintain(routine))
            self._task.add_done_callback(self._report_cancellation)

    async def stop(self, caller: asyncio.Task[Any] | None) -> None:
        """Stops the renewal, and waits for a renewal in progress. ``caller`` is the task that
        releases the lock."""
        self._runtime.stop()
        # on_lost may release the lock, and runs in a task of the renewer.
        if caller is not self._task:
            # A call that hangs may complete later: its token no longer matches by then.
            await asyncio.wait({self._task}, timeout=STOP_TIMEOUT_S)

    async def close(self) -> None:
        """Closes the session connection."""
        await self._runtime.close_dedicated()

    def abandon(self, is_reported: bool = False) -> None:
        """Stops the renewal because the holder has ended. Can be called from any thread.
        ``is_reported``: others may still use the lock, and have to learn of the loss."""
        self._end_is_reported = is_reported and not self._runtime.is_stopped
        self._abandoned = True
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._runtime.stop)

    def notify_lease_changed(self) -> None:
        """To be called when the holder has replaced the lease."""
        self._runtime.notify_lease_changed()

    async def _maintain(self, routine: Routine[Loss | None]) -> None:
        loss = await run(routine, self._runtime)
        if loss is None and self._end_is_reported:
            loss = self._renewal_ended
        if loss is not None:
            await _complete(self._report_loss(loss), loss)
        if self._abandoned or not self._keeps_connection:
            await self._runtime.close_dedicated()

    def _report_cancellation(self, task: asyncio.Task[None]) -> None:
        """A task that was cancelled before it started has reported no loss."""
        if task.cancelled() and not self._lost.is_set():
            self._start_report(self._renewal_ended)

    def _start_report(self, loss: Loss) -> None:
        """Reports a loss from outside of the task, which may hang."""
        self._complete_in_task(self._report_loss(loss), loss)

    def _report_loss(self, loss: Loss) -> Awaitable[Any] | None:
        """Returns what is left to await."""
        if self._runtime.is_stopped and not self._end_is_reported:
            return None  # The holder has released the lock meanwhile.
        self._lost.set()
        log_loss(loss)
        return _awaitable(call_and_log_errors(self._on_lost(), loss))

    def _report_notice(self, notice: Notice) -> None:
        if self._runtime.is_stopped:
            return
        self._revoked.set()
        log_notice(notice)
        # Renewal goes on while the holder finishes its work.
        result = call_and_log_errors(self._on_revoked(), notice)
        self._complete_in_task(_awaitable(result), notice)

    def _complete_in_task(self, result: Awaitable[Any] | None, argument: Any) -> None:
        if result is not None:
            task = self._loop.create_task(_complete(result, argument))
            self._callbacks.add(task)
            task.add_done_callback(self._callbacks.discard)


def _awaitable(result: Any) -> Awaitable[Any] | None:
    return result if inspect.isawaitable(result) else None


async def _complete(result: Awaitable[Any] | None, argument: Any) -> None:
    try:
        if result is not None:
            await result
    except Exception:
        logger.exception("the callback for %s failed", argument)
