"""Clients that find their server through Sentinel. All connections go to the primary, also
after a failover."""

import asyncio
import threading

import pytest

import gpulock
import gpulock.asyncio
from inspection import LOCK, inspect, waiting
from sentinel import SentinelServers
from servers import PATIENCE_S, eventually, until


@pytest.fixture(scope="module")
def shared_service(program):
    service = SentinelServers(program)
    yield service
    service.close()


@pytest.fixture
def service(shared_service):
    with shared_service.primary.client() as client:
        client.flushall()
    return shared_service


@pytest.fixture
def client(service, server):
    """``server`` is an unrelated server at the address that a connection has before it has
    asked Sentinel."""
    with service.client(host="127.0.0.1", port=server.port) as client:
        yield client


@pytest.fixture
async def aclient(service, server):
    async with service.asyncio_client(host="127.0.0.1", port=server.port) as client:
        yield client


@pytest.fixture
def primary(service):
    with service.primary.client() as client:
        yield client


def is_untouched(server):
    with server.client() as client:
        return client.dbsize() == 0


class TestTheLockIsOnThePrimary:
    def test_a_wait(self, client, server):
        with gpulock.Lock(client, LOCK, timeout=60) as lock:
            assert not gpulock.Lock(client, LOCK, timeout=60).acquire(blocking_timeout=0.3)
            assert lock.owned()
        assert is_untouched(server)

    def test_a_session(self, client, server, primary):
        with gpulock.Lock(client, LOCK, timeout=60, session=True):
            assert primary.exists(LOCK)
            assert is_untouched(server)
        assert not primary.exists(LOCK)

    def test_a_pool(self, client, server, primary):
        names = [f"gpu_lock:{i}" for i in range(2)]
        with gpulock.Pool(client, names, n=2, timeout=60, session=True):
            assert primary.exists(*names) == 2
            other = gpulock.Pool(client, names, timeout=60)
            assert not other.acquire(blocking_timeout=0.3)
        assert is_untouched(server)

    async def test_a_wait_of_a_task(self, aclient, server):
        async with gpulock.asyncio.Lock(aclient, LOCK, timeout=60) as lock:
            other = gpulock.asyncio.Lock(aclient, LOCK, timeout=60)
            assert not await other.acquire(blocking_timeout=0.3)
            assert await lock.owned()
        assert is_untouched(server)

    async def test_a_session_of_a_task(self, aclient, server, primary):
        async with gpulock.asyncio.Lock(aclient, LOCK, timeout=60, session=True):
            assert primary.exists(LOCK)
            assert is_untouched(server)
        assert not primary.exists(LOCK)

    async def test_a_pool_of_a_task(self, aclient, server, primary):
        names = [f"gpu_lock:{i}" for i in range(2)]
        async with gpulock.asyncio.Pool(aclient, names, n=2, timeout=60, session=True):
            assert primary.exists(*names) == 2
            other = gpulock.asyncio.Pool(aclient, names, timeout=60)
            assert not await other.acquire(blocking_timeout=0.3)
        assert is_untouched(server)

    async def test_a_cancelled_wait_of_a_task(self, aclient, server, primary):
        """It is withdrawn on a connection of its own."""
        async with gpulock.asyncio.Lock(aclient, LOCK, timeout=60):
            waiter = asyncio.create_task(gpulock.asyncio.Lock(aclient, LOCK).acquire())
            await until(lambda: waiting(primary) == 1)
            waiter.cancel()
            await asyncio.wait({waiter})
            assert waiter.cancelled()
        assert not primary.exists(LOCK)
        assert is_untouched(server)


@pytest.fixture
def own_service(program):
    service = SentinelServers(program)
    yield service
    service.close()


PAIR = ["gpu_lock:1", "gpu_lock:2"]
SESSION = "gpu_lock:3"
WITHOUT_GRACE = "gpu_lock:4"


@pytest.mark.parametrize("failover", ["fail_over", "switch_roles"])
class TestAFailover:
    """A wait, a renewal, a pool and a session continue at the new primary. A session without
    grace ends with its server."""

    def test_in_threads(self, own_service, failover):
        with own_service.client() as client, own_service.replica.client() as replica:
            holder = gpulock.Lock(client, LOCK, timeout=60, renew=True)
            pool = gpulock.Pool(client, PAIR, n=2, timeout=60, renew=True)
            tied = gpulock.Lock(client, SESSION, timeout=60, session=True, grace=60)
            lost = gpulock.Lock(client, WITHOUT_GRACE, timeout=60, session=True)
            for lock in holder, pool, tied, lost:
                assert lock.acquire()
            waiter = gpulock.Lock(client, LOCK, timeout=60, thread_local=False)
            thread = threading.Thread(target=waiter.acquire, daemon=True)
            thread.start()
            with own_service.primary.client() as primary:
                eventually(lambda: waiting(primary) == 1)
                assert primary.wait(1, 5000) == 1

            getattr(own_service, failover)()

            eventually(lambda: waiting(replica) == 1)
            eventually(lambda: inspect(replica, SESSION)["session"])
            assert lost.lost.wait(PATIENCE_S)
            lost.release()
            for lock in holder, pool, tied:
                lock.ensure_held()
            # The lease is renewed there.
            holder.extend(5, replace_ttl=True)
            eventually(lambda: replica.pttl(LOCK) > 5_000)
            holder.release()
            thread.join(PATIENCE_S)
            assert waiter.owned()
            assert inspect(replica)["owner"] == waiter.owner
            for lock in waiter, pool, tied:
                lock.release()
            assert replica.dbsize() == 0

    async def test_in_tasks(self, own_service, failover):
        async with own_service.asyncio_client() as client:
            replica = own_service.replica.client()
            holder = gpulock.asyncio.Lock(client, LOCK, timeout=60, renew=True)
            pool = gpulock.asyncio.Pool(client, PAIR, n=2, timeout=60, renew=True)
            tied = gpulock.asyncio.Lock(client, SESSION, timeout=60, session=True, grace=60)
            lost = gpulock.asyncio.Lock(client, WITHOUT_GRACE, timeout=60, session=True)
            for lock in holder, pool, tied, lost:
                assert await lock.acquire()
            waiter = gpulock.asyncio.Lock(client, LOCK, timeout=60)
            acquiring = asyncio.create_task(waiter.acquire())
            with own_service.primary.client() as primary:
                await until(lambda: waiting(primary) == 1)
                assert primary.wait(1, 5000) == 1

            await asyncio.to_thread(getattr(own_service, failover))

            await until(lambda: waiting(replica) == 1)
            await until(lambda: inspect(replica, SESSION)["session"])
            await asyncio.wait_for(lost.lost.wait(), PATIENCE_S)
            await lost.release()
            for lock in holder, pool, tied:
                await lock.ensure_held()
            await holder.extend(5, replace_ttl=True)
            await until(lambda: replica.pttl(LOCK) > 5_000)
            await holder.release()
            assert await acquiring
            assert inspect(replica)["owner"] == waiter.owner
            for lock in waiter, pool, tied:
                await lock.release()
            assert replica.dbsize() == 0
            replica.close()
