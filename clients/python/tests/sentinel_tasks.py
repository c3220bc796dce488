"""Celery tasks for the tests whose broker is behind Sentinel."""

import os

from celery import Celery

from gpulock.celery import gpu_task
from sentinel import NAME

KEY = "gpu_lock:0"

app = Celery("sentinel_tasks", broker=os.environ["BROKER"], backend=os.environ["REDIS_URL"])
app.conf.update(
    broker_transport_options={"master_name": NAME},
    broker_connection_retry_on_startup=True,
)


@gpu_task(app, keys=KEY, lease=60, bind=True)
def locked_at(self):
    """Returns the port of the server on which this task holds its lock."""
    client = self.gpu_pool.redis
    assert client.get(KEY) == self.gpu_pool.owner
    return client.info("server")["tcp_port"]
