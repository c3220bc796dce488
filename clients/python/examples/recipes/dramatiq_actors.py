"""Dramatiq actors that hold a GPU while they run. Start workers with:

dramatiq dramatiq_actors --processes 1 --threads 4
"""

import os

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker

import gpulock
import model

KEYS = ["{node7}:gpu:0", "{node7}:gpu:1"]
client = redis.Redis.from_url(os.environ["REDIS_URL"])
dramatiq.set_broker(RedisBroker(url=os.environ["REDIS_URL"]))


@dramatiq.actor(time_limit=600_000)
@gpulock.locked(client, KEYS, timeout=60, renew=True, blocking_timeout=300)
def transcribe(seconds):
    gpus = gpulock.current_lock(gpulock.Pool).gpus
    model.run(gpus, seconds)
