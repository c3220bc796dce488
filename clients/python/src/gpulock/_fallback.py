"""Locks on a server without the module, built from native commands.

A lock is a key set with SET NX. It is released by the best compare-and-delete that the server
has, and the release is published on the channel that the module uses. Locks are shared with
redis-py's Lock and with clients of the module.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress

from redis.exceptions import RedisError

from . import _commands
from ._commands import Command, Name
from ._operations import Execute, Routine, execute
from ._server import Capabilities
from ._types import AcquireRequest, Hold

CHANNEL_PREFIX = "gpu_lock:"
OWNER_PREFIX = "locked_by_"

RELEASE_SCRIPT = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""

# Returns the rest of the lease, or -2 if the caller is not the owner.
EXTEND_SCRIPT = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -2 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('PTTL', KEYS[1])
"""

# Acquires the requested number of keys or none, in the order of KEYS. For a unique owner it
# returns the keys already held: the script is repeated when its reply was lost.
ACQUIRE_SCRIPT = """
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


def try_acquire(request: AcquireRequest) -> Routine[Hold | None]:
    """Makes one attempt."""
    if request.count is None:
        name = request.names[0]
        lease = _commands.lease_option(request.lease_ms)
        acquired = yield execute("SET", name, request.owner, "NX", *lease)
        # The client may have repeated a SET whose reply was lost.
        if not acquired and request.unique:
            value = yield execute(_commands.GET, name)
            acquired = value is not None and _commands.as_bytes(value) == request.owner
        names = [name] if acquired else []
    else:
        reply = yield execute(
            "EVAL",
            ACQUIRE_SCRIPT,
            len(request.keys),
            *request.keys,
            request.owner,
            request.count,
            "" if request.lease_ms is None else str(request.lease_ms),
            int(request.unique),
        )
        keys = {_commands.as_bytes(key) for key in reply or ()}
        names = [name for key, name in request.keys.items() if key in keys]
    if not names:
        return None
    return Hold(request.owner, dict.fromkeys(names), by_module=False)


def release(
    name: Name,
    owner: bytes,
    reason: str,
    capabilities: Capabilities,
    execute: Execute = execute,
) -> Routine[bool]:
    """Deletes the key if ``owner`` holds the lock, and publishes the release."""
    released = bool((yield execute(*_compare_and_delete(name, owner, capabilities))))
    if released:
        # Waiters that receive no message still poll.
        with suppress(RedisError):
            yield execute("PUBLISH", channel(name), _release_event(name, owner, reason))
    return released


def extend(
    name: Name, owner: bytes, lease_ms: int, execute: Execute = execute
) -> Routine[bool]:
    """Replaces the lease if ``owner`` holds the lock."""
    remaining: int = yield execute("EVAL", EXTEND_SCRIPT, 1, name, owner, lease_ms)
    return remaining != -2


def channel(name: Name) -> Name:
    """The channel on which the module, by default, publishes the events of this lock."""
    return CHANNEL_PREFIX.encode() + name if isinstance(name, bytes) else CHANNEL_PREFIX + name


def _compare_and_delete(name: Name, owner: bytes, capabilities: Capabilities) -> Command:
    if capabilities.delex:
        return ("DELEX", name, "IFEQ", owner)
    if capabilities.delifeq:
        return ("DELIFEQ", name, owner)
    return ("EVAL", RELEASE_SCRIPT, 1, name, owner)


def _release_event(name: Name, owner: bytes, reason: str) -> str:
    holder = _commands.as_text(owner)
    task_name = holder[len(OWNER_PREFIX) :] if holder.startswith(OWNER_PREFIX) else holder
    return json.dumps(
        {
            "event_type": "lock_released",
            "lock_key": _commands.as_text(name),
            "task_name": task_name,
            "release_reason": reason,
            "timestamp": time.time(),
            "owner": holder,
        }
    )
