"""The clock for leases. Not for waits: a wait need not end earlier because the machine was
suspended."""

from __future__ import annotations

import time

MAX_SLEEP_S = 1.0
"""Timers stop while a machine is suspended: code that waits for the end of a lease reads the
clock at least this often, and so notices soon after the machine resumes."""


def now() -> float:
    """Seconds since boot. The clock cannot be set, and where the system allows it, it advances
    while the machine is suspended."""
    return _read()


def _boot_time() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


_read = _boot_time if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
