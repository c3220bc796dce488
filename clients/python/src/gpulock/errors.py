"""Errors in addition to redis-py's."""

from __future__ import annotations

from redis.exceptions import LockError, LockNotOwnedError

__all__ = ["DeadlockError", "LockError", "LockNotOwnedError", "ModuleMissingError"]


class ModuleMissingError(LockError):
    """The server has no GPULOCK module, and the requested feature needs it."""


class DeadlockError(LockError):
    """Waiting would have caused a deadlock; the message names the owners in the cycle."""
