"""The task that maintains a hold: the asyncio counterpart of ``_thread_renewer``."""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import Any, Callable

from ._asyncio_runtime import AsyncioRuntime, run
from ._operations import Routine
from ._thread_renewer import STOP_TIMEOUT_S, weak_callback
from ._types import Loss

logger = logging.getLogger("gpulock")


class Renewer:
    """The task that maintains a hold."""

    def __init__(
        self,
        routine: Routine[Loss | None],
        runtime: AsyncioRuntime,
        lost: asyncio.Event,
        on_lost: Callable[[Loss], Any] | None,
        renewal_ended: Loss,
    ) -> None:
        self._renewal_ended = renewal_ended
        self._runtime, self._lost, self._on_lost = runtime, lost, weak_callback(on_lost)
        self._loop = asyncio.get_running_loop()
        self._abandoned = False
        self._reporting: asyncio.Task[None] | None = None
        runtime.report_loss = self._start_report
        self._task = self._loop.create_task(self._maintain(routine))
        self._task.add_done_callback(self._report_cancellation)

    async def stop(self, caller: asyncio.Task[Any] | None) -> None:
        """Stops the renewal, and waits for a renewal in progress. ``caller`` is the task that
        releases the lock."""
        self._runtime.stop()
        # on_lost may release the lock, and runs in a task of the renewer.
        if caller not in (self._task, self._reporting):
            # A call that hangs may complete later: its token no longer matches by then.
            await asyncio.wait({self._task}, timeout=STOP_TIMEOUT_S)

    async def close(self) -> None:
        """Closes the session connection."""
        await self._runtime.close_dedicated()

    def abandon(self) -> None:
        """Stops the renewal because the holder has ended. Can be called from any thread."""
        self._abandoned = True
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._runtime.stop)

    def notify_lease_changed(self) -> None:
        """To be called when the holder has replaced the lease."""
        self._runtime.notify_lease_changed()

    async def _maintain(self, routine: Routine[Loss | None]) -> None:
        loss = await run(routine, self._runtime)
        if self._abandoned:
            await self._runtime.close_dedicated()
        if loss is not None:
            await self._report_loss(loss)

    def _report_cancellation(self, task: asyncio.Task[None]) -> None:
        """A task that was cancelled before it started has reported no loss."""
        if task.cancelled() and not self._lost.is_set():
            self._start_report(self._renewal_ended)

    def _start_report(self, loss: Loss) -> None:
        self._reporting = self._loop.create_task(self._report_loss(loss))

    async def _report_loss(self, loss: Loss) -> None:
        if self._runtime.is_stopped:
            return  # The holder has released the lock meanwhile.
        self._lost.set()
        logger.error(
            "gpulock: lost the lock %s of owner %s: %s", loss.name, loss.owner, loss.reason
        )
        on_lost = self._on_lost()
        if on_lost is not None:
            result = on_lost(loss)
            if inspect.isawaitable(result):
                await result
