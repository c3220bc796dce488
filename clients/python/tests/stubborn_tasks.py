"""Celery tasks for the tests, of which no example should be made: they try again and again, or
wait until they are told to go on. The worker's project is the other one where it can be.
"""

import os

from celery import Celery

from gpulock.celery import gpu_task

QUEUE = "stubborn"
KEY = "gpu_lock:stubborn"

app = Celery("stubborn_tasks", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.update(
    task_default_queue=QUEUE, task_acks_late=True, broker_connection_retry_on_startup=True
)


@gpu_task(app, keys=KEY, lease=60, retry_in=0.1, bind=True, max_retries=1)
def try_once_more(self):
    """Fails the first time that it has a GPU, and may be tried again once."""
    if self.request.retries == 0:
        raise self.retry(countdown=0.1)
    return self.request.retries


@gpu_task(app, keys=KEY, lease=60, retry_in=0.1, bind=True)
def wait_for_a_word(self):
    """Works until the test says that it is enough."""
    client = app.backend.client
    client.rpush(f"runs:{self.request.id}", os.getpid())
    return client.blpop(f"enough:{self.request.id}", 60) is not None


@gpu_task(app, keys=KEY, lease=60, bind=True)
def hold(self):
    """Answers which lock it has."""
    return list(self.gpus.keys)
