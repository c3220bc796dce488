"""``SmartGpuLockManager``: the API of the lock manager that the module replaces.

Names, arguments and results are unchanged. The decorator and the functions that use the
manager are in ``compat``.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Mapping
from typing import Any, Callable

from redis.exceptions import LockError, LockNotOwnedError, RedisError, ResponseError

from . import _clock, _commands, _server
from ._thread_runtime import ThreadRuntime, run
from .lock import Lock

logger = logging.getLogger("gpulock.compat")

COUNTERS = (
    "normal_release_failures",
    "emergency_releases",
    "release_script_errors",
    "ownership_violations",
)
RECENT = 20


class _TaskLock:
    """A lock that was granted to a task."""

    def __init__(self, task_name: str, lock: Lock) -> None:
        self.task_name, self.lock = task_name, lock
        self.acquired_at = time.time()
        tracked = lock.local.tracked
        if tracked.renewer is None and lock.timeout:
            # Without a renewer, nothing else records when the lease expires.
            tracked.hold.expires_at = _clock.now() + lock.timeout

    def may_be_held(self) -> bool:
        """False after a release, after the lease has expired, and after a reported loss."""
        hold = self.lock._held()
        return hold is not None and hold.remaining_ms() > 0 and not self.lock.lost.is_set()


class _ThreadReference:
    """Ties a task's lock to the thread that acquired it. Only that thread references this
    object: when the thread ends, the renewal stops."""

    def __init__(self, task_lock: _TaskLock) -> None:
        self.task_lock = task_lock
        renewer = task_lock.lock.local.tracked.renewer
        if renewer is not None:
            weakref.finalize(self, renewer.abandon)


class _LastResults(threading.local):
    """The result of each thread's last acquire, by task and lock; None: not acquired."""

    def __init__(self) -> None:
        self.by_task: dict[tuple[str, str], _ThreadReference | None] = {}


class SmartGpuLockManager:
    """Acquires and releases locks by the name of the task.

    ``plain_owner=True`` writes ``locked_by_<task>`` into the key, the value that the old lock
    manager used. By default each run adds a unique suffix.
    """

    def __init__(self, redis: Any = None, *, plain_owner: bool = False) -> None:
        self._redis = redis
        self.plain_owner = plain_owner
        self.alert: Callable[[str, dict[str, Any]], Any] | None = None
        """Called after a forced release."""
        self._locks: dict[Lock, _TaskLock] = {}
        self._last_results = _LastResults()
        self._mutex = threading.Lock()
        self.lock_history: list[dict[str, Any]] = []
        """The last calls of acquire in this process, oldest first."""
        self.max_history_size = 100
        self.exception_stats = dict.fromkeys(COUNTERS, 0)
        """The failures in this process. ``get_exception_statistics`` reads the server's."""
        self._active_waiters = 0
        self.lock_stats: dict[str, Any] = {
            "total_attempts": 0,
            "successful_acquisitions": 0,
            "timeouts": 0,
            "average_wait_time": 0.0,
            "last_lock_time": None,
            "last_lock_holder": None,
            "total_execution_time": 0.0,
            "execution_count": 0,
            "event_driven_acquisitions": 0,
            "polling_acquisitions": 0,
        }

    @property
    def redis(self) -> Any:
        """The client; by default for the server given by the environment (see ``compat``)."""
        if self._redis is None:
            from .compat import client_from_environment

            self._redis = client_from_environment()
        return self._redis

    @redis.setter
    def redis(self, client: Any) -> None:
        self._redis = client

    def acquire_lock_with_smart_polling(
        self, task_name: str, lock_key: str, config: Mapping[str, Any]
    ) -> bool:
        """Waits for the lock for at most ``max_wait_time`` seconds, and returns whether it was
        acquired."""
        return self.acquire(task_name, lock_key, config) is not None

    def acquire(self, task_name: str, lock_key: str, config: Mapping[str, Any]) -> Lock | None:
        """Like ``acquire_lock_with_smart_polling``, but returns the lock itself."""
        lock = self._new_lock(task_name, lock_key, config)
        begin = time.time()
        with self._mutex:
            self._active_waiters += 1
        try:
            token = owner_of(task_name) if self.plain_owner else None
            acquired = lock.acquire(token=token)
        except RedisError:
            logger.exception("task %s failed to request %s", task_name, lock_key)
            acquired = False
        finally:
            with self._mutex:
                self._active_waiters -= 1
        self._record_attempt(task_name, lock_key, acquired, begin, lock)
        if not acquired:
            logger.error("task %s did not acquire %s in time", task_name, lock_key)
            self._remember_failure(task_name, lock_key)
            return None
        logger.info("task %s acquired %s", task_name, lock_key)
        self._remember(task_name, lock_key, lock)
        return lock

    def release_lock(
        self, task_name: str, lock_key: str, release_reason: str = "normal"
    ) -> bool:
        """Releases the lock of this task, and returns whether the task still held it.

        It never raises, so that it can be used in a ``finally`` clause. Errors are logged, and
        a lock that could not be released is held until its lease expires.
        """
        lock = self._find_lock(task_name, lock_key)
        if lock is None:
            lock = self._new_lock(task_name, lock_key, {})
            lock.local.token = self._owner_without_lock(task_name, lock_key)
        return self.release(lock, task_name, release_reason)

    def release(self, lock: Lock, task_name: str, release_reason: str = "normal") -> bool:
        """Like ``release_lock``, for a lock that ``acquire`` returned."""
        try:
            lock.release(release_reason)
        except LockNotOwnedError:
            logger.warning("task %s does not hold %s", task_name, lock.name)
            self._count("ownership_violations", "normal_release_failures")
        except LockError:
            logger.warning("task %s has already released %s", task_name, lock.name)
        except ResponseError:
            logger.exception(
                "the server rejected the release of %s by task %s", lock.name, task_name
            )
            self._count("release_script_errors", "normal_release_failures")
            return False
        except RedisError:
            logger.exception("task %s failed to release %s", task_name, lock.name)
            return False
        else:
            logger.info("task %s released %s (%s)", task_name, lock.name, release_reason)
            self._remove(lock)
            return True
        self._remove(lock)
        return False

    def force_release(self, lock: Lock, task_name: str) -> bool:
        """Forces the release of this hold, after ``release`` failed.

        A successor's hold has another owner or another token, and is not affected.
        """
        hold = lock._held()
        if hold is None:
            return False
        (name,) = lock.names
        try:
            previous_owner = self.redis.execute_command(
                *_commands.force_release(name, hold.owner, hold.tokens[name])
            )
        except RedisError:
            logger.critical(
                "forced release of %s by task %s failed: it is held until its lease expires",
                lock.name,
                task_name,
                exc_info=True,
            )
            return False
        self._remove(lock)
        if previous_owner is None:
            return False
        self._count("emergency_releases")
        logger.error("forced release of %s, held by task %s", lock.name, task_name)
        if self.alert is not None:
            self.alert(
                "gpu_lock_emergency_release",
                {"lock_key": lock.name, "task_name": task_name, "timestamp": time.time()},
            )
        return True

    def record_execution_time(self, execution_time: float) -> None:
        """Adds the time that a task worked under a lock, in seconds."""
        self.lock_stats["total_execution_time"] += execution_time
        self.lock_stats["execution_count"] += 1

    def get_statistics(self) -> dict[str, Any]:
        """The statistics of this process. Each call of acquire counts as one attempt;
        ``active_waiters`` is the number of calls that have not returned yet."""
        stats = dict(self.lock_stats)
        attempts, executions = stats["total_attempts"], stats["execution_count"]
        acquisitions = stats["event_driven_acquisitions"] + stats["polling_acquisitions"]
        history = self.lock_history[:]
        recent = [entry["success"] for entry in history[-RECENT:]]
        stats["success_rate"] = _ratio(stats["successful_acquisitions"], attempts)
        stats["timeout_rate"] = _ratio(stats["timeouts"], attempts)
        stats["average_execution_time"] = _ratio(stats["total_execution_time"], executions)
        stats["history_size"] = len(history)
        stats["recent_success_rate"] = _ratio(sum(recent), len(recent))
        stats["event_driven_rate"] = _ratio(stats["event_driven_acquisitions"], acquisitions)
        stats["polling_rate"] = _ratio(stats["polling_acquisitions"], acquisitions)
        stats["active_waiters"] = self._active_waiters
        return stats

    def get_exception_statistics(self) -> dict[str, Any]:
        """The server's counters of failures, over all clients; those of this process if the
        server has no module or cannot be reached."""
        counters = self._server_counters()
        if counters is None:
            acquired = self.lock_stats["successful_acquisitions"]
            counters = {**self.exception_stats, "acquired": acquired}
        total = counters["acquired"]
        return {
            **{name: counters[name] for name in COUNTERS},
            "exception_rate": counters["normal_release_failures"] / max(total, 1),
            "emergency_release_rate": counters["emergency_releases"] / max(total, 1),
            "total_locks": total,
            "timestamp": time.time(),
        }

    def get_lock_health(self) -> dict[str, Any]:
        """The status (``healthy``, ``warning`` or ``critical``) and the issues behind it."""
        stats, now = self.get_statistics(), time.time()
        age = self._lock_age(now)
        issues = []
        if stats["total_attempts"] and stats["success_rate"] < 0.8:
            issues.append("low success rate")
        if stats["timeout_rate"] > 0.2:
            issues.append("high timeout rate")
        if stats["history_size"] and stats["recent_success_rate"] < 0.7:
            issues.append("low recent success rate")
        held_too_long = age is not None and age > 3600
        if held_too_long:
            issues.append("held for more than an hour")
        return {
            "status": "critical" if held_too_long else "warning" if issues else "healthy",
            "issues": issues,
            "lock_age": age,
            "last_lock_holder": stats["last_lock_holder"],
            "statistics": stats,
            "timestamp": now,
        }

    def get_lock_history(self, limit: int = 10) -> list[dict[str, Any]]:
        """The last calls of acquire, oldest first."""
        return self.lock_history[-limit:] if limit > 0 else []

    def has_module(self) -> bool:
        """Whether the server has the module."""
        server = _server.server_of(self.redis)
        return run(server.capabilities(), ThreadRuntime(self.redis)).module

    def _new_lock(self, task_name: str, lock_key: str, config: Mapping[str, Any]) -> Lock:
        return Lock(
            self.redis,
            lock_key,
            timeout=config.get("lock_timeout", 9000),
            sleep=config.get("poll_interval", 1),
            blocking_timeout=config.get("max_wait_time", 6000),
            thread_local=False,
            owner=f"{owner_of(task_name)}:{_run_id()}",
            renew=config.get("renew", False),
            session=config.get("session", False),
        )

    def _remember(self, task_name: str, lock_key: str, lock: Lock) -> None:
        with self._mutex:
            # Locks that were never released must not accumulate.
            self._locks = {key: held for key, held in self._locks.items() if held.may_be_held()}
            self._locks[lock] = task_lock = _TaskLock(task_name, lock)
        self._last_results.by_task[task_name, lock_key] = _ThreadReference(task_lock)

    def _remember_failure(self, task_name: str, lock_key: str) -> None:
        last = self._last_results.by_task.get((task_name, lock_key))
        # The thread may still hold the lock from before, and must be able to release it.
        if last is None or not last.task_lock.may_be_held():
            self._last_results.by_task[task_name, lock_key] = None

    def _find_lock(self, task_name: str, lock_key: str) -> Lock | None:
        """The lock of this thread. A thread that never requested it can release the lock that
        another thread acquired for the same task."""
        if (task_name, lock_key) in self._last_results.by_task:
            return self._lock_of_this_thread(task_name, lock_key)
        with self._mutex:
            matching = (
                lock
                for lock, held in self._locks.items()
                if (held.task_name, lock.name) == (task_name, lock_key)
            )
            return next(matching, None)

    def _lock_of_this_thread(self, task_name: str, lock_key: str) -> Lock | None:
        last = self._last_results.by_task.get((task_name, lock_key))
        if last is None or last.task_lock.lock._held() is None:
            return None
        return last.task_lock.lock

    def _owner_without_lock(self, task_name: str, lock_key: str) -> bytes:
        """The owner to use for the release of a lock that this process does not hold."""
        owner = owner_of(task_name)
        if (task_name, lock_key) in self._last_results.by_task:
            # The thread did not acquire the lock, or released it: another run may hold it as
            # the plain owner by now. An unused owner releases nothing, and the server still
            # counts the attempt.
            owner = f"{owner}:{_run_id()}"
        # Otherwise another process may have acquired it as the plain owner.
        return owner.encode()

    def _remove(self, lock: Lock) -> None:
        with self._mutex:
            self._locks.pop(lock, None)

    def _record_attempt(
        self, task_name: str, lock_key: str, success: bool, begin: float, lock: Lock
    ) -> None:
        end, stats = time.time(), self.lock_stats
        with self._mutex:
            stats["total_attempts"] += 1
            successes = stats["successful_acquisitions"] + success
            if success:
                total_wait = stats["average_wait_time"] * (successes - 1) + end - begin
                stats["average_wait_time"] = total_wait / successes
                stats["successful_acquisitions"] = successes
                stats["last_lock_time"], stats["last_lock_holder"] = end, task_name
                hold = lock._held()
                queued = hold is not None and hold.by_module
                stats["event_driven_acquisitions" if queued else "polling_acquisitions"] += 1
            else:
                stats["timeouts"] += 1
            self.lock_history.append(
                {
                    "task_name": task_name,
                    "lock_key": lock_key,
                    "success": success,
                    "start_time": begin,
                    "end_time": end,
                    "duration": end - begin,
                }
            )
            del self.lock_history[: max(0, len(self.lock_history) - self.max_history_size)]

    def _count(self, *names: str) -> None:
        with self._mutex:
            for name in names:
                self.exception_stats[name] += 1

    def _server_counters(self) -> dict[str, int] | None:
        try:
            if not self.has_module():
                return None
            return _commands.parse_map(self.redis.execute_command("GPULOCK.STATS"))
        except RedisError:
            logger.exception("failed to read the server's counters")
            return None

    def _lock_age(self, now: float) -> float | None:
        """How long the oldest lock of this manager has been held, in seconds."""
        with self._mutex:
            acquired = [held.acquired_at for held in self._locks.values() if held.may_be_held()]
        return now - min(acquired) if acquired else None


def owner_of(task_name: str) -> str:
    """The owner that the old lock manager used. The module's events report the task name
    without the prefix."""
    return f"locked_by_{task_name}"


def _run_id() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
