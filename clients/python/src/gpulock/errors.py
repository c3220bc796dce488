"""What can go wrong with a lock beside redis-py's own errors. No logic lives here."""

from __future__ import annotations

from redis.exceptions import LockError, LockNotOwnedError

__all__ = ["DeadlockError", "LockError", "LockNotOwnedError", "ModuleMissingError"]


class ModuleMissingError(LockError):
    """The server has no GPULOCK module, and what was asked for cannot be had without it."""


class DeadlockError(LockError):
    """The wait would have closed a circle; the message names its owners."""
