"""What a holder does with its locks: release them, extend their leases, check that it owns
them."""

from __future__ import annotations

import logging
from typing import Any, Callable

from redis.exceptions import (
    ConnectionError,
    LockNotOwnedError,
    ResponseError,
    TimeoutError,
)

from . import _clock, _commands, _fallback, _inspection
from ._commands import Name
from ._operations import Execute, Routine, execute, execute_once, execute_with_short_timeout
from ._server import Server, is_unknown_command
from ._types import Hold

logger = logging.getLogger("gpulock")

CONNECTION_ERRORS = (ConnectionError, TimeoutError)
"""Errors that leave the state of the lock unknown."""


def release(hold: Hold, server: Server, reason: str = "normal") -> Routine[bool]:
    """Releases all locks of the hold, and returns whether all of them were still owned.

    A call that failed can be repeated: it continues with the locks that are not released yet.
    After a lost reply, a lock that is no longer owned counts as released, because the lost
    call may have released it.
    """
    all_owned = True
    for name in hold.names:
        try:
            released = yield from _release_with_retry(hold, name, server, reason)
        except ResponseError:
            raise  # The server changed nothing.
        except BaseException:
            hold.release_uncertain = True
            raise
        hold.released.add(name)
        all_owned = all_owned and (released or hold.release_uncertain)
    return all_owned


def _release_with_retry(hold: Hold, name: Name, server: Server, reason: str) -> Routine[bool]:
    """The client's own retries would hide a lost reply: the second call finds the lock released
    already. So the first call is made without them."""
    try:
        return (yield from _release_one(hold, name, server, reason, execute_once))
    except CONNECTION_ERRORS:
        hold.release_uncertain = True
        if not (yield lambda runtime: runtime.client_retries()):
            raise
    return (yield from _release_one(hold, name, server, reason, execute))


def _release_one(
    hold: Hold, name: Name, server: Server, reason: str, execute: Execute
) -> Routine[bool]:
    if hold.by_module:
        try:
            token = hold.tokens[name]
            return bool((yield execute(*_commands.release(name, hold.owner, token, reason))))
        except ResponseError as error:
            _raise_unless_module_is_gone(error, server)
    try:
        capabilities = yield from server.capabilities()
        return (yield from _fallback.release(name, hold.owner, reason, capabilities, execute))
    except ResponseError:
        server.invalidate()
        raise


def finish_release(hold: Hold, server: Server, reason: str) -> Routine[None]:
    """Completes a release that was interrupted, with short timeouts."""
    hold.release_uncertain = True
    for name in hold.names:
        yield from _release_one(hold, name, server, reason, execute_with_short_timeout)
        hold.released.add(name)


def is_repeated(hold: Hold, current: Hold | None) -> bool:
    """Whether an acquire call was granted the locks that its owner already held."""
    return current is not None and hold.tokens == current.tokens and not current.released


def log_not_released(hold: Hold, error: BaseException | None) -> None:
    """To be called when a release was interrupted and could not be completed, with the error
    of the attempt to complete it."""
    logger.warning(
        "the release of %s was interrupted, and %s: the lock is held until its lease expires",
        hold.names[0],
        failure(error),
    )


def failure(error: BaseException | None) -> str:
    """Why an interrupted call could not be completed, for the log. None: it took too long."""
    if isinstance(error, ResponseError):
        return f"the server replied with an error ({error})"
    if error is None or isinstance(error, (*CONNECTION_ERRORS, OSError)):
        return "the server did not respond"
    return f"could not be completed ({error!r})"


def extend(
    hold: Hold, server: Server, lease_ms: int | None, execute: Execute = execute
) -> Routine[bool]:
    """Replaces the leases, and returns whether all locks were still owned."""
    for name in hold.names:
        if not (yield from _extend_one(hold, name, server, lease_ms, execute)):
            return False
    # A lock may be removed between the two commands.
    return (yield from refresh_expiry(hold, execute)) > 0


def _extend_one(
    hold: Hold, name: Name, server: Server, lease_ms: int | None, execute: Execute
) -> Routine[bool]:
    if hold.by_module:
        command = _commands.extend(name, hold.owner, hold.tokens[name], lease_ms)
        try:
            token = yield execute(*command)
        except ResponseError as error:
            _raise_unless_module_is_gone(error, server)
        else:
            if token is None:
                return False
            # A restarted server has lost the old token, and assigns a new one.
            hold.tokens[name] = int(token)
            return True
    if lease_ms is None:
        return (yield from _owns(hold, name, execute))
    return (yield from _fallback.extend(name, hold.owner, lease_ms, execute))


def refresh_expiry(hold: Hold, execute: Execute = execute) -> Routine[float]:
    """Updates when the first of the leases expires, and returns the time until then in ms."""
    expires_at, queried_at = float("inf"), _clock.now()
    for name in hold.names:
        ttl_ms: int = yield execute("PTTL", name)
        if ttl_ms != -1:
            # The server handled PTTL after queried_at: the lease expires no earlier than this.
            expires_at = min(expires_at, queried_at + max(ttl_ms, 0) / 1000)
    hold.expires_at = expires_at
    return (expires_at - queried_at) * 1000


def add_time(hold: Hold, server: Server, added_ms: int) -> Routine[bool]:
    """Adds to the rest of the lease, as redis-py does; EXTEND can only replace it."""
    remaining = yield from refresh_expiry(hold)
    if remaining == float("inf"):
        return False
    return (yield from extend(hold, server, int(remaining) + added_ms))


def extend_by_script(hold: Hold, script: Callable[[], Any]) -> Routine[bool]:
    """Calls a script of the holder that changes the lease."""
    if not (yield lambda runtime: script()):
        return False
    return (yield from refresh_expiry(hold)) > 0


def is_held(hold: Hold) -> Routine[bool]:
    """Whether all locks are still held by this hold, according to the server."""
    for name in hold.names:
        if not (yield from _inspection.inspect(hold, name, execute)).is_held:
            return False
    return True


def _owns(hold: Hold, name: Name, execute: Execute = execute) -> Routine[bool]:
    value = yield execute(_commands.GET, name)
    return value is not None and _commands.as_bytes(value) == hold.owner


def not_owned(name: Name, text: str) -> LockNotOwnedError:
    """The error of a caller that does not hold the lock."""
    error = LockNotOwnedError(text)
    error.lock_name = _commands.as_text(name)
    return error


def _raise_unless_module_is_gone(error: ResponseError, server: Server) -> None:
    if not is_unknown_command(error):
        raise error
    server.invalidate()
