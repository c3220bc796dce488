#!/usr/bin/env python3
"""What commands cost the server in instructions, counted by callgrind.

    bench/instructions.py SERVER MODULE [part …]

Parts: pairs, pools, bystanders, handoffs; all of these when none is named. And calls: where
the instructions of the pair go, which needs a server built with symbols.

Instructions do not depend on the machine's mood. What does differ from one start of the
server to the next is where its hash table puts the keys, so other people's commands are
counted on many keys and over several starts. Work that the clock asks for is taken off
(under valgrind a command takes fifty times longer, the clock does not): the server's own is
counted while nothing happens, the module's is known by the calls into it, and how
often there was one is told.

Needs valgrind; Python's own library is enough for the rest.
"""

import collections
import re
import statistics
import subprocess
import sys
import time

from kit import Link, Server, packed, table

PAIRS = 20_000
COMMANDS = 12_800
WARM_UP = 1_000
PIPELINE = 50
STARTS = 3
POOLS, POOL_PAIRS = (8, 64, 512), 2_000
LOCKS, WAITERS, KEYS = 1_000, 100, 400
RELEASE = "if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end"
ACQUIRE = "return redis.call('set',KEYS[1],ARGV[1],'NX','PX',ARGV[2])"
KEY, OWNER = "gpu_lock:node7:0", "locked_by_transcribe:worker3:8f2c1a9b"
TAKE = ["GPULOCK.ACQUIRE", KEY, OWNER, "PX", "600000"]
GIVE = ["GPULOCK.RELEASE", KEY, OWNER]
SET = ["SET", KEY, OWNER, "NX", "PX", "600000"]

# Other people's commands, each on many keys of theirs.
OTHERS = {
    "GET": lambda k: [["GET", k]],
    "SET": lambda k: [["SET", k, "v"]],
    "SET EX": lambda k: [["SET", k, "v", "EX", "900"]],
    "EXPIRE": lambda k: [["EXPIRE", k, "900"]],
    "INCR": lambda k: [["INCR", "n" + k]],
    "SET, DEL": lambda k: [["SET", "d" + k, "v"], ["DEL", "d" + k]],
}


class Counted(Server):
    """A server under callgrind."""

    def __init__(self, program, module=None, *options):
        under = ["valgrind", "--tool=callgrind", "--trace-children=yes", "-q",
                 "--callgrind-out-file={folder}/profile"]
        super().__init__(program, module, "--hz", "1", *options, under=under)

    def control(self, *options):
        subprocess.run(["callgrind_control", *options, str(self.process.pid)], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def spent(self, work):
        """Instructions and seconds that the work takes."""
        for old in self.path.glob("profile*"):
            old.unlink()
        self.control("-z")
        began = time.monotonic()
        work()
        seconds = time.monotonic() - began
        self.control("-d")
        found = re.findall(r"^totals: (\d+)", "".join(self.dumps()), re.M)
        return sum(map(int, found)), seconds

    def dumps(self):
        return [dump.read_text() for dump in sorted(self.path.glob("profile*"))]

    def costs(self):
        """Of the last dump: (in the module?, into the module?, function called, how often,
        instructions) for each line of calls, and function None for a line of code."""
        files, functions = {}, {}

        def known(store, text):
            number, _, given = text.partition(" ")
            if given:
                store[number] = given
            return store[number]

        caller = callee = function = often = None
        for line in "".join(self.dumps()).splitlines():
            kind, _, value = line.partition("=")
            if kind == "ob":
                caller = callee = "gpulock" in known(files, value)
            elif kind == "fn":
                known(functions, value)
                callee = caller
            elif kind == "cob":
                callee = "gpulock" in known(files, value)
            elif kind == "cfn":
                function = known(functions, value)
            elif kind == "calls":
                often = int(value.split()[0])
            elif re.match(r"[+\-*\d]", line) and caller is not None and len(line.split()) > 1:
                cost = int(line.split()[1])
                if often is None:
                    yield caller, callee, None, 0, cost
                else:
                    yield caller, callee, function, often, cost
                    callee, often = caller, None

    def rounds(self, rounds):
        """Sends all commands of all rounds, a pipeline at a time."""
        for start in range(0, len(rounds), PIPELINE):
            batch = [words for commands in rounds[start:start + PIPELINE] for words in commands]
            self.link.send(b"".join(packed(*words) for words in batch))
            for _ in batch:
                self.link.read()

    def spent_outside(self, work):
        """As `spent`, without what the server entered the module for (timers, ticks), and
        how often it did."""
        instructions, seconds = self.spent(work)
        entries = [(often, cost) for caller, callee, function, often, cost in self.costs()
                   if function is not None and callee and not caller]
        often, inside = (sum(column) for column in zip(*entries)) if entries else (0, 0)
        return instructions - inside, seconds, often

    def measure_idle(self):
        instructions, seconds = self.spent(lambda: time.sleep(3))
        self.idle = instructions / seconds

    def count(self, rounds):
        """Instructions of one round, without what the clock asks for."""
        self.rounds(rounds[:WARM_UP])
        instructions, seconds = self.spent(lambda: self.rounds(rounds))
        return (instructions - self.idle * seconds) / len(rounds)


def pairs(program, module):
    found = [pairs_once(program, module) for _ in range(STARTS)]
    rows = []
    for name in found[0][1]:
        counts = [counts[name] for _, counts in found]
        ratios = [counts[name] / counts[NATIVE] for _, counts in found]
        rows.append((name, f"{statistics.median(counts):,.0f}", f"{min(counts):,.0f} to {max(counts):,.0f}",
                     f"{statistics.median(ratios):.2f}"))
    print(f"{found[0][0]}, instructions for taking and giving back: medians of {STARTS} starts, "
          f"of {PAIRS:,} pairs each\n")
    table(["pair", "instructions", "least to most", "to the native pair"], rows)


NATIVE = "`SET NX PX`, `DEL` (compares no owner)"


def pairs_once(program, module):
    server = Counted(program, module, "--gpulock.events", "off")
    server.measure_idle()
    scripts = [server.call("SCRIPT", "LOAD", text).decode() for text in (ACQUIRE, RELEASE)]
    evalsha = [["EVALSHA", scripts[0], 1, KEY, OWNER, 600000],
               ["EVALSHA", scripts[1], 1, KEY, OWNER]]

    def count(*commands):
        return server.count([commands] * PAIRS)

    figures = {
        "`PING`, `PING`": count(["PING"], ["PING"]),
        NATIVE: count(SET, ["DEL", KEY]),
        "`GPULOCK.ACQUIRE`, `GPULOCK.RELEASE`, events off": count(TAKE, GIVE),
    }
    server.call("CONFIG", "SET", "gpulock.events", "release")
    figures["the same, an event at each release, nobody listening"] = count(TAKE, GIVE)
    figures["`SET NX PX`, `EVALSHA` (compare and delete)"] = count(SET, evalsha[1])
    figures["`EVALSHA`, `EVALSHA`"] = count(*evalsha)
    version = server.version()
    server.stop()
    return version, figures


def pools(program, module):
    """Taking one lock of a pool, and giving it back: all free, and all but the last held."""
    server = Counted(program, module, "--gpulock.events", "off")
    server.measure_idle()
    rounds = POOL_PAIRS
    one = server.count([(TAKE, GIVE)] * rounds)
    rows = [("`GPULOCK.ACQUIRE`", f"{one:,.0f}", "1.00", "", "")]
    for size in POOLS:
        keys = [f"{{node7}}:gpu:{number}" for number in range(size)]
        take = ["GPULOCK.ACQUIREANY", size, *keys, OWNER, "PX", "600000"]
        free = server.count([(take, ["GPULOCK.RELEASE", keys[0], OWNER])] * rounds)
        for key in keys[:-1]:
            server.call("GPULOCK.ACQUIRE", key, "somebody else", "EX", 86400)
        busy = server.count([(take, ["GPULOCK.RELEASE", keys[-1], OWNER])] * rounds)
        for key in keys[:-1]:
            server.call("GPULOCK.RELEASE", key, "somebody else")
        rows.append((f"one of {size}", f"{free:,.0f}", f"{free / one:.2f}",
                     f"{busy:,.0f}", f"{busy / one:.2f}"))
    print(f"{server.version()}, instructions for taking one lock and giving it back, events off\n")
    table(["taken from", "all free", "to ACQUIRE", "only the last free", "to ACQUIRE"], rows)
    server.stop()


def others(program, module, waiters, idle=None):
    """What other people's commands cost on one new server: with the module locks are held,
    and clients wait if asked to; without it the same keys stand there, and as many idle
    clients. `idle`: what the server's own clock asks for, in instructions a second, as it
    was counted without the module."""
    server = Counted(program, module)
    links = [Link(server.port) for _ in range(waiters)]
    for number in range(LOCKS):
        key, owner = f"gpu_lock:{number:07}", f"locked_by_transcribe:worker3:{number:08x}"
        take = ["GPULOCK.ACQUIRE"] if module else ["SET"]
        server.call(*take, key, owner, "PX", 6_000_000)
    for number, link in enumerate(links):
        if module:
            link.send(packed("GPULOCK.ACQUIRE", f"gpu_lock:{number:07}", f"waiter:{number}",
                             "BLOCK", 0))
        else:
            link.call("PING")
    if idle is None:
        instructions, seconds = server.spent(lambda: time.sleep(3))
        idle = instructions / seconds
    keys = [f"user:{number}" for number in range(KEYS)]
    server.rounds([[["SET", key, "v"], ["SET", "n" + key, 1]] for key in keys] * 5)
    counts, entered = {}, 0
    for name, commands in OTHERS.items():
        rounds = [commands(keys[number % KEYS]) for number in range(COMMANDS)]
        server.rounds(rounds[:KEYS])
        instructions, seconds, often = server.spent_outside(lambda: server.rounds(rounds))
        counts[name] = (instructions - idle * seconds) / COMMANDS
        entered = max(entered, often / COMMANDS)
    for link in links:
        link.close()
    server.stop()
    return counts, entered, idle


def bystanders(program, module):
    kinds = {
        "without": (None, 0), "held": (module, 0),
        "without, clients": (None, WAITERS), "waiting": (module, WAITERS),
    }
    found, entered = {kind: [] for kind in kinds}, 0
    for _ in range(STARTS):
        idle = {}
        for kind, (module_too, waiters) in kinds.items():
            counts, often, idle[waiters] = others(program, module_too, waiters, idle.get(waiters))
            found[kind].append(counts)
            entered = max(entered, often)
    rows, noise = [], 0
    for name in OTHERS:
        all_counts = {kind: [counts[name] for counts in found[kind]] for kind in kinds}
        one = {kind: statistics.median(counts) for kind, counts in all_counts.items()}
        noise = max(noise, *((max(c) - min(c)) / statistics.median(c) for c in all_counts.values()))
        rows.append((
            f"`{name}`", f"{one['without']:,.0f}", f"{one['held']:,.0f}",
            f"{one['held'] / one['without']:.3f}", f"{one['without, clients']:,.0f}",
            f"{one['waiting']:,.0f}", f"{one['waiting'] / one['without, clients']:.3f}"))
    print(f"Other people's commands, instructions: median of {STARTS} starts of each server, "
          f"which differ by {noise:.1%} at most; while they ran the server entered the module, for "
          f"its timers, at most {entered:.3f} times a command\n")
    table(["command", "no module", f"{LOCKS:,} locks held", "ratio",
           f"no module, {WAITERS} idle clients", f"{WAITERS} clients waiting", "ratio"], rows)


def handoffs(program, module):
    """Instructions of a hand-off: the holder releases, asks again, the next one holds."""
    rows = []
    for number in (10, 1_000, 10_000):
        server = Counted(program, module, "--gpulock.events", "off")
        links = [Link(server.port) for _ in range(number + 1)]
        asks = [packed("GPULOCK.ACQUIRE", KEY, f"worker:{place:05}", "PX", 6_000_000,
                       "BLOCK", 0) for place in range(number + 1)]
        again = [packed("GPULOCK.RELEASE", KEY, f"worker:{place:05}") + ask
                 for place, ask in enumerate(asks)]
        for link, ask in zip(links, asks):
            link.send(ask)
        links[0].read()
        turn = 0

        def hand_on():
            nonlocal turn
            for _ in range(5_000):
                links[turn].send(again[turn])
                links[turn].read()
                turn = (turn + 1) % len(links)
                links[turn].read()

        server.call("PING")
        server.measure_idle()
        hand_on()
        instructions, seconds = server.spent(hand_on)
        rows.append((f"{number:,}", instructions / 5_000, server.idle * seconds / 5_000))
        for link in links:
            link.close()
        server.stop()
    print("A hand-off (RELEASE and ACQUIRE … BLOCK), instructions, one lock. What the clock asks for is "
          "in the first figure; the second is what the server spends in as much time when idle, which "
          "is no less than that.\n")
    table(["clients waiting", "all", "idle", "all, to 10"],
          [(number, f"{count:,.0f}", f"{idle:,.0f}", f"{count / rows[0][1]:.2f}")
           for number, count, idle in rows])


def calls(program, module):
    """Where the instructions of the pair go: the module's own code, what it calls, and the
    rest, which is the server's way to a command and back."""
    server = Counted(program, module, "--gpulock.events", "off")
    server.rounds([[TAKE, GIVE]] * WARM_UP)
    total, _ = server.spent(lambda: server.rounds([[TAKE, GIVE]] * PAIRS))
    own, callees, how_often = 0, collections.Counter(), collections.Counter()
    for caller, callee, function, often, cost in server.costs():
        if caller and function is None:
            own += cost
        elif caller and not callee:
            callees[function] += cost
            how_often[function] += often
    server.stop()
    others = total - own - sum(callees.values())
    rows = [("the server's way to two commands and back", "", others), ("the module's own code", "", own)]
    rows += [(f"`{callee}`", f"{how_often[callee] / PAIRS:.0f}", cost)
             for callee, cost in callees.most_common() if cost / PAIRS >= 20]
    rest = total - sum(cost for _, _, cost in rows)
    rows += [("smaller ones", "", rest), ("all", "", total)]
    table(["where", "times", "instructions"],
          [(where, times, f"{cost / PAIRS:,.0f}") for where, times, cost in rows])


PARTS = {part.__name__: part for part in (pairs, pools, bystanders, handoffs, calls)}


def main():
    if len(sys.argv) < 3 or not set(sys.argv[3:]) <= set(PARTS):
        sys.exit(__doc__)
    for name in sys.argv[3:] or ("pairs", "pools", "bystanders", "handoffs"):
        PARTS[name](*sys.argv[1:3])


if __name__ == "__main__":
    main()
