"""What an acquire call requests, what is held, and what is lost. Plain data without I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from . import _clock
from ._commands import Name


@dataclass(frozen=True)
class AcquireRequest:
    """One call of acquire, with everything that it depends on."""

    keys: Mapping[bytes, Name]
    """The names of the locks, by the bytes that the server stores: the client may use any
    encoding."""
    owner: bytes
    count: int | None = None
    """Number of locks to acquire, of each group if there are groups; None: the only one, with
    ACQUIRE."""
    groups: int | None = None
    """Number of groups to acquire locks of; None: the locks form no groups."""
    group_sizes: tuple[int, ...] = ()
    unique: bool = True
    """No other holder uses this owner."""
    lease_ms: int | None = None
    """None: the server's default, or no expiry on a server without the module."""
    session: bool = False
    grace_ms: int = 0
    wait_s: float = math.inf
    """0: do not wait."""
    max_block_s: float = 20.0
    """Longest time that one command blocks, so that no timeout closes the connection."""
    poll_interval_s: float = 0.1
    """Time between two attempts on a server without a wait queue."""
    fair: bool = False
    priority: int = 0
    """Moves the call ahead in the queue, or back if negative."""
    share: bytes | None = None
    """The user or team whose calls take turns with those of others."""
    near: bytes | None = None
    """Prefers locks whose last hold had the same tag."""
    current_hold: Hold | None = None
    """The hold that this owner already has. A call that is interrupted does not release it."""

    @property
    def names(self) -> tuple[Name, ...]:
        """The names of the locks, in the order of preference."""
        return tuple(self.keys.values())


@dataclass
class Hold:
    """Locks that were granted to one owner by one call, until they are released."""

    owner: bytes
    tokens: dict[Name, int | None]
    """The fencing token of each lock; None: unknown."""
    by_module: bool = True
    """False: acquired with native commands, on a server without the module."""
    expires_at: float = math.inf
    """The earliest time at which the lease expires, on ``_clock``."""
    release_uncertain: bool = False
    """A release was sent, and its reply was lost."""
    released: set[Name] = field(default_factory=set)
    can_inspect: bool = True
    """False: the user may not run INSPECT, or only the owner is known."""
    notice: Notice | None = None
    """The notice with the earliest deadline."""
    notice_ends: dict[Name, float] = field(default_factory=dict)
    """When the locks end that were given notice, on ``_clock``."""

    def matches(self, name: Name, token: int | None) -> bool:
        """Whether a grant belongs to this hold, as far as can be known."""
        return name in self.names and self.tokens[name] in (token, None)

    @property
    def names(self) -> tuple[Name, ...]:
        """The locks that have not been released yet."""
        return tuple(name for name in self.tokens if name not in self.released)

    def remaining_ms(self) -> float:
        """The rest of the lease, as far as this machine knows."""
        return (self.expires_at - _clock.now()) * 1000


@dataclass(frozen=True)
class Loss:
    """Why a holder has to stop: the argument of ``on_lost``."""

    name: Name
    owner: bytes
    token: int | None
    reason: str


@dataclass(frozen=True)
class Notice:
    """The holder was given notice (FORCERELEASE AFTER): the argument of ``on_revoked``."""

    name: Name
    owner: bytes
    token: int | None
    reason: str
    deadline: float
    """When the hold ends at the latest, in Unix seconds."""
