"""How long a lock lies idle between two holders, ours beside redis-py's own Lock:

    python -m gap [SECONDS [PROCESSES]]       (in tests/; SERVERS names the servers)

Each process takes and gives back one lock all the time. That there were never two inside is
checked from what they wrote down, and by a counter in the server that each of them raises and
lowers while it is inside.
"""

import json
import subprocess
import sys
import time

import redis
import redis.lock

import gpulock
from servers import MODULE, Server, programs

LOCKS = {"gpulock.Lock": gpulock.Lock, "redis-py Lock": redis.lock.Lock}
NAME, INSIDE, HOLD_S = "gpu_lock:0", "inside", 0.002


def work(port, kind):
    """One process: says that it is ready, is told when to begin and to end, and prints its
    holds as [taken, giving, fencing token]."""
    client = redis.Redis(port=port)
    lock = LOCKS[kind](client, NAME, timeout=60)
    client.ping()
    print("ready", flush=True)
    begin, end = map(float, sys.stdin.readline().split())
    holds = []
    time.sleep(max(0.0, begin - time.monotonic()))
    while time.monotonic() < end:
        lock.acquire()
        taken = time.monotonic()
        assert client.incr(INSIDE) == 1, "two are inside"
        time.sleep(HOLD_S)
        assert client.decr(INSIDE) == 0, "two are inside"
        giving = time.monotonic()
        token = getattr(lock, "token", None)
        lock.release()
        holds.append((taken, giving, token))
    print(json.dumps(holds))


def measure(server, kind, seconds, processes):
    """All holds of all processes in order, each with the number of its process."""
    words = [sys.executable, __file__, "work", str(server.port), kind]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen(words, **pipes) for _ in range(processes)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    begin = time.monotonic() + 0.1
    for worker in workers:
        worker.stdin.write(f"{begin} {begin + seconds}\n")
        worker.stdin.flush()
    holds = []
    for number, worker in enumerate(workers):
        told, _ = worker.communicate()
        assert worker.returncode == 0, f"process {number} of {kind} failed"
        holds += [(*hold, number) for hold in json.loads(told)]
    return sorted(holds)


def gaps(holds):
    """Checks that no two holds overlap, and answers the milliseconds between them."""
    idle = []
    for (_, giving, older, _), (taken, _, newer, _) in zip(holds, holds[1:]):
        assert giving <= taken, "two were inside"
        assert older is None or older < newer, "tokens have to rise"
        idle.append((taken - giving) * 1000)
    return sorted(idle)


def sat_out(holds):
    """The most holds of others that one process had to sit out between two of its own."""
    last, most = {}, 0
    for position, (*_, number) in enumerate(holds):
        most = max(most, position - last.get(number, position) - 1)
        last[number] = position
    return most


def table(server, seconds, processes):
    """Rows: lock, holds, median and 99th percentile of the gap in ms, most sat out."""
    rows = []
    for kind in LOCKS:
        holds = measure(server, kind, seconds, processes)
        idle = gaps(holds)
        median, p99 = idle[len(idle) // 2], idle[len(idle) * 99 // 100]
        rows.append((kind, len(holds), median, p99, sat_out(holds)))
    return rows


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    processes = int(sys.argv[2]) if len(sys.argv) > 2 else 16
    print(f"{processes} processes, {seconds:g} s each, module {MODULE.rsplit('/', 1)[-1]}")
    for name, program in programs().items():
        server = Server(program)
        print(f"\n{name}\n  {'lock':14} {'holds':>6} {'gap p50':>9} {'p99':>9} {'sat out':>8}")
        for kind, count, median, p99, most in table(server, seconds, processes):
            print(f"  {kind:14} {count:6} {median:6.2f} ms {p99:6.2f} ms {most:8}")
        server.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(int(sys.argv[2]), sys.argv[3])
    else:
        main()
