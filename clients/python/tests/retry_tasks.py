"""Celery tasks for the tests, not examples: they retry, or wait for a signal from the test.

They are a project separate from the one in ``examples``.
"""

import os

from celery import Celery

from gpulock.celery import gpu_task

QUEUE = "retry"
KEY = "gpu_lock:retry"

app = Celery("retry_tasks", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.update(
    task_default_queue=QUEUE, task_acks_late=True, broker_connection_retry_on_startup=True
)


@gpu_task(app, keys=KEY, lease=60, retry_in=0.1, bind=True, max_retries=1)
def retry_once(self):
    """Fails the first time that it has a GPU, and may be retried once."""
    if self.request.retries == 0:
        raise self.retry(countdown=0.1)
    return self.request.retries


# The lease limits the delay after which a second delivery is retried, here to one second.
@gpu_task(app, keys=KEY, lease=3, retry_in=0.1, bind=True)
def wait_for_signal(self):
    """Runs until the test signals it."""
    client = app.backend.client
    client.rpush(f"runs:{self.request.id}", os.getpid())
    return client.blpop(f"finish:{self.request.id}", 60) is not None


@gpu_task(app, keys=KEY, lease=60, bind=True)
def hold(self):
    """Returns the lock that it holds."""
    return list(self.gpus.keys)
