"""RQ jobs that hold a GPU while they run. Start workers with:

rq worker --url redis://localhost gpu
"""

import os

import redis
from rq import Queue, Retry

import gpulock
import model

KEYS = ["{node7}:gpu:0", "{node7}:gpu:1"]
client = redis.Redis.from_url(os.environ["REDIS_URL"])
queue = Queue("gpu", connection=client)


@gpulock.locked(client, KEYS, timeout=60, renew=True, blocking_timeout=300)
def transcribe(seconds):
    gpus = gpulock.current_lock(gpulock.Pool).gpus
    return model.run(gpus, seconds)


def enqueue(seconds, job_timeout=600):
    # The job timeout includes the wait for a GPU.
    return queue.enqueue(transcribe, seconds, job_timeout=job_timeout, retry=Retry(max=3))
