"""Calls functions at given times of ``_clock``, in one thread for the whole process: a renewer
makes a call of the server each second, and starting a thread for each would cost more.

For threads only: asyncio has timers.
"""

from __future__ import annotations

import functools
import math
import os
import threading
from typing import Callable

from . import _clock

IDLE_S = 10.0
"""The thread ends when it was not needed for this time."""


class Watchdog:
    """A call that is due at a time of ``_clock``, unless it is stopped before."""

    def __init__(self, at: float, function: Callable[[], None]) -> None:
        self.at, self.function, self.has_fired = at, function, False
        self._schedule = _schedule()
        self._schedule.add(self)

    def stop(self) -> bool:
        """Returns whether the function was called, or is about to be."""
        return self._schedule.remove(self)


class Schedule:
    """The watchdogs that are not stopped, and the thread that calls them."""

    def __init__(self) -> None:
        self._mutex, self._is_earlier = threading.Lock(), threading.Event()
        self._watchdogs: set[Watchdog] = set()
        self._is_running = False
        self._next_at = self._used_at = 0.0

    def add(self, watchdog: Watchdog) -> None:
        """Starts a watchdog. If the system has no thread left, it never calls its function."""
        with self._mutex:
            self._watchdogs.add(watchdog)
            self._used_at = _clock.now()
            if self._is_running:
                if watchdog.at < self._next_at:
                    self._is_earlier.set()
                return
            self._is_running = _start(self._run)

    def remove(self, watchdog: Watchdog) -> bool:
        """Stops a watchdog, and returns whether it was due."""
        with self._mutex:
            self._watchdogs.discard(watchdog)
            return watchdog.has_fired

    def _run(self) -> None:
        while True:
            with self._mutex:
                self._is_earlier.clear()
                now = _clock.now()
                due = [watchdog for watchdog in self._watchdogs if watchdog.at <= now]
                self._watchdogs.difference_update(due)
                for watchdog in due:
                    watchdog.has_fired = True
                if self._watchdogs or due:
                    self._used_at = now
                elif now - self._used_at > IDLE_S:
                    self._is_running = False
                    return
                earliest = min((watchdog.at for watchdog in self._watchdogs), default=math.inf)
                self._next_at = min(earliest, now + _clock.MAX_SLEEP_S)
            for watchdog in due:
                # The function may call the holder, which takes its time.
                if not _start(watchdog.function):
                    watchdog.function()
            self._is_earlier.wait(max(0.0, self._next_at - now))


def _start(function: Callable[[], None]) -> bool:
    """Calls the function in a new thread; False: there is none."""
    try:
        threading.Thread(target=function, name="gpulock-watchdog", daemon=True).start()
    except RuntimeError:
        return False
    return True


@functools.lru_cache
def _schedule() -> Schedule:
    """Created when needed: gevent may replace threads after the import."""
    return Schedule()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_schedule.cache_clear)
