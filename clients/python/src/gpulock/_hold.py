"""What is wished for, and what is held. Plain data: nothing here talks to a server."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from ._words import Name


@dataclass(frozen=True)
class Wish:
    """One call of acquire, with all that it depends on."""

    names: tuple[Name, ...]
    owner: bytes
    count: int | None = None
    """How many of the names; None: the only one, asked for by ACQUIRE."""
    unique: bool = True
    """Nobody else uses this owner."""
    lease_ms: int | None = None
    """None: the server's own default, or no end where it has no module."""
    session: bool = False
    grace_ms: int = 0
    wait_s: float = math.inf
    """0: no wait at all."""
    slice_s: float = 20.0
    """How long one call may wait in the line, so that nothing on the way cuts it."""
    poll_s: float = 0.1
    """How often to look where the server has no line."""
    fair: bool = False
    mine: Hold | None = None
    """What is held under this owner already: a call that is cut off gives none of it back."""


@dataclass
class Hold:
    """Locks that were granted together to one owner. It outlives no release."""

    owner: bytes
    tokens: dict[Name, int | None]
    """The fencing token of each lock; None: nobody told it."""
    by_module: bool = True
    """Whether the server has a line, sessions and tokens."""
    ends_at: float = math.inf
    """When the lease is over at the earliest, on this machine's monotonic clock."""
    doubtful: bool = False
    """A release was sent, and its answer was lost."""
    released: set[Name] = field(default_factory=set)

    def has(self, name: Name, token: int | None) -> bool:
        """Whether a grant is of this very hold, as far as anybody can tell."""
        return name in self.names and self.tokens[name] in (token, None)

    @property
    def names(self) -> tuple[Name, ...]:
        """The locks that have not been given back yet."""
        return tuple(name for name in self.tokens if name not in self.released)

    def left_ms(self) -> float:
        """What is left of the lease, as far as this machine knows."""
        return (self.ends_at - time.monotonic()) * 1000


@dataclass(frozen=True)
class Loss:
    """Why a holder has to stop: handed to ``on_lost``."""

    name: Name
    owner: bytes
    token: int | None
    reason: str
