"""taskiq tasks that hold a GPU while they run. Start workers with:

taskiq worker taskiq_tasks:broker --workers 2
"""

import os

import redis.asyncio
from taskiq_redis import ListQueueBroker

import gpulock
import gpulock.asyncio
import model

KEYS = ["{node7}:gpu:0", "{node7}:gpu:1"]
client = redis.asyncio.Redis.from_url(os.environ["REDIS_URL"])
broker = ListQueueBroker(os.environ["REDIS_URL"])


@broker.task
@gpulock.locked(client, KEYS, timeout=60, renew=True, blocking_timeout=300)
async def transcribe(seconds):
    gpus = gpulock.current_lock(gpulock.asyncio.Pool).gpus
    return await model.run_in_thread(gpus, seconds)
