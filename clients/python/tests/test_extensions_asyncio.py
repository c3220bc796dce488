"""What gpulock.asyncio.Lock adds to redis-py's asyncio Lock, above all that a cancelled call
holds nothing."""

import asyncio
import gc
import signal
import time

import pytest
import redis.asyncio
from redis.exceptions import ConnectionError, LockNotOwnedError

import gpulock.asyncio
from inspection import LOCK, inspect, stats, waiting
from proxy import Proxy
from servers import close, eventually, until


@pytest.fixture
def watcher(server):
    """A client that does not use the event loop."""
    with server.client() as client:
        yield client


@pytest.fixture
async def proxy(server):
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
async def proxied(proxy):
    client = redis.asyncio.Redis(port=proxy.port, retry=None, socket_timeout=None)
    yield client
    await close(client)


async def test_waiters_are_served_in_order(aclient, watcher):
    order = []
    holder = gpulock.asyncio.Lock(aclient, LOCK, timeout=60)
    await holder.acquire()

    async def wait(number):
        async with gpulock.asyncio.Lock(aclient, LOCK, timeout=60) as lock:
            order.append((number, lock.token))

    tasks = []
    for number in range(8):
        tasks.append(asyncio.ensure_future(wait(number)))
        await until(lambda number=number: waiting(watcher) == number + 1)
    await holder.release()
    await asyncio.gather(*tasks)
    assert [number for number, _ in order] == list(range(8))
    assert sorted(order) == order


@pytest.mark.parametrize("session", [False, True])
async def test_a_cancelled_wait_releases_what_it_was_granted(aclient, watcher, session):
    for pause in (0.0, 0.001, 0.003, 0.01) * 5:
        holder = gpulock.asyncio.Lock(aclient, LOCK, timeout=60)
        await holder.acquire()
        waiter = gpulock.asyncio.Lock(aclient, LOCK, timeout=60, session=session)
        waiting_task = asyncio.ensure_future(waiter.acquire())
        await until(lambda: stats(watcher)["clients_waiting"] == 1)
        # The grant and the cancellation race with each other.
        releasing = asyncio.ensure_future(holder.release())
        await asyncio.sleep(pause)
        if waiting_task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await waiting_task
            assert waiter.owner is None
        else:
            await waiter.release()
        await releasing
        await until(lambda: not watcher.exists(LOCK))
        await until(lambda: stats(watcher)["clients_waiting"] == 0)


async def test_wait_for_cancels_a_wait(aclient, watcher):
    watcher.set(LOCK, "other", px=60_000)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(gpulock.asyncio.Lock(aclient, LOCK).acquire(), 0.2)
    watcher.delete(LOCK)
    lock = gpulock.asyncio.Lock(aclient, LOCK, timeout=60)
    assert await asyncio.wait_for(lock.acquire(), 10)
    await lock.release()


async def test_a_grant_whose_reply_was_lost_is_released(proxy, proxied, watcher):
    lock = gpulock.asyncio.Lock(proxied, LOCK, timeout=60)
    await lock.acquire()
    await lock.release()
    proxy.drop_replies = True
    acquiring = asyncio.ensure_future(lock.acquire())
    await until(lambda: watcher.exists(LOCK))
    proxy.drop_replies = False
    acquiring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await acquiring
    assert not watcher.exists(LOCK)


async def test_a_cancelled_release_can_be_repeated(proxy, proxied, watcher):
    lock = gpulock.asyncio.Lock(proxied, LOCK, timeout=60)
    await lock.acquire()
    proxy.drop_replies = True
    releasing = asyncio.ensure_future(lock.release())
    await until(lambda: not watcher.exists(LOCK))
    releasing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await releasing
    assert lock.owner is not None
    proxy.drop_replies = False
    await lock.release()
    assert lock.owner is None


async def test_a_failed_release_can_be_repeated(proxy, proxied, watcher):
    lock = gpulock.asyncio.Lock(proxied, LOCK, timeout=60)
    await lock.acquire()
    proxy.refuse()
    with pytest.raises(ConnectionError):
        await lock.release()
    proxy.refuse(False)
    await lock.release()
    assert not watcher.exists(LOCK)


async def test_a_lock_is_renewed_until_its_release(aclient, watcher):
    async with gpulock.asyncio.Lock(aclient, LOCK, timeout=3, renew=True) as lock:
        before = stats(watcher)["extends"]
        await until(lambda: stats(watcher)["extends"] > before + 4)
        await lock.ensure_held()
    assert not watcher.exists(LOCK)


async def test_renewal_stops_with_the_lock_object(aclient, watcher):
    lock = gpulock.asyncio.Lock(aclient, LOCK, timeout=3, renew=True)
    await lock.acquire()
    del lock
    gc.collect()
    await until(lambda: not watcher.exists(LOCK))


def test_renewal_stops_with_the_loop(server):
    async def acquire_and_return():
        client = redis.asyncio.Redis(port=server.port)
        lock = gpulock.asyncio.Lock(client, LOCK, timeout=3, renew=True)
        await lock.acquire()
        await close(client)

    asyncio.run(acquire_and_return())
    gc.collect()
    with server.client() as client:
        eventually(lambda: not client.exists(LOCK))


async def test_on_lost_can_be_a_coroutine_function(aclient, watcher):
    losses = []

    async def on_lost(loss):
        await asyncio.sleep(0)
        losses.append(loss)

    lock = gpulock.asyncio.Lock(aclient, LOCK, timeout=3, renew=True, on_lost=on_lost)
    await lock.acquire()
    watcher.execute_command("GPULOCK.FORCERELEASE", LOCK)
    await asyncio.wait_for(lock.lost.wait(), 30)
    await until(lambda: losses)
    assert losses[0].reason == "the lock is no longer owned"
    with pytest.raises(LockNotOwnedError):
        await lock.ensure_held()
    with pytest.raises(LockNotOwnedError):
        await lock.release()


async def test_a_hanging_server_does_not_delay_the_report_of_a_loss(own_server):
    client = redis.asyncio.Redis(port=own_server.port, socket_timeout=None, retry=None)
    async with client:
        losses = []
        lock = gpulock.asyncio.Lock(client, LOCK, timeout=9, renew=True, on_lost=losses.append)
        begin = time.monotonic()
        await lock.acquire()
        own_server.process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.wait_for(lock.lost.wait(), 30)
            assert time.monotonic() - begin < 9, "reported after the lease expired"
            await until(lambda: losses)
        finally:
            own_server.process.send_signal(signal.SIGCONT)


async def test_the_connection_is_replaced_within_the_grace_period(aclient, watcher):
    lock = gpulock.asyncio.Lock(aclient, LOCK, timeout=60, session=True, grace=20, renew=True)
    await lock.acquire()
    token, session = lock.token, inspect(watcher)["session"]
    watcher.client_kill_filter(_id=session)
    await until(lambda: inspect(watcher)["session"] not in (None, session))
    await lock.ensure_held()
    assert lock.token == token
    await lock.release()
    assert not watcher.exists(LOCK)


async def test_the_end_of_a_session_is_a_loss(aclient, watcher):
    lock = gpulock.asyncio.Lock(aclient, LOCK, timeout=60, session=True)
    await lock.acquire()
    watcher.client_kill_filter(_id=inspect(watcher)["session"])
    await asyncio.wait_for(lock.lost.wait(), 30)
    assert not watcher.exists(LOCK)


@pytest.mark.parametrize("session", [False, True])
async def test_a_wait_continues_on_a_new_connection(proxy, proxied, watcher, session):
    watcher.set(LOCK, "other", px=60_000)
    lock = gpulock.asyncio.Lock(proxied, LOCK, timeout=60, session=session)
    acquiring = asyncio.ensure_future(lock.acquire())
    await until(lambda: stats(watcher)["clients_waiting"] == 1)
    before = stats(watcher)["waits_abandoned"]
    proxy.close_connections()
    await until(lambda: stats(watcher)["waits_abandoned"] > before)
    await until(lambda: stats(watcher)["clients_waiting"] == 1)
    watcher.delete(LOCK)
    assert await acquiring is True
    # The proxy has also closed the idle connections of the pool.
    await proxied.connection_pool.disconnect()
    await lock.release()
