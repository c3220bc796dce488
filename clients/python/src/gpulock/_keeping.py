"""The steps of a keeper, who looks after a lock while its holder works: renews its lease,
watches the connection that it is tied to, and tells in time when it will be lost.

It never outlives the holder: whoever runs these steps ends them with the holder's thread,
process or lock object.
"""

from __future__ import annotations

import enum
import logging
import math
import time
from dataclasses import replace
from typing import TypeVar

from redis.exceptions import ResponseError

from . import _holding, _words
from ._hold import Hold, Loss, Wish
from ._server import Server
from ._steps import Step, Steps, ask, ask_own

logger = logging.getLogger("gpulock")
T = TypeVar("T")


class Event(enum.Enum):
    """What ended a keeper's wait."""

    TIME = "time"
    STOP = "stop"
    """The holder gives the lock back, or is no more."""
    CUT = "cut"
    """The lock's own connection closed."""
    CHANGED = "changed"
    """The holder has set the lease anew."""


RENEWALS = 3
"""In each lease: two may fail before it is over."""
LONGEST_WARNING_S = 30.0


def keep(hold: Hold, wish: Wish, server: Server, renew: bool) -> Steps[Loss | None]:
    """Until the holder stops it (None), or the lock is lost or about to be.

    Whatever else ends it is a loss too: the holder would go on with a lock that nobody
    renews.
    """
    try:
        return (yield from _keep(hold, wish, server, renew))
    except GeneratorExit:
        raise
    except BaseException:  # Also a task that was cancelled from outside.
        logger.exception("gpulock: nobody looks after a lock any more; its lease will end")
        return unwatched(hold)


def _keep(hold: Hold, wish: Wish, server: Server, renew: bool) -> Steps[Loss | None]:
    if wish.lease_ms:
        hold.ends_at = time.monotonic() + wish.lease_ms / 1000
    warning_s = _warning_s((wish.lease_ms or 0) / 1000)
    rung, lease_s = yield from _until_warned(hold, warning_s, _first_look(hold, wish))
    if rung or lease_s is None:
        return None if rung else (yield from _taken_away(hold))
    warning_s, now_s = _warning_s(lease_s), lease_s
    renew_at = time.monotonic() + (lease_s / RENEWALS if renew else math.inf)
    while True:
        warn_at = hold.ends_at - warning_s
        event = yield _watch(min(renew_at, warn_at) - time.monotonic())
        if event is Event.STOP:
            return None
        if event is Event.CHANGED:
            # A lease that was cut short ends before the plan made for the old one.
            now_s = min(lease_s, max(0.0, hold.left_ms() / 1000))
            warning_s = _warning_s(now_s)
            renew_at = min(renew_at, time.monotonic() + now_s / RENEWALS) if renew else math.inf
        elif event is Event.CUT:
            steps = _come_back(hold, wish, server, renew)
            rung, loss = yield from _until_warned(hold, warning_s, steps)
            if rung or loss is not None:
                return None if rung else loss
        elif time.monotonic() >= hold.ends_at - warning_s:
            return _not_renewed(hold)
        elif time.monotonic() >= renew_at:
            renewing = _renew(hold, wish, server)
            rung, renewed = yield from _until_warned(hold, warning_s, renewing)
            if rung:
                return None
            if renewed is False:
                return (yield from _taken_away(hold))
            if renewed:
                warning_s, now_s = _warning_s(lease_s), lease_s
            # After a failure soon again: there is not much time.
            renew_at = time.monotonic() + now_s / (RENEWALS if renewed else 10 * RENEWALS)


def _first_look(hold: Hold, wish: Wish) -> Steps[float | None]:
    """How long the lease is, in seconds; None: it is not ours any more."""
    while True:
        try:
            if not (yield from _holding.is_held(hold)):
                return None
            left_s = (yield from _holding.look(hold)) / 1000
            return min(left_s, wish.lease_ms / 1000) if wish.lease_ms else left_s
        except (*_holding.LOST_CONTACT, ResponseError):
            # A server that is busy, or a user who may not look, tells nothing either.
            if wish.lease_ms:
                return wish.lease_ms / 1000
        # The server's own lease is long, and only the server knows it.
        if (yield _watch(1.0)) is Event.STOP:
            return math.inf


def _until_warned(hold: Hold, warning_s: float, steps: Steps[T]) -> Steps[tuple[bool, T]]:
    """Whether the holder was warned before the steps came to their end, and what they gave. A
    call that hangs must not keep the news from the holder."""
    seconds = hold.ends_at - warning_s - time.monotonic()
    yield lambda doer: doer.alarm(seconds, _not_renewed(hold))
    try:
        result = yield from steps
    finally:
        rung = yield lambda doer: doer.disarm()
    return rung, result


def _warning_s(lease_s: float) -> float:
    return min(lease_s / 6, LONGEST_WARNING_S)


def _watch(seconds: float) -> Step:
    return lambda doer: doer.watch(max(0.0, seconds))


def _renew(hold: Hold, wish: Wish, server: Server) -> Steps[bool | None]:
    """None: nobody knows, the server did not answer."""
    lease_ms = wish.lease_ms
    if lease_ms is not None and hold.left_ms() > lease_ms:
        # The holder asked for more time meanwhile: a renewal takes none of it away.
        lease_ms = int(hold.left_ms())
    known = dict(hold.tokens)
    # On the lock's own connection: one on which nothing travels may be cut.
    say = ask_own if wish.session else ask
    try:
        renewed = yield from _holding.extend(hold, server, lease_ms, say)
        if not renewed and known != hold.tokens:
            # The holder's own EXTEND brought a new token at the same time.
            renewed = yield from _holding.extend(hold, server, lease_ms, say)
        return renewed
    except _holding.LOST_CONTACT:
        server.forget()
        return None
    except ResponseError:
        # The server does not serve this now (READONLY, OOM, MISCONF): ask again.
        return None


def _come_back(hold: Hold, wish: Wish, server: Server, renew: bool) -> Steps[Loss | None]:
    """Ties the lock to a new connection while the grace runs.

    EXTEND tells whether the lock was kept: the ACQUIRE that ties it would also answer when
    it had been lost and was free again.
    """
    until = min(time.monotonic() + wish.grace_ms / 1000, hold.ends_at)
    lost = _loss(hold, "its connection broke")
    while time.monotonic() < until:
        if not renew:
            wish = replace(wish, lease_ms=max(1, int(hold.left_ms())))
        try:
            if not (yield from _holding.extend(hold, server, wish.lease_ms, ask_own)):
                return lost
            reply = yield ask_own(*_words.acquire(wish))
            tokens = _words.tokens(wish, reply)
            if tokens == hold.tokens:
                return None
            for name in tokens or ():
                yield ask_own(*_words.release(name, hold.owner, None, "lost"))
            return lost
        except (*_holding.LOST_CONTACT, ResponseError):
            # Away, or a replica for the moment: the grace runs on.
            server.forget()
            yield lambda doer: doer.close_own()
            if (yield _watch(0.1)) is Event.STOP:
                return None
    return lost


def _taken_away(hold: Hold) -> Steps[Loss]:
    yield lambda doer: doer.close_own()
    return _loss(hold, "it was taken away")


def _not_renewed(hold: Hold) -> Loss:
    return _loss(hold, "its lease ends and was not renewed")


def unwatched(hold: Hold) -> Loss:
    """The keeper is no more."""
    return _loss(hold, "nobody looks after it any more")


def _loss(hold: Hold, reason: str) -> Loss:
    name, token = next(iter(hold.tokens.items()))
    return Loss(name, hold.owner, token, reason)
