"""A wait that ends without the lock leaves nothing behind, above all no queue position."""

import asyncio
import signal
import threading
import time
import uuid

import pytest
import redis.asyncio
from redis.exceptions import ConnectionError

import gpulock
import gpulock.asyncio
from gpulock import _commands
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


def owners(client, key):
    return [_commands.parse_map(position)["owner"] for position in positions(client, key)]


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


def test_a_lost_connection_keeps_the_position(server, client):
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


@pytest.fixture
def proxy_without_keep(server):
    """A way to the server on which the module seems to be a version without KEEP."""
    proxy = Proxy(server.port)
    proxy.rejected_option = b"KEEP"
    yield proxy
    proxy.close()


@pytest.fixture
def own_key():
    """The positions that a test leaves must not be in the queue of other tests."""
    return f"lock:{uuid.uuid4()}"


def test_without_keep_the_waits_of_an_object_share_one_position(
    client, proxy_without_keep, own_key
):
    hold(client, own_key)
    with redis.Redis(port=proxy_without_keep.port) as own:
        lock = gpulock.Lock(own, own_key, timeout=60)
        for _ in range(20):
            assert not lock.acquire(blocking_timeout=0.005)
        (owner,) = owners(client, own_key)
        client.delete(own_key)
        assert lock.acquire(blocking_timeout=PATIENCE_S)
        assert lock.owner == owner
        lock.release()
        # The next hold has an owner of its own.
        assert lock.acquire(blocking_timeout=PATIENCE_S)
        assert lock.owner != owner
        lock.release()


async def test_asyncio_without_keep_the_waits_of_an_object_share_one_position(
    client, proxy_without_keep, own_key
):
    hold(client, own_key)
    async with redis.asyncio.Redis(port=proxy_without_keep.port) as own:
        lock = gpulock.asyncio.Lock(own, own_key, timeout=60)
        for _ in range(20):
            assert not await lock.acquire(blocking_timeout=0.005)
        (owner,) = owners(client, own_key)
        client.delete(own_key)
        assert await lock.acquire(blocking_timeout=PATIENCE_S)
        assert lock.owner == owner
        await lock.release()


async def test_concurrent_waits_of_an_object_have_positions_of_their_own(
    client, proxy_without_keep, own_key
):
    hold(client, own_key)
    async with redis.asyncio.Redis(port=proxy_without_keep.port) as own:
        lock = gpulock.asyncio.Lock(own, own_key, timeout=60)
        assert not await lock.acquire(blocking_timeout=0.005)
        waits = [asyncio.ensure_future(lock.acquire(blocking_timeout=0.3)) for _ in range(3)]
        while stats(client)["clients_waiting"] < 3:
            await asyncio.sleep(0.01)
        assert await asyncio.gather(*waits) == [False] * 3


def test_a_wait_that_ends_late_leaves_no_position(client, server):
    """The server answers the last call but one only when the time is over."""
    hold(client)
    lock = gpulock.Lock(client, LOCK, timeout=60, thread_local=False)
    results = []
    thread = threading.Thread(target=lambda: results.append(lock.acquire(blocking_timeout=1.2)))
    thread.start()
    eventually(lambda: waiting(client) == 1)
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    server.process.send_signal(signal.SIGCONT)
    thread.join(PATIENCE_S)
    assert results == [False]
    assert not positions(client)
