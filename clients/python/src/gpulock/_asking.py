"""The steps of acquire: in line in the server, or by polling where there is no line.

Whatever ends a call before its answer is there (an error, a signal, a cancelled task), what
it may have been granted is given back.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace

from redis.exceptions import ConnectionError, RedisError, ResponseError, TimeoutError

from . import _plain, _words
from ._hold import Hold, Wish
from ._server import Abilities, Server, is_unknown_command
from ._steps import Step, Steps, ask, ask_briefly, ask_own, pause
from .errors import DeadlockError, ModuleMissingError

logger = logging.getLogger("gpulock")

PATIENCE_S = 30.0
"""How long a waiter rides out a connection that breaks again and again."""
SHORTEST_SLICE_S = 0.25
RETRY_S = 0.2


def acquire(wish: Wish, server: Server) -> Steps[Hold | None]:
    """The locks wished for, or None when they could not be had in time."""
    abilities = yield from server.abilities()
    if abilities.module:
        try:
            return (yield from _in_line(wish, server))
        except ResponseError as error:
            if not is_unknown_command(error):
                raise
            server.forget()
            abilities = replace((yield from server.abilities()), module=False)
    _refuse_what_needs_the_module(wish)
    return (yield from _by_polling(wish, abilities))


def _refuse_what_needs_the_module(wish: Wish) -> None:
    if wish.session or wish.fair:
        wanted = "session" if wish.session else "fair line"
        raise ModuleMissingError(f"This server has no GPULOCK module, and so no {wanted}.")


def _in_line(wish: Wish, server: Server) -> Steps[Hold | None]:
    deadline = time.monotonic() + wish.wait_s
    way = _Way(wish.slice_s)
    try:
        while True:
            # BLOCK 0 would be a wait without an end.
            left = max(0.0, deadline - time.monotonic())
            block_ms = math.ceil(min(left, way.slice_s) * 1000)
            if not wish.session and not way.has_answered:
                block_ms = 0  # A free lock needs no connection beside the pool.
            try:
                reply = yield _say(wish, block_ms)
            except (ConnectionError, TimeoutError):
                server.forget()
                if not block_ms or not way.has_answered or way.is_cut_for_good():
                    raise
                yield pause(RETRY_S)
                continue
            except ResponseError as error:
                _raise_unless_passing(error, waits=block_ms > 0)
                yield pause(RETRY_S)
                continue
            way.broken_since, way.has_answered = None, True
            tokens = _words.tokens(wish, reply)
            if tokens is not None:
                if not wish.session:
                    yield lambda doer: doer.close_own()
                return Hold(wish.owner, tokens)
            if time.monotonic() >= deadline:
                yield lambda doer: doer.close_own()
                return None
    except GeneratorExit:
        raise
    except (ResponseError, DeadlockError):
        # The server said no: nothing was granted.
        yield lambda doer: doer.close_own()
        raise
    except BaseException:
        yield from _call_back(wish)
        raise


class _Way:
    """What a wait has learnt about the way to the server."""

    def __init__(self, slice_s: float) -> None:
        self.slice_s = slice_s
        self.broken_since: float | None = None
        self.has_answered = False

    def is_cut_for_good(self) -> bool:
        """Notes that a call was cut off. Something on the way may not bear a connection on
        which nothing travels: the next calls are shorter."""
        now = time.monotonic()
        if self.broken_since is None:
            self.broken_since = now
        self.slice_s = max(self.slice_s / 4, min(self.slice_s, SHORTEST_SLICE_S))
        return now - self.broken_since > PATIENCE_S


def _say(wish: Wish, block_ms: int) -> Step:
    """Who waits keeps its connection: were it one of the pool, those who wait could use up
    the pool, and nobody could release."""
    words = _words.acquire(wish, block_ms)
    return ask_own(*words) if wish.session or block_ms else ask(*words)


def _raise_unless_passing(error: ResponseError, waits: bool) -> None:
    """A failover or a slot on the move ends a wait, and the next call goes on with it."""
    text = str(error)
    if text.startswith("DEADLOCK"):
        raise DeadlockError(text) from error
    if not (waits and text.startswith(("UNBLOCKED force", "TRYAGAIN"))):
        raise error


def _call_back(wish: Wish) -> Steps[None]:
    """Ends a call whose answer is lost. Asking again takes over its place in the line, and
    tells whether it had been granted the locks already."""
    try:
        yield lambda doer: doer.close_own()
        if not wish.unique:
            return  # Another one may hold the lock under the same name.
        again = _words.acquire(replace(wish, session=False), block_ms=1)
        granted = _words.tokens(wish, (yield ask_briefly(*again))) or {}
        for name, token in granted.items():
            if wish.mine is None or not wish.mine.has(name, token):
                yield ask_briefly(*_words.release(name, wish.owner, None, "cancelled"))
    except (RedisError, OSError):
        _leave_to_the_lease(wish)


def _leave_to_the_lease(wish: Wish) -> None:
    logger.warning(
        "gpulock: a call for %s was cut off, and the server is away: the lease of what it may "
        "have been granted has to end",
        wish.names[0],
    )


def _by_polling(wish: Wish, abilities: Abilities) -> Steps[Hold | None]:
    deadline = time.monotonic() + wish.wait_s
    try:
        while True:
            hold = yield from _plain.take(wish)
            left = deadline - time.monotonic()
            if hold is not None or left <= 0:
                # Here, where a call that is cut off is made good.
                yield lambda doer: doer.deafen()
                return hold
            nap = min(wish.poll_s, left)
            channel = _plain.channel(wish.names[0])
            yield lambda doer, nap=nap, channel=channel: doer.hear(channel, nap)  # type: ignore[misc]
    except (GeneratorExit, ResponseError):
        raise
    except BaseException:
        yield from _take_back(wish, abilities)
        raise


def _take_back(wish: Wish, abilities: Abilities) -> Steps[None]:
    if not wish.unique:
        return
    try:
        for name in wish.names:
            if wish.mine is None or name not in wish.mine.names:
                yield from _plain.release(name, wish.owner, "cancelled", abilities, ask_briefly)
    except (RedisError, OSError):
        _leave_to_the_lease(wish)
