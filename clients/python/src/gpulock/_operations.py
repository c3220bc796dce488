"""Lets threads and asyncio tasks share the same logic.

A routine is a generator that yields operations. A runtime, ``_thread_runtime`` or
``_asyncio_runtime``, performs each operation, with or without ``await``, and sends the result
back into the routine.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Callable, Protocol, TypeVar

from ._commands import Argument, Name
from ._types import Loss, Notice

T = TypeVar("T")


class Runtime(Protocol):
    """The operations. Each returns its result, or an awaitable of it."""

    def execute(self, *command: Argument) -> Any:
        """Sends a command through the client, and returns the reply."""

    def execute_keyless(self, *command: Argument) -> Any:
        """Like ``execute``, for a command without a key, which any cluster node can answer."""

    def execute_dedicated(self, *command: Argument, timeout_s: float | None = None) -> Any:
        """Like ``execute``, on the dedicated connection of this lock. ``timeout_s`` replaces
        the client's timeout."""

    def execute_once(self, *command: Argument) -> Any:
        """Like ``execute``, but without the client's retries."""

    def execute_with_short_timeout(self, *command: Argument) -> Any:
        """Like ``execute``, on a new connection with a short timeout."""

    def client_retries(self) -> Any:
        """Whether the client repeats a command whose reply was lost."""

    def close_dedicated(self) -> Any:
        """Closes the dedicated connection and its replacement, if there are any."""

    def execute_on_replacement(self, *command: Argument, timeout_s: float | None = None) -> Any:
        """Like ``execute_dedicated``, on a second connection, which may replace the dedicated
        one."""

    def use_replacement(self) -> Any:
        """Closes the dedicated connection, and puts the second one in its place."""

    def close_replacement(self) -> Any:
        """Closes the second connection, if there is one."""

    def sleep(self, seconds: float) -> Any:
        """Sleeps."""

    def wait_for_message(self, channel: Name, seconds: float) -> Any:
        """Waits for a message for at most this time. The subscription lasts until the routine
        ends."""

    def unsubscribe(self) -> Any:
        """Ends the subscription, if there is one."""

    def wait_for_wakeup(self, seconds: float, watch_connection: bool) -> Any:
        """Waits for at most this time, and returns the ``Wakeup``. ``watch_connection``: the
        closing of the dedicated connection ends the wait."""

    def report_notice(self, notice: Notice) -> Any:
        """Reports a notice to the holder."""

    def start_watchdog(self, at: float, loss: Loss) -> Any:
        """Reports the loss to the holder at this time of ``_clock``, even if an operation
        hangs."""

    def stop_watchdog(self) -> Any:
        """Stops the watchdog, and returns whether it has fired."""


Operation = Callable[[Runtime], Any]
Routine = Generator[Operation, Any, T]
Execute = Callable[..., Operation]
"""``execute`` or one of its variants."""


def execute(*command: Argument) -> Operation:
    """Sends a command through the client."""
    return lambda runtime: runtime.execute(*command)


def execute_keyless(*command: Argument) -> Operation:
    """Sends a command without a key through the client."""
    return lambda runtime: runtime.execute_keyless(*command)


def execute_dedicated(*command: Argument, timeout_s: float | None = None) -> Operation:
    """Sends a command on the dedicated connection of the lock. ``timeout_s`` replaces the
    client's timeout."""
    return lambda runtime: runtime.execute_dedicated(*command, timeout_s=timeout_s)


def execute_on_replacement(*command: Argument, timeout_s: float | None = None) -> Operation:
    """Sends a command on the connection that may replace the dedicated one."""
    return lambda runtime: runtime.execute_on_replacement(*command, timeout_s=timeout_s)


def execute_once(*command: Argument) -> Operation:
    """Sends a command through the client's pool, without the client's retries."""
    return lambda runtime: runtime.execute_once(*command)


def execute_with_short_timeout(*command: Argument) -> Operation:
    """Sends a command on a new connection with a short timeout."""
    return lambda runtime: runtime.execute_with_short_timeout(*command)


def close_dedicated() -> Operation:
    """Closes the dedicated connection of the lock."""
    return lambda runtime: runtime.close_dedicated()


def sleep(seconds: float) -> Operation:
    """Sleeps."""
    return lambda runtime: runtime.sleep(seconds)


def wait_for_message(channel: Name, seconds: float) -> Operation:
    """Waits for a message on the channel for at most this time."""
    return lambda runtime: runtime.wait_for_message(channel, seconds)
