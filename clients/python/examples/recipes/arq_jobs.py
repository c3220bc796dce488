"""arq jobs that hold a GPU while they run. Start workers with:

arq arq_jobs.WorkerSettings
"""

import os

import redis.asyncio
from arq.connections import RedisSettings

import gpulock
import gpulock.asyncio
import model

KEYS = ["{node7}:gpu:0", "{node7}:gpu:1"]
client = redis.asyncio.Redis.from_url(os.environ["REDIS_URL"])


@gpulock.locked(client, KEYS, timeout=60, renew=True, blocking_timeout=300)
async def transcribe(ctx, seconds):
    gpus = gpulock.current_lock(gpulock.asyncio.Pool).gpus
    return await model.run_in_thread(gpus, seconds)


class WorkerSettings:
    redis_settings = RedisSettings.from_dsn(os.environ["REDIS_URL"])
    functions = (transcribe,)
    max_jobs = 4
    job_timeout = 600  # Includes the wait for a GPU.
