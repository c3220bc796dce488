#!/usr/bin/env python3
"""What many waiters and many locks cost: server CPU and memory.

    bench/scale.py SERVER MODULE [part …]

Parts: handoff, idle, held, ticks, waiters, memory, taking, asking; all of them when none is
named. Needs `ulimit -n` of 10,500 and a C compiler; Python's own library is enough. Times of
the clock are given beside those of the same work by native commands, on the same machine in
the same minutes: other programs that run meanwhile show in both.
"""

import pathlib
import statistics
import subprocess
import sys
import time

from kit import Link, need_files, packed, serving, table

MANY = 10_000
OWNER = "locked_by_transcribe:worker3:{:07}"  # 36 bytes
KEY = "gpu_lock:{:07}"                        # 16 bytes
LEASE = ["PX", 60_000_000]


def take(number, *more):
    return packed("GPULOCK.ACQUIRE", KEY.format(number), OWNER.format(number), *LEASE, *more)


def set_plain(number):
    return packed("SET", KEY.format(number), OWNER.format(number), "NX", *LEASE)


def fill(server, command, number, batch=100):
    for start in range(0, number, batch):
        server.link.send(b"".join(map(command, range(start, start + batch))))
        for _ in range(batch):
            server.link.read()


def connect(server, number):
    links = [Link(server.port) for _ in range(number)]
    for link in links:
        link.send(packed("PING"))
    for link in links:
        link.read()
    return links


def close(links):
    for link in links:
        link.close()


def waiting_for(server, number):
    """Comes back when so many clients wait in lines of ours."""
    while int(server.info("gpulock")["gpulock_clients_waiting"]) != number:
        time.sleep(0.05)


# Hand-offs.

class Line:
    """One lock with a line that stays as long as it is: who releases asks again at once."""

    def __init__(self, server, length):
        self.server = server
        self.links = connect(server, length + 1)
        owners = [OWNER.format(place) for place in range(length + 1)]
        asks = [packed("GPULOCK.ACQUIRE", "one", owner, *LEASE, "BLOCK", 0) for owner in owners]
        self.again = [packed("GPULOCK.RELEASE", "one", owner) + ask
                      for owner, ask in zip(owners, asks)]
        self.turn = 0
        for link, ask in zip(self.links, asks):
            link.send(ask)
            if link is self.links[0]:
                link.read()
        waiting_for(server, length)

    def hand_on(self, times):
        """Server CPU of a hand-off, in microseconds."""
        before = self.server.cpu_us()
        for _ in range(times):
            holder = self.links[self.turn]
            holder.send(self.again[self.turn])
            holder.read()
            self.turn = (self.turn + 1) % len(self.links)
            self.links[self.turn].read()
        return (self.server.cpu_us() - before) / times


class Plain:
    """What as many connections cost without any lock: each in turn sets a key and deletes
    it."""

    def __init__(self, server, length):
        self.server = server
        self.links = connect(server, length + 1)
        self.turn = 0

    def hand_on(self, times):
        before = self.server.cpu_us()
        for _ in range(times):
            link = self.links[self.turn]
            link.send(packed("SET", "one", OWNER.format(self.turn), "NX", *LEASE)
                      + packed("DEL", "one"))
            link.read()
            link.read()
            self.turn = (self.turn + 1) % len(self.links)
        return (self.server.cpu_us() - before) / times


def handoff(program, module):
    """Two servers at a time, in turn: ten clients wait on one, many on the other."""
    rows = []
    for name, line in (("hand-off in a line", Line), ("`SET NX PX`, `DEL` by each in turn", Plain)):
        with serving(program, module) as few, serving(program, module) as many:
            of_few, of_many = line(few, 10), line(many, MANY)
            for each in (of_few, of_many):
                each.hand_on(MANY + 1)
            pairs = [(of_few.hand_on(2_000), of_many.hand_on(2_000)) for _ in range(15)]
            close([*of_few.links, *of_many.links])
        cpu_few, cpu_many = (statistics.median(cpu) for cpu in zip(*pairs))
        ratios = sorted(b / a for a, b in pairs)
        rows.append((name, f"{cpu_few:.1f}", f"{cpu_many:.1f}", f"{cpu_many / cpu_few:.2f}",
                     f"{ratios[3]:.2f} to {ratios[-4]:.2f}"))
    print("Server CPU, us: medians of 15 rounds of 2,000 in turn\n")
    table(["what", "10 clients in line", f"{MANY:,}", "ratio", "middle half of the rounds"], rows)


# Idle.

def share(server, seconds=4.0):
    """Its CPU, ms a second."""
    time.sleep(1.5)
    shares = []
    for _ in range(3):
        cpu, began = server.cpu_us(), time.monotonic()
        time.sleep(seconds / 3)
        shares.append((server.cpu_us() - cpu) / (time.monotonic() - began) / 1e3)
    return statistics.median(shares)


def idle(program, module):
    """CPU of a server on which nothing happens."""
    rows = []
    for number in (0, 1, 300, MANY):
        with serving(program, module) as server:
            links = connect(server, number)
            for link in links:
                link.send(packed("BLPOP", "other", 0))
            row = [share(server)]
            close(links)
            links = connect(server, number)
            fill(server, take, 1, 1)
            for place, link in enumerate(links):
                link.send(packed("GPULOCK.ACQUIRE", KEY.format(0), f"w{place}", "BLOCK", 0))
            waiting_for(server, number)
            row.append(share(server))
            close(links)
            waiting_for(server, 0)
            links = connect(server, number)
            for place in range(1, number):
                server.link.send(take(place))
            for place in range(1, number):
                server.link.read()
            for place, link in enumerate(links):
                link.send(packed("GPULOCK.ACQUIRE", KEY.format(place), f"w{place}", "BLOCK", 0))
            waiting_for(server, number)
            row.append(share(server))
            close(links)
        rows.append((f"{number:,}", *(f"{one:.1f}" for one in row)))
    print("An idle server, ms of CPU a second\n")
    table(["clients", "blocked by `BLPOP`", "waiting for one lock", "each waiting for its own lock"], rows)


def held(program, module):
    """What locks cost that nobody waits for and nobody touches."""
    rows = []
    for number in (10_000, 1_000_000):
        row = []
        for module_too, command in ((None, set_plain), (module, take)):
            with serving(program, module_too) as server:
                fill(server, command, number)
                row += [share(server), longest_ping(server)]
                server.call("CONFIG", "SET", "hz", 1)
                row += [share(server), longest_ping(server, 8.0)]
        rows.append((f"{number:,}", *(f"{row[place]:.1f}" for place in (0, 4, 1, 5, 2, 6, 3, 7))))
    print("Held locks beside plain keys with a time to live, nobody waits: ms of CPU a second, "
          "and the longest of PINGs a millisecond apart, ms\n")
    table(["keys", "CPU, keys", "CPU, locks", "ping, keys", "ping, locks",
           "CPU at hz 1, keys", "CPU at hz 1, locks", "ping at hz 1, keys", "ping at hz 1, locks"], rows)


def ticks(program, module):
    """The same at higher rates of the server's clock."""
    rows = []
    for hz in (10, 100, 500):
        for number in (10_000, 100_000):
            row = []
            for module_too, command in ((None, set_plain), (module, take)):
                with serving(program, module_too, "--hz", str(hz)) as server:
                    fill(server, command, number)
                    row.append(share(server, 3.0))
            rows.append((f"hz {hz}, {number:,} keys", *(f"{one:.1f}" for one in row)))
    print("Held locks beside plain keys, nobody waits, ms of CPU a second\n")
    table(["", "keys", "locks"], rows)


def longest_ping(server, seconds=4.0):
    """The third longest, since any program on the machine can delay one or two."""
    times, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        server.call("PING")
        times.append((time.monotonic() - began) * 1e3)
        time.sleep(0.001)
    return sorted(times)[-3]


# Memory.

def waiters(program, module):
    def each(server, number, command, done):
        links = connect(server, number)
        before = server.used_memory()
        for place, link in enumerate(links):
            link.send(command(place))
        done()
        used = (server.used_memory() - before) / number
        close(links)
        return used

    def blocked(module_too, command):
        def done():
            while int(server.info("clients")["blocked_clients"]) != MANY:
                time.sleep(0.05)

        with serving(program, module_too) as server:
            return each(server, MANY, command, done)

    # The server keeps a blocked client's words, so the empty module gets the same.
    def words(command, key, *options):
        return lambda place: packed(
            command, key(place), "waiter_of_transcribe:worker3:{:07}".format(place),
            *LEASE, "BLOCK", MANY * 1000, *options)

    bare = bare_module()
    rows = []
    for name, key in (("for one lock", lambda _: KEY.format(0)),
                      ("each for its own", KEY.format)):
        plain = blocked(None, lambda place: packed("BLPOP", key(place), 0))
        for kind, options in (("", []), (", UNIQUE SESSION", ["UNIQUE", "SESSION"])):
            base = blocked(bare, words("BLOCKS.WAIT", key, *options))
            with serving(program, module) as server:
                fill(server, take, MANY)
                ours = each(server, MANY, words("GPULOCK.ACQUIRE", key, *options),
                            lambda: waiting_for(server, MANY))
            rows.append((name + kind, f"{plain:,.0f}", f"{base:,.0f}", f"{ours:,.0f}",
                         f"{ours - base:,.0f}"))
    print(f"Memory of a waiting client beyond an idle one, bytes of used_memory, {MANY:,} of them, "
          "owners of 36 bytes, locks held beforehand\n")
    table(["waiting", "`BLPOP`", "blocked by an empty module", "`GPULOCK.ACQUIRE … BLOCK`",
           "more than the empty module"], rows)


def bare_module():
    """Builds the module that only blocks."""
    here = pathlib.Path(__file__).resolve().parent
    built = here.parent / "target" / "bench-blocks.so"
    built.parent.mkdir(exist_ok=True)
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", built, here / "blocks.c"], check=True)
    return built


def memory(program, module):
    rows = []
    for number in (100_000, 1_000_000):
        used = []
        for module_too, command in ((None, set_plain), (module, take)):
            with serving(program, module_too) as server:
                before = server.used_memory()
                fill(server, command, number)
                used.append((server.used_memory() - before) / number)
        rows.append((f"{number:,}", *(f"{one:,.0f}" for one in used), f"{used[1] - used[0]:,.0f}"))
    print("Memory of a held lock, bytes of used_memory, key of 16 bytes, owner of 36\n")
    table(["held", "`SET key owner PX`", "`GPULOCK.ACQUIRE`", "more"], rows)


# A million.

def slowest(program, module, command, number, batch=50):
    """Of taking so many: the times in the slow log in ms, the CPU of each batch in ms, and
    the CPU of a command in us."""
    with serving(program, module) as server:
        server.call("CONFIG", "SET", "slowlog-log-slower-than", 1000)
        server.call("CONFIG", "SET", "slowlog-max-len", 10_000)
        server.call("SLOWLOG", "RESET")
        marks = [server.cpu_us()]
        for start in range(0, number, batch):
            server.link.send(b"".join(map(command, range(start, start + batch))))
            for _ in range(batch):
                server.link.read()
            marks.append(server.cpu_us())
        entries = server.call("SLOWLOG", "GET", -1)
    slow = sorted((entry[2] / 1e3 for entry in entries
                   if entry[3][1].startswith(b"gpu_lock:")), reverse=True)
    batches = sorted(((after - before) / 1e3 for before, after in zip(marks, marks[1:])), reverse=True)
    return slow, batches, (marks[-1] - marks[0]) / number


def taking(program, module, number=1_000_000, times=3):
    rows = []
    for run in range(times):
        for name, module_too, command in (("`SET NX PX`", None, set_plain),
                                          ("`GPULOCK.ACQUIRE`", module, take)):
            slow, batches, cpu = slowest(program, module_too, command, number)
            rows.append((f"{name}, run {run + 1}", len(slow), sum(ms > 2 for ms in slow),
                         f"{slow[0]:.1f}" if slow else "under 1",
                         " ".join(f"{ms:.1f}" for ms in batches[:4]), f"{cpu:.2f}"))
    print(f"{number:,} keys taken: the server's slow log (wall clock, so other programs show), and "
          "its CPU time for each 50 commands\n")
    table(["command", "over 1 ms", "over 2 ms", "slowest, ms", "most CPU for 50 commands, ms",
           "CPU a command, us"], sorted(rows))


def asking(program, module):
    def timed(server, times, *words):
        server.call("CONFIG", "SET", "slowlog-log-slower-than", 0)
        server.call("CONFIG", "SET", "slowlog-max-len", times + 10)
        server.call("SLOWLOG", "RESET")
        for _ in range(times):
            answer = server.call(*words)
        took = sorted(entry[2] for entry in server.call("SLOWLOG", "GET", -1)
                      if entry[3][0].upper() == words[0].encode())
        server.call("CONFIG", "SET", "slowlog-log-slower-than", -1)
        size = len(answer) if isinstance(answer, bytes) else None
        return took[len(took) // 2], took[-1], size

    rows = []
    with serving(program, module) as server:
        fill(server, take, 1_024)
        for place in range(1_024):
            server.call("GPULOCK.STATS", "KEY", KEY.format(place))
        middle, longest, size = timed(server, 50, "GPULOCK.METRICS")
        rows.append((f"`GPULOCK.METRICS`, 1,024 tracked locks ({size / 1e3:,.0f} kB)", middle, longest))
        fill(server, take, 1_000_000)
        middle, longest, size = timed(server, 50, "GPULOCK.METRICS")
        rows.append((f"the same with 1,000,000 locks held ({size / 1e3:,.0f} kB)", middle, longest))
        commands = [["GPULOCK.LIST", "LIMIT", 10], ["GPULOCK.LIST"], ["GPULOCK.LIST", "MATCH", "no*"],
                    ["GPULOCK.STATS"], ["GPULOCK.INSPECT", KEY.format(777_777)],
                    ["GPULOCK.LOG"], ["GPULOCK.RESETSTATS"]]
        for words in commands:
            times = 5 if "MATCH" in words else 200
            rows.append((f"`{' '.join(map(str, words))}`", *timed(server, times, *words)[:2]))
        waiting = connect(server, 2_000)
        for place, link in enumerate(waiting):
            link.send(packed("GPULOCK.ACQUIRE", KEY.format(0), f"w{place}", "BLOCK", 0))
        waiting_for(server, 2_000)
        rows.append(("`GPULOCK.INSPECT`, 2,000 waiting",
                     *timed(server, 200, "GPULOCK.INSPECT", KEY.format(0))[:2]))
        close(waiting)
    print("Asking, with 1,000,000 locks held where nothing else is said: us by the server's slow log\n")
    table(["command", "median us", "longest us"], [(name, f"{a:,}", f"{b:,}") for name, a, b in rows])


PARTS = {part.__name__: part for part in (handoff, idle, held, ticks, waiters, memory, taking, asking)}


def main():
    if len(sys.argv) < 3 or not set(sys.argv[3:]) <= set(PARTS):
        sys.exit(__doc__)
    program, module = sys.argv[1:3]
    need_files(MANY + 500)
    with serving(program, module) as server:
        print(f"{server.version()}\n", flush=True)
    for name in sys.argv[3:] or PARTS:
        PARTS[name](program, module)


if __name__ == "__main__":
    main()
