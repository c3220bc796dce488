"""GPU locks provided by the GPULOCK module of a Redis or Valkey server.

``Lock`` and ``asyncio.Lock`` are drop-in replacements for redis-py's locks; ``Pool`` acquires
any ``n`` of several locks; ``locked`` decorates functions. ``gpulock.compat`` has the API of
the lock manager that the module replaces, ``gpulock.celery`` has tasks that hold a lock while
they run.
"""

from . import asyncio
from ._decorator import current_lock, locked
from ._devices import Gpus, gpu_keys
from ._types import Loss, Notice
from ._version import __version__
from .errors import DeadlockError, LockError, LockNotOwnedError, ModuleMissingError
from .lock import Lock, Reservation
from .pool import Pool

__all__ = [
    "DeadlockError",
    "Gpus",
    "Lock",
    "LockError",
    "LockNotOwnedError",
    "Loss",
    "ModuleMissingError",
    "Notice",
    "Pool",
    "Reservation",
    "__version__",
    "asyncio",
    "current_lock",
    "gpu_keys",
    "locked",
]
