"""python-redis-lock, whose waiters block on a list into which each release puts a signal."""

import redis_lock


class PythonRedisLock:
    def __init__(self, client, name, number):
        self.lock = redis_lock.Lock(client, name, expire=600)

    def take(self):
        self.lock.acquire()

    def give(self):
        self.lock.release()
