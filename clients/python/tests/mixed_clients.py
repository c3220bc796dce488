"""Measures how often clients that poll get a lock beside clients of gpulock, as in a migration
in which some of the workers still use redis-py's Lock:

    python -m mixed_clients [SECONDS [PROCESSES]]     (in tests/; SERVERS lists the servers)

Each process acquires and releases one lock in a loop, so that the lock always has waiters. All,
half or none of the processes use gpulock, on a server without the module and on one with it.
"""

import sys

from handoff_gap import LOCKS, measure
from servers import MODULE, Server, programs

NEW, OLD = LOCKS


def holds(server, kinds, seconds):
    """The number of holds of each process, by kind."""
    counts = [0] * len(kinds)
    for *_, number in measure(server, kinds, seconds):
        counts[number] += 1
    return {kind: sorted(n for n, of in zip(counts, kinds) if of == kind) for kind in LOCKS}


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    processes = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    half = processes // 2
    print(f"{processes} processes, {seconds:g} s, module {MODULE.rsplit('/', 1)[-1]}")
    for name, program in programs().items():
        servers = {False: Server(program, module=False), True: Server(program)}
        print(f"\n{name}: holds of each process")
        for new in (0, half, processes):
            for module, server in servers.items():
                kinds = [OLD] * (processes - new) + [NEW] * new
                print(f"  {'with' if module else 'without'} the module")
                for kind, counts in holds(server, kinds, seconds).items():
                    if counts:
                        print(f"    {kind:14}", *(f"{count:5}" for count in counts))
        for server in servers.values():
            server.close()


if __name__ == "__main__":
    main()
