"""What a server can do: found out at the first call, and again when there is reason to.

The knowledge belongs to a client, so that all its locks share it.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from . import _words
from ._steps import Steps, ask_anywhere

logger = logging.getLogger("gpulock")


@dataclass(frozen=True)
class Abilities:
    """Which commands the server knows that a lock can use."""

    module: bool
    delex: bool = False
    delifeq: bool = False


class Server:
    """What is known of the server behind one client."""

    def __init__(self) -> None:
        self._known: Abilities | None = None
        self._announced: bool | None = None

    def abilities(self) -> Steps[Abilities]:
        """Asks when nothing is known. A server without the module is asked each time: one
        that has it may have taken its place, and nobody tells of a reconnect."""
        if self._known is None or not self._known.module:
            self._known = yield from _look()
            self._announce(self._known)
        return self._known

    def forget(self) -> None:
        """The connection broke, or the server does not know a command any more."""
        self._known = None

    def _announce(self, abilities: Abilities) -> None:
        if self._announced == abilities.module:
            return
        if not abilities.module:
            logger.warning(
                "This server has no GPULOCK module: locks are polled for, "
                "without line, session and fencing token."
            )
        elif self._announced is False:
            logger.warning(
                "This server has the GPULOCK module now: locks are waited for in line."
            )
        self._announced = abilities.module


def _look() -> Steps[Abilities]:
    try:
        reply = yield ask_anywhere("COMMAND INFO", _words.ACQUIRE, "DELEX", "DELIFEQ")
    except ResponseError:
        # A user who may not ask. The module's own error will tell.
        return Abilities(module=True)
    known = [bool(entry) for entry in reply]
    return Abilities(*known)


def is_unknown_command(error: ResponseError) -> bool:
    """Whether the server has no such command; the error has no code of its own."""
    return str(error).lower().startswith("unknown command")


def is_cluster(client: Any) -> bool:
    """Whether the client talks to many servers, each with a pool of its own."""
    return not hasattr(client, "connection_pool")


_servers: MutableMapping[Any, Server] = weakref.WeakKeyDictionary()


def behind(client: Any) -> Server:
    """The server of this client."""
    return _servers.setdefault(client, Server())
