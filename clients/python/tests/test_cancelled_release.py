"""A release that is cancelled is completed before the cancellation is raised."""

import asyncio
import signal
import sys
import time

import pytest
import redis.asyncio
from redis.exceptions import LockError

import gpulock.asyncio
from inspection import LOCK
from servers import PATIENCE_S, close, eventually

NAMES = [LOCK, "gpu_lock:1"]
SETTINGS = {
    "lease": {"timeout": 60},
    "renew": {"timeout": 60, "renew": True},
    "session": {"timeout": 60, "session": True},
    "no timeout": {},
    "pool": {"timeout": 60, "renew": True, "n": 2},
}


def new_lock(client, kind):
    if kind == "pool":
        return gpulock.asyncio.Pool(client, NAMES, **SETTINGS[kind])
    return gpulock.asyncio.Lock(client, LOCK, **SETTINGS[kind])


@pytest.fixture(params=list(SETTINGS))
def lock(request, aclient):
    return new_lock(aclient, request.param)


@pytest.fixture
def watcher(server):
    """A client that does not use the event loop."""
    with server.client() as client:
        yield client


async def steps(count):
    for _ in range(count):
        await asyncio.sleep(0)


async def end_of(task):
    """Waits for the end of a cancelled task."""
    await asyncio.wait({task}, timeout=PATIENCE_S)
    assert task.done()
    # A release may have ended before the cancellation.
    assert task.cancelled() or task.result() is None


@pytest.mark.parametrize("cancellations", [1, 3])
async def test_a_cancelled_exit_releases_the_lock(lock, watcher, cancellations):
    for step in range(1, 25):
        await lock.__aenter__()
        await steps(3)
        leaving = asyncio.ensure_future(lock.__aexit__(None, None, None))
        await steps(step)
        for _ in range(cancellations):
            leaving.cancel()
            await steps(1)
        await end_of(leaving)
        assert not watcher.exists(*NAMES), f"cancelled at step {step}"
        assert lock.owner is None


async def test_a_cancelled_release_of_a_reservation_releases_its_locks(aclient, watcher):
    for step in range(1, 25):
        reservation = await gpulock.asyncio.Pool(aclient, NAMES, n=2).reserve(for_s=60)
        releasing = asyncio.ensure_future(reservation.release())
        await steps(step)
        releasing.cancel()
        await end_of(releasing)
        assert not watcher.exists(*NAMES), f"cancelled at step {step}"


async def test_a_task_cancelled_before_its_exit_releases_the_lock(lock, watcher):
    async def work():
        async with lock:
            asyncio.current_task().cancel()

    await end_of(asyncio.ensure_future(work()))
    assert not watcher.exists(*NAMES)


async def test_a_time_limit_that_ends_during_the_exit_releases_the_lock(lock, watcher):
    async def work(body_ends):
        async with lock:
            body_ends.set()

    for delay in (0, 0.0002, 0.0005, 0.001, 0.002):
        body_ends = asyncio.Event()
        working = asyncio.ensure_future(work(body_ends))
        await body_ends.wait()
        try:
            await asyncio.wait_for(asyncio.shield(working), delay)
        except asyncio.TimeoutError:
            working.cancel()
        await end_of(working)
        assert not watcher.exists(*NAMES)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout is new in 3.11")
async def test_the_cancellation_is_raised_afterwards(lock, watcher):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as limit, lock:
            limit.reschedule(asyncio.get_running_loop().time())
    assert not watcher.exists(*NAMES)


async def test_wait_for_completes_a_release(aclient, watcher):
    lock = gpulock.asyncio.Lock(aclient, LOCK)
    await lock.acquire()
    watcher.client_pause(300)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(lock.release(), 0.05)
    assert not watcher.exists(LOCK)
    assert lock.owner is None


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_end_of_the_event_loop_completes_the_exits(server, kind):
    async def close_at_the_end(client, leaving):
        try:
            await asyncio.sleep(PATIENCE_S)
        finally:
            await asyncio.wait({leaving})
            await close(client)

    async def main(count):
        client = redis.asyncio.Redis(port=server.port)
        lock = new_lock(client, kind)
        await lock.__aenter__()
        leaving = asyncio.ensure_future(lock.__aexit__(None, None, None))
        closing = asyncio.ensure_future(close_at_the_end(client, leaving))
        await steps(count)
        return leaving, closing

    with server.client() as client:
        for count in range(1, 9):
            asyncio.run(main(count))
            assert not client.exists(*NAMES), f"the loop ended after step {count}"


async def test_a_cancelled_release_does_not_hang_with_the_server(own_server, caplog):
    client = redis.asyncio.Redis(port=own_server.port, socket_timeout=None, retry=None)
    lock = gpulock.asyncio.Lock(client, LOCK, timeout=60)
    await lock.acquire()
    own_server.process.send_signal(signal.SIGSTOP)
    try:
        releasing = asyncio.ensure_future(lock.release())
        await steps(5)
        releasing.cancel()
        begin = time.monotonic()
        await asyncio.wait({releasing}, timeout=PATIENCE_S)
        assert releasing.cancelled()
        assert time.monotonic() - begin < PATIENCE_S / 2
    finally:
        own_server.process.send_signal(signal.SIGCONT)
    assert "the lock is held until its lease expires" in caplog.text
    assert lock.owner is not None
    await lock.release()
    with own_server.client() as watcher:
        eventually(lambda: not watcher.exists(LOCK))
    await close(client)


async def test_a_cancelled_exit_does_not_hang_with_the_server(own_server, caplog):
    client = redis.asyncio.Redis(port=own_server.port, socket_timeout=None, retry=None)
    entered = asyncio.Event()

    async def work():
        async with gpulock.asyncio.Lock(client, LOCK, timeout=60, session=True):
            entered.set()
            await asyncio.sleep(PATIENCE_S)

    working = asyncio.ensure_future(work())
    await entered.wait()
    own_server.process.send_signal(signal.SIGSTOP)
    try:
        working.cancel()
        await steps(5)
        working.cancel()
        begin = time.monotonic()
        await asyncio.wait({working}, timeout=PATIENCE_S)
        assert working.cancelled()
        assert time.monotonic() - begin < PATIENCE_S / 2
    finally:
        own_server.process.send_signal(signal.SIGCONT)
    assert caplog.text.count("the lock is held until its lease expires") == 1
    with own_server.client() as watcher:
        # The session has ended.
        eventually(lambda: not watcher.exists(LOCK))
    await close(client)


async def test_on_lost_can_release_the_lock(aclient, watcher):
    released = asyncio.Event()

    async def on_lost(_loss):
        begin = time.monotonic()
        with pytest.raises(LockError):
            await lock.release()
        assert time.monotonic() - begin < 1, "the renewer waited for itself"
        released.set()

    lock = gpulock.asyncio.Lock(aclient, LOCK, timeout=1, renew=True, on_lost=on_lost)
    await lock.acquire()
    watcher.delete(LOCK)
    await asyncio.wait_for(released.wait(), PATIENCE_S)
