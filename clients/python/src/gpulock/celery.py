"""Celery tasks that hold GPUs while they run: a base class and a decorator.

A task that the broker delivers twice does not run twice at the same time: the second delivery
finds the locks held under its own task id. Needs the extra ``celery``.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from typing import Any, Callable

import redis
from celery import Celery, Task, states
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from redis.exceptions import LockError

from . import _broker, _commands
from ._devices import Gpus
from ._manager import owner_of
from .pool import Pool

__all__ = ["GpuTask", "GpuTimeoutError", "gpu_task"]

logger = logging.getLogger("gpulock.celery")

# The default of Celery's Redis transport.
VISIBILITY_TIMEOUT_S = 3600
# How soon a second delivery is retried when the task sets no gpu_retry_in.
DUPLICATE_RETRY_S = 1.0


class GpuTimeoutError(LockError):
    """A task could not acquire its locks in ``gpu_wait`` seconds."""


class GpuTask(Task):
    """A task that holds GPUs while it runs, available as ``self.gpus``.

    The settings are attributes, so that ``app.task(base=GpuTask, gpu_lease=60)`` sets them.
    """

    abstract = True

    gpu_keys: str | Sequence[str] = "gpu_lock:0"
    """The locks to choose from."""
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

    @classmethod
    def on_bound(cls, app: Celery) -> None:
        """Raises ImproperlyConfigured if the settings name no server for the locks, and warns
        if the broker may deliver a running task again."""
        super().on_bound(app)
        url = cls._url(app)
        if url is not None or _broker.is_configured(app):
            _broker.client_for(app, url)
        if not _broker.is_redis(app):
            return
        options = app.conf.broker_transport_options or {}
        visible_after = options.get("visibility_timeout", VISIBILITY_TIMEOUT_S)
        if visible_after < cls.gpu_lease:
            logger.warning(
                "visibility_timeout (%s s) is shorter than the lease of task %s (%s s): "
                "the broker may deliver the task again while it still holds its GPU",
                visible_after,
                cls.name,
                cls.gpu_lease,
            )

    @property
    def gpus(self) -> Gpus:
        """The GPUs that this run holds."""
        gpus: Gpus = self.gpu_pool.gpus
        return gpus

    @property
    def gpu_pool(self) -> Pool:
        """The pool that holds them, with ``ensure_held`` and ``lost``."""
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

    def _keys(self) -> Sequence[str]:
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

    def _requeue(self, seconds: float) -> Any:
        """Not with Celery's ``retry``: waiting for a GPU must not use up the task's own
        retries."""
        message = self.signature_from_request(countdown=seconds, retries=self.request.retries)
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
                logger.warning("%s[%s] is already running", self.name, self.request.id)
                self._requeue(self.gpu_retry_in or DUPLICATE_RETRY_S)
                # Not Retry, which would overwrite the state of the delivery that runs.
                raise Ignore

    def _tokens_of_other_deliveries(self, own_pool: Pool | None) -> list[int | None]:
        client, keys = self._client(), self._keys()
        own_owner = None if own_pool is None else own_pool.owner
        prefix = self._owner_prefix().encode()
        tokens: list[int | None] = []
        for key, value in zip(keys, client.mget(keys)):
            if value is None or value == own_owner or not value.startswith(prefix):
                continue
            has_tokens = own_pool is not None and None not in own_pool.gpus.tokens.values()
            reply = client.execute_command("GPULOCK.INSPECT", key) if has_tokens else None
            tokens.append(_commands.parse_map(reply)["token"] if reply else None)
        return tokens


def gpu_task(app: Celery, **settings: Any) -> Callable[[Callable[..., Any]], Any]:
    """``@gpu_task(app, keys=..., count=1, lease=600, wait=None, retry_in=None, ...)``.

    The settings of ``GpuTask`` without the prefix ``gpu_``; Celery receives all others.
    """
    ours = {name for name in vars(GpuTask) if name.startswith("gpu_")}
    options = {f"gpu_{key}" if f"gpu_{key}" in ours else key: v for key, v in settings.items()}

    def decorate(function: Callable[..., Any]) -> Any:
        # Not shared with the other apps of the process, which may have other brokers.
        return app.task(**{"base": GpuTask, "shared": False, **options})(function)

    return decorate
