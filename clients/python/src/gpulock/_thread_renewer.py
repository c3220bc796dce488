"""The thread that maintains a hold: runs ``_renewal`` and reports a loss to the holder."""

from __future__ import annotations

import inspect
import logging
import threading
import weakref
from typing import Any, Callable

from ._operations import Routine
from ._thread_runtime import ThreadRuntime, run
from ._types import Loss

logger = logging.getLogger("gpulock")

STOP_TIMEOUT_S = 1.0


def weak_callback(on_lost: Callable[[Loss], Any] | None) -> Callable[[], Any]:
    """A reference to ``on_lost``, weak for a method: its object may own the lock, and the
    renewer must not keep both alive."""
    return weakref.WeakMethod(on_lost) if inspect.ismethod(on_lost) else lambda: on_lost


class Renewer:
    """The thread that maintains a hold."""

    def __init__(
        self,
        routine: Routine[Loss | None],
        runtime: ThreadRuntime,
        lost: threading.Event,
        on_lost: Callable[[Loss], Any] | None,
    ) -> None:
        self._runtime, self._lost, self._on_lost = runtime, lost, weak_callback(on_lost)
        self._abandoned = False
        runtime.report_loss = self._report_loss
        self._thread = threading.Thread(
            target=self._maintain, args=(routine,), name="gpulock-renewer", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stops the renewal, and waits for a renewal in progress."""
        self._runtime.stop()
        # on_lost may release the lock, and runs in the renewer's own thread.
        if self._thread is not threading.current_thread():
            # A call that hangs may complete later: its token no longer matches by then.
            self._thread.join(STOP_TIMEOUT_S)

    def close(self) -> None:
        """Closes the session connection."""
        self._runtime.close_dedicated()

    def abandon(self) -> None:
        """Stops the renewal because the holder has ended, without waiting."""
        self._abandoned = True
        self._runtime.stop()

    def notify_lease_changed(self) -> None:
        """To be called when the holder has replaced the lease."""
        self._runtime.notify_lease_changed()

    def _maintain(self, routine: Routine[Loss | None]) -> None:
        loss = run(routine, self._runtime)
        if self._abandoned:
            self._runtime.close_dedicated()
        if loss is not None:
            self._report_loss(loss)

    def _report_loss(self, loss: Loss) -> None:
        if self._runtime.is_stopped:
            return  # The holder has released the lock meanwhile.
        self._lost.set()
        logger.error(
            "gpulock: lost the lock %s of owner %s: %s", loss.name, loss.owner, loss.reason
        )
        on_lost = self._on_lost()
        if on_lost is not None:
            on_lost(loss)
