"""Invalid arguments are refused where they are given, by name, before anything is sent."""

import functools
import math
from decimal import Decimal
from fractions import Fraction

import pytest
import redis
import redis.asyncio

import gpulock
import gpulock.asyncio
from inspection import LOCK
from servers import eventually

UNREACHABLE = [
    (gpulock, redis.Redis(port=1)),
    (gpulock.asyncio, redis.asyncio.Redis(port=1)),
]
NAN, INF = math.nan, math.inf
TIMEOUT = "a number of seconds, at least 0.001, or None"
FOR_S = "a number of seconds, at least 1"


async def acoroutine(loss):
    raise NotImplementedError


class CallableObject:
    async def __call__(self, loss):
        raise NotImplementedError


def refused(error, text):
    return pytest.raises(error, match=f"^{text}")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"timeout": "5"}, TypeError, f"invalid timeout '5': expected {TIMEOUT}"),
        ({"timeout": [1]}, TypeError, r"invalid timeout \[1\]"),
        ({"timeout": ""}, TypeError, "invalid timeout ''"),
        ({"timeout": -5}, ValueError, "invalid timeout -5"),
        ({"timeout": 0.0001}, ValueError, "invalid timeout 0.0001"),
        ({"timeout": NAN}, ValueError, "invalid timeout nan"),
        ({"timeout": INF}, ValueError, "invalid timeout inf"),
        ({"blocking_timeout": "3"}, TypeError, "invalid blocking_timeout '3'"),
        ({"blocking_timeout": NAN}, ValueError, "invalid blocking_timeout nan"),
        ({"sleep": "x"}, TypeError, "invalid sleep 'x'"),
        ({"sleep": None}, TypeError, "invalid sleep None"),
        ({"sleep": -1}, ValueError, "invalid sleep -1"),
        ({"session": True, "grace": "5"}, TypeError, "invalid grace '5'"),
        ({"session": True, "grace": -5}, ValueError, "invalid grace -5"),
        ({"session": True, "grace": None}, TypeError, "invalid grace None"),
        ({"session": True, "grace": INF}, ValueError, "invalid grace inf"),
        ({"on_lost": 5}, TypeError, "invalid on_lost 5: expected a function, or None"),
        ({"on_revoked": "f"}, TypeError, "invalid on_revoked 'f'"),
    ],
)
def test_invalid_settings_are_refused_when_the_lock_is_created(settings, error, message):
    for module, unreachable in UNREACHABLE:
        with refused(error, message):
            module.Lock(unreachable, LOCK, **settings)
        with refused(error, message):
            module.Pool(unreachable, [LOCK], **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout": 0},
        {"timeout": 0.001},
        {"timeout": True},
        {"timeout": Decimal(5)},
        {"timeout": Fraction(1, 2)},
        {"blocking_timeout": -3},
        {"blocking_timeout": INF},
        {"sleep": 0},
        {"sleep": 1},
    ],
    ids=repr,
)
def test_settings_of_redis_py_are_accepted(settings):
    for module, unreachable in UNREACHABLE:
        module.Lock(unreachable, LOCK, **settings)
        module.Pool(unreachable, [LOCK], **settings)


def test_the_lock_method_of_a_client_can_set_options(any_client):
    lock_class = functools.partial(gpulock.Lock, renew=True)
    with any_client.lock(LOCK, timeout=60, lock_class=lock_class) as lock:
        assert lock.renew
        assert lock.owned()


ARGUMENTS = [
    ({"sleep": "x"}, TypeError, "invalid sleep 'x'"),
    ({"sleep": -1}, ValueError, "invalid sleep -1"),
    ({"blocking_timeout": "3"}, TypeError, "invalid blocking_timeout '3'"),
    ({"blocking_timeout": NAN}, ValueError, "invalid blocking_timeout nan"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), ARGUMENTS)
async def test_invalid_arguments_of_acquire_are_refused(arguments, error, message):
    for kind in "Lock", "Pool":
        for module, unreachable in UNREACHABLE:
            lock = getattr(module, kind)(unreachable, LOCK if kind == "Lock" else [LOCK])
            with refused(error, message):
                result = lock.acquire(**arguments)
                if module is gpulock.asyncio:
                    await result


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"for_s": "2h"}, TypeError, f"invalid for_s '2h': expected {FOR_S}"),
        ({"for_s": 0.5}, ValueError, "invalid for_s 0.5"),
        ({"for_s": NAN}, ValueError, "invalid for_s nan"),
        ({"for_s": INF}, ValueError, "invalid for_s inf"),
        ({"for_s": 5, "blocking_timeout": "3"}, TypeError, "invalid blocking_timeout '3'"),
    ],
)
async def test_invalid_arguments_of_reserve_are_refused(arguments, error, message):
    for module, unreachable in UNREACHABLE:
        with refused(error, message):
            result = module.Lock(unreachable, LOCK).reserve(**arguments)
            if module is gpulock.asyncio:
                await result


EXTENSIONS = [("5", TypeError), (None, TypeError), (NAN, ValueError), (INF, ValueError)]


@pytest.mark.parametrize(("additional_time", "error"), EXTENSIONS, ids=repr)
@pytest.mark.parametrize("replace_ttl", [False, True])
def test_an_invalid_extension_is_refused(any_client, additional_time, error, replace_ttl):
    with gpulock.Lock(any_client, LOCK, timeout=60) as lock:
        with refused(error, "invalid additional_time"):
            lock.extend(additional_time, replace_ttl)
        assert lock.extend(-1, replace_ttl=False)


@pytest.mark.parametrize(("additional_time", "error"), EXTENSIONS, ids=repr)
async def test_asyncio_an_invalid_extension_is_refused(any_aclient, additional_time, error):
    async with gpulock.asyncio.Lock(any_aclient, LOCK, timeout=60) as lock:
        with refused(error, "invalid additional_time"):
            await lock.extend(additional_time)


@pytest.mark.parametrize("n", ["2", 1.5, None, True], ids=repr)
def test_counts_are_integers(n):
    for module, unreachable in UNREACHABLE:
        with refused(TypeError, "n must be an integer, not"):
            module.Pool(unreachable, ["a", "b"], n=n)
    with refused(TypeError, "groups must be an integer, not '1'"):
        gpulock.Pool(redis.Redis(port=1), [["a"]], groups="1")


def test_groups_of_keys_need_the_number_of_groups():
    for module, unreachable in UNREACHABLE:
        for groups in [["a", "b"], ["c"]], [("a",)], [iter("ab")], [{"a": 0}]:
            with refused(redis.DataError, "invalid name .*: groups of keys need groups="):
                module.Pool(unreachable, groups)


@pytest.mark.parametrize("indices", [8, "8", None], ids=repr)
def test_the_indices_of_gpus_are_a_collection(indices):
    with refused(TypeError, f"invalid indices {indices!r}: expected .* such as range"):
        gpulock.gpu_keys("gpus", indices)


@pytest.mark.parametrize("setting", ["on_lost", "on_revoked"])
@pytest.mark.parametrize(
    "callback",
    [acoroutine, functools.partial(acoroutine, 1), CallableObject(), CallableObject().__call__],
    ids=["function", "partial", "object", "method"],
)
def test_coroutine_functions_need_a_lock_of_asyncio(setting, callback):
    message = f"invalid {setting} .*: a coroutine function needs a lock of gpulock.asyncio"
    with refused(TypeError, message):
        gpulock.Lock(redis.Redis(port=1), LOCK, **{setting: callback})
    with refused(TypeError, message):
        gpulock.Pool(redis.Redis(port=1), [LOCK], **{setting: callback})
    gpulock.asyncio.Lock(redis.asyncio.Redis(port=1), LOCK, **{setting: callback})


async def test_a_lock_shows_its_names_and_whether_it_is_held(any_client, any_aclient):
    lock = gpulock.Lock(any_client, LOCK, timeout=60)
    assert repr(lock) == f"<gpulock.lock.Lock {LOCK!r}, not held here>"
    with lock:
        assert repr(lock) == f"<gpulock.lock.Lock {LOCK!r}, held>"
    pool = gpulock.Pool(any_client, ["a", b"b"], timeout=60)
    assert repr(pool) == "<gpulock.pool.Pool 'a', b'b', not held here>"
    async with gpulock.asyncio.Lock(any_aclient, LOCK, timeout=60) as alock:
        assert repr(alock) == f"<gpulock.asyncio.Lock {LOCK!r}, held>"


async def test_a_lock_that_is_not_held_cannot_be_confirmed():
    message = "Cannot confirm a lock that is not held here"
    for module, unreachable in UNREACHABLE:
        with refused(gpulock.LockError, message):
            result = module.Lock(unreachable, LOCK).ensure_held()
            if module is gpulock.asyncio:
                await result


@pytest.mark.parametrize("reason", [5, b"x", None], ids=repr)
async def test_an_invalid_reason_leaves_the_lock_held(any_client, any_aclient, caplog, reason):
    message = f"invalid reason {reason!r}: expected str"
    lock = gpulock.Lock(any_client, LOCK, timeout=3, renew=True)
    with lock:
        with refused(TypeError, message):
            lock.release(reason)
        assert lock.owned()
        any_client.pexpire(LOCK, 1500)
        eventually(lambda: any_client.pttl(LOCK) > 1500)  # It is still renewed.
    async with gpulock.asyncio.Lock(any_aclient, LOCK, timeout=60) as alock:
        with refused(TypeError, message):
            await alock.release(reason)
        assert await alock.owned()
    reservation = gpulock.Lock(any_client, LOCK).reserve(for_s=60)
    with refused(TypeError, message):
        reservation.release(reason)
    reservation.release()
    areservation = await gpulock.asyncio.Lock(any_aclient, LOCK).reserve(for_s=60)
    with refused(TypeError, message):
        await areservation.release(reason)
    await areservation.release()
    assert "interrupted" not in caplog.text
