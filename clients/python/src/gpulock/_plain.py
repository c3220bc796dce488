"""A lock on a server without the module: SET NX, compare-and-delete by the best command that
the server has, and the release told on the channel on which the module would tell it.

It shares its locks with redis-py's Lock and with clients of the module.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress

from redis.exceptions import RedisError

from . import _words
from ._hold import Hold, Wish
from ._server import Abilities
from ._steps import Say, Steps, ask
from ._words import Name, Words

CHANNEL = b"gpu_lock:"

RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""

# Answers what is left of the lease, and -2 to one who does not hold the lock.
EXTEND = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -2 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('PTTL', KEYS[1])
"""

# All that are wanted or none, in the order in which they are named. An owner that nobody else
# uses is told what it has: the answer may have been lost on the way, and the script repeated.
TAKE = """
local free, own = {}, {}
for _, key in ipairs(KEYS) do
    if ARGV[4] == '1' and redis.call('GET', key) == ARGV[1] then own[#own + 1] = key end
    if #free < tonumber(ARGV[2]) and redis.call('EXISTS', key) == 0 then
        free[#free + 1] = key
    end
end
if #own > 0 then return own end
if #free < tonumber(ARGV[2]) then return false end
for _, key in ipairs(free) do
    if ARGV[3] == '' then redis.call('SET', key, ARGV[1])
    else redis.call('SET', key, ARGV[1], 'PX', ARGV[3]) end
end
return free
"""


def take(wish: Wish) -> Steps[Hold | None]:
    """One try."""
    if wish.count is None:
        name = wish.names[0]
        taken = yield ask("SET", name, wish.owner, "NX", *_words.lease(wish.lease_ms))
        # An answer may have been lost on the way, and the command repeated.
        if not taken and wish.unique:
            value = yield ask("GET", name)
            taken = value is not None and _words.as_bytes(value) == wish.owner
        names = [name] if taken else []
    else:
        lease = "" if wish.lease_ms is None else str(wish.lease_ms)
        unique = int(wish.unique)
        reply = yield ask(
            "EVAL", TAKE, len(wish.names), *wish.names, wish.owner, wish.count, lease, unique
        )
        taken_keys = {_words.as_bytes(key) for key in reply or ()}
        names = [name for name in wish.names if _words.as_bytes(name) in taken_keys]
    if not names:
        return None
    return Hold(wish.owner, dict.fromkeys(names), by_module=False)


def release(
    name: Name, owner: bytes, reason: str, abilities: Abilities, say: Say = ask
) -> Steps[bool]:
    """Frees the lock if ``owner`` holds it, and tells those who wait."""
    released = bool((yield say(*_compare_and_delete(name, owner, abilities))))
    if released:
        # Who does not hear of it looks from time to time.
        with suppress(RedisError):
            yield say("PUBLISH", channel(name), _event(name, owner, reason))
    return released


def extend(name: Name, owner: bytes, lease_ms: int) -> Steps[bool]:
    """Sets the lease anew if ``owner`` holds the lock."""
    left: int = yield ask("EVAL", EXTEND, 1, name, owner, lease_ms)
    return left != -2


def channel(name: Name) -> bytes:
    """Where the module, with its settings as they come, tells of this lock."""
    return CHANNEL + _words.as_bytes(name)


def _compare_and_delete(name: Name, owner: bytes, abilities: Abilities) -> Words:
    if abilities.delex:
        return ("DELEX", name, "IFEQ", owner)
    if abilities.delifeq:
        return ("DELIFEQ", name, owner)
    return ("EVAL", RELEASE, 1, name, owner)


def _event(name: Name, owner: bytes, reason: str) -> str:
    holder = _words.as_text(owner)
    return json.dumps(
        {
            "event_type": "lock_released",
            "lock_key": _words.as_text(name),
            "task_name": holder[len("locked_by_") :]
            if holder.startswith("locked_by_")
            else holder,
            "release_reason": reason,
            "timestamp": time.time(),
            "owner": holder,
        }
    )
