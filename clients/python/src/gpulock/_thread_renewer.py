"""The thread that maintains a hold: runs ``_renewal``, and reports a notice and a loss to the
holder."""

from __future__ import annotations

import inspect
import logging
import threading
import time
import weakref
from typing import Any, Callable

from ._holds import Subject
from ._operations import Routine
from ._thread_runtime import ThreadRuntime, run
from ._types import Loss, Notice

logger = logging.getLogger("gpulock")

STOP_TIMEOUT_S = 1.0


def weak_callback(callback: Callable[..., Any] | None) -> Callable[[], Any]:
    """A reference to the callback, weak for a method: its object may own the lock, and the
    renewer must not keep both alive."""
    return weakref.WeakMethod(callback) if inspect.ismethod(callback) else lambda: callback


class Renewer:
    """The thread that maintains a hold."""

    def __init__(
        self,
        routine: Routine[Loss | None],
        runtime: ThreadRuntime,
        events: tuple[threading.Event, threading.Event],
        on_lost: Callable[[Loss], Any] | None,
        on_revoked: Callable[[Notice], Any] | None,
        *,
        keeps_connection: bool,
        renewal_ended: Loss,
        subject: Subject,
    ) -> None:
        """``events`` are ``lost`` and ``revoked``. ``keeps_connection``: a loss does not close
        the connection, which is the session of locks that the holder still uses.
        ``renewal_ended`` is reported when the holder has ended without a release. Callbacks
        refer to the hold of ``subject``."""
        self._runtime, (self._lost, self._revoked) = runtime, events
        self._on_lost, self._on_revoked = weak_callback(on_lost), weak_callback(on_revoked)
        self._keeps_connection, self._abandoned = keeps_connection, False
        self._renewal_ended, self._subject = renewal_ended, subject
        self._end_is_reported = False
        runtime.report_loss, runtime.notice_received = self._report_loss, self._report_notice
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

    def abandon(self, is_reported: bool = False) -> None:
        """Stops the renewal because the holder has ended, without waiting. ``is_reported``:
        others may still use the lock, and have to learn of the loss."""
        self._end_is_reported = is_reported and not self._runtime.is_stopped
        self._abandoned = True
        self._runtime.stop()

    def notify_lease_changed(self) -> None:
        """To be called when the holder has replaced the lease."""
        self._runtime.notify_lease_changed()

    def _maintain(self, routine: Routine[Loss | None]) -> None:
        loss = run(routine, self._runtime)
        if loss is None and self._end_is_reported:
            loss = self._renewal_ended
        if loss is not None:
            self._report_loss(loss)
        if self._abandoned or not self._keeps_connection:
            self._runtime.close_dedicated()

    def _report_loss(self, loss: Loss) -> None:
        if self._runtime.is_stopped and not self._end_is_reported:
            return  # The holder has released the lock meanwhile.
        self._lost.set()
        log_loss(loss)
        self._call(self._on_lost(), loss)

    def _report_notice(self, notice: Notice) -> None:
        if self._runtime.is_stopped:
            return
        self._revoked.set()
        log_notice(notice)
        on_revoked = self._on_revoked()
        if on_revoked is not None:
            # Renewal goes on while the holder finishes its work.
            threading.Thread(
                target=self._call,
                args=(on_revoked, notice),
                name="gpulock-on-revoked",
                daemon=True,
            ).start()

    def _call(self, callback: Callable[[Any], Any] | None, argument: Any) -> None:
        with self._subject.applied():
            call_and_log_errors(callback, argument)


def call_and_log_errors(callback: Callable[[Any], Any] | None, argument: Any) -> Any:
    """Calls a callback of the holder, and returns its result."""
    try:
        return None if callback is None else callback(argument)
    except Exception:
        logger.exception("the callback for %s failed", argument)
        return None


def log_loss(loss: Loss) -> None:
    """Logs a loss in one line."""
    logger.error("lost the lock %s of owner %s: %s", loss.name, loss.owner, loss.reason)


def log_notice(notice: Notice) -> None:
    """Logs a notice in one line."""
    logger.warning(
        "the lock %s of owner %s is revoked, and ends in %.1f s: %s",
        notice.name,
        notice.owner,
        notice.deadline - time.time(),
        notice.reason,
    )
