"""Maintains a hold while its holder works: renews the lease, watches the session connection,
and reports a loss before the lease expires.

Renewal never outlives the holder: the runtime stops it when the holder's thread, process or
lock object ends.
"""

from __future__ import annotations

import enum
import logging
import math
import time
from dataclasses import replace
from typing import TypeVar

from redis.exceptions import ResponseError

from . import _commands, _ownership
from ._operations import Operation, Routine, close_dedicated, execute, execute_dedicated
from ._server import Server
from ._types import AcquireRequest, Hold, Loss

logger = logging.getLogger("gpulock")
T = TypeVar("T")


class Wakeup(enum.Enum):
    """What ended a wait."""

    TIMEOUT = "timeout"
    STOP = "stop"
    """The holder releases the lock, or has ended."""
    DISCONNECTED = "disconnected"
    """The dedicated connection was closed."""
    LEASE_CHANGED = "lease changed"
    """The holder has replaced the lease."""


RENEWALS_PER_LEASE = 3
"""Two renewals may fail before the lease expires."""
MAX_WARNING_S = 30.0


def maintain(
    hold: Hold, request: AcquireRequest, server: Server, renew: bool
) -> Routine[Loss | None]:
    """Runs until the holder stops it (None), or the lock is lost or about to be.

    Anything else that ends it is a loss too: otherwise the holder would continue with a lock
    that is no longer renewed.
    """
    try:
        return (yield from _maintain(hold, request, server, renew))
    except GeneratorExit:
        raise
    except BaseException:  # Includes a task that was cancelled from outside.
        logger.exception("gpulock: the renewal failed; the lock is lost when its lease expires")
        return renewal_ended(hold)


def _maintain(
    hold: Hold, request: AcquireRequest, server: Server, renew: bool
) -> Routine[Loss | None]:
    if request.lease_ms:
        hold.expires_at = time.monotonic() + request.lease_ms / 1000
    warning_s = _warning_s((request.lease_ms or 0) / 1000)
    reported, lease_s = yield from _with_watchdog(hold, warning_s, _lease_s(hold, request))
    if reported or lease_s is None:
        return None if reported else (yield from _no_longer_owned(hold))
    warning_s, current_lease_s = _warning_s(lease_s), lease_s
    renew_at = time.monotonic() + (lease_s / RENEWALS_PER_LEASE if renew else math.inf)
    while True:
        warn_at = hold.expires_at - warning_s
        wakeup = yield _wait(min(renew_at, warn_at) - time.monotonic())
        if wakeup is Wakeup.STOP:
            return None
        if wakeup is Wakeup.LEASE_CHANGED:
            # A shortened lease expires before the times planned for the old one.
            current_lease_s = min(lease_s, max(0.0, hold.remaining_ms() / 1000))
            warning_s = _warning_s(current_lease_s)
            if renew:
                due_at = time.monotonic() + current_lease_s / RENEWALS_PER_LEASE
                renew_at = min(renew_at, due_at)
        elif wakeup is Wakeup.DISCONNECTED:
            reconnecting = _reconnect(hold, request, server, renew)
            reported, loss = yield from _with_watchdog(hold, warning_s, reconnecting)
            if reported or loss is not None:
                return None if reported else loss
        elif time.monotonic() >= hold.expires_at - warning_s:
            return _not_renewed(hold)
        elif time.monotonic() >= renew_at:
            renewing = _renew(hold, request, server)
            reported, renewed = yield from _with_watchdog(hold, warning_s, renewing)
            if reported:
                return None
            if renewed is False:
                return (yield from _no_longer_owned(hold))
            if renewed:
                warning_s, current_lease_s = _warning_s(lease_s), lease_s
            # Retry sooner after a failure: little time is left.
            attempts = RENEWALS_PER_LEASE if renewed else 10 * RENEWALS_PER_LEASE
            renew_at = time.monotonic() + current_lease_s / attempts


def _lease_s(hold: Hold, request: AcquireRequest) -> Routine[float | None]:
    """The length of the lease in seconds; None: the lock is no longer owned."""
    while True:
        try:
            if not (yield from _ownership.is_held(hold)):
                return None
            ttl_s = (yield from _ownership.refresh_expiry(hold)) / 1000
            return min(ttl_s, request.lease_ms / 1000) if request.lease_ms else ttl_s
        except (*_ownership.CONNECTION_ERRORS, ResponseError):
            # The server is busy, or this user may not run the commands.
            if request.lease_ms:
                return request.lease_ms / 1000
        # Only the server knows its default lease, which is long.
        if (yield _wait(1.0)) is Wakeup.STOP:
            return math.inf


def _with_watchdog(
    hold: Hold, warning_s: float, routine: Routine[T]
) -> Routine[tuple[bool, T]]:
    """Runs the routine, and returns whether a loss was reported meanwhile, and its result. A
    call that hangs must not delay the report."""
    seconds = hold.expires_at - warning_s - time.monotonic()
    yield lambda runtime: runtime.start_watchdog(seconds, _not_renewed(hold))
    try:
        result = yield from routine
    finally:
        reported = yield lambda runtime: runtime.stop_watchdog()
    return reported, result


def _warning_s(lease_s: float) -> float:
    """How long before the end of the lease a loss is reported."""
    return min(lease_s / 6, MAX_WARNING_S)


def _wait(seconds: float) -> Operation:
    return lambda runtime: runtime.wait_for_wakeup(max(0.0, seconds))


def _renew(hold: Hold, request: AcquireRequest, server: Server) -> Routine[bool | None]:
    """Returns whether the lock was renewed; None: unknown, because the server did not reply."""
    lease_ms = request.lease_ms
    if lease_ms is not None and hold.remaining_ms() > lease_ms:
        # The holder has extended the lease meanwhile: do not shorten it.
        lease_ms = int(hold.remaining_ms())
    tokens = dict(hold.tokens)
    # Traffic on the dedicated connection keeps proxies from closing it.
    send = execute_dedicated if request.session else execute
    try:
        renewed = yield from _ownership.extend(hold, server, lease_ms, send)
        if not renewed and tokens != hold.tokens:
            # The holder's own EXTEND received a new token at the same time.
            renewed = yield from _ownership.extend(hold, server, lease_ms, send)
        return renewed
    except _ownership.CONNECTION_ERRORS:
        server.invalidate()
        return None
    except ResponseError:
        # The server rejects writes for now (READONLY, OOM, MISCONF): retry.
        return None


def _reconnect(
    hold: Hold, request: AcquireRequest, server: Server, renew: bool
) -> Routine[Loss | None]:
    """Ties the lock to a new connection within the grace period.

    EXTEND comes first, because it fails if the lock was lost; ACQUIRE would acquire it again.
    """
    until = min(time.monotonic() + request.grace_ms / 1000, hold.expires_at)
    lost = _loss(hold, "the session connection was lost")
    while time.monotonic() < until:
        if not renew:
            request = replace(request, lease_ms=max(1, int(hold.remaining_ms())))
        try:
            extending = _ownership.extend(hold, server, request.lease_ms, execute_dedicated)
            if not (yield from extending):
                return lost
            reply = yield execute_dedicated(*_commands.acquire(request))
            tokens = _commands.granted_tokens(request, reply)
            if tokens == hold.tokens:
                return None
            for name in tokens or ():
                yield execute_dedicated(*_commands.release(name, hold.owner, None, "lost"))
            return lost
        except (*_ownership.CONNECTION_ERRORS, ResponseError):
            # The server cannot be reached, or is a replica for now: retry.
            server.invalidate()
            yield close_dedicated()
            if (yield _wait(0.1)) is Wakeup.STOP:
                return None
    return lost


def _no_longer_owned(hold: Hold) -> Routine[Loss]:
    yield close_dedicated()
    return _loss(hold, "the lock is no longer owned")


def _not_renewed(hold: Hold) -> Loss:
    return _loss(hold, "the lease was not renewed and is about to expire")


def renewal_ended(hold: Hold) -> Loss:
    """The loss to report when the renewal itself has ended."""
    return _loss(hold, "the lock is no longer being renewed")


def _loss(hold: Hold, reason: str) -> Loss:
    name, token = next(iter(hold.tokens.items()))
    return Loss(name, hold.owner, token, reason)
