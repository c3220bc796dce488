#!/usr/bin/env python3
"""A worker of the hand-off benchmark, which competes for one lock.

    worker.py PORT NUMBER

Reads orders as lines of JSON and replies to each with one line: to {"lock": name} with its
clock once it is connected, to {"begin": ns, "end": ns} with [acquired, releasing] of all its
holds. Each lock has its own module.
"""

import functools
import json
import sys
import time

import redis

from with_gpulock import Gpulock
from with_pubsub import PubSub
from with_python_redis_lock import PythonRedisLock
from with_redis_py import RedisPy

LOCK = "gpu_lock:0"
HOLD_S = 0.002

# The names are those of bench/src/names.rs.
LOCKS = {
    "GPULOCK": Gpulock,
    "redis-py Lock": RedisPy,
    "redis-py Lock, sleep=0.001": functools.partial(RedisPy, sleep=0.001),
    "python-redis-lock": PythonRedisLock,
    "pub/sub and Lua": PubSub,
}


def hold_repeatedly(lock, begin, end):
    """Acquires and releases the lock until the end. Records the time before the release, not
    after it: the next worker may have the lock before this one has its reply."""
    holds = []
    time.sleep(max(0.0, (begin - time.monotonic_ns()) / 1e9))
    while time.monotonic_ns() < end:
        lock.acquire()
        acquired = time.monotonic_ns()
        time.sleep(HOLD_S)
        releasing = time.monotonic_ns()
        lock.release()
        holds.append((acquired, releasing))
    return holds


def main():
    port, number = map(int, sys.argv[1:])
    orders = map(json.loads, sys.stdin)
    for order in orders:
        client = redis.Redis(port=port, socket_timeout=None)
        client.ping()
        lock = LOCKS[order["lock"]](client, LOCK, number)
        print(json.dumps(time.monotonic_ns()), flush=True)
        order = next(orders)
        print(json.dumps(hold_repeatedly(lock, **order)), flush=True)
        client.close()


if __name__ == "__main__":
    main()
