"""``SmartGpuLockManager``: the replaced system's lock manager, on locks of the module.

Names, arguments and results are the old ones. How a lock is taken and given back stands in
``lock``; the decorator and the functions around it in ``locks``.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any, Callable

from redis.exceptions import LockError, LockNotOwnedError, RedisError, ResponseError

from . import _server, _words
from ._threads import ThreadDoer, run
from .lock import Lock

logger = logging.getLogger("gpulock.locks")

COUNTERS = (
    "normal_release_failures",
    "emergency_releases",
    "release_script_errors",
    "ownership_violations",
)
HISTORY_LENGTH = 100
RECENT = 20


class _Run:
    """A lock that was granted, to which task, and since when."""

    def __init__(self, task_name: str, lock: Lock) -> None:
        self.task_name, self.lock = task_name, lock
        self.taken_at = time.time()
        kept = lock.local.kept
        if kept.keeper is None and lock.timeout:
            # No keeper tells when the lease ends.
            kept.hold.ends_at = time.monotonic() + lock.timeout

    def may_be_held(self) -> bool:
        """False: it was given back, its lease is over, or its loss was told."""
        hold = self.lock.held()
        return hold is not None and hold.left_ms() > 0 and not self.lock.lost.is_set()


class _Taken:
    """A run in the hands of the thread that took it. Only the thread has it: when the thread
    is over, nobody renews the lock any more."""

    def __init__(self, run: _Run) -> None:
        self.run = run
        keeper = run.lock.local.kept.keeper
        if keeper is not None:
            weakref.finalize(self, keeper.abandon)


class _Asked(threading.local):
    """What each thread asked for last, by task and lock; None: it did not get it."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], _Taken | None] = {}


class SmartGpuLockManager:
    """Takes and gives back locks by the name of the task.

    ``plain_owner=True`` writes ``locked_by_<task>`` into the key, as the replaced system did;
    otherwise each run adds a part of its own, so that a run can be told from the next one.
    """

    def __init__(self, redis: Any = None, *, plain_owner: bool = False) -> None:
        self._redis = redis
        self.plain_owner = plain_owner
        self.alert: Callable[[str, dict[str, Any]], Any] | None = None
        """Called when a lock had to be taken by force."""
        self._held: dict[Lock, _Run] = {}
        self._asked = _Asked()
        self._mutex = threading.Lock()
        self._history: deque[dict[str, Any]] = deque(maxlen=HISTORY_LENGTH)
        self._own_counts = dict.fromkeys((*COUNTERS, "acquired"), 0)
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
        """The client; without one, the server that the environment names (``locks``)."""
        if self._redis is None:
            from .locks import client_of_the_environment

            self._redis = client_of_the_environment()
        return self._redis

    @redis.setter
    def redis(self, client: Any) -> None:
        self._redis = client

    def acquire_lock_with_smart_polling(
        self, task_name: str, lock_key: str, config: Mapping[str, Any]
    ) -> bool:
        """Waits in line for at most ``max_wait_time`` seconds. False: it was not to be had."""
        return self.take(task_name, lock_key, config) is not None

    def take(self, task_name: str, lock_key: str, config: Mapping[str, Any]) -> Lock | None:
        """The same, and answers the lock itself."""
        lock = self._lock(task_name, lock_key, config)
        begin = time.time()
        try:
            acquired = lock.acquire(token=lock_value(task_name) if self.plain_owner else None)
        except RedisError:
            logger.exception("task %s could not ask for %s", task_name, lock_key)
            acquired = False
        self._note(task_name, lock_key, acquired, begin, lock)
        if not acquired:
            logger.error("task %s did not get %s in time", task_name, lock_key)
            self._remember_failure(task_name, lock_key)
            return None
        logger.info("task %s holds %s", task_name, lock_key)
        self._remember(task_name, lock_key, lock)
        return lock

    def release_lock(
        self, task_name: str, lock_key: str, release_reason: str = "normal"
    ) -> bool:
        """Gives back what this task holds, and answers whether it still held it.

        It never raises, so that it can stand in a ``finally``: what goes wrong is logged, and
        the lease ends what could not be given back.
        """
        lock = self._held_by(task_name, lock_key)
        if lock is None:
            lock = self._lock(task_name, lock_key, {})
            lock.local.token = self._owner_unknown_here(task_name, lock_key)
        return self.give_back(lock, task_name, release_reason)

    def give_back(self, lock: Lock, task_name: str, release_reason: str = "normal") -> bool:
        """The same for a lock that ``take`` answered."""
        try:
            lock.release(release_reason)
        except LockNotOwnedError:
            logger.warning("task %s does not hold %s (any more)", task_name, lock.name)
            self._count("ownership_violations", "normal_release_failures")
        except LockError:
            logger.warning("task %s has given %s back already", task_name, lock.name)
        except ResponseError:
            logger.exception("the server refuses to release %s of %s", lock.name, task_name)
            self._count("release_script_errors", "normal_release_failures")
            return False
        except RedisError:
            logger.exception("%s of %s could not be given back", lock.name, task_name)
            return False
        else:
            logger.info("task %s gave %s back (%s)", task_name, lock.name, release_reason)
            self._drop(lock)
            return True
        self._drop(lock)
        return False

    def force_back(self, lock: Lock, task_name: str) -> bool:
        """The last resort when ``give_back`` failed: takes the lock from this very hold.

        A successor's hold has another owner or another token, and is left alone.
        """
        hold = lock.held()
        if hold is None:
            return False
        try:
            taken = self.redis.execute_command(
                *_words.force_release(lock.name, hold.owner, hold.tokens[lock.name])
            )
        except RedisError:
            logger.critical(
                "%s of %s is left to its lease", lock.name, task_name, exc_info=True
            )
            return False
        self._drop(lock)
        if taken is None:
            return False
        self._count("emergency_releases")
        logger.error("%s was taken from %s by force", lock.name, task_name)
        if self.alert is not None:
            self.alert(
                "gpu_lock_emergency_release",
                {"lock_key": lock.name, "task_name": task_name, "timestamp": time.time()},
            )
        return True

    def record_execution_time(self, execution_time: float) -> None:
        """How long a task worked under a lock, in seconds."""
        self.lock_stats["total_execution_time"] += execution_time
        self.lock_stats["execution_count"] += 1

    def get_statistics(self) -> dict[str, Any]:
        """What this process did. Each call of acquire is one attempt."""
        stats = dict(self.lock_stats)
        attempts, executions = stats["total_attempts"], stats["execution_count"]
        won = stats["event_driven_acquisitions"] + stats["polling_acquisitions"]
        recent = [entry["success"] for entry in list(self._history)[-RECENT:]]
        stats["success_rate"] = _share(stats["successful_acquisitions"], attempts)
        stats["timeout_rate"] = _share(stats["timeouts"], attempts)
        stats["average_execution_time"] = _share(stats["total_execution_time"], executions)
        stats["history_size"] = len(self._history)
        stats["recent_success_rate"] = _share(sum(recent), len(recent))
        stats["event_driven_rate"] = _share(stats["event_driven_acquisitions"], won)
        stats["polling_rate"] = _share(stats["polling_acquisitions"], won)
        return stats

    def get_exception_statistics(self) -> dict[str, Any]:
        """What went wrong, for all clients: counted by the server. A server without the module
        counts nothing, and one that is away tells nothing; then it is what this process saw."""
        counts = self._server_counts()
        if counts is None:
            counts = dict(self._own_counts)
        total = counts["acquired"]
        return {
            **{name: counts[name] for name in COUNTERS},
            "exception_rate": counts["normal_release_failures"] / max(total, 1),
            "emergency_release_rate": counts["emergency_releases"] / max(total, 1),
            "total_locks": total,
            "timestamp": time.time(),
        }

    def get_lock_health(self) -> dict[str, Any]:
        """``healthy``, ``warning`` or ``critical``, and why."""
        stats, now = self.get_statistics(), time.time()
        age = self._age(now)
        issues = []
        if stats["total_attempts"] and stats["success_rate"] < 0.8:
            issues.append("low success rate")
        if stats["timeout_rate"] > 0.2:
            issues.append("high timeout rate")
        if stats["history_size"] and stats["recent_success_rate"] < 0.7:
            issues.append("low success rate of late")
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
        return list(self._history)[-limit:] if limit > 0 else []

    def has_module(self) -> bool:
        """Whether the server has the module."""
        abilities = run(_server.behind(self.redis).abilities(), ThreadDoer(self.redis))
        return abilities.module

    def _lock(self, task_name: str, lock_key: str, config: Mapping[str, Any]) -> Lock:
        return Lock(
            self.redis,
            lock_key,
            timeout=config.get("lock_timeout", 9000),
            sleep=config.get("poll_interval", 1),
            blocking_timeout=config.get("max_wait_time", 6000),
            thread_local=False,
            owner=f"{lock_value(task_name)}:{_run()}",
            renew=config.get("renew", False),
            session=config.get("session", False),
        )

    def _remember(self, task_name: str, lock_key: str, lock: Lock) -> None:
        with self._mutex:
            # What was never given back must not pile up.
            self._held = {held: run for held, run in self._held.items() if run.may_be_held()}
            self._held[lock] = run = _Run(task_name, lock)
        self._asked.answers[task_name, lock_key] = _Taken(run)

    def _remember_failure(self, task_name: str, lock_key: str) -> None:
        before = self._asked.answers.get((task_name, lock_key))
        # What the thread has held all along is still its own to give back.
        if before is None or not before.run.may_be_held():
            self._asked.answers[task_name, lock_key] = None

    def _held_by(self, task_name: str, lock_key: str) -> Lock | None:
        """This thread's lock; a thread that never asked for it acts for the one that did."""
        if (task_name, lock_key) in self._asked.answers:
            return self._own(task_name, lock_key)
        with self._mutex:
            named = (
                lock
                for lock, run in self._held.items()
                if (run.task_name, lock.name) == (task_name, lock_key)
            )
            return next(named, None)

    def _own(self, task_name: str, lock_key: str) -> Lock | None:
        taken = self._asked.answers.get((task_name, lock_key))
        if taken is None or taken.run.lock.held() is None:
            return None
        return taken.run.lock

    def _owner_unknown_here(self, task_name: str, lock_key: str) -> bytes:
        """Under which name to release what this process does not hold."""
        value = lock_value(task_name)
        if (task_name, lock_key) in self._asked.answers:
            # It got nothing, or gave it back: another run may have the plain name by now. A
            # name that nobody has frees nothing, and the attempt is counted all the same.
            value = f"{value}:{_run()}"
        # Otherwise another process may have taken it under the plain name.
        return value.encode()

    def _drop(self, lock: Lock) -> None:
        with self._mutex:
            self._held.pop(lock, None)

    def _note(self, task: str, key: str, success: bool, begin: float, lock: Lock) -> None:
        end, stats = time.time(), self.lock_stats
        with self._mutex:
            stats["total_attempts"] += 1
            won = stats["successful_acquisitions"] + success
            if success:
                waited = stats["average_wait_time"] * (won - 1) + end - begin
                stats["average_wait_time"] = waited / won
                stats["successful_acquisitions"] = won
                stats["last_lock_time"], stats["last_lock_holder"] = end, task
                hold = lock.held()
                in_line = hold is not None and hold.by_module
                stats["event_driven_acquisitions" if in_line else "polling_acquisitions"] += 1
                self._own_counts["acquired"] += 1
            else:
                stats["timeouts"] += 1
        self._history.append(
            {
                "task_name": task,
                "lock_key": key,
                "success": success,
                "start_time": begin,
                "end_time": end,
                "duration": end - begin,
            }
        )

    def _count(self, *names: str) -> None:
        with self._mutex:
            for name in names:
                self._own_counts[name] += 1

    def _server_counts(self) -> dict[str, int] | None:
        try:
            if not self.has_module():
                return None
            return _words.fields(self.redis.execute_command("GPULOCK.STATS"))
        except RedisError:
            logger.exception("the server does not tell its counters")
            return None

    def _age(self, now: float) -> float | None:
        """How long the oldest lock that this manager holds has been held."""
        with self._mutex:
            taken = [run.taken_at for run in self._held.values() if run.may_be_held()]
        return now - min(taken) if taken else None


def lock_value(task_name: str) -> str:
    """What stands in the key; the module's events tell the name behind the prefix."""
    return f"locked_by_{task_name}"


def _run() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
