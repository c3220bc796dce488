"""What an asyncio lock has beyond redis-py's: above all, that a cancelled call leaves nothing
behind."""

import asyncio
import gc
import signal
import time

import pytest
import redis.asyncio
from redis.exceptions import ConnectionError, LockNotOwnedError

import gpulock.asyncio
from looks import LOCK, inspect, stats, waiting
from relay import Relay
from servers import eventually


async def until(condition):
    """As ``eventually``, with the loop going on."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.01)


@pytest.fixture
def watcher(server):
    """Looks at the server from outside of the loop."""
    with server.client() as client:
        yield client


@pytest.fixture
async def relay(server):
    relay = Relay(server.port)
    yield relay
    relay.close()


@pytest.fixture
async def relayed(relay):
    client = redis.asyncio.Redis(port=relay.port, retry=None, socket_timeout=None)
    yield client
    await client.aclose()


async def test_those_who_wait_are_served_in_turn(aclient, watcher):
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
async def test_a_cancelled_wait_gives_back_what_it_was_granted(aclient, watcher, session):
    for pause in (0.0, 0.001, 0.003, 0.01) * 5:
        holder = gpulock.asyncio.Lock(aclient, LOCK, timeout=60)
        await holder.acquire()
        waiter = gpulock.asyncio.Lock(aclient, LOCK, timeout=60, session=session)
        waiting_task = asyncio.ensure_future(waiter.acquire())
        await until(lambda: stats(watcher)["clients_waiting"] == 1)
        # The grant and the end of the wait meet each other, now and then.
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


async def test_a_wait_under_a_timeout(aclient, watcher):
    watcher.set(LOCK, "somebody", px=60_000)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(gpulock.asyncio.Lock(aclient, LOCK).acquire(), 0.2)
    watcher.delete(LOCK)
    lock = gpulock.asyncio.Lock(aclient, LOCK, timeout=60)
    assert await asyncio.wait_for(lock.acquire(), 10)
    await lock.release()


async def test_a_grant_whose_answer_never_came_is_given_back(relay, relayed, watcher):
    lock = gpulock.asyncio.Lock(relayed, LOCK, timeout=60)
    await lock.acquire()
    await lock.release()
    relay.swallow_replies = True
    acquiring = asyncio.ensure_future(lock.acquire())
    await until(lambda: watcher.exists(LOCK))
    relay.swallow_replies = False
    acquiring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await acquiring
    assert not watcher.exists(LOCK)


async def test_a_cancelled_release_can_be_repeated(relay, relayed, watcher):
    lock = gpulock.asyncio.Lock(relayed, LOCK, timeout=60)
    await lock.acquire()
    relay.swallow_replies = True
    releasing = asyncio.ensure_future(lock.release())
    await until(lambda: not watcher.exists(LOCK))
    releasing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await releasing
    assert lock.owner is not None
    relay.swallow_replies = False
    await lock.release()
    assert lock.owner is None


async def test_a_release_that_fails_can_be_repeated(relay, relayed, watcher):
    lock = gpulock.asyncio.Lock(relayed, LOCK, timeout=60)
    await lock.acquire()
    relay.refuse()
    with pytest.raises(ConnectionError):
        await lock.release()
    relay.refuse(False)
    await lock.release()
    assert not watcher.exists(LOCK)


async def test_renewal(aclient, watcher):
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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_renewal_stops_with_the_loop(server):
    async def leave_it():
        client = redis.asyncio.Redis(port=server.port)
        lock = gpulock.asyncio.Lock(client, LOCK, timeout=3, renew=True)
        await lock.acquire()

    asyncio.run(leave_it())
    gc.collect()
    with server.client() as client:
        eventually(lambda: not client.exists(LOCK))


async def test_the_loss_is_told(aclient, watcher):
    told = []

    async def on_lost(loss):
        await asyncio.sleep(0)
        told.append(loss)

    lock = gpulock.asyncio.Lock(aclient, LOCK, timeout=3, renew=True, on_lost=on_lost)
    await lock.acquire()
    watcher.execute_command("GPULOCK.FORCERELEASE", LOCK)
    await asyncio.wait_for(lock.lost.wait(), 30)
    await until(lambda: told)
    assert told[0].reason == "it was taken away"
    with pytest.raises(LockNotOwnedError):
        await lock.ensure_held()
    with pytest.raises(LockNotOwnedError):
        await lock.release()


async def test_a_server_that_hangs_does_not_keep_the_loss_from_the_holder(own_server):
    client = redis.asyncio.Redis(port=own_server.port, socket_timeout=None, retry=None)
    async with client:
        told = []
        lock = gpulock.asyncio.Lock(client, LOCK, timeout=9, renew=True, on_lost=told.append)
        begin = time.monotonic()
        await lock.acquire()
        own_server.process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.wait_for(lock.lost.wait(), 30)
            assert time.monotonic() - begin < 9, "the lease still holds"
            await until(lambda: told)
        finally:
            own_server.process.send_signal(signal.SIGCONT)


async def test_a_session_that_is_cut_comes_back_within_the_grace(aclient, watcher):
    lock = gpulock.asyncio.Lock(aclient, LOCK, timeout=60, session=True, grace=20, renew=True)
    await lock.acquire()
    token, tied_to = lock.token, inspect(watcher)["session"]
    watcher.client_kill_filter(_id=tied_to)
    await until(lambda: inspect(watcher)["session"] not in (None, tied_to))
    await lock.ensure_held()
    assert lock.token == token
    await lock.release()
    assert not watcher.exists(LOCK)


async def test_a_session_that_ends_is_a_loss(aclient, watcher):
    lock = gpulock.asyncio.Lock(aclient, LOCK, timeout=60, session=True)
    await lock.acquire()
    watcher.client_kill_filter(_id=inspect(watcher)["session"])
    await asyncio.wait_for(lock.lost.wait(), 30)
    assert not watcher.exists(LOCK)


async def test_a_wait_goes_on_on_a_new_connection(relay, relayed, watcher):
    watcher.set(LOCK, "somebody", px=60_000)
    lock = gpulock.asyncio.Lock(relayed, LOCK, timeout=60)
    acquiring = asyncio.ensure_future(lock.acquire())
    await until(lambda: stats(watcher)["clients_waiting"] == 1)
    before = stats(watcher)["waits_abandoned"]
    relay.cut()
    await until(lambda: stats(watcher)["waits_abandoned"] > before)
    await until(lambda: stats(watcher)["clients_waiting"] == 1)
    watcher.delete(LOCK)
    assert await acquiring is True
    # The relay has cut what lay idle in the pool as well.
    await relayed.connection_pool.disconnect()
    await lock.release()
