#!/usr/bin/env python3
"""How a lock passes from worker to worker: GPULOCK beside other locks on Redis.

    bench/handoff.py SERVER MODULE

Eight processes want one lock all the time and hold it 2 ms each. All of them use redis-py,
so that what differs is the lock and not the client. The locks take turns, in rounds, on one
server. The gap is the time from the moment a holder begins to give the lock up to the
moment the next one has it, by one clock. Makes the peers' virtual environment in
target/bench-venv when it is not there (pip, bench/requirements.txt).
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
import venv

from kit import serving, table

WORKERS, HOLD_S = 8, 0.002
ROUNDS, ROUND_S = 5, 4.0
LEASE_S = 30

HERE = pathlib.Path(__file__).resolve().parent
VENV = HERE.parent / "target" / "bench-venv"
LOCKS = {
    "gpulock": "GPULOCK",
    "redis-py": "redis-py `Lock`, as it comes",
    "redis-py-1ms": "redis-py `Lock(sleep=0.001)`",
    "python-redis-lock": "python-redis-lock",
}


# In each worker, by the Python of the virtual environment.

def lock_of(kind, client, worker):
    """How this worker takes the lock, and gives it back."""
    if kind == "gpulock":
        owner = f"worker:{worker}:{os.getpid()}"

        def take():
            client.execute_command("GPULOCK.ACQUIRE", kind, owner, "EX", LEASE_S, "BLOCK", 0)

        return take, lambda: client.execute_command("GPULOCK.RELEASE", kind, owner)
    if kind == "python-redis-lock":
        import redis_lock
        lock = redis_lock.Lock(client, kind, expire=LEASE_S)
    else:
        sleep = 0.001 if kind == "redis-py-1ms" else 0.1
        lock = client.lock(kind, timeout=LEASE_S, sleep=sleep)
    return lock.acquire, lock.release


def work(port, worker):
    """Does the rounds that the parent asks for by a line each: kind, begin and end."""
    import redis
    import redis_lock  # noqa: F401  (imported here, so that no round waits for it)
    print("ready", flush=True)
    for line in sys.stdin:
        kind, begin, end = json.loads(line)
        client = redis.Redis(port=port, socket_timeout=None)
        take, give = lock_of(kind, client, worker)
        client.ping()
        time.sleep(max(0.0, begin - time.monotonic()))
        holds = []
        while time.monotonic() < end:
            take()
            taken = time.monotonic()
            time.sleep(HOLD_S)
            giving = time.monotonic()
            give()
            holds.append((taken, giving))
        client.close()
        print(json.dumps(holds), flush=True)


# The parent.

def python():
    """The Python that has the peers."""
    program = VENV / "bin" / "python"
    if not program.exists():
        print(f"making {VENV}", file=sys.stderr)
        venv.create(VENV, with_pip=True, clear=True)
        subprocess.run([program, "-m", "pip", "install", "-q", "--disable-pip-version-check",
                        "-r", HERE / "requirements.txt"], check=True, stdout=sys.stderr)
    return program


def commands_run(server):
    """Commands that the server has run so far, those in scripts too, ours for asking not."""
    stats = server.info("commandstats")
    return sum(int(value.split("calls=")[1].split(",")[0]) for name, value in stats.items()
               if name.startswith("cmdstat_")
               and name not in ("cmdstat_info", "cmdstat_ping", "cmdstat_client|setinfo"))


def one_round(server, workers, kind):
    server.call("FLUSHALL")
    commands, cpu_us = commands_run(server), server.cpu_us()
    begin = time.monotonic() + 0.3
    end = begin + ROUND_S
    for worker in workers:
        worker.stdin.write(json.dumps([kind, begin, end]) + "\n")
        worker.stdin.flush()
    holds = sorted((taken, giving, number) for number, worker in enumerate(workers)
                   for taken, giving in json.loads(worker.stdout.readline()))
    cpu_us, commands = server.cpu_us() - cpu_us, commands_run(server) - commands
    passes = list(zip(holds, holds[1:]))
    gaps = sorted(after[0] - before[1] for before, after in passes)
    if gaps[0] < 0:
        sys.exit(f"{kind}: two workers held the lock at once")
    counted = [who for taken, _, who in holds if taken < end]
    shares = [counted.count(number) for number in range(WORKERS)]
    return {
        "gaps": gaps,
        "a second": len(counted) / ROUND_S,
        "commands": commands / len(holds),
        "cpu": cpu_us / len(holds),
        "jain": sum(shares) ** 2 / (WORKERS * sum(share ** 2 for share in shares)),
        "sat out": max(longest_without(counted, number) for number in range(WORKERS)),
    }


def longest_without(holders, worker):
    """The longest run of holds by others, the ends of the round included."""
    places = [-1, *(place for place, who in enumerate(holders) if who == worker), len(holders)]
    return max(after - before - 1 for before, after in zip(places, places[1:]))


def at(ordered, share):
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def ping_ms(server):
    times = []
    for _ in range(2_000):
        began = time.monotonic()
        server.call("PING")
        times.append((time.monotonic() - began) * 1e3)
    return statistics.median(times)


def show(server, found):
    def over(kind, figure, form):
        figures = [figure(one) for one in found[kind]]
        spread = f" ({min(figures):{form}} to {max(figures):{form}})"
        return f"{statistics.median(figures):{form}}" + (spread if min(figures) < max(figures) else "")

    print(f"{server.version()}; {WORKERS} workers, {HOLD_S * 1e3:.0f} ms hold; {ROUNDS} rounds of "
          f"{ROUND_S:.0f} s each in turn; medians of the rounds (least to most). A PING with nothing "
          f"else to do: {ping_ms(server):.3f} ms.\n")
    table(
        ["lock", "gap p50 ms", "p99 ms", "max ms", "hand-offs a second"],
        [(LOCKS[kind], over(kind, lambda one: at(one["gaps"], 0.5) * 1e3, ".2f"),
          over(kind, lambda one: at(one["gaps"], 0.99) * 1e3, ".2f"),
          over(kind, lambda one: one["gaps"][-1] * 1e3, ".1f"),
          over(kind, lambda one: one["a second"], ".0f")) for kind in LOCKS])
    table(
        ["lock", "commands a hand-off", "server CPU a hand-off, us", "Jain", "longest sat out"],
        [(LOCKS[kind], over(kind, lambda one: one["commands"], ".1f"),
          over(kind, lambda one: one["cpu"], ".0f"),
          over(kind, lambda one: one["jain"], ".3f"),
          over(kind, lambda one: one["sat out"], ".0f")) for kind in LOCKS])


def main():
    if sys.argv[1:2] == ["--worker"]:
        work(*map(int, sys.argv[2:]))
        return
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    program, module = sys.argv[1:]
    with serving(program, module) as server:
        workers = [
            subprocess.Popen([python(), __file__, "--worker", str(server.port), str(number)],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for number in range(WORKERS)]
        for worker in workers:
            worker.stdout.readline()
        found = {kind: [] for kind in LOCKS}
        for _ in range(ROUNDS):
            for kind in LOCKS:
                found[kind].append(one_round(server, workers, kind))
        for worker in workers:
            worker.stdin.close()
            worker.wait()
        show(server, found)


if __name__ == "__main__":
    main()
