"""Huey tasks that hold a GPU while they run. Start a consumer with:

huey_consumer huey_tasks.huey --workers 4 --worker-type process
"""

import os

import redis
from huey import RedisHuey

import gpulock
import model

KEYS = ["{node7}:gpu:0", "{node7}:gpu:1"]
client = redis.Redis.from_url(os.environ["REDIS_URL"])
huey = RedisHuey(url=os.environ["REDIS_URL"])


@huey.task(retries=3, retry_delay=10)
@gpulock.locked(client, KEYS, timeout=60, renew=True, blocking_timeout=300)
def transcribe(seconds):
    gpus = gpulock.current_lock(gpulock.Pool).gpus
    return model.run(gpus, seconds)
