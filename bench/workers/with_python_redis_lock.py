"""python-redis-lock, whose waiters block on a list to which each release pushes a signal."""

import redis_lock


class PythonRedisLock:
    def __init__(self, client, name, number):
        self.lock = redis_lock.Lock(client, name, expire=600)

    def acquire(self):
        self.lock.acquire()

    def release(self):
        self.lock.release()
