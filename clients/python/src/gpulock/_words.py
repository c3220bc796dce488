"""Commands as lists of words, and what their replies mean. No input or output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Union

if TYPE_CHECKING:
    from ._hold import Wish

Name = Union[str, bytes, memoryview]
Word = Union[str, bytes, memoryview, int]
Words = tuple[Word, ...]

ACQUIRE = "GPULOCK.ACQUIRE"
LONGEST_REASON = 64
"""In bytes."""


def acquire(wish: Wish, block_ms: int = 0) -> Words:
    """ACQUIRE, or ACQUIREANY where some of several locks are wanted; 0: without BLOCK."""
    if wish.count is None:
        words: Words = (ACQUIRE, wish.names[0], wish.owner)
    else:
        asked: Words = ("COUNT", wish.count)
        words = ("GPULOCK.ACQUIREANY", len(wish.names), *wish.names, wish.owner, *asked)
    words += lease(wish.lease_ms)
    if block_ms:
        words += ("BLOCK", block_ms)
    if wish.unique:
        words += ("UNIQUE",)
    if wish.session:
        words += ("SESSION", "GRACE", wish.grace_ms) if wish.grace_ms else ("SESSION",)
    return words


def lease(lease_ms: int | None) -> Words:
    """None leaves it to the server."""
    return () if lease_ms is None else ("PX", lease_ms)


def bound_to(token: int | None) -> Words:
    """Only that very hold."""
    return () if token is None else ("TOKEN", token)


def release(name: Name, owner: bytes, token: int | None, reason: str) -> Words:
    """RELEASE; the module leaves out a reason that is the usual one."""
    # The module takes no longer one, and would not release the lock for it.
    text = reason.encode("utf-8", "replace")[:LONGEST_REASON].decode("utf-8", "ignore")
    because = () if reason == "normal" else ("REASON", text)
    return ("GPULOCK.RELEASE", name, owner, *bound_to(token), *because)


def force_release(name: Name, owner: bytes, token: int | None) -> Words:
    """FORCERELEASE of this very hold: a successor's is another one."""
    return (
        "GPULOCK.FORCERELEASE",
        name,
        "OWNER",
        owner,
        *bound_to(token),
        "REASON",
        "emergency",
    )


def extend(name: Name, owner: bytes, token: int | None, lease_ms: int | None) -> Words:
    """EXTEND: the lease is set anew, nothing is added."""
    return ("GPULOCK.EXTEND", name, owner, *lease(lease_ms), *bound_to(token))


def tokens(wish: Wish, reply: Any) -> dict[Name, int | None] | None:
    """The locks that ACQUIRE or ACQUIREANY granted; None: nothing was."""
    if reply is None:
        return None
    if wish.count is None:
        return {wish.names[0]: int(reply)}
    named = {as_bytes(name): name for name in wish.names}
    return {named[as_bytes(key)]: int(token) for key, token in reply}


def fields(reply: Any) -> dict[str, Any]:
    """A map: RESP3 sends one, RESP2 a flat array; names are text either way."""
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2])
    return {as_text(name): value for name, value in pairs}


def as_bytes(text: Any) -> bytes:
    """What a client that decodes replies, or one that does not, has answered."""
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else bytes(text)


def as_text(text: Any) -> str:
    """The same for people to read."""
    return text if isinstance(text, str) else bytes(text).decode("utf-8", "replace")
