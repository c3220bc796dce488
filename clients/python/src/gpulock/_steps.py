"""How one piece of logic serves threads and tasks alike: it yields what to do next, and
somebody who can do it, with or without ``await``, sends back what came of it.

What is done lives here by name only: ``_threads`` and ``_tasks`` do it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Callable, Protocol, TypeVar

from ._hold import Loss
from ._words import Word

T = TypeVar("T")


class Doer(Protocol):
    """What steps may ask for. Each answers its result, or an awaitable of it."""

    def ask(self, *words: Word) -> Any:
        """Sends a command through the client, and answers its reply."""

    def ask_anywhere(self, *words: Word) -> Any:
        """The same for a command without a key, which any node of a cluster answers."""

    def ask_own(self, *words: Word) -> Any:
        """The same on the connection that belongs to this lock alone."""

    def ask_once(self, *words: Word) -> Any:
        """The same as ``ask``, but a connection that breaks is an error at once."""

    def ask_briefly(self, *words: Word) -> Any:
        """The same on a connection that is there for this alone, with little patience."""

    def retries(self) -> Any:
        """Whether the client repeats a command whose answer was lost."""

    def close_own(self) -> Any:
        """Closes that connection, if there is one."""

    def pause(self, seconds: float) -> Any:
        """Sleeps."""

    def hear(self, channel: bytes, seconds: float) -> Any:
        """Waits for a message, but not longer than this. The subscription stays until the
        steps are over."""

    def deafen(self) -> Any:
        """Ends the subscription, if there is one."""

    def watch(self, seconds: float) -> Any:
        """Waits, and answers which ``Event`` ended it."""

    def alarm(self, seconds: float, loss: Loss) -> Any:
        """Tells the holder of the loss in so many seconds, whatever hangs meanwhile."""

    def disarm(self) -> Any:
        """Calls the alarm off, and answers whether it has rung."""


Step = Callable[[Doer], Any]
Steps = Generator[Step, Any, T]
Say = Callable[..., Step]
"""Which way a command takes: ``ask`` and its like."""


def ask(*words: Word) -> Step:
    """Sends a command through the client."""
    return lambda doer: doer.ask(*words)


def ask_anywhere(*words: Word) -> Step:
    """Sends a command without a key through the client."""
    return lambda doer: doer.ask_anywhere(*words)


def ask_own(*words: Word) -> Step:
    """Sends a command on the lock's own connection."""
    return lambda doer: doer.ask_own(*words)


def ask_once(*words: Word) -> Step:
    """Sends a command through the client's pool, without the client's retries."""
    return lambda doer: doer.ask_once(*words)


def ask_briefly(*words: Word) -> Step:
    """Sends a command on a connection that is there for this alone, with little patience."""
    return lambda doer: doer.ask_briefly(*words)


def pause(seconds: float) -> Step:
    """Sleeps."""
    return lambda doer: doer.pause(seconds)
