"""Acquires the lock of a GPU, extends its lease, and releases it."""

import os
import sys
import uuid

from redis import Redis

LOCK = "gpu_lock:0"
LEASE = 60  # seconds until the lock becomes free if this program dies


def main() -> int:
    client = Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
    # Identifies this run, not the task: a run must not release the lock of another run.
    owner = f"train-{uuid.uuid4()}"
    # UNIQUE: no other client uses this owner. If the connection breaks, redis-py repeats the
    # command, and the server returns the same token if the lock was already granted.
    token = client.execute_command("GPULOCK.ACQUIRE", LOCK, owner, "EX", LEASE, "UNIQUE")
    if token is None:
        # The lock is an ordinary key whose value is the owner.
        print(f"{LOCK} is held by {client.execute_command('GET', LOCK)}")
        return 1
    try:
        # The token rises with every grant. A store for the results can reject lower tokens:
        # they come from holders that were paused past their lease.
        print(f"acquired {LOCK}, fencing token {token}")
        # ... the first half of the work ...
        if client.execute_command("GPULOCK.EXTEND", LOCK, owner, "EX", LEASE) is None:
            print(f"lost {LOCK}: its lease expired")
            return 1
        print(f"extended {LOCK} to {LEASE} seconds from now")
        # ... the second half ...
    finally:
        # Returns 0 if this run no longer held the lock, and never releases a successor's.
        released = client.execute_command("GPULOCK.RELEASE", LOCK, owner)
        print(f"released {LOCK}" if released else f"{LOCK} was no longer held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
