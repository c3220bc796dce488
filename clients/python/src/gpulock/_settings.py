"""Rejects invalid arguments where they are given, with the name of the argument. No I/O.

Accepts what redis-py accepts. Types and lengths of names are checked in ``_commands`` and
``_lock_base``.
"""

from __future__ import annotations

import inspect
import math
from decimal import Decimal
from numbers import Real
from typing import Any

MIN_LEASE_S = 0.001
"""The server counts in milliseconds."""


def require_number(
    setting: str, value: Any, expected: str = "a number of seconds", *, min_value: float = 0.0
) -> None:
    """Rejects what is not a number of seconds, ``nan``, and less than the minimum."""
    message = f"invalid {setting} {value!r}: expected {expected}"
    is_number = isinstance(value, (Real, Decimal))
    if not is_number:
        raise TypeError(message)
    if not value >= min_value:
        raise ValueError(message)


def require_finite(
    setting: str, value: Any, expected: str = "a number of seconds", *, min_value: float
) -> None:
    """Like ``require_number``, also rejects infinity."""
    require_number(setting, value, expected, min_value=min_value)
    if math.isinf(value):
        raise ValueError(f"invalid {setting} {value!r}: expected {expected}")


def require_timeout(timeout: Any) -> None:
    """Rejects an invalid lease. As in redis-py, 0 is none."""
    if timeout is not None and timeout != 0:
        expected = f"a number of seconds, at least {MIN_LEASE_S}, or None"
        require_finite("timeout", timeout, expected, min_value=MIN_LEASE_S)


def require_wait(blocking_timeout: Any) -> None:
    """Rejects an invalid limit of a wait. As in redis-py, a negative one allows one attempt."""
    if blocking_timeout is not None:
        require_number(
            "blocking_timeout",
            blocking_timeout,
            "a number of seconds, or None",
            min_value=-math.inf,
        )


def require_sleep(sleep: Any) -> None:
    """Rejects an invalid interval of polling."""
    require_number("sleep", sleep, "a number of seconds, at least 0")


def require_integer(setting: str, value: Any) -> None:
    """Rejects what is not an integer."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{setting} must be an integer, not {value!r}")


def require_callback(setting: str, callback: Any, allows_coroutine: bool) -> None:
    """Rejects what cannot be called with a ``Loss`` or a ``Notice``."""
    if callback is None:
        return
    if not callable(callback):
        raise TypeError(f"invalid {setting} {callback!r}: expected a function, or None")
    kinds = (callback, getattr(callback, "__call__", None))  # noqa: B004
    if not allows_coroutine and any(map(inspect.iscoroutinefunction, kinds)):
        raise TypeError(
            f"invalid {setting} {callback!r}: a coroutine function needs a lock of "
            "gpulock.asyncio"
        )


def require_reason(reason: Any) -> None:
    """Rejects an invalid release reason."""
    if not isinstance(reason, str):
        raise TypeError(f"invalid reason {reason!r}: expected str")
