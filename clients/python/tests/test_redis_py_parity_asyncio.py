"""gpulock.asyncio.Lock behaves like redis-py's asyncio Lock: redis-py's own cases on both."""

import asyncio
import inspect
import time

import pytest
import redis.asyncio.lock
from redis.exceptions import LockError, LockNotOwnedError

import gpulock.asyncio

LOCK = "foo"

pytestmark = pytest.mark.skipif(
    "raise_on_release_error" not in inspect.signature(redis.asyncio.Redis.lock).parameters,
    reason="compares with the lock of a newer redis-py",
)


@pytest.fixture(
    params=[redis.asyncio.lock.Lock, gpulock.asyncio.Lock], ids=["redis-py", "gpulock"]
)
def get_lock(any_aclient, request):
    def get(client=any_aclient, **settings):
        return client.lock(LOCK, lock_class=request.param, **settings)

    return get


async def test_the_key_holds_the_token(get_lock, any_aclient):
    lock = get_lock()
    assert await lock.acquire(blocking=False) is True
    assert await any_aclient.get(LOCK) == lock.local.token
    assert await lock.locked() is True
    await lock.release()
    assert await any_aclient.get(LOCK) is None
    assert await lock.locked() is False


@pytest.mark.parametrize("thread_local", [True, False])
async def test_acquire_accepts_a_token(get_lock, any_aclient, thread_local):
    lock = get_lock(thread_local=thread_local)
    assert await lock.acquire(blocking=False, token="test")
    assert await any_aclient.get(LOCK) == b"test"
    assert lock.local.token == b"test"
    await lock.release()
    assert lock.local.token is None


@pytest.mark.parametrize("decode", [False, True])
async def test_owned_reports_only_its_own_hold(any_server, get_lock, decode):
    async with redis.asyncio.Redis(port=any_server.port, decode_responses=decode) as client:
        mine, other = get_lock(client), get_lock(client)
        assert await mine.owned() is False
        await mine.acquire(blocking=False)
        assert (await mine.owned(), await other.owned()) == (True, False)
        await mine.release()
        assert await mine.owned() is False


async def test_two_locks_exclude_each_other(get_lock):
    first, second = get_lock(), get_lock()
    assert await first.acquire(blocking=False)
    assert not await second.acquire(blocking=False)
    await first.release()
    assert await second.acquire(blocking=False)
    assert not await first.acquire(blocking=False)
    await second.release()


@pytest.mark.parametrize(("timeout", "most"), [(10, 10_000), (9.5, 9_500)])
async def test_timeout_is_the_lease(get_lock, any_aclient, timeout, most):
    lock = get_lock(timeout=timeout)
    assert await lock.acquire(blocking=False)
    assert most - 5_000 < await any_aclient.pttl(LOCK) <= most
    await lock.release()


async def test_acquire_gives_up_after_the_blocking_timeout(get_lock):
    holder = get_lock()
    assert await holder.acquire(blocking=False)
    begin = time.monotonic()
    assert await get_lock(sleep=0.05, blocking_timeout=0.4).acquire() is False
    assert time.monotonic() - begin > 0.3
    assert await get_lock(blocking_timeout=0).acquire() is False
    await holder.release()


async def test_a_waiter_acquires_a_released_lock(get_lock):
    holder, waiter = get_lock(), get_lock()
    await holder.acquire()
    waiting = asyncio.ensure_future(waiter.acquire())
    await asyncio.sleep(0.05)
    await holder.release()
    assert await waiting is True
    await waiter.release()


async def test_context_manager_acquires_and_releases(get_lock, any_aclient):
    async with get_lock(blocking_timeout=0.2) as lock:
        assert await any_aclient.get(LOCK) == lock.local.token
    assert await any_aclient.get(LOCK) is None
    await any_aclient.set(LOCK, "bar")
    with pytest.raises(LockError):
        async with get_lock(blocking_timeout=0.1):
            pass


@pytest.mark.parametrize("quiet", [True, False])
async def test_context_manager_reports_a_lost_lock(get_lock, any_aclient, quiet):
    async def lose():
        async with get_lock(timeout=10, raise_on_release_error=not quiet):
            await any_aclient.set(LOCK, "a")

    if quiet:
        await lose()
    else:
        with pytest.raises(LockNotOwnedError):
            await lose()


async def test_releasing_a_lock_not_held_raises(get_lock, any_aclient):
    lock = get_lock()
    with pytest.raises(LockError):
        await lock.release()
    await lock.acquire(blocking=False)
    await any_aclient.set(LOCK, "a")
    with pytest.raises(LockNotOwnedError):
        await lock.release()
    assert lock.local.token is None


async def test_extend_and_reacquire_change_the_lease(get_lock, any_aclient):
    lock = get_lock(timeout=10.5)
    assert await lock.acquire(blocking=False)
    before = await any_aclient.pttl(LOCK)
    assert await lock.extend(10.5) is True
    assert before + 5_000 < await any_aclient.pttl(LOCK) <= before + 10_500 + 50
    assert await lock.extend(20, replace_ttl=True) is True
    assert 15_000 < await any_aclient.pttl(LOCK) <= 20_000
    assert await lock.reacquire() is True
    assert 5_000 < await any_aclient.pttl(LOCK) <= 10_500
    await lock.release()


@pytest.mark.parametrize("change", ["extend", "reacquire"])
async def test_changing_the_lease_of_a_lock_not_owned_raises(get_lock, any_aclient, change):
    args = (10,) if change == "extend" else ()
    lock = get_lock(timeout=10)
    with pytest.raises(LockError, match="unlocked"):
        await getattr(lock, change)(*args)
    assert await lock.acquire(blocking=False)
    await any_aclient.set(LOCK, "a")
    with pytest.raises(LockNotOwnedError):
        await getattr(lock, change)(*args)

    await any_aclient.delete(LOCK)
    permanent = get_lock()
    assert await permanent.acquire(blocking=False)
    with pytest.raises(LockError, match="no timeout"):
        await getattr(permanent, change)(*args)
    await permanent.release()


async def test_a_lock_can_be_released_with_a_copied_token(get_lock):
    first, second = get_lock(timeout=10), get_lock(timeout=10)
    assert await first.acquire()
    second.local.token = first.local.token
    assert await second.owned()
    await second.release()
    assert await first.locked() is False
