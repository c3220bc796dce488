"""A cancelled task ends, wherever the cancellation reaches it."""

import asyncio

import pytest
import redis.asyncio

import gpulock.asyncio
from inspection import LOCK

POINTS = 60
"""More than the event loop's iterations during a call on a warm connection."""


async def cancelled_at(point, call):
    """Cancels the call after some iterations of the loop. Returns whether it was running."""
    task = asyncio.ensure_future(call)
    for _ in range(point):
        await asyncio.sleep(0)
    if not task.cancel():
        await task
        return False
    with pytest.raises(asyncio.CancelledError):
        await task
    return True


async def test_a_cancelled_acquire_raises_the_cancellation(any_aclient):
    await any_aclient.ping()
    for point in range(POINTS):
        lock = gpulock.asyncio.Lock(any_aclient, LOCK, timeout=60)
        if not await cancelled_at(point, lock.acquire(blocking=False)):
            await lock.release()
        assert not await any_aclient.exists(LOCK)


def test_the_loop_ends_while_a_lock_is_renewed(server, protocol):
    async def hold(point):
        async with redis.asyncio.Redis(port=server.port, protocol=protocol) as client:
            await client.ping()
            await gpulock.asyncio.Lock(client, LOCK, timeout=60, renew=True).acquire()
            for _ in range(point):
                await asyncio.sleep(0)

    for point in range(POINTS):
        asyncio.run(hold(point))
        with server.client() as client:
            client.delete(LOCK)
