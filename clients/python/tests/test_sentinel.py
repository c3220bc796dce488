"""Clients that find their server through Sentinel. All connections go to the primary, also
after a failover."""

import asyncio

import pytest

import gpulock
import gpulock.asyncio
from inspection import LOCK, waiting
from sentinel import SentinelServers
from servers import until


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
def own_service(program):
    """For a test that kills the primary."""
    service = SentinelServers(program)
    yield service
    service.close()


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
