"""The steps of one who holds locks: give them back, ask for more time, look at them."""

from __future__ import annotations

import time

from redis.exceptions import (
    ConnectionError,
    LockNotOwnedError,
    NoPermissionError,
    ResponseError,
    TimeoutError,
)

from . import _plain, _words
from ._hold import Hold
from ._server import Server, is_unknown_command
from ._steps import Say, Steps, ask, ask_once
from ._words import Name


def release(hold: Hold, server: Server, reason: str = "normal") -> Steps[bool]:
    """Gives back all that is held, and answers whether all of it still was.

    It can be repeated when it fails half-way: what it gave back stays given back. Once an
    answer was lost, a lock that is ours no more counts as released: nobody can tell it from
    one that the lost call released.
    """
    all_held = True
    for name in hold.names:
        try:
            released = yield from _release_and_repeat(hold, name, server, reason)
        except ResponseError:
            raise  # The server has done nothing.
        except BaseException:
            hold.doubtful = True
            raise
        hold.released.add(name)
        all_held = all_held and (released or hold.doubtful)
    return all_held


def _release_and_repeat(hold: Hold, name: Name, server: Server, reason: str) -> Steps[bool]:
    """The client would repeat a release whose answer was lost, and tell only what came of the
    second one: so the first is sent without that."""
    try:
        return (yield from _release_one(hold, name, server, reason, ask_once))
    except LOST_CONTACT:
        hold.doubtful = True
        if not (yield lambda doer: doer.retries()):
            raise
    return (yield from _release_one(hold, name, server, reason, ask))


def _release_one(hold: Hold, name: Name, server: Server, reason: str, say: Say) -> Steps[bool]:
    if hold.by_module:
        try:
            token = hold.tokens[name]
            return bool((yield say(*_words.release(name, hold.owner, token, reason))))
        except ResponseError as error:
            _raise_unless_module_is_gone(error, server)
    try:
        abilities = yield from server.abilities()
        return (yield from _plain.release(name, hold.owner, reason, abilities, say))
    except ResponseError:
        server.forget()
        raise


def extend(hold: Hold, server: Server, lease_ms: int | None, say: Say = ask) -> Steps[bool]:
    """Sets the leases anew, and answers whether all of them still were ours."""
    for name in hold.names:
        if not (yield from _extend_one(hold, name, server, lease_ms, say)):
            return False
    yield from look(hold)
    return True


def _extend_one(
    hold: Hold, name: Name, server: Server, lease_ms: int | None, say: Say
) -> Steps[bool]:
    if hold.by_module:
        try:
            token = yield say(*_words.extend(name, hold.owner, hold.tokens[name], lease_ms))
        except ResponseError as error:
            _raise_unless_module_is_gone(error, server)
        else:
            if token is None:
                return False
            # A server that was restarted knew no token, and has given the lock a new one.
            hold.tokens[name] = int(token)
            return True
    if lease_ms is None:
        return (yield from _owns(hold, name))
    return (yield from _plain.extend(name, hold.owner, lease_ms))


def look(hold: Hold) -> Steps[float]:
    """Learns when the first of the leases ends, and answers what is left, in ms."""
    ends_at, asked = float("inf"), time.monotonic()
    for name in hold.names:
        left: int = yield ask("PTTL", name)
        if left != -1:
            # The server was asked later than this: the lease ends no earlier.
            ends_at = min(ends_at, asked + max(left, 0) / 1000)
    hold.ends_at = ends_at
    return (ends_at - asked) * 1000


def add(hold: Hold, server: Server, added_ms: int) -> Steps[bool]:
    """Adds to what is left, as redis-py does; the module itself adds nothing."""
    left = yield from look(hold)
    if left == float("inf"):
        return False
    return (yield from extend(hold, server, int(left) + added_ms))


def is_held(hold: Hold) -> Steps[bool]:
    """Whether the server says that all locks are still ours."""
    for name in hold.names:
        knows_tokens = hold.tokens[name] is not None
        if not (yield from (_is_that_hold if knows_tokens else _owns)(hold, name)):
            return False
    return True


def _is_that_hold(hold: Hold, name: Name) -> Steps[bool]:
    try:
        reply = yield ask("GPULOCK.INSPECT", name)
    except ResponseError as error:
        # A user who may not ask so much, or a module that is no more.
        if isinstance(error, NoPermissionError) or is_unknown_command(error):
            return (yield from _owns(hold, name))
        raise
    if reply is None:
        return False
    lock = _words.fields(reply)
    if lock["owner"] is None or _words.as_bytes(lock["owner"]) != hold.owner:
        return False
    # An adopted lock has no token, or a new one that it got since.
    return bool(lock["adopted"]) or lock["token"] == hold.tokens[name]


def _owns(hold: Hold, name: Name) -> Steps[bool]:
    value = yield ask("GET", name)
    return value is not None and _words.as_bytes(value) == hold.owner


def not_owned(name: Name, text: str) -> LockNotOwnedError:
    """The error of one who does not hold the lock any more, or never did."""
    error = LockNotOwnedError(text)
    error.lock_name = _words.as_text(name)
    return error


def _raise_unless_module_is_gone(error: ResponseError, server: Server) -> None:
    if not is_unknown_command(error):
        raise error
    server.forget()


LOST_CONTACT = (ConnectionError, TimeoutError)
"""What tells nothing about the lock."""
