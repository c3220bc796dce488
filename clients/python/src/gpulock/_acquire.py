"""Acquires locks: through the wait queues of the module, or by polling without it.

However a call ends early (an error, a signal, a cancelled task), locks that it may have been
granted are released.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace

from redis.exceptions import (
    ClusterCrossSlotError,
    ConnectionError,
    DataError,
    NoPermissionError,
    RedisError,
    ResponseError,
    TimeoutError,
)

from . import _commands, _fallback, _ownership
from ._operations import (
    Operation,
    Routine,
    close_dedicated,
    execute,
    execute_dedicated,
    execute_with_short_timeout,
    sleep,
    wait_for_message,
)
from ._server import Capabilities, Server, is_unknown_command
from ._types import AcquireRequest, Hold
from .errors import DeadlockError, ModuleMissingError

logger = logging.getLogger("gpulock")

RECONNECT_LIMIT_S = 30.0
"""How long a waiter keeps reconnecting after a connection broke."""
MIN_BLOCK_S = 0.25
LAST_BLOCK_S = 1.0
"""How long the last call of a wait blocks at most. It leaves no position in the queue, also if
its connection breaks."""
RETRY_DELAY_S = 0.2
DETECTION_INTERVAL_S = 1.0
"""How often a polling waiter checks whether the module has been loaded."""

REJECTIONS = (ClusterCrossSlotError, NoPermissionError, DataError)
REJECTION_CODES = ("MAXWAITERS", "DEADLOCK", "WRONGTYPE")
"""Errors of a command that was granted nothing, also in an earlier call of the same wait."""


def acquire(request: AcquireRequest, server: Server) -> Routine[Hold | None]:
    """Returns the acquired locks, or None if they were not granted in time."""
    capabilities = yield from server.capabilities()
    if capabilities.module:
        try:
            return (yield from _acquire_queued(request, server))
        except ResponseError as error:
            if not is_unknown_command(error):
                raise
            server.invalidate()
            capabilities = replace((yield from server.capabilities()), module=False)
    _reject_module_features(request)
    return (yield from _acquire_by_polling(request, server, capabilities))


def recorded(acquiring: Routine[Hold | None], results: list[Hold | None]) -> Routine[None]:
    """Adds the result to the list, where it is found even if a signal interrupts the caller
    before it receives the result."""
    results.append((yield from acquiring))


def reserve(request: AcquireRequest, server: Server) -> Routine[Hold | None]:
    """Like ``acquire``. Asks the server when the leases end, for it may have shortened them."""
    hold = yield from acquire(request, server)
    if hold is None:
        return None
    try:
        yield from _ownership.refresh_expiry(hold)
    except GeneratorExit:
        raise
    except (RedisError, OSError):
        pass  # The requested lease counts.
    except BaseException:
        try:
            yield from _ownership.finish_release(hold, server, "cancelled")
        except (RedisError, OSError) as error:
            _ownership.log_not_released(hold, error)
        raise
    return hold


def _reject_module_features(request: AcquireRequest) -> None:
    requested = {
        "session=True": request.session,
        "fair=True": request.fair,
        "priority": request.priority,
        "share": request.share is not None,
        "near": request.near is not None,
        "groups": request.groups is not None,
    }
    for feature, is_requested in requested.items():
        if is_requested:
            raise ModuleMissingError(
                f"{feature} needs the GPULOCK module, which this server lacks."
            )


def _acquire_queued(request: AcquireRequest, server: Server) -> Routine[Hold | None]:
    deadline = time.monotonic() + request.wait_s
    connection = _ConnectionHealth(request.max_block_s)
    try:
        while True:
            # BLOCK 0 would wait indefinitely.
            remaining = max(0.0, deadline - time.monotonic())
            last_s = min(LAST_BLOCK_S, connection.max_block_s)
            is_last = remaining <= last_s
            block_s = min(remaining - (0 if is_last else last_s), connection.max_block_s)
            # The first call does not block: a free lock needs no dedicated connection, and only
            # a server that has replied is waited for when the connection breaks. The others
            # block also if no time is left: the last one gives up the position of the others.
            block_ms = max(1, math.ceil(block_s * 1000)) if connection.has_replied else 0
            gives_up = is_last and server.has_keep
            try:
                reply = yield _send_acquire(request, block_ms, gives_up)
            except (ConnectionError, TimeoutError):
                server.invalidate()
                is_late = time.monotonic() >= deadline
                if not block_ms or is_late or connection.record_failure():
                    raise
                yield sleep(RETRY_DELAY_S)
                continue
            except ResponseError as error:
                if gives_up and block_ms and str(error).startswith("syntax error"):
                    server.has_keep = False
                    continue
                _raise_unless_transient(error, waiting=block_ms > 0)
                yield sleep(RETRY_DELAY_S)
                continue
            connection.failing_since, connection.has_replied = None, True
            tokens = _commands.granted_tokens(request, reply)
            if tokens is not None:
                if not request.session:
                    yield close_dedicated()
                return Hold(request.owner, tokens)
            if is_last and time.monotonic() >= deadline:
                yield close_dedicated()
                return None
    except GeneratorExit:
        raise
    except (ResponseError, DeadlockError):
        # The server replied with an error: it granted nothing.
        yield close_dedicated()
        raise
    except BaseException:
        yield from _withdraw_queued(request, server)
        raise


class _ConnectionHealth:
    """What a wait has learned about its connection to the server."""

    def __init__(self, max_block_s: float) -> None:
        self.max_block_s = max_block_s
        self.failing_since: float | None = None
        self.has_replied = False

    def record_failure(self) -> bool:
        """Returns whether to give up. Blocks for a shorter time from now on: a proxy may close
        idle connections."""
        now = time.monotonic()
        if self.failing_since is None:
            self.failing_since = now
        self.max_block_s = max(self.max_block_s / 4, min(self.max_block_s, MIN_BLOCK_S))
        return now - self.failing_since > RECONNECT_LIMIT_S


def _send_acquire(request: AcquireRequest, block_ms: int, gives_up: bool) -> Operation:
    """A blocking call uses the dedicated connection: otherwise waiters could exhaust the pool,
    and no holder could release."""
    command = _commands.acquire(request, block_ms, gives_up=gives_up)
    if request.session or block_ms:
        return execute_dedicated(*command)
    return execute(*command)


def _raise_unless_transient(error: ResponseError, waiting: bool) -> None:
    """A failover or a slot migration ends a blocking call; the next call continues the wait."""
    text = str(error)
    if text.startswith("DEADLOCK"):
        raise DeadlockError(text) from error
    if not (waiting and text.startswith(("UNBLOCKED force", "TRYAGAIN"))):
        raise error


def _withdraw_queued(request: AcquireRequest, server: Server) -> Routine[None]:
    """Withdraws a call whose reply is lost. Repeating the command takes over its position in
    the queue, gives it up, and reports locks that were already granted."""
    try:
        yield close_dedicated()
        if not request.unique:
            return  # Another holder may use the same owner.
        sessionless = replace(request, session=False)
        repeated = _commands.acquire(sessionless, block_ms=1, gives_up=server.has_keep)
        reply = yield execute_with_short_timeout(*repeated)
        granted = _commands.granted_tokens(request, reply) or {}
        for name, token in granted.items():
            if request.current_hold is None or not request.current_hold.matches(name, token):
                release = _commands.release(name, request.owner, None, "cancelled")
                yield execute_with_short_timeout(*release)
    except (RedisError, OSError) as error:
        is_rejected = isinstance(error, REJECTIONS) or str(error).startswith(REJECTION_CODES)
        if not is_rejected:
            _log_not_withdrawn(request, error)


def _log_not_withdrawn(request: AcquireRequest, error: Exception) -> None:
    logger.warning(
        "an acquire call for %s was interrupted, and %s: "
        "locks that it may have been granted are held until their lease expires",
        request.names[0],
        _ownership.failure(error),
    )


def _acquire_by_polling(
    request: AcquireRequest, server: Server, capabilities: Capabilities
) -> Routine[Hold | None]:
    deadline = time.monotonic() + request.wait_s
    detect_at = time.monotonic() + DETECTION_INTERVAL_S
    try:
        while True:
            hold = yield from _fallback.try_acquire(request)
            remaining = deadline - time.monotonic()
            if hold is not None or remaining <= 0:
                # Inside the try block, so that an interrupted call is withdrawn.
                yield lambda runtime: runtime.unsubscribe()
                return hold
            if time.monotonic() >= detect_at:
                latest = yield from server.capabilities()
                if latest.module and latest.detected:
                    break
                detect_at = time.monotonic() + DETECTION_INTERVAL_S
            interval = min(request.poll_interval_s, remaining)
            yield wait_for_message(_fallback.channel(request.names[0]), interval)
    except (GeneratorExit, ResponseError):
        raise
    except BaseException:
        yield from _withdraw_polling(request, capabilities)
        raise
    # Beside the queue of the module, a client that polls is rarely granted the lock.
    yield lambda runtime: runtime.unsubscribe()
    remaining = max(0.0, deadline - time.monotonic())
    return (yield from _acquire_queued(replace(request, wait_s=remaining), server))


def _withdraw_polling(request: AcquireRequest, capabilities: Capabilities) -> Routine[None]:
    if not request.unique:
        return
    try:
        for name in request.names:
            if request.current_hold is None or name not in request.current_hold.names:
                yield from _fallback.release(
                    name, request.owner, "cancelled", capabilities, execute_with_short_timeout
                )
    except (RedisError, OSError) as error:
        _log_not_withdrawn(request, error)
