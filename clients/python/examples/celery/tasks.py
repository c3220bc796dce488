"""Celery tasks that share two GPUs. Start a worker with:

celery -A tasks worker --pool prefork --concurrency 4
"""

import os
import time

from celery import Celery

import gpulock
from gpulock.celery import gpu_task

app = Celery("tasks", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    broker_connection_retry_on_startup=True,
    # Longer than the leases below, so that a running task is not delivered again.
    broker_transport_options={"visibility_timeout": 900},
)

GPUS = ["{node7}:gpu:0", "{node7}:gpu:1"]


@gpu_task(app, keys=GPUS, lease=60, bind=True)
def transcribe(self, seconds=0.0):
    """Waits for a GPU in the worker process."""
    begin = time.time()
    time.sleep(seconds)  # the work, on self.gpus.torch[0]
    ((key, token),) = self.gpus.tokens.items()
    return {"gpu": key, "token": token, "begin": begin, "end": time.time()}


@gpu_task(app, keys=GPUS, count=2, lease=60, retry_in=0.5, bind=True)
def train(self, seconds=0.0):
    """Needs both GPUs. While they are held, the worker process runs other tasks."""
    time.sleep(seconds)
    return list(self.gpus.devices)


@gpu_task(app, keys=GPUS, lease=60, session=True, bind=True, soft_time_limit=30)
def restartable(self, seconds=0.0):
    """If its worker process is killed, its GPU is released at once and the task runs again."""
    app.backend.client.rpush(f"runs:{self.request.id}", os.getpid())
    time.sleep(seconds if app.backend.client.llen(f"runs:{self.request.id}") == 1 else 0)
    return self.gpus.devices[0]


@gpu_task(app, keys=GPUS, lease=60)
def held_tokens():
    """Finds its pool without ``self``."""
    return dict(gpulock.current_lock(gpulock.Pool).gpus.tokens)


@gpu_task(app, keys=GPUS, lease=60, bind=True)
def stop_on_loss(self):
    """Ends its work when it loses its GPU. Celery does not do this."""
    for _ in range(300):
        if self.gpu_pool.lost.is_set():
            return "lost"
        time.sleep(0.1)  # a step of the work
    return "done"


@gpu_task(app, keys="gpu_lock:long", lease=1200)
def long_lease():
    """The worker logs a warning: the lease is longer than the visibility timeout."""


@app.task
def add(a, b):
    """Uses no GPU."""
    return a + b
