"""The protocol of the lock manager that GPULOCK replaces, reimplemented from its description:
each release is published, and every waiter tries at once."""

import json
import time

COMPARE_AND_DELETE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0
"""
TIMEOUT_S, POLL_S = 30, 0.5


class PubSub:
    def __init__(self, client, name, number):
        self.client, self.name, self.task = client, name, f"worker{number}"
        self.owner, self.channel = f"locked_by_{self.task}", f"gpu_lock:{name}"
        self.delete = client.register_script(COMPARE_AND_DELETE)
        # Subscribes only once, the lowest possible cost.
        self.releases = client.pubsub()
        self.releases.subscribe(self.channel)
        self.releases.get_message(timeout=None)

    def acquire(self):
        # Discards messages published while this worker held the lock.
        while self.releases.get_message():
            pass
        timeout = TIMEOUT_S
        while not self.client.set(self.name, self.owner, nx=True, ex=600):
            message = self.releases.get_message(timeout=timeout)
            timeout = TIMEOUT_S if message else POLL_S

    def release(self):
        self.delete(keys=[self.name], args=[self.owner])
        self.client.publish(self.channel, json.dumps({
            "event_type": "lock_released",
            "lock_key": self.name,
            "task_name": self.task,
            "release_reason": "normal",
            "timestamp": time.time(),
        }))
