"""What all locks and pools have in common, with or without ``await``: their settings, what
each thread knows of its own hold, and the wish for a call. Nothing here does input or output.
"""

from __future__ import annotations

import math
import threading
import uuid
from types import SimpleNamespace
from typing import Any, Generic, TypeVar, Union

from redis.exceptions import LockError

from . import _server, _words
from ._hold import Hold, Wish
from ._words import Name
from .errors import ModuleMissingError

Number = Union[int, float]
KeptT = TypeVar("KeptT")

LONGEST_SLICE_S = 20.0
CLUSTER_SLICE_S = 2.0
"""A cluster's client does not tell its timeout: shorter than the one that redis-py has."""


class Kept(Generic[KeptT]):
    """A hold and who looks after it. Only the holder has it: when it is no more, because its
    thread or its lock has gone, the keeper stops too."""

    def __init__(self, hold: Hold, keeper: KeptT | None, lost: Any) -> None:
        self.hold = hold
        self.keeper = keeper
        self.lost = lost
        """The event of this hold alone: the object may hold the lock again before long."""


class _PerThread(threading.local):
    token: bytes | None = None
    kept: Any = None
    lost: Any = None


class Locking:
    """The settings of a lock or pool, and what is held through it."""

    def __init__(
        self,
        redis: Any,
        names: tuple[Name, ...],
        count: int | None,
        *,
        timeout: Number | None,
        sleep: Number,
        blocking: bool,
        blocking_timeout: Number | None,
        thread_local: bool,
        raise_on_release_error: bool,
        owner: str | bytes | None,
        fair: bool,
        session: bool,
        grace: Number,
        renew: bool | None,
        on_lost: Any,
    ) -> None:
        if grace and not session:
            raise ValueError("a grace goes with session=True")
        if session and _server.is_cluster(redis):
            raise ValueError("a session needs a client of one server, not of a cluster")
        self.redis = redis
        self.names, self.count = names, count
        self.timeout, self.sleep = timeout, sleep
        self.blocking, self.blocking_timeout = blocking, blocking_timeout
        self.thread_local = bool(thread_local)
        self.raise_on_release_error = raise_on_release_error
        self.fair, self.session, self.grace = fair, session, grace
        # No lock of the module is without a lease: one that shall last until it is given
        # back has to be renewed.
        self.renew = not timeout if renew is None else renew
        self.on_lost = on_lost
        self._fixed_owner = owner
        self._server = _server.behind(redis)
        self._mutex = threading.RLock()
        self.local: Any = _PerThread() if self.thread_local else SimpleNamespace()
        self.local.token = self.local.kept = self.local.lost = None

    @property
    def owner(self) -> bytes | None:
        """Under which name the lock is held; None: it is not held here."""
        token: bytes | None = self.local.token
        return token

    def _wish(
        self,
        sleep: Number | None,
        blocking: bool | None,
        blocking_timeout: Number | None,
        token: str | bytes | None,
    ) -> Wish:
        if blocking is None:
            blocking = self.blocking
        if blocking_timeout is None:
            blocking_timeout = self.blocking_timeout
        wait_s = math.inf if blocking_timeout is None else max(0.0, blocking_timeout)
        if token is not None:
            owner = self._encode(token)
        elif self._fixed_owner is not None:
            owner = self._encode(self._fixed_owner)
        else:
            owner = uuid.uuid4().hex.encode()
        return Wish(
            names=self.names,
            owner=owner,
            count=self.count,
            # A token given with the call may be somebody else's as well, as in redis-py.
            unique=token is None,
            lease_ms=int(self.timeout * 1000) if self.timeout else None,
            session=self.session,
            grace_ms=int(self.grace * 1000),
            wait_s=wait_s if blocking else 0.0,
            slice_s=self._slice_s(),
            poll_s=self.sleep if sleep is None else sleep,
            fair=self.fair,
        )

    def _slice_s(self) -> float:
        """The client closes a connection that is silent for longer than its timeout."""
        if _server.is_cluster(self.redis):
            return CLUSTER_SLICE_S
        limit = self.redis.connection_pool.connection_kwargs.get("socket_timeout")
        return min(LONGEST_SLICE_S, limit / 2) if limit else LONGEST_SLICE_S

    def _encode(self, text: str | bytes) -> bytes:
        encoded: bytes = self._encoder().encode(text)
        return encoded

    def _encoder(self) -> Any:
        if _server.is_cluster(self.redis):
            return self.redis.get_encoder()
        return self.redis.connection_pool.get_encoder()

    def _needs_keeper(self, hold: Hold) -> bool:
        # Without the module a lock without a timeout has no end, and nothing to renew.
        endless = not hold.by_module and not self.timeout
        return self.session or ((self.renew or self.on_lost is not None) and not endless)

    def held(self) -> Hold | None:
        """What this thread holds. Whoever sets ``local.token`` has got it from elsewhere."""
        with self._mutex:
            token, kept = self.local.token, self.local.kept
        if token is None:
            return None
        owner = self._encode(token)
        if kept is None or kept.hold.owner != owner:
            return Hold(owner, dict.fromkeys(self.names))
        hold: Hold = kept.hold
        return hold

    def _kept(self, hold: Hold) -> Any:
        """Who looks after this very hold; None for one that was taken over."""
        kept = self.local.kept
        return kept if kept is not None and kept.hold is hold else None

    def _hold_to(self, doing: str) -> Hold:
        hold = self.held()
        if hold is None:
            raise self._error(doing)
        return hold

    def _hold_with_timeout_to(self, doing: str) -> Hold:
        hold = self._hold_to(f"Cannot {doing} an unlocked lock")
        if self.timeout is None:
            raise self._error(f"Cannot {doing} a lock with no timeout")
        return hold

    def _error(self, text: str) -> LockError:
        error = LockError(text)
        error.lock_name = _words.as_text(self.names[0])
        return error

    def _tokens(self) -> dict[Name, int]:
        hold = self.held()
        if hold is None:
            return {}
        if not hold.by_module:
            raise ModuleMissingError(
                "This server has no GPULOCK module, and so no fencing tokens."
            )
        return {name: token for name, token in hold.tokens.items() if token is not None}

    def _store(self, kept: Kept[Any]) -> None:
        with self._mutex:
            self.local.lost, self.local.kept = kept.lost, kept
            self.local.token = kept.hold.owner

    def _forget(self, hold: Hold) -> None:
        """After its release. Another thread or task that shares this object may have been
        granted the lock meanwhile: what that one holds stays."""
        with self._mutex:
            now = self.held()
            if now is None or now.owner != hold.owner:
                return
            if now is hold or self._kept(now) is None:
                self.local.token = self.local.kept = None
