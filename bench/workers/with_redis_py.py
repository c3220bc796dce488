"""redis-py's own lock, which polls. By default it sleeps 0.1 s between attempts."""


class RedisPy:
    def __init__(self, client, name, number, sleep=0.1):
        self.lock = client.lock(name, timeout=600, sleep=sleep)

    def acquire(self):
        self.lock.acquire()

    def release(self):
        self.lock.release()
