"""Builds commands and parses their replies. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Union

from redis.exceptions import DataError

if TYPE_CHECKING:
    from ._types import AcquireRequest

NameLike = Union[str, bytes, bytearray, memoryview, int, float]
"""What redis-py accepts as a key. ``as_name`` makes a ``Name`` of it."""
Name = Union[str, bytes]
Argument = Union[str, bytes, int]
Command = tuple[Argument, ...]

ACQUIRE = "GPULOCK.ACQUIRE"
GET = "get"
"""In lower case, which the client-side cache of redis-py does not recognize: a cached owner may
be outdated, for example if the connection that receives invalidations is lost unnoticed."""
MAX_REASON_BYTES = 64


def acquire(request: AcquireRequest, block_ms: int = 0, *, gives_up: bool = False) -> Command:
    """ACQUIRE, or ACQUIREANY for a lock set; without BLOCK when ``block_ms`` is 0. A call that
    ``gives_up`` leaves no position in the queue."""
    if request.count is None:
        command: Command = (ACQUIRE, *request.keys, request.owner)
    else:
        keys: Command = (len(request.keys), *request.keys)
        command = ("GPULOCK.ACQUIREANY", *keys, request.owner, "COUNT", request.count)
    if request.groups is not None:
        sizes = request.group_sizes
        command += ("GROUPS", request.groups, len(sizes), *sizes)
    if request.near is not None:
        command += ("NEAR", request.near)
    command += lease_option(request.lease_ms)
    if block_ms:
        command += ("BLOCK", block_ms)
    if request.unique:
        command += ("UNIQUE", "KEEP", 0) if block_ms and gives_up else ("UNIQUE",)
    if request.priority:
        command += ("PRIORITY", request.priority)
    if request.share is not None:
        command += ("SHARE", request.share)
    if request.session:
        command += ("SESSION", "GRACE", request.grace_ms) if request.grace_ms else ("SESSION",)
    return command


def lease_option(lease_ms: int | None) -> Command:
    """PX; nothing for the server's default lease."""
    return () if lease_ms is None else ("PX", lease_ms)


def token_option(token: int | None) -> Command:
    """TOKEN, which limits a command to one hold; nothing when the token is unknown."""
    return () if token is None else ("TOKEN", token)


def release(name: Name, owner: bytes, token: int | None, reason: str) -> Command:
    """RELEASE, with REASON unless the reason is the default, ``normal``."""
    # The module rejects a longer reason, and would not release the lock.
    text = reason.encode("utf-8", "replace")[:MAX_REASON_BYTES].decode("utf-8", "ignore")
    reason_option = () if reason == "normal" else ("REASON", text)
    return ("GPULOCK.RELEASE", name, owner, *token_option(token), *reason_option)


def force_release(name: Name, owner: bytes, token: int | None) -> Command:
    """FORCERELEASE of this hold only, never of a successor's."""
    return (
        "GPULOCK.FORCERELEASE",
        name,
        "OWNER",
        owner,
        *token_option(token),
        "REASON",
        "emergency",
    )


def extend(name: Name, owner: bytes, token: int | None, lease_ms: int | None) -> Command:
    """EXTEND, which replaces the lease and adds nothing to it."""
    return ("GPULOCK.EXTEND", name, owner, *lease_option(lease_ms), *token_option(token))


def granted_tokens(request: AcquireRequest, reply: Any) -> dict[Name, int | None] | None:
    """The locks that ACQUIRE or ACQUIREANY granted, with their tokens; None: none."""
    if reply is None:
        return None
    if request.count is None:
        return {request.names[0]: int(reply)}
    return {request.keys[as_bytes(key)]: int(token) for key, token in reply}


def parse_map(reply: Any) -> dict[str, Any]:
    """A map, which is a flat array in RESP2, with its field names as text."""
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2])
    return {as_text(name): value for name, value in pairs}


def as_name(value: NameLike, setting: str = "name") -> Name:
    """A name as text or as immutable bytes. Accepts what redis-py accepts as a key."""
    if isinstance(value, (str, bytes)):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return repr(value)  # As redis-py encodes it.
    raise DataError(f"invalid {setting} {value!r}: expected str, bytes, int or float")


def as_bytes(text: Any) -> bytes:
    """A string reply as bytes, whether or not the client decodes replies."""
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else bytes(text)


def as_text(text: Any) -> str:
    """A string reply as text, for display."""
    return text if isinstance(text, str) else bytes(text).decode("utf-8", "replace")
