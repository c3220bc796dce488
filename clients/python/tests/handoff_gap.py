"""Measures the hand-off gap, the time that a lock is free between two holders, for gpulock and
for redis-py's Lock:

    python -m handoff_gap [SECONDS [PROCESSES]]     (in tests/; SERVERS lists the servers)

Each process acquires and releases one lock in a loop. Mutual exclusion is checked twice: from
the recorded times, and by a counter in the server that each holder increments and decrements.
"""

import json
import subprocess
import sys
import time
from contextlib import suppress

import redis
import redis.lock

import gpulock
from servers import MODULE, Server, programs

LOCKS = {"gpulock.Lock": gpulock.Lock, "redis-py Lock": redis.lock.Lock}
NAME, COUNTER, HOLD_S = "gpu_lock:0", "holders", 0.002


def work(port, kind):
    """One process: prints "ready", reads the begin and end times, and prints its holds as
    [acquired_at, released_at, fencing token]."""
    client = redis.Redis(port=port)
    lock = LOCKS[kind](client, NAME, timeout=60)
    client.ping()
    print("ready", flush=True)
    begin, end = map(float, sys.stdin.readline().split())
    holds = []
    time.sleep(max(0.0, begin - time.monotonic()))
    while time.monotonic() < end:
        lock.acquire()
        acquired_at = time.monotonic()
        assert client.incr(COUNTER) == 1, "two processes hold the lock"
        time.sleep(HOLD_S)
        assert client.decr(COUNTER) == 0, "two processes hold the lock"
        released_at = time.monotonic()
        token = None
        with suppress(AttributeError, gpulock.ModuleMissingError):
            token = lock.token
        lock.release()
        holds.append((acquired_at, released_at, token))
    print(json.dumps(holds))


def measure(server, kinds, seconds):
    """All holds of all processes, one for each kind, in order, each with the number of its
    process."""
    command = [sys.executable, __file__, "work", str(server.port)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen([*command, kind], **pipes) for kind in kinds]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    begin = time.monotonic() + 0.1
    for worker in workers:
        worker.stdin.write(f"{begin} {begin + seconds}\n")
        worker.stdin.flush()
    holds = []
    for number, worker in enumerate(workers):
        output, _ = worker.communicate()
        assert worker.returncode == 0, f"process {number}, {kinds[number]}, failed"
        holds += [(*hold, number) for hold in json.loads(output)]
    return sorted(holds)


def gaps(holds):
    """Checks that no two holds overlap, and returns the milliseconds between them."""
    result = []
    for (_, released_at, token, _), (acquired_at, _, next_token, _) in zip(holds, holds[1:]):
        assert released_at <= acquired_at, "two processes held the lock"
        assert token is None or token < next_token, "tokens must rise"
        result.append((acquired_at - released_at) * 1000)
    return sorted(result)


def max_skipped(holds):
    """The largest number of holds by others between two holds of one process."""
    last, most = {}, 0
    for index, (*_, number) in enumerate(holds):
        most = max(most, index - last.get(number, index) - 1)
        last[number] = index
    return most


def table(server, seconds, processes):
    """Rows: lock, holds, median and 99th percentile of the gap in ms, most skipped."""
    rows = []
    for kind in LOCKS:
        holds = measure(server, [kind] * processes, seconds)
        sorted_gaps = gaps(holds)
        median = sorted_gaps[len(sorted_gaps) // 2]
        p99 = sorted_gaps[len(sorted_gaps) * 99 // 100]
        rows.append((kind, len(holds), median, p99, max_skipped(holds)))
    return rows


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    processes = int(sys.argv[2]) if len(sys.argv) > 2 else 16
    print(f"{processes} processes, {seconds:g} s each, module {MODULE.rsplit('/', 1)[-1]}")
    for name, program in programs().items():
        server = Server(program)
        print(f"\n{name}\n  {'lock':14} {'holds':>6} {'gap p50':>9} {'p99':>9} {'skipped':>8}")
        for kind, count, median, p99, most in table(server, seconds, processes):
            print(f"  {kind:14} {count:6} {median:6.2f} ms {p99:6.2f} ms {most:8}")
        server.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(int(sys.argv[2]), sys.argv[3])
    else:
        main()
