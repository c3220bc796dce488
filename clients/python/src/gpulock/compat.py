"""The API of the lock manager that the module replaces: the decorator ``gpu_lock``, the manager
behind it, and the functions that report the state of locks.

``configure`` sets the server and the callbacks. Without it, the environment gives the server,
as it did before: REDIS_HOST, REDIS_PORT, REDIS_PASSWORD, REDIS_LOCK_DB.
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

from . import _commands, _fallback
from ._manager import SmartGpuLockManager, owner_of
from .lock import Lock

__all__ = [
    "RELEASE_LOCK_SCRIPT",
    "GpuLockTimeoutError",
    "SmartGpuLockManager",
    "configure",
    "get_gpu_lock_health_summary",
    "get_gpu_lock_status",
    "gpu_lock",
    "lock_manager",
    "release_gpu_lock",
]

logger = logging.getLogger("gpulock.compat")
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

RELEASE_LOCK_SCRIPT = _fallback.RELEASE_SCRIPT
"""Deletes the key if its value is the argument, and returns 1 if it did, otherwise 0. For
programs that run it themselves: ``release_lock`` calls GPULOCK.RELEASE. The value of the key is
``locked_by_<task>`` only with ``plain_owner``."""

DEFAULTS: Mapping[str, Any] = {
    "poll_interval": 0.5,
    "max_wait_time": 300,
    "lock_timeout": 600,
}


class GpuLockTimeoutError(LockError):
    """A task could not acquire its lock. The message begins with GPU_LOCK_TIMEOUT."""


class _Settings:
    config: Callable[[], Mapping[str, Any]] = staticmethod(lambda: DEFAULTS)
    cleanup: Callable[[], Any] | None = None


_settings = _Settings()
lock_manager = SmartGpuLockManager()
"""The manager that the decorator uses in this process."""


def configure(
    redis: Any = None,
    *,
    config: Callable[[], Mapping[str, Any]] | None = None,
    cleanup: Callable[[], Any] | None = None,
    alert: Callable[[str, dict[str, Any]], Any] | None = None,
    plain_owner: bool = False,
) -> None:
    """Configures this process; call it before the first lock is acquired.

    ``config`` is called before each task, and returns the settings that the decorator does not
    set (``poll_interval``, ``max_wait_time``, ``lock_timeout``, ``renew``, ``session``).
    ``cleanup`` is called after each task, while the lock is still held, to free the GPU's
    memory. ``alert`` is called after a forced release. ``plain_owner`` writes the value that
    the old lock manager used into the key.

    The effect of ``renew`` and ``session`` ends with the thread that acquired the lock.
    """
    _settings.config = config or (lambda: DEFAULTS)
    _settings.cleanup = cleanup
    lock_manager.redis, lock_manager.plain_owner, lock_manager.alert = redis, plain_owner, alert


def client_from_environment() -> Any:
    """A client for the server given by the environment."""
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
    """Runs a task while it holds a lock, or raises ``GpuLockTimeoutError``.

    ``event_driven`` and ``fallback_timeout`` are accepted and ignored: waiters are queued in
    the server. A function whose body runs after the call (``async def``, a generator) is
    rejected, because it would run without the lock.
    """
    given = {
        "lock_timeout": timeout,
        "poll_interval": poll_interval,
        "max_wait_time": max_wait_time,
    }

    def decorate(function: FunctionT) -> FunctionT:
        _reject_deferred_body(function)

        @functools.wraps(function)
        def with_lock(*args: Any, **kwargs: Any) -> Any:
            task_name = getattr(args[0], "name", None) if args else None
            task_name = task_name if isinstance(task_name, str) else function.__name__
            overrides = {name: value for name, value in given.items() if value is not None}
            config = {**DEFAULTS, **_settings.config(), **overrides}
            lock = lock_manager.acquire(task_name, lock_key, config)
            if lock is None:
                _clean_up(task_name)
                raise GpuLockTimeoutError(
                    f"GPU_LOCK_TIMEOUT: task {task_name} did not acquire {lock_key}"
                )
            begin = time.monotonic()
            try:
                result = function(*args, **kwargs)
                lock_manager.record_execution_time(time.monotonic() - begin)
                return result
            finally:
                _clean_up(task_name)
                if not lock_manager.release(lock, task_name):
                    lock_manager.force_release(lock, task_name)

        return with_lock  # type: ignore[return-value]

    return decorate


def _reject_deferred_body(function: Callable[..., Any]) -> None:
    kinds = (
        inspect.iscoroutinefunction,
        inspect.isasyncgenfunction,
        inspect.isgeneratorfunction,
    )
    if any(is_kind(function) for is_kind in kinds):
        raise TypeError(
            f"gpu_lock cannot decorate {function!r}, because its body runs after the call: "
            "use gpulock.Lock or gpulock.asyncio.Lock inside it"
        )


def _clean_up(task_name: str) -> None:
    if _settings.cleanup is None:
        return
    try:
        _settings.cleanup()
    except Exception:
        # The lock must be released even if the callback fails.
        logger.exception("the cleanup after task %s failed", task_name)


def get_gpu_lock_status(lock_key: str = "gpu_lock:0") -> dict[str, Any]:
    """The holder of the lock, the rest of its lease, and the number of waiting clients.

    Without the module that number is ``None``: clients that poll cannot be counted. If the
    server call fails, the only item is ``error``.
    """
    client = lock_manager.redis
    try:
        value, ttl = client.get(lock_key), client.ttl(lock_key)
        inspected = _inspect(client, lock_key) if lock_manager.has_module() else None
    except RedisError as error:
        logger.exception("failed to read the state of %s", lock_key)
        return {"error": str(error)}
    details = inspected or {}
    held_ms = details.get("held_ms")
    return {
        "lock_key": lock_key,
        "is_locked": value is not None,
        "lock_holder": None if value is None else _commands.as_text(value),
        "ttl_seconds": ttl if ttl > 0 else None,
        "timestamp": time.time(),
        "health": lock_manager.get_lock_health(),
        "statistics": lock_manager.get_statistics(),
        "recent_history": lock_manager.get_lock_history(limit=5),
        "lock_type": "free" if value is None else "active",
        "lock_age": None if held_ms is None else held_ms / 1000,
        "fencing_token": details.get("token"),
        "waiting": None if inspected is None else inspected.get("waiting", 0),
    }


def get_gpu_lock_health_summary() -> dict[str, Any]:
    """A summary of ``get_lock_health``."""
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
    """For manual use: releases the lock if any run of this task holds it. It never raises;
    errors are logged."""
    client, owner = lock_manager.redis, owner_of(task_name)
    try:
        value = _commands.as_text(client.get(lock_key) or "")
        if value != owner and not value.startswith(f"{owner}:"):
            return False
        lock = Lock(client, lock_key, timeout=1)
        lock.local.token = value.encode()
        lock.release()
    except RedisError:
        logger.exception("failed to release %s, held by task %s", lock_key, task_name)
        return False
    return True


def _inspect(client: Any, lock_key: str) -> dict[str, Any]:
    reply = client.execute_command("GPULOCK.INSPECT", lock_key)
    return {} if reply is None else _commands.parse_map(reply)
