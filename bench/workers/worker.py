#!/usr/bin/env python3
"""A worker of the hand-off: wants one lock all the time, as soon as it is told to.

    worker.py PORT NUMBER

Told by lines of JSON, it answers each with one: {"lock": name} with its clock when it is
connected, {"begin": ns, "end": ns} with [taken, giving] of all its holds. How a lock is
taken and given back stands in the file of that lock; here is only when.
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


def hold_again_and_again(lock, begin, end):
    """Takes and gives back until the end. The moment before giving counts, and not the one
    after: the next worker may have the lock before this one has its answer."""
    holds = []
    time.sleep(max(0.0, (begin - time.monotonic_ns()) / 1e9))
    while time.monotonic_ns() < end:
        lock.take()
        taken = time.monotonic_ns()
        time.sleep(HOLD_S)
        giving = time.monotonic_ns()
        lock.give()
        holds.append((taken, giving))
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
        print(json.dumps(hold_again_and_again(lock, **order)), flush=True)
        client.close()


if __name__ == "__main__":
    main()
