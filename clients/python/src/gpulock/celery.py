"""Celery tasks that hold GPUs while they run: a base class and a decorator.

A task that the broker delivers twice does not run twice at the same time: the second delivery
finds the locks held under its own task id. Needs the extra ``celery``.
"""

from __future__ import annotations

import functools
import inspect
import logging
import uuid
from collections.abc import Collection, Mapping
from typing import Any, Callable, Union

import redis
from celery import Celery, Task, states
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from celery.signals import worker_ready
from redis.exceptions import LockError

from . import _broker, _commands, _settings
from ._decorator import as_current
from ._devices import Device, Gpus
from ._manager import owner_of
from ._pool_base import MAX_KEYS
from .pool import Pool

__all__ = ["GpuTask", "GpuTimeoutError", "gpu_task"]

logger = logging.getLogger("gpulock.celery")

# The default of Celery's Redis transport.
VISIBILITY_TIMEOUT_S = 3600
# How soon a second delivery is retried when the task sets no gpu_retry_in.
DUPLICATE_RETRY_S = 1.0
# The delay doubles up to this, and up to a third of the lease.
MAX_DUPLICATE_RETRY_S = 30.0
# The header of a second delivery that was requeued: the delay before the next time, in seconds.
DELAY_HEADER = "gpulock_next_delay"

SETTINGS = ("keys", "count", "lease", "wait", "retry_in", "session", "grace", "url")
# What Celery's ``app.task`` reads besides its named parameters and the attributes of Task.
TASK_OPTIONS = {
    *("shared", "filter", "lazy"),
    *("autoretry_for", "dont_autoretry_for"),
    *("retry_kwargs", "retry_backoff", "retry_backoff_max", "retry_jitter"),
    *("queue", "routing_key", "exchange", "delivery_mode", "compression"),
    *("immediate", "mandatory"),
    *(name for name in inspect.signature(Celery._task_from_fun).parameters if name != "self"),
}

Keys = Union[str, Collection[str], Mapping[str, Device]]


class GpuTimeoutError(LockError):
    """A task could not acquire its locks in ``gpu_wait`` seconds."""


class GpuTask(Task):
    """A task that holds GPUs while it runs, available as ``self.gpus``.

    The settings are attributes, so that ``app.task(base=GpuTask, gpu_lease=60)`` sets them.
    Other names that begin with ``gpu_`` are rejected.
    """

    abstract = True

    gpu_keys: Keys = "gpu_lock:0"
    """The locks to choose from. A mapping gives the device of each."""
    gpu_count = 1
    gpu_lease = 600.0
    """Seconds, renewed while the task runs."""
    gpu_wait: float | None = None
    """How long the worker process waits, in seconds; None: indefinitely."""
    gpu_retry_in: float | None = None
    """Retry after this many seconds instead of waiting, so that the worker process can run
    other tasks."""
    gpu_session = False
    """Release the locks at once when the worker process dies. Needs the module."""
    gpu_grace = 0.0
    gpu_url: str | None = None
    """The server with the locks, as for ``redis.Redis.from_url``; None: the app's setting
    ``gpulock_url``, or the broker."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        attributes = vars(cls)
        is_task = "_decorated" in attributes  # Made by ``app.task``, of its options.
        names = {
            name
            for name, value in attributes.items()
            if (is_task and not name.startswith("_"))
            or (name.startswith("gpu_") and not hasattr(value, "__get__"))
        }
        _check_names(names, cls.__bases__)

    @classmethod
    def on_bound(cls, app: Celery) -> None:
        """Raises TypeError or ValueError for an invalid setting, and ImproperlyConfigured if
        the settings name no server for the locks."""
        super().on_bound(app)
        _check_values(cls.name, {name: getattr(cls, f"gpu_{name}") for name in SETTINGS})
        url = cls._url(app)
        if url is not None or _broker.is_configured(app):
            _broker.client_for(app, url)

    @property
    def gpus(self) -> Gpus:
        """The GPUs that this run holds."""
        gpus: Gpus = self.gpu_pool.gpus
        return gpus

    @property
    def gpu_pool(self) -> Pool:
        """The pool that holds them, with ``lost``, ``revoked``, ``notice`` and
        ``ensure_held``. Losing the GPUs does not end or fail the task."""
        pool: Pool = self.request.gpu_pool
        return pool

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the task while it holds its locks. Called by the worker."""
        self._drop_if_done()
        self._defer_if_running(own_pool=None)
        pool = self._pool()
        if not pool.acquire(blocking=self.gpu_retry_in is None):
            raise self._not_acquired()
        try:
            # Another delivery may have started or finished while this one waited.
            self._drop_if_done()
            self._defer_if_running(own_pool=pool)
            self.request.gpu_pool = pool
            (self.request.headers or {}).pop(DELAY_HEADER, None)  # Not for the task's retries.
            with as_current(pool):
                return self.run(*args, **kwargs)
        finally:
            self._release(pool)

    def _not_acquired(self) -> LockError | Retry:
        if self.gpu_retry_in is None:
            return GpuTimeoutError(
                f"{self.name} could not acquire its GPUs in {self.gpu_wait} s"
            )
        if not self._was_delivered():
            return GpuTimeoutError(
                f"{self.name} could not acquire its GPUs, and cannot be retried: "
                "no broker delivered it"
            )
        return Retry(when=self.gpu_retry_in, sig=self._requeue(self.gpu_retry_in))

    def _pool(self) -> Pool:
        return Pool(
            self._client(),
            self._keys(),
            n=self.gpu_count,
            timeout=self.gpu_lease,
            blocking_timeout=self.gpu_wait,
            thread_local=False,  # A thread that works for the task may use it.
            owner=f"{self._owner_prefix()}{uuid.uuid4().hex[:12]}",
            session=self.gpu_session,
            grace=self.gpu_grace,
            renew=True,
        )

    def _release(self, pool: Pool) -> None:
        """A failed release does not change the result of the task."""
        try:
            pool.release()
        except redis.RedisError:
            logger.exception("%s failed to release %s", self.name, self._keys())

    def _keys(self) -> Collection[str]:
        return [self.gpu_keys] if isinstance(self.gpu_keys, str) else self.gpu_keys

    def _owner_prefix(self) -> str:
        """The common prefix of the owners of all deliveries of this task id."""
        return f"{owner_of(self.name)}:{self.request.id or uuid.uuid4().hex}:"

    @classmethod
    def _url(cls, app: Celery) -> str | None:
        """None: the broker."""
        return cls.gpu_url or app.conf.get("gpulock_url")

    def _client(self) -> Any:
        return _broker.client_for(self.app, self._url(self.app))

    def _was_delivered(self) -> bool:
        """Whether a broker delivered this run: only then can it be delivered again or be put
        back into the queue."""
        return not (self.request.called_directly or self.request.is_eager)

    def _drop_if_done(self) -> None:
        if self._was_delivered() and self._is_known_to_be_done():
            logger.warning("%s[%s] is already done", self.name, self.request.id)
            raise Ignore

    def _is_known_to_be_done(self) -> bool:
        try:
            return bool(self.backend.get_state(self.request.id) == states.SUCCESS)
        except NotImplementedError:
            return False  # No result backend.
        except SoftTimeLimitExceeded:
            raise
        except Exception:  # The exceptions depend on the backend.
            logger.exception(
                "failed to read from the result backend whether %s[%s] is done",
                self.name,
                self.request.id,
            )
            return False

    def _requeue(self, seconds: float, next_delay_s: float | None = None) -> Any:
        """Not with Celery's ``retry``: waiting for a GPU must not use up the task's own
        retries."""
        message = self.signature_from_request(countdown=seconds, retries=self.request.retries)
        headers = dict(message.options.get("headers") or {})
        headers.pop(DELAY_HEADER, None)
        if next_delay_s is not None:
            headers[DELAY_HEADER] = next_delay_s
        message.options["headers"] = headers
        try:
            message.apply_async()
        except Exception as error:
            # The broker cannot be reached. It requeues its own copy of this delivery.
            raise Reject(error, requeue=True) from error
        return message

    def _defer_if_running(self, own_pool: Pool | None) -> None:
        """Requeues this delivery while another one holds the locks, in case the worker of that
        one is dead. If both hold locks (``own_pool``), the older hold continues."""
        if not self._was_delivered():
            return
        # Without the module there are no tokens, and both are requeued.
        own_tokens = [] if own_pool is None else own_pool.gpus.tokens.values()
        own_token = min((token for token in own_tokens if token is not None), default=None)
        for token in self._tokens_of_other_deliveries(own_pool):
            if own_token is None or token is None or token < own_token:
                delay_s = self.request.get(DELAY_HEADER)
                logger.log(
                    logging.WARNING if delay_s is None else logging.DEBUG,
                    "%s[%s] is already running",
                    self.name,
                    self.request.id,
                )
                if delay_s is None:
                    delay_s = self.gpu_retry_in or DUPLICATE_RETRY_S
                # The first delivery may run for long: not a message for each second of it.
                limit_s = min(MAX_DUPLICATE_RETRY_S, self.gpu_lease / 3)
                self._requeue(delay_s, max(delay_s, min(2 * delay_s, limit_s)))
                # Not Retry, which would overwrite the state of the delivery that runs.
                raise Ignore

    def _tokens_of_other_deliveries(self, own_pool: Pool | None) -> list[int | None]:
        client, keys = self._client(), self._keys()
        own_owner = None if own_pool is None else own_pool.owner
        prefix = self._owner_prefix().encode()
        tokens: list[int | None] = []
        for key, value in zip(keys, client.mget(list(keys))):
            if value is None or value == own_owner or not value.startswith(prefix):
                continue
            has_tokens = own_pool is not None and None not in own_pool.gpus.tokens.values()
            reply = client.execute_command("GPULOCK.INSPECT", key) if has_tokens else None
            tokens.append(_commands.parse_map(reply)["token"] if reply else None)
        return tokens


def gpu_task(app: Celery, **settings: Any) -> Callable[[Callable[..., Any]], Any]:
    """``@gpu_task(app, keys=..., count=1, lease=600, wait=None, retry_in=None, ...)``.

    The settings of ``GpuTask`` without the prefix ``gpu_``; Celery receives all others. Raises
    TypeError for a setting that neither has, and TypeError or ValueError for an invalid value.
    """
    if not isinstance(app, Celery):
        raise TypeError(f"gpu_task needs the Celery app, as in @gpu_task(app), not {app!r}")
    base = settings.get("base") or GpuTask
    options = {f"gpu_{name}" if name in SETTINGS else name: v for name, v in settings.items()}
    if not (isinstance(base, type) and issubclass(base, GpuTask)):
        raise TypeError(f"the base of a GPU task must be a subclass of GpuTask, not {base!r}")
    _check_names(options, [base])
    ours = {name: options.get(f"gpu_{name}", getattr(base, f"gpu_{name}")) for name in SETTINGS}

    def decorate(function: Callable[..., Any]) -> Any:
        _check_values(getattr(function, "__name__", repr(function)), ours)
        # Not shared with the other apps of the process, which may have other brokers.
        return app.task(**{"base": GpuTask, "shared": False, **options})(function)

    return decorate


@worker_ready.connect
def _warn_of_short_visibility_timeout(sender: Any, **_: Any) -> None:
    """Only a worker knows that it runs the tasks; a producer declares them too."""
    app = sender.app
    if not _broker.is_redis(app):
        return
    options = app.conf.broker_transport_options or {}
    visible_after = options.get("visibility_timeout", VISIBILITY_TIMEOUT_S)
    for task in app.tasks.values():
        if isinstance(task, GpuTask) and visible_after < task.gpu_lease:
            logger.warning(
                "visibility_timeout (%s s) is shorter than the lease of task %s (%s s): "
                "the broker may deliver the task again while it still holds its GPU",
                visible_after,
                task.name,
                task.gpu_lease,
            )


def _check_names(names: Collection[str], bases: Collection[type]) -> None:
    """Rejects what Celery would ignore, for example a setting that is spelled wrong."""
    known = TASK_OPTIONS.union(*map(dir, bases)) - {"gpus", "gpu_pool"}
    unknown = sorted(set(names) - known)
    if unknown:
        raise TypeError(
            f"a GPU task has no setting {', '.join(unknown)}. Its settings are "
            f"{', '.join(SETTINGS)} (with base=GpuTask: gpu_{SETTINGS[0]} and so on) "
            "and the options of Celery's tasks"
        )


def _check_values(task: str, values: Mapping[str, Any]) -> None:
    # A property gives its value later, to the task.
    later = (property, functools.cached_property)
    given = {name: value for name, value in values.items() if not isinstance(value, later)}

    def label(name: str) -> str:
        return f"{task}.gpu_{name}"

    def invalid(name: str, expected: str) -> str:
        return f"invalid {label(name)} {given[name]!r}: expected {expected}"

    if "lease" in given:
        _settings.require_finite(
            label("lease"),
            given["lease"],
            f"a number of seconds, at least {_settings.MIN_LEASE_S}",
            min_value=_settings.MIN_LEASE_S,
        )
    for name in ("wait", "retry_in"):
        if given.get(name) is not None:
            _settings.require_number(
                label(name), given[name], "a number of seconds, at least 0, or None"
            )
    if "grace" in given:
        _settings.require_finite(
            label("grace"), given["grace"], "a number of seconds, at least 0", min_value=0
        )
    if given.get("grace") and not given.get("session", True):
        raise ValueError(invalid("grace", "0, because session is not set"))
    if not isinstance(given.get("url"), (str, type(None))):
        raise TypeError(invalid("url", "a URL such as redis://host:6379/0"))
    keys = given.get("keys")
    if "keys" in given and (isinstance(keys, bytes) or not isinstance(keys, Collection)):
        raise TypeError(invalid("keys", "a name, a collection of names, or {name: device}"))
    number = 1 if isinstance(keys, str) else MAX_KEYS if keys is None else len(keys)
    if not 1 <= number <= MAX_KEYS:
        raise ValueError(invalid("keys", f"1 to {MAX_KEYS} names"))
    if "count" in given:
        _settings.require_integer(label("count"), given["count"])
        if not 1 <= given["count"] <= number:
            raise ValueError(invalid("count", f"1 to {number}, the number of keys"))
