"""The connections of a lock outside of the client's pool are made as the pool makes its own,
do not count towards its limit, and are closed."""

import socket
import time
from contextlib import asynccontextmanager

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ConstantBackoff
from redis.exceptions import TimeoutError
from redis.retry import Retry

import gpulock
import gpulock._asyncio_connection
import gpulock._thread_connection
import gpulock.asyncio
from inspection import LOCK, inspect

LONGER_THAN_ANY_TIMEOUT_S = 10


class LateAddress(redis.Connection):
    """Knows the address of the server only when it connects, as Sentinel's connections do."""

    def __init__(self, *, actual_port, **settings):
        super().__init__(**settings)
        self.actual_port = actual_port

    def connect(self):
        self.port = self.actual_port
        super().connect()


class AsyncLateAddress(redis.asyncio.Connection):
    def __init__(self, *, actual_port, **settings):
        super().__init__(**settings)
        self.actual_port = actual_port

    async def connect(self):
        self.port = self.actual_port
        await super().connect()


class ChoosesAddress:
    """A pool that knows the address of the server only when it makes a connection."""

    def __init__(self, *, actual_port, **settings):
        super().__init__(**settings)
        self.actual_port = actual_port

    def make_connection(self):
        connection = super().make_connection()
        connection.port = self.actual_port
        return connection


class ChoosingPool(ChoosesAddress, redis.ConnectionPool):
    pass


class ChoosingBlockingPool(ChoosesAddress, redis.BlockingConnectionPool):
    pass


class AsyncChoosingPool(ChoosesAddress, redis.asyncio.ConnectionPool):
    pass


class AsyncChoosingBlockingPool(ChoosesAddress, redis.asyncio.BlockingConnectionPool):
    pass


@asynccontextmanager
async def closing(client):
    try:
        yield client
    finally:
        # redis-py 5.0.0 has no aclose yet.
        await getattr(client, "aclose", client.close)()
        await client.connection_pool.disconnect()


def is_empty(server):
    with server.client() as client:
        return client.dbsize() == 0


class TestTheAddressIsThatOfThePool:
    """The settings alone lead to another server."""

    def pools(self, settings):
        yield redis.ConnectionPool(connection_class=LateAddress, **settings)
        yield redis.BlockingConnectionPool(connection_class=LateAddress, **settings)
        yield ChoosingPool(**settings)
        yield ChoosingBlockingPool(**settings)

    def async_pools(self, settings):
        asyncio_pools = redis.asyncio.ConnectionPool, redis.asyncio.BlockingConnectionPool
        for pool_class in asyncio_pools:
            yield pool_class(connection_class=AsyncLateAddress, **settings)
        yield AsyncChoosingPool(**settings)
        yield AsyncChoosingBlockingPool(**settings)

    def test_in_threads(self, server, plain_server):
        settings = {"port": plain_server.port, "actual_port": server.port}
        with server.client() as watcher:
            for pool in self.pools(settings):
                # The lock needs all that the pool can give, and one connection more.
                pool.max_connections = 2
                client = redis.Redis(connection_pool=pool)
                lock = gpulock.Lock(client, LOCK, timeout=60, session=True)
                with lock:
                    assert inspect(watcher)["session"]
                    other = gpulock.Lock(client, LOCK, timeout=60)
                    assert not other.acquire(blocking_timeout=0.2)
                pool.disconnect()
        assert is_empty(plain_server)

    async def test_in_tasks(self, server, plain_server):
        settings = {"port": plain_server.port, "actual_port": server.port}
        with server.client() as watcher:
            for pool in self.async_pools(settings):
                pool.max_connections = 2
                async with closing(redis.asyncio.Redis(connection_pool=pool)) as client:
                    lock = gpulock.asyncio.Lock(client, LOCK, timeout=60, session=True)
                    async with lock:
                        assert inspect(watcher)["session"]
                        other = gpulock.asyncio.Lock(client, LOCK, timeout=60)
                        assert not await other.acquire(blocking_timeout=0.2)
        assert is_empty(plain_server)


@pytest.fixture
def silent_port():
    """Accepts connections, and never replies."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


class TestTheTimeoutOfACallIncludesConnecting:
    """The client itself has no timeout, and retries."""

    def test_in_threads(self, silent_port):
        retry = Retry(ConstantBackoff(LONGER_THAN_ANY_TIMEOUT_S), 5)
        pool = redis.ConnectionPool(port=silent_port, socket_timeout=None, retry=retry)
        connection = gpulock._thread_connection.DedicatedConnection(pool)
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            connection.execute("PING", timeout_s=0.3)
        assert time.monotonic() - start < LONGER_THAN_ANY_TIMEOUT_S
        assert connection.is_broken

    async def test_in_tasks(self, silent_port):
        retry = AsyncRetry(ConstantBackoff(LONGER_THAN_ANY_TIMEOUT_S), 5)
        pool = redis.asyncio.ConnectionPool(port=silent_port, socket_timeout=None, retry=retry)
        connection = gpulock._asyncio_connection.DedicatedConnection(pool)
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            await connection.execute("PING", timeout_s=0.3)
        assert time.monotonic() - start < LONGER_THAN_ANY_TIMEOUT_S
        assert connection.is_broken

    def test_a_slow_reply_in_threads(self, server):
        pool = redis.ConnectionPool(port=server.port, socket_timeout=None)
        connection = gpulock._thread_connection.DedicatedConnection(pool)
        with pytest.raises(TimeoutError):
            connection.execute("BLPOP", "none", 0, timeout_s=0.3)
        assert connection.execute("PING") == b"PONG"
        connection.close()

    async def test_a_slow_reply_in_tasks(self, server):
        pool = redis.asyncio.ConnectionPool(port=server.port, socket_timeout=None)
        connection = gpulock._asyncio_connection.DedicatedConnection(pool)
        with pytest.raises(TimeoutError):
            await connection.execute("BLPOP", "none", 0, timeout_s=0.3)
        assert await connection.execute("PING") == b"PONG"
        await connection.close()


class TestSingleConnectionClient:
    """The lock does not use the single connection: the holder's commands may occupy it."""

    def test_renewal_in_a_thread(self, server):
        with server.client(single_connection_client=True) as client:
            with gpulock.Lock(client, LOCK, timeout=0.6, renew=True) as lock:
                # Crossed replies would show here.
                until_s = time.monotonic() + 1
                while time.monotonic() < until_s:
                    assert client.echo("mine") == b"mine"
                assert client.blpop(["none"], timeout=1) is None
                lock.ensure_held()
            assert client.dbsize() == 0

    async def test_renewal_in_a_task(self, server):
        client = redis.asyncio.Redis(port=server.port, single_connection_client=True)
        async with closing(client):
            async with gpulock.asyncio.Lock(client, LOCK, timeout=0.6, renew=True) as lock:
                until_s = time.monotonic() + 1
                while time.monotonic() < until_s:
                    assert await client.echo("mine") == b"mine"
                assert await client.blpop(["none"], timeout=1) is None
                await lock.ensure_held()
            assert await client.dbsize() == 0


class ShortTimeout(redis.Connection):
    """The timeout is the default of the class, and not among the settings of the pool."""

    def __init__(self, socket_timeout=0.6, **settings):
        super().__init__(socket_timeout=socket_timeout, **settings)


class AsyncShortTimeout(redis.asyncio.Connection):
    def __init__(self, *, socket_timeout=0.6, **settings):
        super().__init__(socket_timeout=socket_timeout, **settings)


class TestADefaultTimeoutOfTheConnectionClass:
    """A wait that exceeded it would connect again each time."""

    def test_in_threads(self, server):
        pool = redis.ConnectionPool(connection_class=ShortTimeout, port=server.port)
        client = redis.Redis(connection_pool=pool)
        with server.client() as watcher, gpulock.Lock(client, LOCK, timeout=60):
            before = watcher.info("stats")["total_connections_received"]
            assert not gpulock.Lock(client, LOCK, timeout=60).acquire(blocking_timeout=1.5)
            assert watcher.info("stats")["total_connections_received"] == before + 1
        pool.disconnect()

    async def test_in_tasks(self, server):
        pool = redis.asyncio.ConnectionPool(
            connection_class=AsyncShortTimeout, port=server.port
        )
        client = redis.asyncio.Redis(connection_pool=pool)
        async with closing(client), gpulock.asyncio.Lock(client, LOCK, timeout=60):
            with server.client() as watcher:
                before = watcher.info("stats")["total_connections_received"]
                other = gpulock.asyncio.Lock(client, LOCK, timeout=60)
                assert not await other.acquire(blocking_timeout=1.5)
                assert watcher.info("stats")["total_connections_received"] == before + 1
