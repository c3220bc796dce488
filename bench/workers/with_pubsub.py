"""The lock of the system that GPULOCK replaces, written anew from its description: each
release is told to all, and all who wait try at once."""

import json
import time

COMPARE_AND_DELETE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0
"""
SILENCE_S, POLL_S = 30, 0.5


class PubSub:
    def __init__(self, client, name, number):
        self.client, self.name, self.task = client, name, f"worker{number}"
        self.owner, self.channel = f"locked_by_{self.task}", f"gpu_lock:{name}"
        self.delete = client.register_script(COMPARE_AND_DELETE)
        # Subscribed once and for all: the least that it can cost.
        self.releases = client.pubsub()
        self.releases.subscribe(self.channel)
        self.releases.get_message(timeout=None)

    def take(self):
        # What was told while this worker held the lock is over.
        while self.releases.get_message():
            pass
        silence = SILENCE_S
        while not self.client.set(self.name, self.owner, nx=True, ex=600):
            told = self.releases.get_message(timeout=silence)
            silence = SILENCE_S if told else POLL_S

    def give(self):
        self.delete(keys=[self.name], args=[self.owner])
        self.client.publish(self.channel, json.dumps({
            "event_type": "lock_released",
            "lock_key": self.name,
            "task_name": self.task,
            "release_reason": "normal",
            "timestamp": time.time(),
        }))
