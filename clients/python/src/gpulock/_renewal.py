"""Maintains a hold while its holder works: renews the lease, checks the locks and the
session connection, and reports a notice, and a loss before the lease expires.

All calls use the lock's own connection, with a timeout that is a fraction of the lease. Renewal
never outlives the holder: the runtime stops it when the holder's thread, process or lock object
ends.
"""

from __future__ import annotations

import enum
import logging
import math
import time
from dataclasses import replace
from typing import Any

from redis.exceptions import MasterDownError, ReadOnlyError, ResponseError

from . import _clock, _commands, _inspection, _ownership
from ._commands import Argument, Name
from ._inspection import LockState
from ._operations import (
    Execute,
    Operation,
    Routine,
    Runtime,
    close_dedicated,
    execute_dedicated,
    execute_on_replacement,
)
from ._server import Server
from ._types import AcquireRequest, Hold, Loss, Notice

logger = logging.getLogger("gpulock")


class Wakeup(enum.Enum):
    """What ended a wait."""

    TIMEOUT = "timeout"
    STOP = "stop"
    """The holder releases the lock, or has ended."""
    DISCONNECTED = "disconnected"
    """The session connection was closed."""
    LEASE_CHANGED = "lease changed"
    """The holder has replaced the lease."""


RENEWALS_PER_LEASE = 3
"""Half of the lease is left for retries: another sixth for the report of a loss."""
ATTEMPTS_PER_LEASE = 8
"""Sets the timeout of a call: after a check and two renewals that failed, a third has time."""
SLOW_LINK_FACTOR = 2
"""How much longer the timeout of a call is at most after an attempt that failed or was slow:
after two attempts that failed, a third still has time."""
MAX_ATTEMPT_S = 5.0
MIN_ATTEMPT_S = 0.02
RETRIES_PER_LEASE = 30
"""Sets the pause after a call that failed at once."""
MAX_PAUSE_S = 1.0
CHECKS_PER_LEASE = 10
MAX_CHECK_INTERVAL_S = 3.0
SHORT_CHECK_INTERVAL_S = 1.0
"""For holders with callbacks or a session. A check costs more CPU time than all else here."""
MIN_CHECK_INTERVAL_S = 0.05
FIRST_CHECK_S = 0.1
"""When to ask for the length of the lease, if only the server knows it."""
ASSUMED_LEASE_S = 10.0
"""The length of such a lease until the server reports it, so that a loss is reported if the
server cannot be reached. The default is ten minutes, if it was not configured."""
MAX_WARNING_S = 30.0
LEASE_TOLERANCE_S = 0.05
NOTICE_TOLERANCE_S = 1.0
"""Clocks drift during a long notice."""

ELSEWHERE = (ReadOnlyError, MasterDownError)
"""Errors of a server that does not decide about the locks now: another one may."""


def maintain(
    hold: Hold, request: AcquireRequest, server: Server, *, renew: bool, has_callbacks: bool
) -> Routine[Loss | None]:
    """Runs until the holder stops it (None), or the lock is lost or about to be.

    Anything else that ends it is a loss too: otherwise the holder would continue with a lock
    that is no longer renewed.
    """
    try:
        return (yield from _Maintenance(hold, request, server, renew, has_callbacks).run())
    except GeneratorExit:
        raise
    except Exception:
        logger.exception("the renewal failed; the lock is lost when its lease expires")
        return renewal_ended(hold)
    except BaseException:  # The task was cancelled, for example because its loop ends.
        return renewal_ended(hold)


class _Maintenance:
    """The state of ``maintain``."""

    def __init__(
        self,
        hold: Hold,
        request: AcquireRequest,
        server: Server,
        renew: bool,
        has_callbacks: bool,
    ) -> None:
        self._hold, self._request, self._server, self._renews = hold, request, server, renew
        self._max_check_interval_s = MAX_CHECK_INTERVAL_S
        if has_callbacks or request.session:
            self._max_check_interval_s = SHORT_CHECK_INTERVAL_S
        now = _clock.now()
        self._is_lease_known = bool(request.lease_ms)
        self._lease_s = request.lease_ms / 1000 if request.lease_ms else ASSUMED_LEASE_S
        # The owner may have acquired the lock again, after a notice.
        notice_end = min(hold.notice_ends.values(), default=math.inf)
        hold.expires_at = min(now + self._lease_s, notice_end)
        self._notice_warning_s = _warning_s(notice_end - now)
        self._warning_s = min(_warning_s(self._lease_s), self._notice_warning_s)
        self._renew_at, self._check_at = math.inf, now + FIRST_CHECK_S
        if request.lease_ms:
            self._schedule_renewal(now)
            self._check_at = now + self._check_interval_s
        self._tied_tokens = dict(hold.tokens)
        self._is_tied = request.session
        """Whether the server ties the locks to the dedicated connection, as far as known."""
        self._tie_at = math.inf
        """When to try to tie them to a new connection."""
        self._session_ends_at = math.inf
        """The end of the grace period."""
        self._is_doubtful = False
        """A call that could acquire the locks again got no reply, and may still take effect."""
        self._has_failed = False
        """The current attempt has failed."""
        self._logged_errors: set[tuple[str, type[ResponseError], str]] = set()
        self._last_attempt_s = 0.0
        """How long the last attempt took; infinite if it failed."""

    def run(self) -> Routine[Loss | None]:
        """See ``maintain``."""
        while True:
            report_at, _ = self._report()
            wakeup = yield self._wait(min(report_at, self._next_call_at()))
            if wakeup is Wakeup.STOP:
                return None
            if wakeup is Wakeup.LEASE_CHANGED:
                self._use_changed_lease()
                continue
            if wakeup is Wakeup.DISCONNECTED:
                yield from self._begin_grace_period()
            # Before any call: the machine may have been suspended for longer than the lease.
            report_at, loss = self._report()
            if _clock.now() >= report_at:
                return loss
            call = self._due_call()
            if call is None:
                continue
            started, self._has_failed = _clock.now(), False
            yield _start_watchdog(report_at, loss)
            try:
                result = yield from call
            except GeneratorExit:
                raise
            except BaseException:
                yield _stop_watchdog
                raise
            has_reported = yield _stop_watchdog
            if has_reported or result is not None:
                return None if has_reported else result
            self._last_attempt_s = math.inf if self._has_failed else _clock.now() - started

    def _report(self) -> tuple[float, Loss]:
        """When to report a loss if nothing changes, and which."""
        warn_at = self._hold.expires_at - self._warning_s
        if self._session_ends_at < warn_at:
            return self._session_ends_at, self._session_lost()
        notice_end = min(self._hold.notice_ends.values(), default=math.inf)
        if notice_end <= self._hold.expires_at + NOTICE_TOLERANCE_S:
            return warn_at, _loss(self._hold, "the time after a notice is about to end")
        return warn_at, _loss(self._hold, "the lease was not renewed and is about to expire")

    def _next_call_at(self) -> float:
        if self._tie_at < math.inf:
            return self._tie_at
        return min(self._renew_at, self._check_at)

    def _due_call(self) -> Routine[Loss | None] | None:
        now = _clock.now()
        if self._tie_at < math.inf:
            return self._tie() if now >= self._tie_at else None
        if now >= self._renew_at:
            return self._renew()
        return self._check() if now >= self._check_at else None

    def _wait(self, until: float) -> Operation:
        seconds = min(max(0.0, until - _clock.now()), _clock.MAX_SLEEP_S)
        watch = self._request.session
        return lambda runtime: runtime.wait_for_wakeup(seconds, watch_connection=watch)

    # Renewal

    def _renew(self) -> Routine[Loss | None]:
        started = _clock.now()
        renewed = yield from self._extend(self._send(execute_dedicated))
        if renewed is False:
            return (yield from self._no_longer_owned())
        if renewed:
            self._schedule_renewal(started)
        else:
            self._renew_at = started + self._pause_s
        return None

    def _extend(self, send: Execute) -> Routine[bool | None]:
        """Renews the locks, and returns whether they are still held; None: unknown."""
        hold, tokens = self._hold, dict(self._hold.tokens)
        try:
            renewed = yield from _ownership.extend(
                hold, self._server, self._new_lease_ms(), send
            )
            if not renewed and tokens != hold.tokens:
                # The holder's own EXTEND received a new token at the same time.
                renewed = yield from _ownership.extend(
                    hold, self._server, self._new_lease_ms(), send
                )
        except _ownership.CONNECTION_ERRORS:
            self._handle_missing_reply()
            return None
        except ResponseError as error:
            # The server rejects writes for now (READONLY, OOM, MISCONF): retry.
            yield from self._handle_rejection("renew", error)
            return None
        if renewed:
            self._use_renewed_lease()
        return renewed

    def _use_renewed_lease(self) -> None:
        left_s = self._hold.expires_at - _clock.now()
        if not self._is_lease_known:
            self._set_lease(left_s)
        elif left_s >= self._lease_s - max(LEASE_TOLERANCE_S, self._attempt_s):
            self._warning_s = min(_warning_s(self._lease_s), self._notice_warning_s)
        elif self._warning_s >= left_s:
            # The server limits the lease (gpulock.max-hold, a notice).
            self._warning_s = _warning_s(left_s)
        if self._is_tied and self._hold.tokens != self._tied_tokens:
            # The server has adopted the lock, and does not know the session any longer. INSPECT
            # reports that too, if the user may run it.
            self._is_tied = False
            self._tie_soon()

    def _new_lease_ms(self) -> int | None:
        """The lease to request: not shorter than one that the holder has extended meanwhile,
        and not longer than the current one if the holder does not want renewal."""
        left_s, lease_ms = self._hold.expires_at - _clock.now(), self._request.lease_ms
        if not self._is_lease_known or left_s == math.inf:
            return lease_ms
        if not self._renews or left_s > self._lease_s:
            return max(1, int(left_s * 1000))
        return lease_ms

    def _schedule_renewal(self, last: float) -> None:
        if self._renews:
            self._renew_at = last + self._lease_s / RENEWALS_PER_LEASE

    def _use_changed_lease(self) -> None:
        """A shortened lease expires before the times planned for the old one."""
        now = _clock.now()
        lease_s = min(self._lease_s, max(0.0, self._hold.expires_at - now))
        self._warning_s = min(_warning_s(lease_s), self._notice_warning_s)
        if self._renews:
            self._renew_at = min(self._renew_at, now + lease_s / RENEWALS_PER_LEASE)

    def _handle_missing_reply(self) -> None:
        self._has_failed = True
        self._server.invalidate()
        if self._request.session:
            # Closing the connection would end the session: leave it until the locks are tied to
            # another one.
            self._tie_soon()

    def _log_rejection(self, action: str, error: ResponseError) -> None:
        """Logs the first error of each kind: it may be the cause of a loss."""
        kind = action, type(error), str(error).split(" ", 1)[0]
        if kind not in self._logged_errors:
            self._logged_errors.add(kind)
            logger.warning("cannot %s %s: %s", action, self._hold.names[0], error)

    def _handle_rejection(self, action: str, error: ResponseError) -> Routine[None]:
        self._log_rejection(action, error)
        if not isinstance(error, ELSEWHERE):
            return
        self._server.invalidate()
        if self._request.session:
            self._is_tied = False
            self._tie_soon()
        else:
            # A new connection may lead to the primary.
            yield close_dedicated()

    # Checks

    def _warn_without_inspect(self) -> None:
        if not self._hold.can_inspect and not self._server.has_warned_without_inspect:
            self._server.has_warned_without_inspect = True
            logger.warning(
                "this user may not run GPULOCK.INSPECT: notices (FORCERELEASE AFTER) are not "
                "reported, and losses late if it may not run GET and PTTL either"
            )

    def _check(self) -> Routine[Loss | None]:
        hold, send = self._hold, self._send(execute_dedicated)
        started, started_unix, expected_end = _clock.now(), time.time(), hold.expires_at
        self._check_at = started + self._check_interval_s
        states: dict[Name, LockState] = {}
        try:
            for name in hold.names:
                states[name] = yield from _inspection.inspect(hold, name, send)
        except _ownership.CONNECTION_ERRORS:
            self._handle_missing_reply()
            if self._renews:
                self._renew_at = _clock.now()
            return None
        except ResponseError as error:
            if not hold.can_inspect:
                # The user may run neither INSPECT nor GET.
                self._check_at = math.inf
            self._warn_without_inspect()
            yield from self._handle_rejection("inspect", error)
            return None
        self._warn_without_inspect()
        if not all(state.is_held for state in states.values()):
            return (yield from self._confirm_loss())
        if self._is_doubtful and any(
            state.token not in (None, hold.tokens[name]) for name, state in states.items()
        ):
            return (yield from self._no_longer_owned())
        if hold.expires_at == expected_end:
            lease_s = (state.lease_s for state in states.values())
            self._update_lease(started, min(lease_s, default=math.inf))
        for name, state in states.items():
            if state.revoked_s is not None:
                yield from self._give_notice(name, state, started, started_unix)
        if self._request.session and not all(state.is_tied for state in states.values()):
            self._is_tied = False
            self._tie_soon()
        return None

    def _confirm_loss(self) -> Routine[Loss | None]:
        """Only a primary decides that a lock is lost, and only a primary accepts EXTEND."""
        renewed = yield from self._extend(self._send(execute_dedicated))
        if renewed is False:
            return (yield from self._no_longer_owned())
        self._check_at = _clock.now() + self._pause_s
        return None

    def _update_lease(self, asked_at: float, left_s: float) -> None:
        hold, now = self._hold, _clock.now()
        # The server read its clock after asked_at: the lease expires no earlier than this.
        expires_at = asked_at + left_s
        if not self._is_lease_known:
            hold.expires_at = expires_at
            self._set_lease(left_s)
            self._schedule_renewal(asked_at)
        elif now + left_s < hold.expires_at - LEASE_TOLERANCE_S:
            # The lease was shortened, by a notice or by another client.
            hold.expires_at = expires_at
            self._warning_s = min(self._warning_s, _warning_s(left_s))
            if self._renews and not hold.notice_ends:
                self._renew_at = now
        else:
            hold.expires_at = max(hold.expires_at, expires_at)

    def _set_lease(self, lease_s: float) -> None:
        """To be called when the server has reported the length of its default lease."""
        self._lease_s, self._is_lease_known = lease_s, lease_s < math.inf
        self._warning_s = min(_warning_s(lease_s), self._notice_warning_s)

    def _give_notice(
        self, name: Name, state: LockState, asked_at: float, asked_unix: float
    ) -> Routine[None]:
        hold, left_s = self._hold, state.revoked_s or 0.0
        known = hold.notice_ends.get(name)
        if known is not None and known <= _clock.now() + left_s + NOTICE_TOLERANCE_S:
            return
        hold.notice_ends[name] = asked_at + left_s
        self._notice_warning_s = min(self._notice_warning_s, _warning_s(left_s))
        self._warning_s = min(self._warning_s, self._notice_warning_s)
        reason, deadline = state.revoked_reason, asked_unix + left_s
        notice = Notice(name, hold.owner, hold.tokens[name], reason, deadline)
        if hold.notice is None or deadline < hold.notice.deadline:
            hold.notice = notice
        yield lambda runtime: runtime.report_notice(notice)

    # The session

    def _tie_soon(self) -> None:
        # Without UNIQUE, ACQUIRE refuses the owner of the lock.
        if self._request.unique:
            self._tie_at = _clock.now()

    def _begin_grace_period(self) -> Routine[None]:
        yield close_dedicated()
        now = _clock.now()
        if self._is_tied:
            self._session_ends_at = now + self._request.grace_ms / 1000
        self._tie_at = min(self._tie_at, now)

    def _tie(self) -> Routine[Loss | None]:
        """Ties the locks to a new connection: after the session connection broke or is silent,
        and after the server lost its memory of the session in a role change.

        EXTEND comes first, because it fails if the lock was lost; ACQUIRE would acquire it
        again.
        """
        hold, request, started = self._hold, self._request, _clock.now()
        lost = self._session_lost()
        if not self._renews:
            request = replace(request, lease_ms=self._new_lease_ms())
        tokens = dict(hold.tokens)
        send, may_be_tied = self._send(execute_on_replacement), False
        try:
            if not (
                yield from _ownership.extend(hold, self._server, self._new_lease_ms(), send)
            ):
                return lost
            if self._is_doubtful and hold.tokens != tokens:
                return lost
            if self._session_ends_at < math.inf:
                # EXTEND has ended the grace period: the lease counts again.
                self._is_tied, self._session_ends_at = False, math.inf
            may_be_tied = True
            # Closing this connection may end the session now: wait as long as possible.
            timeout_s = max(MIN_ATTEMPT_S, self._report()[0] - _clock.now())
            command = _commands.acquire(request)
            reply = yield execute_on_replacement(*command, timeout_s=timeout_s)
            granted = _commands.granted_tokens(request, reply)
            if granted is None or not (yield from self._is_same_hold(granted, send)):
                for name, token in (granted or {}).items():
                    if not hold.matches(name, token):
                        yield send(*_commands.release(name, hold.owner, token, "lost"))
                return lost
        except _ownership.CONNECTION_ERRORS:
            if may_be_tied:
                self._is_doubtful = True
                grace_s = request.grace_ms / 1000
                self._session_ends_at = min(self._session_ends_at, _clock.now() + grace_s)
            yield from self._retry_tie(started)
            return None
        except ResponseError as error:
            # The server is a replica for now, or rejects writes.
            self._log_rejection("renew the session of", error)
            yield from self._retry_tie(started)
            return None
        hold.tokens.update(granted)
        self._tied_tokens = dict(hold.tokens)
        yield lambda runtime: runtime.use_replacement()
        self._is_tied, self._is_doubtful = True, False
        self._tie_at = self._session_ends_at = math.inf
        self._use_renewed_lease()
        self._schedule_renewal(started)
        self._check_at = _clock.now() + self._check_interval_s
        return None

    def _is_same_hold(self, granted: dict[Name, int | None], send: Execute) -> Routine[bool]:
        """Whether ACQUIRE has renewed the hold, and not acquired the locks again. Another token
        may also mean that the role changed between EXTEND and ACQUIRE: then the server has
        adopted the hold with this token."""
        hold = self._hold
        if granted.keys() != set(hold.names):
            return False
        for name, token in granted.items():
            if token == hold.tokens[name]:
                continue
            state = yield from _inspection.inspect(hold, name, send)
            if not (state.is_held and state.is_adopted and state.token == token):
                return False
        return True

    def _retry_tie(self, started: float) -> Routine[None]:
        self._has_failed = True
        self._server.invalidate()
        yield lambda runtime: runtime.close_replacement()
        self._tie_at = started + self._pause_s

    # Calls

    def _send(self, operation: Execute) -> Execute:
        """Sends with a timeout for each call, which ends before a loss is reported."""

        def send(*command: Argument) -> Operation:
            left_s = max(MIN_ATTEMPT_S, self._report()[0] - _clock.now())
            return operation(*command, timeout_s=min(self._attempt_s, left_s))

        return send

    @property
    def _attempt_s(self) -> float:
        usual_s = min(self._lease_s / ATTEMPTS_PER_LEASE, MAX_ATTEMPT_S)
        return min(max(usual_s, 2 * self._last_attempt_s), usual_s * SLOW_LINK_FACTOR)

    @property
    def _pause_s(self) -> float:
        """The shortest time between the beginnings of two attempts."""
        return min(self._lease_s / RETRIES_PER_LEASE, MAX_PAUSE_S)

    @property
    def _check_interval_s(self) -> float:
        interval_s = max(self._lease_s / CHECKS_PER_LEASE, MIN_CHECK_INTERVAL_S)
        return min(interval_s, self._max_check_interval_s)

    def _no_longer_owned(self) -> Routine[Loss]:
        yield close_dedicated()
        return _loss(self._hold, "the lock is no longer owned")

    def _session_lost(self) -> Loss:
        return _loss(self._hold, "the session connection was lost")


def _warning_s(lease_s: float) -> float:
    """How long before the end of the lease a loss is reported."""
    return min(lease_s / 6, MAX_WARNING_S)


def _start_watchdog(at: float, loss: Loss) -> Operation:
    """Reports the loss even if a call hangs in spite of its timeout."""
    return lambda runtime: runtime.start_watchdog(at, loss)


def _stop_watchdog(runtime: Runtime) -> Any:
    return runtime.stop_watchdog()


def renewal_ended(hold: Hold) -> Loss:
    """The loss to report when the renewal itself has ended."""
    return _loss(hold, "the lock is no longer being renewed")


def _loss(hold: Hold, reason: str) -> Loss:
    name, token = next(iter(hold.tokens.items()))
    return Loss(name, hold.owner, token, reason)
