"""What all locks and pools share, with or without ``await``: their settings, and the request
for an acquire call. No I/O. The holds are in ``_holds``.
"""

from __future__ import annotations

import logging
import math
import sys
import uuid
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal, Union

from redis.exceptions import LockError, ResponseError

from . import _commands, _ownership, _renewal, _reservation, _server, _settings
from ._commands import Name, NameLike
from ._connection import cluster_socket_timeout_s, socket_timeout_s
from ._devices import Device
from ._holds import Block, Exit, Holds, TrackedHold
from ._operations import Routine
from ._types import AcquireRequest, Hold, Notice
from .errors import ModuleMissingError

logger = logging.getLogger("gpulock")

Number = Union[int, float]

MAX_PRIORITY = 100
MIN_RESERVATION_S = 1
MAX_OWNER_BYTES = 1024
MAX_SHARE_BYTES = 256
MAX_TAG_BYTES = 64
MAX_BLOCK_S = 20.0
CLUSTER_MAX_BLOCK_S = 2.0
"""For a cluster client, whose own connections, with an unknown timeout, are used after a
redirection."""


def _unused(name: str) -> property:
    """Rejects a script that redis-py's Lock would use, instead of ignoring it."""

    def reject(lock: LockBase, script: Any) -> None:
        raise AttributeError(f"{name} cannot be replaced: the lock does not use this script")

    return property(None, reject)


class LockBase:
    """The settings of a lock or pool, and its current hold."""

    _needs_asyncio = False
    """Whether the client is one of ``redis.asyncio``."""

    lua_extend: Any = None
    """A script that ``extend`` calls, with the arguments of redis-py's: ``celery-redbeat`` sets
    it. None: EXTEND."""
    lua_release = _unused("lua_release")
    lua_reacquire = _unused("lua_reacquire")

    def __init__(
        self,
        redis: Any,
        names: Iterable[NameLike],
        count: int | None,
        *,
        groups: int | None = None,
        group_sizes: tuple[int, ...] = (),
        near: NameLike | None = None,
        timeout: Number | None,
        sleep: Number,
        blocking: bool,
        blocking_timeout: Number | None,
        thread_local: bool,
        raise_on_release_error: bool,
        owner: NameLike | None,
        fair: bool,
        session: bool,
        grace: Number,
        renew: bool | None,
        on_lost: Any,
        on_revoked: Any,
        priority: int,
        share: NameLike | None,
    ) -> None:
        _server.require_client(redis, self._needs_asyncio)
        self._server = _server.server_of(redis)
        _settings.require_timeout(timeout)
        _settings.require_sleep(sleep)
        _settings.require_wait(blocking_timeout)
        _settings.require_finite("grace", grace, "a number of seconds, at least 0", min_value=0)
        for setting, callback in ("on_lost", on_lost), ("on_revoked", on_revoked):
            _settings.require_callback(setting, callback, self._needs_asyncio)
        if grace and not session:
            raise ValueError("grace needs session=True")
        if session and _server.is_cluster(redis):
            raise ValueError("session=True needs a client of a single server, not of a cluster")
        _settings.require_integer("priority", priority)
        if not -MAX_PRIORITY <= priority <= MAX_PRIORITY:
            raise ValueError(
                f"invalid priority {priority}: expected -{MAX_PRIORITY} to {MAX_PRIORITY}"
            )
        self.redis = redis
        self.names, self.count = tuple(map(_commands.as_name, names)), count
        self._keys = self._encode_names(self.names)
        self._groups, self._group_sizes = groups, group_sizes
        self.timeout, self.sleep = timeout, sleep
        self.blocking, self.blocking_timeout = blocking, blocking_timeout
        self.thread_local = bool(thread_local)
        self.raise_on_release_error = raise_on_release_error
        self.fair, self.session, self.grace = fair, session, grace
        # Every lock of the module has a lease: without a timeout, it has to be renewed to last
        # until the release.
        self.renew = not timeout if renew is None else renew
        self.on_lost, self.on_revoked = on_lost, on_revoked
        self.priority, self.share, self.near = priority, share, near
        self._encoded_share = self._encode_setting("share", share, MAX_SHARE_BYTES)
        self._encoded_near = self._encode_setting("near", near, MAX_TAG_BYTES)
        self._fixed_owner = self._encode_setting("owner", owner, MAX_OWNER_BYTES)
        self._holds = Holds(self.thread_local)
        self.local = self._holds.local

    def __repr__(self) -> str:
        state = "not held here" if self._held() is None else "held"
        kind = type(self)
        names = ", ".join(map(repr, self.names))
        return f"<{kind.__module__}.{kind.__qualname__} {names}, {state}>"

    @property
    def owner(self) -> bytes | None:
        """The owner under which the lock is held; None: it is not held here."""
        hold = self._held()
        return None if hold is None else hold.owner

    @property
    def notice(self) -> Notice | None:
        """The notice that ends the current hold, with its deadline. None: no notice is known;
        it takes a renewer to notice one."""
        hold = self._held()
        return None if hold is None else hold.notice

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
        if sleep is None:
            sleep = self.sleep
        _settings.require_sleep(sleep)
        _settings.require_wait(blocking_timeout)
        wait_s = math.inf if blocking_timeout is None else max(0.0, float(blocking_timeout))
        if token is not None:
            owner = self._encode(token)
        elif self._fixed_owner is not None:
            owner = self._fixed_owner
        else:
            owner = self._new_owner()
        return AcquireRequest(
            keys=self._keys,
            owner=owner,
            count=self.count,
            groups=self._groups,
            group_sizes=self._group_sizes,
            # As in redis-py, several holders may use the same token in their calls.
            unique=token is None,
            lease_ms=int(self.timeout * 1000) if self.timeout else None,
            session=self.session,
            grace_ms=int(self.grace * 1000),
            wait_s=wait_s if blocking else 0.0,
            max_block_s=self._max_block_s(),
            poll_interval_s=float(sleep),
            fair=self.fair,
            priority=self.priority,
            share=self._encoded_share,
            near=self._encoded_near,
        )

    def _new_owner(self) -> bytes:
        owner: bytes | None = self.local.given_up_owner
        self.local.given_up_owner = None
        return owner or uuid.uuid4().hex.encode()

    def _give_up(self, request: AcquireRequest) -> None:
        """Called after a wait that was not granted. Without KEEP its position stays in the
        queue for a time: the next wait of this thread takes it over, and adds no other one."""
        if not self._server.has_keep and self._fixed_owner is None and request.unique:
            self.local.given_up_owner = request.owner

    def _reservation_request(
        self, for_s: Number, blocking: bool | None, blocking_timeout: Number | None
    ) -> AcquireRequest:
        """An owner of its own, a fixed lease, and no session."""
        _settings.require_finite(
            "for_s",
            for_s,
            f"a number of seconds, at least {MIN_RESERVATION_S}",
            min_value=MIN_RESERVATION_S,
        )
        for key, name in self._keys.items():
            if b"," in key:
                raise ValueError(
                    f"invalid key {name!r}: a comma separates keys in {_reservation.KEYS}"
                )
        return replace(
            self._request(None, blocking, blocking_timeout, None),
            owner=_reservation.new_owner().encode(),
            lease_ms=int(for_s * 1000),
            session=False,
            grace_ms=0,
        )

    def _devices_of(self, hold: Hold) -> tuple[Device | None, ...]:
        """The devices of the locks; none unless this is a pool."""
        return ()

    def _max_block_s(self) -> float:
        """The client closes a connection when a reply takes longer than its timeout."""
        if _server.is_cluster(self.redis):
            limit, max_block_s = cluster_socket_timeout_s(self.redis), CLUSTER_MAX_BLOCK_S
        else:
            limit, max_block_s = socket_timeout_s(self.redis.connection_pool), MAX_BLOCK_S
        return min(max_block_s, limit / 2) if limit else max_block_s

    def _encode(self, text: str | bytes) -> bytes:
        return bytes(self._encoder().encode(text))

    def _encode_setting(self, setting: str, text: Any, max_bytes: int) -> bytes | None:
        if text is None:
            return None
        encoded = self._encode(_commands.as_name(text, setting))
        if not 1 <= len(encoded) <= max_bytes:
            raise ValueError(f"invalid {setting}: expected 1 to {max_bytes} bytes")
        return encoded

    def _encode_names(self, names: tuple[Name, ...]) -> dict[bytes, Name]:
        keys: dict[bytes, Name] = {}
        for name in names:
            key = self._encode(name)
            if key in keys:
                raise ValueError(f"duplicate key {name!r}")
            keys[key] = name
        return keys

    def _encoder(self) -> Any:
        if _server.is_cluster(self.redis):
            return self.redis.get_encoder()
        return self.redis.connection_pool.get_encoder()

    def _extending(self, hold: Hold, added_s: Number, replaces: bool) -> Routine[bool]:
        _settings.require_finite("additional_time", added_s, min_value=-sys.float_info.max)
        added_ms = int(added_s * 1000)
        script = self.lua_extend
        if script is not None:
            arguments = [hold.owner, added_ms, "1" if replaces else "0"]
            routine = _ownership.extend_by_script(
                hold, lambda: script(keys=[self.names[0]], args=arguments, client=self.redis)
            )
        elif replaces:
            routine = _ownership.extend(hold, self._server, added_ms)
        else:
            routine = _ownership.add_time(hold, self._server, added_ms)
        return self._limited_by_max_lease(routine)

    def _reacquiring(self, hold: Hold) -> Routine[bool]:
        lease_ms = int((self.timeout or 0) * 1000)
        return self._limited_by_max_lease(_ownership.extend(hold, self._server, lease_ms))

    def _limited_by_max_lease(self, routine: Routine[bool]) -> Routine[bool]:
        try:
            return (yield from routine)
        except ResponseError as error:
            if "gpulock.max-lease" not in str(error):
                raise
            raise self._error(
                f"Cannot extend the lock: {error}. It is still held, with its lease unchanged"
            ) from error

    def _needs_renewer(self, hold: Hold) -> bool:
        # Without the module, a lock without a timeout never expires.
        never_expires = not hold.by_module and not self.timeout
        return self.session or ((self.renew or self._has_callbacks) and not never_expires)

    @property
    def _has_callbacks(self) -> bool:
        return self.on_lost is not None or self.on_revoked is not None

    def _caller(self) -> Any:
        """Identifies the current thread or task."""
        raise NotImplementedError

    def _new_event(self) -> Any:
        raise NotImplementedError

    def _new_renewer(self, *arguments: Any, **settings: Any) -> Any:
        """Starts a ``Renewer``."""
        raise NotImplementedError

    def _event(self, name: str) -> Any:
        """``lost`` or ``revoked`` of the current hold; without one, of the latest."""
        tracked = self._current()[1]
        if tracked is not None:
            return getattr(tracked, name)
        if getattr(self.local, name) is None:
            setattr(self.local, name, self._new_event())
        return getattr(self.local, name)

    def _store(
        self, hold: Hold, request: AcquireRequest, current: Any, runtime: Any
    ) -> Literal[True]:
        """Makes this the current hold, and starts its renewal."""
        is_repeated = _ownership.is_repeated(hold, request.current_hold)
        if is_repeated and current is not None and not current.lost.is_set():
            tracked, hold = current, current.hold
        else:
            by_block = self._holds.current_operation() is not None
            events = self._new_event(), self._new_event()
            tracked = TrackedHold(hold, *events, self._holds, self._caller(), by_block)
        if self._needs_renewer(hold):
            settings = {"renew": self.renew, "has_callbacks": self._has_callbacks}
            routine = _renewal.maintain(hold, request, self._server, **settings)
            renewer = self._new_renewer(
                routine,
                runtime,
                (tracked.lost, tracked.revoked),
                self.on_lost,
                self.on_revoked,
                keeps_connection=self.session,
                renewal_ended=_renewal.renewal_ended(hold),
                subject=tracked.subject(),
            )
            tracked.set_renewer(renewer)
        self._holds.store(tracked, self._caller())
        return True

    def _use_extension(self, hold: Hold, owned: bool, action: str) -> Literal[True]:
        """Called after the server has extended the lease, unless the lock is not owned."""
        tracked = self._tracked(hold)
        if not owned:
            (self._event("lost") if tracked is None else tracked.lost).set()
            raise _ownership.not_owned(
                self.names[0], f"Cannot {action} a lock that's no longer owned"
            )
        if tracked is not None and tracked.renewer is not None:
            tracked.renewer.notify_lease_changed()
        return True

    def _held(self) -> Hold | None:
        """The hold of this thread or task, which may come from elsewhere by setting
        ``local.token``."""
        return self._current()[0]

    def _current(self) -> tuple[Hold | None, Any]:
        """The current hold, and its ``TrackedHold``: None if the hold comes from elsewhere."""
        subject = self._holds.subject()
        with self._holds.mutex:
            token, hold, latest = self.local.token, self.local.hold, self.local.latest
        if token is not None:
            owner = self._encode(token)
            if subject is None and (hold is None or hold.owner != owner):
                # Without a token, INSPECT reports no more than GET.
                return Hold(owner, dict.fromkeys(self.names), can_inspect=False), None
        own = self._holds.latest_of(self._caller())
        if own is not None:
            return own.hold, own
        if subject is not None:
            return subject.current()
        if token is None or hold is None or not hold.names:
            # Another thread may have released it, by leaving the block.
            return None, None
        return hold, latest()

    def _to_release(self) -> tuple[Hold, Any]:
        """The hold to release, and its ``TrackedHold``: those of the block that is exited, or
        else the current ones."""
        hold, tracked = self._current()
        block = self._holds.current_operation()
        if block is not None and block.hold is not None:
            hold, tracked = (block.hold, block.tracked) if block.is_held else (None, None)
        if hold is None:
            if block is None and not self.local.has_acquired and self._holds.abandon_only():
                logger.error(
                    "%s was released in a thread that does not hold it: it is no "
                    "longer renewed",
                    self.names[0],
                )
            raise self._error("Cannot release a lock that's not owned or is already unlocked.")
        return hold, tracked

    def _discard(self, hold: Hold) -> None:
        token = self.local.token
        self._holds.discard(hold, None if token is None else self._encode(token))

    def _new_block(self) -> Block:
        """Called first by ``__enter__``."""
        return Block(self, self._holds, self._caller())

    def _exited_block(self, end: Exit | None) -> Block | None:
        """The block that a call of ``__exit__`` ends."""
        blocks = self._holds.exited(end, self._caller())
        if len(blocks) > 1:
            for block in blocks:
                if block.tracked is not None:
                    block.tracked.abandon()
            raise self._error(
                "Cannot release a lock in another thread or task than the one that acquired "
                "it: this object has several holds. They are no longer renewed."
            )
        return blocks[0] if blocks else None

    def _require_hold(self, error: str) -> Hold:
        return self._require_current(error)[0]

    def _require_current(self, error: str) -> tuple[Hold, Any]:
        hold, tracked = self._current()
        if hold is None:
            raise self._error(error)
        return hold, tracked

    def _require_hold_with_timeout(self, action: str) -> Hold:
        hold = self._require_hold(f"Cannot {action} an unlocked lock")
        if self.timeout is None:
            raise self._error(f"Cannot {action} a lock with no timeout")
        return hold

    def _tracked(self, hold: Hold) -> Any:
        """The ``TrackedHold`` of the current hold; None if the hold comes from elsewhere."""
        current, tracked = self._current()
        return tracked if current is hold else None

    def _error(self, text: str) -> LockError:
        error = LockError(text)
        error.lock_name = _commands.as_text(self.names[0])
        return error

    def _tokens(self) -> dict[Name, int]:
        hold = self._held()
        if hold is None:
            return {}
        if not hold.by_module:
            raise ModuleMissingError(
                "Fencing tokens need the GPULOCK module, which this server lacks."
            )
        return {name: token for name, token in hold.tokens.items() if token is not None}
