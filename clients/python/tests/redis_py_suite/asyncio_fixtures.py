"""The asyncio fixtures in place of those in redis-py's tests/test_asyncio/conftest.py."""

import pytest_asyncio
import redis.asyncio


@pytest_asyncio.fixture
async def create_redis(connect):
    """Returns clients of an empty server."""
    clients = []

    async def create(**settings):
        clients.append(connect(redis.asyncio.Redis, **settings))
        return clients[-1]

    yield create
    for client in clients:
        await client.connection_pool.disconnect()


@pytest_asyncio.fixture
async def r(create_redis):
    return await create_redis()
