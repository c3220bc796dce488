"""redis-py's own lock, which asks again and again. As it comes it sleeps 0.1 s between."""


class RedisPy:
    def __init__(self, client, name, number, sleep=0.1):
        self.lock = client.lock(name, timeout=600, sleep=sleep)

    def take(self):
        self.lock.acquire()

    def give(self):
        self.lock.release()
