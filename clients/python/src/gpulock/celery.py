"""Celery tasks that hold GPUs while they run: a base class and a decorator.

A task that is delivered twice (its worker was slow, or the broker impatient) does not run
twice at the same time: the delivery that comes second finds the locks held under its own id.
Needs the extra ``celery``.
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

from . import _words
from ._devices import Gpus
from ._manager import lock_value
from .pool import Pool

__all__ = ["GpuTask", "GpuTimeoutError", "gpu_task"]

logger = logging.getLogger("gpulock.celery")

# What Celery's Redis transport does when nobody says otherwise.
VISIBILITY_TIMEOUT_S = 3600


class GpuTimeoutError(LockError):
    """The locks of a task were not to be had in ``gpu_wait`` seconds."""


class GpuTask(Task):
    """A task that runs while it holds GPUs: ``self.gpus`` tells which.

    The settings are attributes, so that ``app.task(base=GpuTask, gpu_lease=60)`` sets them.
    """

    abstract = True

    gpu_keys: str | Sequence[str] = "gpu_lock:0"
    """The locks to choose from."""
    gpu_count = 1
    gpu_lease = 600.0
    """Seconds, renewed while the task runs."""
    gpu_wait: float | None = None
    """For how long a child of the worker waits; None: for ever."""
    gpu_retry_in: float | None = None
    """Do not wait at all: come back in so many seconds, and leave the child to others."""
    gpu_session = False
    """Free the locks at once when the child dies. Not without the module."""
    gpu_grace = 0.0
    gpu_url: str | None = None
    """The server with the locks; None: ``gpulock_url`` of the configuration, or the broker."""

    @classmethod
    def on_bound(cls, app: Celery) -> None:
        """Warns of a broker that delivers a running task once more."""
        super().on_bound(app)
        if not str(app.conf.broker_url).startswith(("redis", "sentinel")):
            return
        options = app.conf.broker_transport_options or {}
        visible_after = options.get("visibility_timeout", VISIBILITY_TIMEOUT_S)
        if visible_after < cls.gpu_lease:
            logger.warning(
                "visibility_timeout (%s s) is shorter than the lease of %s (%s s): "
                "the broker delivers it again while it may still hold its GPU",
                visible_after,
                cls.name,
                cls.gpu_lease,
            )

    @property
    def gpus(self) -> Gpus:
        """What this run holds."""
        gpus: Gpus = self.gpu_pool.gpus
        return gpus

    @property
    def gpu_pool(self) -> Pool:
        """The locks themselves: ``ensure_held``, ``lost``."""
        pool: Pool = self.request.gpu_pool
        return pool

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the task under its locks. Called by the worker."""
        self._stop_if_done()
        self._come_back_if_running(below=None)
        pool = self._pool()
        if not pool.acquire(blocking=self.gpu_retry_in is None):
            raise self._got_nothing()
        try:
            # The other delivery may have come and gone while this one waited.
            self._stop_if_done()
            self._come_back_if_running(below=pool)
            self.request.gpu_pool = pool
            return self.run(*args, **kwargs)
        finally:
            self._give_back(pool)

    def _got_nothing(self) -> LockError | Retry:
        if self.gpu_retry_in is None:
            return GpuTimeoutError(f"{self.name} got no GPU in {self.gpu_wait} s")
        if not self._was_delivered():
            return GpuTimeoutError(f"{self.name} got no GPU, and nobody delivers it again")
        return Retry(when=self.gpu_retry_in, sig=self._put_back(self.gpu_retry_in))

    def _pool(self) -> Pool:
        return Pool(
            self._client(),
            self._keys(),
            n=self.gpu_count,
            timeout=self.gpu_lease,
            blocking_timeout=self.gpu_wait,
            owner=f"{self._owners()}{uuid.uuid4().hex[:12]}",
            session=self.gpu_session,
            grace=self.gpu_grace,
            renew=True,
        )

    def _give_back(self, pool: Pool) -> None:
        """What the task answered counts, whatever becomes of its locks."""
        try:
            pool.release()
        except redis.RedisError:
            logger.exception("%s could not give back %s", self.name, self._keys())

    def _keys(self) -> Sequence[str]:
        return [self.gpu_keys] if isinstance(self.gpu_keys, str) else self.gpu_keys

    def _owners(self) -> str:
        """How the owner of each delivery of this task id begins."""
        return f"{lock_value(self.name)}:{self.request.id or uuid.uuid4().hex}:"

    def _client(self) -> Any:
        url = self.gpu_url or self.app.conf.get("gpulock_url") or self.app.conf.broker_url
        client = _clients.get(url)
        if client is None:
            client = _clients[url] = redis.Redis.from_url(url)
        return client

    def _was_delivered(self) -> bool:
        """By a broker: only then is there a message that may come twice, or be put back."""
        return not (self.request.called_directly or self.request.is_eager)

    def _stop_if_done(self) -> None:
        if self._was_delivered() and self._is_known_to_be_done():
            logger.warning("%s[%s] is done already", self.name, self.request.id)
            raise Ignore

    def _is_known_to_be_done(self) -> bool:
        try:
            return bool(self.backend.get_state(self.request.id) == states.SUCCESS)
        except NotImplementedError:
            return False  # No result backend.
        except SoftTimeLimitExceeded:
            raise
        except Exception:  # Each backend has its own.
            logger.exception("nobody tells whether %s[%s] is done", self.name, self.request.id)
            return False

    def _put_back(self, seconds: float) -> Any:
        """Not with Celery's ``retry``: to come for a GPU is no try of the task, of which it has
        a limited number."""
        message = self.signature_from_request(countdown=seconds, retries=self.request.retries)
        try:
            message.apply_async()
        except Exception as error:
            # The broker is away. What it still has of this delivery goes back to its place.
            raise Reject(error, requeue=True) from error
        return message

    def _come_back_if_running(self, below: Pool | None) -> None:
        """Another delivery holds the locks: it is not run twice, but looked at again later,
        in case its worker is dead. ``below``: the one whose hold is older goes on."""
        if not self._was_delivered():
            return
        # Without the module there are no tokens, and both come back.
        known = (
            [] if below is None else [t for t in below.gpus.tokens.values() if t is not None]
        )
        own_token = min(known, default=None)
        for token in self._tokens_of_other_deliveries(below):
            if own_token is None or token is None or token < own_token:
                logger.warning("%s[%s] is already yours", self.name, self.request.id)
                self._put_back(self.gpu_retry_in or 1.0)
                # Not Retry: nothing is written over the state of the delivery that runs.
                raise Ignore

    def _tokens_of_other_deliveries(self, own: Pool | None) -> list[int | None]:
        client, keys = self._client(), self._keys()
        own_owner = None if own is None else own.owner
        begin = self._owners().encode()
        tokens: list[int | None] = []
        for key, value in zip(keys, client.mget(keys)):
            if value is None or value == own_owner or not value.startswith(begin):
                continue
            knows_tokens = own is not None and None not in own.gpus.tokens.values()
            told = client.execute_command("GPULOCK.INSPECT", key) if knows_tokens else None
            tokens.append(_words.fields(told)["token"] if told else None)
        return tokens


def gpu_task(app: Celery, **settings: Any) -> Callable[[Callable[..., Any]], Any]:
    """``@gpu_task(app, keys=..., count=1, lease=600, wait=None, retry_in=None, ...)``.

    Settings of ``GpuTask`` without their ``gpu_``; all others are Celery's own.
    """
    ours = {name for name in vars(GpuTask) if name.startswith("gpu_")}
    named = {f"gpu_{key}" if f"gpu_{key}" in ours else key: v for key, v in settings.items()}

    def decorate(function: Callable[..., Any]) -> Any:
        return app.task(**{"base": GpuTask, **named})(function)

    return decorate


_clients: dict[str, Any] = {}
