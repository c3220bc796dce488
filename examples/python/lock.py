"""Takes the lock of a GPU, works, asks for more time, and gives the lock back."""

import os
import sys
import uuid

from redis import Redis

LOCK = "gpu_lock:0"
LEASE = 60  # seconds after which the lock is free again should this program die


def main() -> int:
    client = Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
    # Names this run, not the task: two runs must not give back each other's lock.
    owner = f"train-{uuid.uuid4()}"
    # UNIQUE says that nobody else uses this owner. When the connection breaks, redis-py
    # sends the command again; the lock that we got already is then answered once more.
    token = client.execute_command("GPULOCK.ACQUIRE", LOCK, owner, "EX", LEASE, "UNIQUE")
    if token is None:
        # The lock is an ordinary key whose value is the owner.
        print(f"{LOCK} is held by {client.execute_command('GET', LOCK)}")
        return 1
    try:
        # The token rises with every grant. Whoever stores our results can refuse a lower
        # one: it comes from a holder that was paused past its lease.
        print(f"{LOCK} is ours, fencing token {token}")
        # ... the first half of the work ...
        if client.execute_command("GPULOCK.EXTEND", LOCK, owner, "EX", LEASE) is None:
            print(f"lost {LOCK}, its lease was over: stop working")
            return 1
        print(f"extended {LOCK} to {LEASE} seconds from now")
        # ... the second half ...
    finally:
        # 0 means that we did not hold it any more; a successor's lock is left alone.
        released = client.execute_command("GPULOCK.RELEASE", LOCK, owner)
        print(f"gave {LOCK} back" if released else f"{LOCK} was no longer ours")
    return 0


if __name__ == "__main__":
    sys.exit(main())
