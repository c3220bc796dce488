"""What the server reports about the locks of a hold. Reads only."""

from __future__ import annotations

import math
from dataclasses import dataclass

from redis.exceptions import NoPermissionError, ResponseError

from . import _commands
from ._commands import Name
from ._operations import Execute, Routine
from ._server import is_unknown_command
from ._types import Hold


@dataclass(frozen=True)
class LockState:
    """One lock of a hold, as the server reports it."""

    is_held: bool
    """Whether it belongs to the hold. A replica may report an older state."""
    lease_s: float = math.inf
    """The rest of the lease."""
    token: int | None = None
    is_adopted: bool = False
    """The server lost its memory of the grant (a restart, a role change), and found the key."""
    is_tied: bool = True
    """False: to no connection. True if unknown."""
    revoked_s: float | None = None
    """The rest of the time after a notice; None: no notice was given."""
    revoked_reason: str = ""


def inspect(hold: Hold, name: Name, execute: Execute) -> Routine[LockState]:
    """Reads the state of one lock: with INSPECT, or with native commands on a server without
    the module, and for a user who may not run INSPECT."""
    if hold.by_module and hold.can_inspect:
        try:
            return _parse(hold, name, (yield execute("GPULOCK.INSPECT", name)))
        except ResponseError as error:
            # Repeated attempts would fill the server's ACL LOG.
            hold.can_inspect = not isinstance(error, NoPermissionError)
            if hold.can_inspect and not is_unknown_command(error):
                raise
    value = yield execute(_commands.GET, name)
    if value is None or _commands.as_bytes(value) != hold.owner:
        return LockState(is_held=False)
    left_ms = yield execute("PTTL", name)
    return LockState(is_held=left_ms != -2, lease_s=_lease_s(left_ms))


def _parse(hold: Hold, name: Name, reply: object) -> LockState:
    if reply is None:
        return LockState(is_held=False)
    lock = _commands.parse_map(reply)
    owner, token, revoked_ms = lock["owner"], lock["token"], lock.get("revoked_ms")
    has_owner = owner is not None and _commands.as_bytes(owner) == hold.owner
    is_adopted = bool(lock["adopted"])
    # An adopted lock has no token, or a new one assigned after the adoption.
    has_token = is_adopted or hold.tokens[name] in (token, None)
    return LockState(
        is_held=has_owner and has_token,
        lease_s=math.inf if lock["lease_ms"] is None else _lease_s(lock["lease_ms"]),
        token=token,
        is_adopted=is_adopted,
        is_tied=lock["session"] is not None,
        revoked_s=None if revoked_ms is None else revoked_ms / 1000,
        revoked_reason=_commands.as_text(lock.get("revoked_reason") or b""),
    )


def _lease_s(left_ms: int) -> float:
    return math.inf if left_ms == -1 else max(left_ms, 0) / 1000
