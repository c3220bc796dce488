"""The tests of redis-py that must fail with gpulock, and why.

A listed test that passes is an error, and so is any other test that fails.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """Tests that fail for the same reason."""

    row: str
    """The row of the table in docs/migrate-python.md that describes it."""
    tests: list[str]
    servers: tuple[str, ...] = ("module", "plain")
    fakes_clock: bool | None = None
    """Whether the tests replace the clock of redis-py's lock, as they do since 8.1; None: in
    either version."""


DIFFERENCES = [
    # These tests expect a key without a TTL.
    Difference(
        "`timeout=None`",
        [
            "test_lock::test_lock",
            "test_lock::test_lock_token",
            "test_lock::test_lock_token_thread_local_false",
            "test_asyncio.test_lock::test_lock",
            "test_asyncio.test_lock::test_lock_token",
            "test_asyncio.test_lock::test_lock_token_thread_local_false",
        ],
        servers=("module",),
    ),
    # These tests expect that a waiter returns earlier.
    Difference(
        "`blocking_timeout`",
        [
            "test_lock::test_high_sleep_small_blocking_timeout",
            "test_asyncio.test_lock::test_high_sleep_small_blocking_timeout",
            "test_asyncio.test_lock::test_blocking_timeout",
        ],
        fakes_clock=False,
    ),
    # These tests expect that a waiter uses the clock and the sleep of redis-py's lock.
    Difference(
        "`do_acquire`, `do_release`, the clock `redis.lock.mod_time`, …",
        [
            "test_lock::test_blocking_timeout",
            "test_lock::test_context_manager_blocking_timeout",
            "test_asyncio.test_lock::test_blocking_timeout",
        ],
        fakes_clock=True,
    ),
]
