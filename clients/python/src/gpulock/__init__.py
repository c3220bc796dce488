"""Locks for GPUs, kept by the GPULOCK module of a Redis or Valkey server.

``Lock`` and ``asyncio.Lock`` replace redis-py's locks, import for import; ``Pool`` takes any
so many of some locks. ``gpulock.locks`` has the surface of the system that the module
replaces, ``gpulock.celery`` tasks that hold a lock.
"""

from . import asyncio
from ._devices import Gpus, gpu_keys
from ._hold import Loss
from .errors import DeadlockError, LockError, LockNotOwnedError, ModuleMissingError
from .lock import Lock
from .pool import Pool

__version__ = "0.1.0"
__all__ = [
    "DeadlockError",
    "Gpus",
    "Lock",
    "LockError",
    "LockNotOwnedError",
    "Loss",
    "ModuleMissingError",
    "Pool",
    "asyncio",
    "gpu_keys",
]
