"""Celery tasks that share two GPUs. Start a worker with

celery -A tasks worker --pool prefork --concurrency 4
"""

import os
import time

from celery import Celery

from gpulock.celery import gpu_task

app = Celery("tasks", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    broker_connection_retry_on_startup=True,
    # Longer than any lease below: a task that runs is not delivered once more.
    broker_transport_options={"visibility_timeout": 900},
)

GPUS = ["{node7}:gpu:0", "{node7}:gpu:1"]


@gpu_task(app, keys=GPUS, lease=60, bind=True)
def transcribe(self, seconds=0.0):
    """Waits for a GPU in its child of the worker."""
    begin = time.time()
    time.sleep(seconds)  # the work, on self.gpus.torch[0]
    ((key, token),) = self.gpus.tokens.items()
    return {"gpu": key, "token": token, "begin": begin, "end": time.time()}


@gpu_task(app, keys=GPUS, count=2, lease=60, retry_in=0.5, bind=True)
def train(self, seconds=0.0):
    """Needs both, and leaves the child to others while they are taken."""
    time.sleep(seconds)
    return list(self.gpus.devices)


@gpu_task(app, keys=GPUS, lease=60, session=True, bind=True, soft_time_limit=30)
def survive(self, seconds=0.0):
    """Is free at once when its child is killed, and then delivered to another one."""
    app.backend.client.rpush(f"runs:{self.request.id}", os.getpid())
    time.sleep(seconds if app.backend.client.llen(f"runs:{self.request.id}") == 1 else 0)
    return self.gpus.devices[0]


@gpu_task(app, keys="gpu_lock:slow", lease=1200)
def careless():
    """Its lease is longer than the visibility timeout: the worker warns."""


@app.task
def add(a, b):
    """Needs no GPU."""
    return a + b
