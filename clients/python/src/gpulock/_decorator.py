"""``locked``: a decorator that holds locks while a function runs. Each call makes a lock of its
own; the locking itself is in ``lock``, ``pool`` and ``asyncio``.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Callable, TypedDict, TypeVar, Union, overload

from . import asyncio
from ._commands import NameLike
from ._lock_base import LockBase, Number
from ._pool_base import Group
from ._types import Loss, Notice
from .errors import LockError
from .lock import Lock
from .pool import Pool

if TYPE_CHECKING:
    from typing_extensions import Unpack

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
LockT = TypeVar("LockT", bound=LockBase)
Names = Union[NameLike, Group, Iterable[Group]]


class LockSettings(TypedDict, total=False):
    """The settings of a lock that can be shared by all calls of a function."""

    n: int
    timeout: Number | None
    sleep: Number
    blocking: bool
    blocking_timeout: Number | None
    raise_on_release_error: bool
    fair: bool
    session: bool
    grace: Number
    renew: bool | None
    on_lost: Callable[[Loss], Any] | None
    on_revoked: Callable[[Notice], Any] | None
    priority: int
    share: NameLike | None
    near: NameLike | None
    groups: int | None


def locked(
    client: Any,
    names: Names | Callable[..., Names],
    **settings: Unpack[LockSettings],
) -> Callable[[FunctionT], FunctionT]:
    """Decorates a function: each call acquires a lock, and holds it while the function runs.

    The settings are those of ``Lock``. With several names they are those of ``Pool``.
    ``current_lock`` returns the lock to the function.

    A coroutine function needs a client of ``redis.asyncio``. ``client`` can be a function that
    returns the client, for a client that does not exist yet. ``names`` can be a function of the
    arguments of the call. Generator functions are rejected: the caller decides when they run,
    so use ``with`` in their body.
    """
    unknown = set(settings) - set(LockSettings.__annotations__)
    if unknown:
        raise TypeError(f"locked() has no setting {', '.join(sorted(unknown))}")

    def decorate(function: FunctionT) -> FunctionT:
        is_async = _is_async(function)
        if not callable(client) and not callable(names):
            _new_lock(client, names, settings, is_async)  # Detects mistakes now.

        def new_lock(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return _new_lock(
                client() if callable(client) else client,
                names(*args, **kwargs) if callable(names) else names,
                settings,
                is_async,
            )

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            lock = new_lock(args, kwargs)
            with lock, as_current(lock):
                result = function(*args, **kwargs)
                if inspect.iscoroutine(result):
                    result.close()
                    raise TypeError(
                        f"{function!r} returned a coroutine, which would run without the lock: "
                        "decorate the coroutine function itself"
                    )
                return result

        @functools.wraps(function)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            lock = new_lock(args, kwargs)
            async with lock:
                with as_current(lock):
                    return await function(*args, **kwargs)

        decorated: Any = call_async if is_async else call
        return decorated  # type: ignore[no-any-return]

    return decorate


@overload
def current_lock() -> Lock: ...
@overload
def current_lock(kind: type[LockT]) -> LockT: ...
def current_lock(kind: Any = Lock) -> Any:
    """The lock that the innermost function decorated with ``locked`` or Celery task holds.

    ``kind`` is its class, for example ``Pool`` or ``asyncio.Lock``. A ``GpuTask`` of Celery has
    a ``Pool``. Raises LockError if no such lock is held.
    """
    lock = _current_lock.get()
    if lock is None:
        raise LockError("No function decorated with locked() is running, and no GpuTask")
    if not isinstance(lock, kind):
        raise LockError(f"The current lock is a {_name(type(lock))}, not a {_name(kind)}")
    return lock


_current_lock: ContextVar[LockBase | None] = ContextVar("gpulock.current_lock", default=None)


@contextlib.contextmanager
def as_current(lock: LockBase) -> Iterator[None]:
    """``current_lock`` returns the lock in this block."""
    token = _current_lock.set(lock)
    try:
        yield
    finally:
        _current_lock.reset(token)


def _is_async(function: Any) -> bool:
    if not callable(function) or isinstance(function, (type, staticmethod, classmethod)):
        raise TypeError(
            f"locked() decorates functions, not {function!r}; "
            "use it below @staticmethod and @classmethod"
        )
    kinds = (function, getattr(function, "__call__", None))  # noqa: B004
    if any(inspect.isgeneratorfunction(f) or inspect.isasyncgenfunction(f) for f in kinds):
        raise TypeError(
            f"{function!r} is a generator function, which runs after the call: "
            "hold the lock in its body, with `with gpulock.Lock(...)`"
        )
    return any(map(inspect.iscoroutinefunction, kinds))


def _new_lock(client: Any, names: Any, settings: Any, is_async: bool) -> Any:
    # Not by its methods, which instrumentation may have replaced.
    if hasattr(client, "__aenter__") != is_async:
        needed, kind = ("redis.asyncio", "coroutine") if is_async else ("redis", "plain")
        raise TypeError(f"A {kind} function needs a client of {needed}, not {client!r}")
    is_text = isinstance(names, (str, bytes, bytearray, memoryview))
    is_single = is_text or not isinstance(names, Iterable)
    if is_async:
        lock_class: Any = asyncio.Lock if is_single else asyncio.Pool
    else:
        lock_class = Lock if is_single else Pool
    # A thread that works for the call may use its lock.
    return lock_class(client, names, thread_local=False, **settings)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
