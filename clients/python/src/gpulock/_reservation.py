"""What the reservations for threads and for asyncio share: their locks, and the variables that
describe them. ``gpulock reserve`` sets and ``gpulock release`` reads the same ones. No I/O.
"""

from __future__ import annotations

import getpass
import os
import secrets
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import _commands, _ownership, _server
from ._commands import Name
from ._devices import Device, distinct_devices, visible_devices
from ._operations import Routine
from ._types import Hold

if TYPE_CHECKING:
    from typing_extensions import Self

OWNER, KEYS, TOKENS = "GPULOCK_OWNER", "GPULOCK_KEYS", "GPULOCK_TOKENS"
UNTIL, RESERVED = "GPULOCK_RESERVED_UNTIL", "GPULOCK_RESERVED"
OF_OUTER_RUN = ("GPULOCK_LOST", "GPULOCK_OUTER")


class ReservationBase:
    """Locks that are held for a fixed time, and by no process."""

    def __init__(
        self,
        redis: Any,
        owner: str,
        tokens: Mapping[Any, int | None],
        until: float | None = None,
        *,
        devices: tuple[Device | None, ...] = (),
    ) -> None:
        self.redis = redis
        self.owner = owner
        """The value of the keys. It is unique to the reservation."""
        self.tokens = {_commands.as_name(name): token for name, token in tokens.items()}
        """The fencing token of each lock, by name; None without the module."""
        self.until = until
        """When the reservation ends, in Unix seconds; None: unknown."""
        self._devices = devices
        # Without tokens, because a restart of the server changes them.
        self._hold = Hold(owner.encode(), dict.fromkeys(self.tokens))
        self._server = _server.server_of(redis)

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices of a pool's locks. Raises ValueError if a lock has none, or two locks
        have the same one."""
        return distinct_devices(self.tokens, self._devices)

    @classmethod
    def from_environment(cls, redis: Any, environment: Mapping[str, str] | None = None) -> Self:
        """The reservation that the variables of this process describe. ``gpulock reserve`` and
        ``environment`` set them."""
        variables = os.environ if environment is None else environment
        if RESERVED not in variables:
            raise ValueError("this environment has no reservation")
        names = map(_name_of_variable, variables[KEYS].split(","))
        tokens = [int(token) if token else None for token in variables[TOKENS].split(",")]
        until = float(variables[UNTIL]) if UNTIL in variables else None
        return cls(redis, variables[OWNER], dict(zip(names, tokens)), until)

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment for a process that uses the reserved locks. ``gpulock run`` executes
        its command under them, and ``gpulock release`` releases them."""
        tokens = ["" if token is None else str(token) for token in self.tokens.values()]
        variables = {
            OWNER: self.owner,
            KEYS: ",".join(map(os.fsdecode, self.tokens)),
            TOKENS: ",".join(tokens),
        }
        if self._devices:
            variables.update(visible_devices(self.devices))
        if self.until is not None:
            variables[UNTIL] = str(int(self.until))
        variables[RESERVED] = " ".join([*variables, RESERVED])
        inherited = dict(os.environ if base is None else base)
        for name in OF_OUTER_RUN:
            inherited.pop(name, None)
        return {**inherited, **variables}

    def _releasing(self, reason: str) -> Routine[None]:
        hold = self._hold
        if not hold.names or not (yield from _ownership.release(hold, self._server, reason)):
            raise _ownership.not_owned(
                next(iter(hold.tokens)), "The reservation is no longer held"
            )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.owner} of {', '.join(map(repr, self.tokens))}>"


def new_owner() -> str:
    """An owner as ``gpulock reserve`` makes it."""
    try:
        user = getpass.getuser()
    except (ImportError, KeyError, OSError):  # A user without a name.
        user = str(os.getuid())
    return f"reserved:{user}@{socket.gethostname()}-{secrets.token_hex(8)}"


def end_of(hold: Hold, requested_s: float) -> float:
    """When a new hold ends, in Unix seconds. The server may have shortened the lease."""
    return time.time() + min(hold.remaining_ms() / 1000, requested_s)


def _name_of_variable(text: str) -> Name:
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text)
    return text
