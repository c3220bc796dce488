import os

import redis
from redis.exceptions import LockError
from redis.lock import Lock

client = redis.Redis.from_url(os.environ["REDIS_URL"])

with Lock(client, "report", timeout=30, blocking_timeout=5) as lock:
    print("the key holds our token:", client.get("report") == lock.local.token)
    second = Lock(client, "report", timeout=30)
    print("a second lock acquires it:", second.acquire(blocking=False))
    lock.extend(10)
    print("seconds left:", round(client.pttl("report") / 1000))
print("released:", not lock.locked())

late = client.lock("report", timeout=30, lock_class=Lock)
late.acquire()
client.set("report", "another client")
try:
    late.release()
except LockError as error:
    print(f"{type(error).__name__}: {error}")
client.delete("report")
