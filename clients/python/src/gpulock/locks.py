"""The replaced system's module, import for import: the decorator ``gpu_lock``, the manager
behind it and the functions that tell how locks are.

``configure`` says where the server is and what to do around a task; without it the
environment does, as it did: REDIS_HOST, REDIS_PORT, REDIS_PASSWORD, REDIS_LOCK_DB.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import time
from collections.abc import Mapping
from typing import Any, Callable, TypeVar

import redis as redis_py
from redis.exceptions import LockError, RedisError

from . import _words
from ._manager import SmartGpuLockManager, lock_value
from .lock import Lock

__all__ = [
    "GpuLockTimeoutError",
    "SmartGpuLockManager",
    "configure",
    "get_gpu_lock_health_summary",
    "get_gpu_lock_status",
    "gpu_lock",
    "lock_manager",
    "release_gpu_lock",
]

logger = logging.getLogger("gpulock.locks")
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

DEFAULTS: Mapping[str, Any] = {
    "poll_interval": 0.5,
    "max_wait_time": 300,
    "lock_timeout": 600,
}


class GpuLockTimeoutError(LockError):
    """The lock of a task was not to be had; the text begins with GPU_LOCK_TIMEOUT."""


class _Settings:
    config: Callable[[], Mapping[str, Any]] = staticmethod(lambda: DEFAULTS)
    cleanup: Callable[[], Any] | None = None


_settings = _Settings()
lock_manager = SmartGpuLockManager()
"""The manager of this process, used by the decorator."""


def configure(
    redis: Any = None,
    *,
    config: Callable[[], Mapping[str, Any]] | None = None,
    cleanup: Callable[[], Any] | None = None,
    alert: Callable[[str, dict[str, Any]], Any] | None = None,
    plain_owner: bool = False,
) -> None:
    """Sets up this process, before its first lock.

    ``config`` is called before each task for the settings that the decorator does not give
    (``poll_interval``, ``max_wait_time``, ``lock_timeout``, ``renew``, ``session``);
    ``cleanup`` after it, while the lock is still held, to free the GPU's memory; ``alert``
    when a lock had to be taken by force. ``plain_owner`` writes the old value into the key.

    What ``renew`` and ``session`` do for a lock ends with the thread that took it.
    """
    _settings.config = config or (lambda: DEFAULTS)
    _settings.cleanup = cleanup
    lock_manager.redis, lock_manager.plain_owner, lock_manager.alert = redis, plain_owner, alert


def client_of_the_environment() -> Any:
    """A client for the server that the replaced system would have talked to."""
    return redis_py.Redis(
        host=os.environ.get("REDIS_HOST", "redis"),
        port=int(os.environ.get("REDIS_PORT", "6379")),
        password=os.environ.get("REDIS_PASSWORD"),
        db=int(os.environ.get("REDIS_LOCK_DB", "2")),
        decode_responses=True,
    )


def __getattr__(name: str) -> Any:
    if name == "redis_client":
        return lock_manager.redis
    raise AttributeError(name)


def gpu_lock(
    lock_key: str = "gpu_lock:0",
    timeout: float | None = None,
    poll_interval: float | None = None,
    max_wait_time: float | None = None,
    event_driven: bool | None = None,
    fallback_timeout: float | None = None,
) -> Callable[[FunctionT], FunctionT]:
    """Runs a task under a lock, or raises ``GpuLockTimeoutError``.

    ``event_driven`` and ``fallback_timeout`` are taken and mean nothing any more: who waits
    stands in line in the server. A function whose body runs only after the call (``async def``,
    a generator) is refused: it would run without the lock.
    """
    given = {
        "lock_timeout": timeout,
        "poll_interval": poll_interval,
        "max_wait_time": max_wait_time,
    }

    def decorate(function: FunctionT) -> FunctionT:
        _refuse_if_it_runs_later(function)

        @functools.wraps(function)
        def under_the_lock(*args: Any, **kwargs: Any) -> Any:
            task_name = getattr(args[0], "name", None) if args else None
            task_name = task_name if isinstance(task_name, str) else function.__name__
            chosen = {name: value for name, value in given.items() if value is not None}
            config = {**DEFAULTS, **_settings.config(), **chosen}
            lock = lock_manager.take(task_name, lock_key, config)
            if lock is None:
                _clean_up(task_name)
                raise GpuLockTimeoutError(
                    f"GPU_LOCK_TIMEOUT: {task_name} did not get {lock_key}"
                )
            begin = time.monotonic()
            try:
                result = function(*args, **kwargs)
                lock_manager.record_execution_time(time.monotonic() - begin)
                return result
            finally:
                _clean_up(task_name)
                if not lock_manager.give_back(lock, task_name):
                    lock_manager.force_back(lock, task_name)

        return under_the_lock  # type: ignore[return-value]

    return decorate


def _refuse_if_it_runs_later(function: Callable[..., Any]) -> None:
    kinds = (
        inspect.iscoroutinefunction,
        inspect.isasyncgenfunction,
        inspect.isgeneratorfunction,
    )
    if any(is_such(function) for is_such in kinds):
        raise TypeError(
            f"gpu_lock cannot hold a lock for {function!r}, whose body runs after the call: "
            "use gpulock.Lock or gpulock.asyncio.Lock inside it"
        )


def _clean_up(task_name: str) -> None:
    if _settings.cleanup is None:
        return
    try:
        _settings.cleanup()
    except Exception:
        # Whatever it does, the lock is given back.
        logger.exception("cleaning up after %s failed", task_name)


def get_gpu_lock_status(lock_key: str = "gpu_lock:0") -> dict[str, Any]:
    """Who holds the lock and for how much longer; ``error`` when the server cannot tell."""
    client = lock_manager.redis
    try:
        value, ttl = client.get(lock_key), client.ttl(lock_key)
        told = _inspect(client, lock_key)
    except RedisError as error:
        logger.exception("the state of %s cannot be told", lock_key)
        return {"error": str(error)}
    held_ms = told.get("held_ms")
    return {
        "lock_key": lock_key,
        "is_locked": value is not None,
        "lock_holder": None if value is None else _words.as_text(value),
        "ttl_seconds": ttl if ttl > 0 else None,
        "timestamp": time.time(),
        "health": lock_manager.get_lock_health(),
        "statistics": lock_manager.get_statistics(),
        "recent_history": lock_manager.get_lock_history(limit=5),
        "lock_type": "free" if value is None else "active",
        "lock_age": None if held_ms is None else held_ms / 1000,
        "fencing_token": told.get("token"),
        "waiting": told.get("waiting", 0),
    }


def get_gpu_lock_health_summary() -> dict[str, Any]:
    """The most important figures of ``get_lock_health``."""
    health = lock_manager.get_lock_health()
    stats = health["statistics"]
    return {
        "overall_status": health["status"],
        "issues_count": len(health["issues"]),
        "total_attempts": stats["total_attempts"],
        "success_rate": stats["success_rate"],
        "timeout_rate": stats["timeout_rate"],
        "average_execution_time": stats["average_execution_time"],
        "recent_success_rate": stats["recent_success_rate"],
        "lock_holder": health["last_lock_holder"],
        "lock_age": health["lock_age"],
        "timestamp": time.time(),
    }


def release_gpu_lock(lock_key: str = "gpu_lock:0", task_name: str = "manual") -> bool:
    """For people: releases whichever run of this task holds the lock now. It never raises:
    what goes wrong is logged."""
    client, named = lock_manager.redis, lock_value(task_name)
    try:
        value = _words.as_text(client.get(lock_key) or "")
        if value != named and not value.startswith(f"{named}:"):
            return False
        lock = Lock(client, lock_key, timeout=1)
        lock.local.token = value.encode()
        lock.release()
    except RedisError:
        logger.exception("%s of %s could not be released", lock_key, task_name)
        return False
    return True


def _inspect(client: Any, lock_key: str) -> dict[str, Any]:
    if not lock_manager.has_module():
        return {}
    reply = client.execute_command("GPULOCK.INSPECT", lock_key)
    return {} if reply is None else _words.fields(reply)
