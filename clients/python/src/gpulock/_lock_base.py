"""What all locks and pools share, with or without ``await``: their settings, the hold of each
thread, and the request for an acquire call. No I/O.
"""

from __future__ import annotations

import math
import threading
import uuid
from types import SimpleNamespace
from typing import Any, Generic, TypeVar, Union

from redis.exceptions import LockError

from . import _commands, _server
from ._commands import Name
from ._connection import socket_timeout_s
from ._types import AcquireRequest, Hold
from .errors import ModuleMissingError

Number = Union[int, float]
RenewerT = TypeVar("RenewerT")

MAX_BLOCK_S = 20.0
CLUSTER_MAX_BLOCK_S = 2.0
"""A cluster client does not expose its timeout: this is shorter than redis-py's default."""


class TrackedHold(Generic[RenewerT]):
    """A hold with its renewer. Only the holder references it: when the holder's thread or lock
    object ends, this object is collected, which stops the renewer."""

    def __init__(self, hold: Hold, renewer: RenewerT | None, lost: Any) -> None:
        self.hold = hold
        self.renewer = renewer
        self.lost = lost
        """The event of this hold only: the lock object may be used for another hold later."""


class _PerThread(threading.local):
    token: bytes | None = None
    tracked: Any = None
    lost: Any = None


class LockBase:
    """The settings of a lock or pool, and its current hold."""

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
        on_revoked: Any,
        priority: int,
        share: str | bytes | None,
    ) -> None:
        if grace and not session:
            raise ValueError("grace needs session=True")
        if session and _server.is_cluster(redis):
            raise ValueError("session=True needs a client of a single server, not of a cluster")
        self.redis = redis
        self.names, self.count = names, count
        self.timeout, self.sleep = timeout, sleep
        self.blocking, self.blocking_timeout = blocking, blocking_timeout
        self.thread_local = bool(thread_local)
        self.raise_on_release_error = raise_on_release_error
        self.fair, self.session, self.grace = fair, session, grace
        # Every lock of the module has a lease: without a timeout, it has to be renewed to last
        # until the release.
        self.renew = not timeout if renew is None else renew
        self.on_lost, self.on_revoked = on_lost, on_revoked
        self.priority, self.share = priority, share
        self._fixed_owner = owner
        self._server = _server.server_of(redis)
        self._mutex = threading.RLock()
        self.local: Any = _PerThread() if self.thread_local else SimpleNamespace()
        self.local.token = self.local.tracked = self.local.lost = None

    @property
    def owner(self) -> bytes | None:
        """The owner under which the lock is held; None: it is not held here."""
        token: bytes | None = self.local.token
        return token

    def _request(
        self,
        sleep: Number | None,
        blocking: bool | None,
        blocking_timeout: Number | None,
        token: str | bytes | None,
    ) -> AcquireRequest:
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
        return AcquireRequest(
            names=self.names,
            owner=owner,
            count=self.count,
            # As in redis-py, several holders may use the same token in their calls.
            unique=token is None,
            lease_ms=int(self.timeout * 1000) if self.timeout else None,
            session=self.session,
            grace_ms=int(self.grace * 1000),
            wait_s=wait_s if blocking else 0.0,
            max_block_s=self._max_block_s(),
            poll_interval_s=self.sleep if sleep is None else sleep,
            fair=self.fair,
            priority=self.priority,
            share=None if self.share is None else self._encode(self.share),
        )

    def _max_block_s(self) -> float:
        """The client closes a connection when a reply takes longer than its timeout."""
        if _server.is_cluster(self.redis):
            return CLUSTER_MAX_BLOCK_S
        limit = socket_timeout_s(self.redis.connection_pool)
        return min(MAX_BLOCK_S, limit / 2) if limit else MAX_BLOCK_S

    def _encode(self, text: str | bytes) -> bytes:
        encoded: bytes = self._encoder().encode(text)
        return encoded

    def _encoder(self) -> Any:
        if _server.is_cluster(self.redis):
            return self.redis.get_encoder()
        return self.redis.connection_pool.get_encoder()

    def _needs_renewer(self, hold: Hold) -> bool:
        # Without the module, a lock without a timeout never expires.
        never_expires = not hold.by_module and not self.timeout
        reports_loss = self.renew or self.on_lost is not None
        return self.session or (reports_loss and not never_expires)

    def held(self) -> Hold | None:
        """The hold of this thread, which may come from elsewhere by setting ``local.token``."""
        with self._mutex:
            token, tracked = self.local.token, self.local.tracked
        if token is None:
            return None
        owner = self._encode(token)
        if tracked is None or tracked.hold.owner != owner:
            return Hold(owner, dict.fromkeys(self.names))
        hold: Hold = tracked.hold
        return hold

    def _tracked(self, hold: Hold) -> Any:
        """The ``TrackedHold`` of this hold; None if the hold comes from elsewhere."""
        tracked = self.local.tracked
        return tracked if tracked is not None and tracked.hold is hold else None

    def _require_hold(self, error: str) -> Hold:
        hold = self.held()
        if hold is None:
            raise self._error(error)
        return hold

    def _require_hold_with_timeout(self, action: str) -> Hold:
        hold = self._require_hold(f"Cannot {action} an unlocked lock")
        if self.timeout is None:
            raise self._error(f"Cannot {action} a lock with no timeout")
        return hold

    def _error(self, text: str) -> LockError:
        error = LockError(text)
        error.lock_name = _commands.as_text(self.names[0])
        return error

    def _tokens(self) -> dict[Name, int]:
        hold = self.held()
        if hold is None:
            return {}
        if not hold.by_module:
            raise ModuleMissingError(
                "Fencing tokens need the GPULOCK module, which this server lacks."
            )
        return {name: token for name, token in hold.tokens.items() if token is not None}

    def _store(self, tracked: TrackedHold[Any]) -> None:
        with self._mutex:
            self.local.lost, self.local.tracked = tracked.lost, tracked
            self.local.token = tracked.hold.owner

    def _discard(self, hold: Hold) -> None:
        """Called after a release. Keeps the hold of another thread or task that shares this
        object, and was granted the lock meanwhile."""
        with self._mutex:
            current = self.held()
            if current is None or current.owner != hold.owner:
                return
            if current is hold or self._tracked(current) is None:
                self.local.token = self.local.tracked = None
