"""A stand-in for your model. The other programs call it. It records when it used which GPU."""

import asyncio
import json
import os
import time

import redis

client = redis.Redis.from_url(os.environ["REDIS_URL"])


def run(gpus, seconds):
    """Works on the GPU, for example on the device ``gpus.torch[0]``."""
    begin = time.time()
    time.sleep(seconds)
    client.rpush("runs", json.dumps([gpus.keys[0], begin, time.time()]))
    return gpus.devices[0]


async def run_in_thread(gpus, seconds):
    """Works in a thread, so that the event loop can renew the lock.

    A timeout cancels the task, but not the thread, which still uses the GPU: wait for its end.
    """
    work = asyncio.ensure_future(asyncio.to_thread(run, gpus, seconds))
    try:
        return await asyncio.shield(work)
    finally:
        await asyncio.wait([work])
