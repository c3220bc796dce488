"""A wait that ends without the lock leaves nothing behind, above all no queue position."""

import asyncio
import signal
import threading

import pytest
import redis
from redis.exceptions import ConnectionError

import gpulock
import gpulock.asyncio
from inspection import LOCK, inspect, stats, waiting
from proxy import Proxy
from servers import PATIENCE_S, eventually

KEYS = ["{node7}:gpu:0", "{node7}:gpu:1"]


@pytest.fixture
def few_waiters(client):
    """The server lets three clients wait."""
    before = client.config_get("gpulock.max-waiters")["gpulock.max-waiters"]
    client.config_set("gpulock.max-waiters", 3)
    yield
    client.config_set("gpulock.max-waiters", before)


def positions(client, *keys):
    """The owners in the queues, with those whose positions are kept."""
    return [position for key in keys or (LOCK,) for position in inspect(client, key)["waiters"]]


def hold(client, *keys):
    for key in keys or (LOCK,):
        client.set(key, "other", px=60_000)


def test_hundreds_of_waits_that_time_out_leave_no_position(client, few_waiters):
    hold(client)
    for _ in range(200):
        assert not gpulock.Lock(client, LOCK, timeout=60).acquire(blocking_timeout=0.001)
    assert not positions(client)
    assert stats(client)["clients_waiting"] == 0
    waiter = gpulock.Lock(client, LOCK, timeout=60, thread_local=False)
    thread = threading.Thread(target=waiter.acquire)
    thread.start()
    eventually(lambda: waiting(client) == 1)
    client.delete(LOCK)
    thread.join(PATIENCE_S)
    waiter.release()


def test_an_attempt_without_a_wait_leaves_no_position(client):
    hold(client)
    for session in (False, True):
        lock = gpulock.Lock(client, LOCK, timeout=60, session=session)
        assert not lock.acquire(blocking=False)
        assert not lock.acquire(blocking_timeout=0)
    assert not positions(client)


@pytest.mark.parametrize("wait_s", [0.3, 1.3])
def test_a_wait_of_several_calls_leaves_no_position(client, server, wait_s):
    hold(client)
    with server.client(socket_timeout=0.4) as impatient:
        lock = gpulock.Lock(impatient, LOCK, timeout=60, owner="run-7")
        assert not lock.acquire(blocking_timeout=wait_s)
    assert not positions(client)


def test_a_wait_for_several_locks_leaves_no_position(client):
    hold(client, *KEYS)
    pool = gpulock.Pool(client, KEYS, n=2, timeout=60)
    assert not pool.acquire(blocking_timeout=0.01)
    assert not positions(client, *KEYS)


def test_an_interrupted_wait_leaves_no_position(client):
    hold(client)

    def interrupt(signum, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            gpulock.Lock(client, LOCK, timeout=60).acquire()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not positions(client)


def test_a_lost_connection_keeps_the_position_until_the_last_second(server, client):
    proxy = Proxy(server.port)
    hold(client)
    with redis.Redis(port=proxy.port, retry=None) as proxied:
        first = gpulock.Lock(proxied, LOCK, timeout=60, thread_local=False)
        thread = threading.Thread(
            target=first.acquire, kwargs={"blocking_timeout": PATIENCE_S}, daemon=True
        )
        thread.start()
        eventually(lambda: waiting(client) == 1)
        second = gpulock.Lock(client, LOCK, timeout=60, thread_local=False)
        behind = threading.Thread(target=second.acquire, daemon=True)
        behind.start()
        eventually(lambda: waiting(client) == 2)
        proxy.close_connections()
        eventually(lambda: len(positions(client)) == 2 and waiting(client) == 2)
        client.delete(LOCK)
        thread.join(PATIENCE_S)
        assert first.owned()
        first.release()
        behind.join(PATIENCE_S)
        second.release()
    proxy.close()


def test_a_wait_that_fails_leaves_no_position(server, client, monkeypatch):
    monkeypatch.setattr("gpulock._acquire.RECONNECT_LIMIT_S", -1)
    proxy = Proxy(server.port)
    hold(client)

    def cut():
        eventually(lambda: waiting(client) == 1)
        proxy.close_connections()

    thread = threading.Thread(target=cut)
    thread.start()
    with redis.Redis(port=proxy.port, retry=None) as proxied, pytest.raises(ConnectionError):
        gpulock.Lock(proxied, LOCK, timeout=60).acquire(blocking_timeout=PATIENCE_S)
    thread.join()
    proxy.close()
    assert not positions(client)


async def test_hundreds_of_cancelled_tasks_leave_no_position(client, aclient):
    hold(client)

    async def give_up(index):
        lock = gpulock.asyncio.Lock(aclient, LOCK, timeout=60)
        if index % 2:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(lock.acquire(), 0.05)
        else:
            assert not await lock.acquire(blocking_timeout=0.05)

    for _ in range(5):
        await asyncio.gather(*map(give_up, range(40)))
    assert not positions(client)
    assert stats(client)["clients_waiting"] == 0
    client.delete(LOCK)
    async with gpulock.asyncio.Lock(aclient, LOCK, timeout=60):
        pass
