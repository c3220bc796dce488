#!/usr/bin/env python3
"""What a pair of commands costs the server, in instructions, counted by callgrind.

    bench/instructions.py SERVER MODULE

Instructions do not depend on the machine's mood: the same binaries give the same figure.
A pair takes a lock and gives it back, pipelined, so that what the server pays for a turn of
its loop is not counted with it; nobody waits. Needs
valgrind; Python's own library is enough for the rest.
"""

import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

PAIRS = 20_000
WARM_UP = 1_000
PIPELINE = 50
RELEASE = "if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end"
ACQUIRE = "return redis.call('set',KEYS[1],ARGV[1],'NX','PX',ARGV[2])"
KEY, OWNER = "gpu_lock:node7:0", "locked_by_transcribe:worker3:8f2c1a9b"
TAKE = ["GPULOCK.ACQUIRE", KEY, OWNER, "PX", "600000"]
GIVE = ["GPULOCK.RELEASE", KEY, OWNER]
SET = ["SET", KEY, OWNER, "NX", "PX", "600000"]


def packed(words):
    words = [str(word).encode() for word in words]
    parts = [b"*%d\r\n" % len(words)]
    return b"".join(parts + [b"$%d\r\n%s\r\n" % (len(word), word) for word in words])


class Server:
    """A server under callgrind, on a free port, in a temporary folder."""

    def __init__(self, program, module, *options):
        self.folder = tempfile.TemporaryDirectory()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.profile = pathlib.Path(self.folder.name, "profile")
        load = ["--loadmodule", module, *options] if module else []
        self.process = subprocess.Popen(
            ["valgrind", "--tool=callgrind", "--trace-children=yes", "-q",
             f"--callgrind-out-file={self.profile}", program, "--port", str(port),
             "--save", "", "--dir", self.folder.name, "--hz", "1", *load],
            stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.link = socket.create_connection(("127.0.0.1", port))
                break
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    sys.exit(f"{program} does not start under valgrind")
                time.sleep(0.05)
        self.answers = self.link.makefile("rb")

    def call(self, *words):
        self.link.sendall(packed(words))
        return self.read()

    def rounds(self, commands, number):
        """Sends the commands again and again, a pipeline at a time."""
        batch = b"".join(map(packed, commands)) * PIPELINE
        for _ in range(number // PIPELINE):
            self.link.sendall(batch)
            for _ in range(PIPELINE * len(commands)):
                self.read()

    def read(self):
        line = self.answers.readline()
        kind, rest = line[:1], line[1:].strip()
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b"$" and int(rest) >= 0:
            return self.answers.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.read() for _ in range(int(rest))]
        return rest

    def control(self, *options):
        subprocess.run(["callgrind_control", *options, str(self.process.pid)],
                       check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)

    def count(self, *commands):
        """Instructions of one round of the commands."""
        self.rounds(commands, WARM_UP)
        for old in self.profile.parent.glob("profile.*"):
            old.unlink()
        self.control("-z")
        self.rounds(commands, PAIRS)
        self.control("-d")
        dumps = sorted(self.profile.parent.glob("profile*"))
        text = "".join(dump.read_text() for dump in dumps)
        return sum(map(int, re.findall(r"^totals: (\d+)", text, re.M))) // PAIRS

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()


def main():
    program, module = sys.argv[1:3]
    server = Server(program, module, "gpulock.events", "off")
    version = re.search(r"(?:redis|valkey)_version:(\S+)", server.call("INFO", "server").decode())
    scripts = [server.call("SCRIPT", "LOAD", text).decode() for text in (ACQUIRE, RELEASE)]
    rows = [
        ("PING, PING", [["PING"], ["PING"]]),
        ("SET NX PX, DEL (checks no owner)", [SET, ["DEL", KEY]]),
        ("ACQUIRE, RELEASE, events off", [TAKE, GIVE]),
        ("SET NX PX, EVALSHA", [SET, ["EVALSHA", scripts[1], 1, KEY, OWNER]]),
        ("EVALSHA, EVALSHA", [["EVALSHA", scripts[0], 1, KEY, OWNER, 600000],
                              ["EVALSHA", scripts[1], 1, KEY, OWNER]]),
    ]
    figures = [(name, server.count(*commands)) for name, commands in rows]
    server.call("CONFIG", "SET", "gpulock.events", "release")
    figures.insert(3, ("ACQUIRE, RELEASE, events on, nobody listening", server.count(TAKE, GIVE)))
    server.call(*TAKE)
    others = [["SET", "k", "v"], ["GET", "k"], ["SET", "k", "v", "EX", "9"], ["EXPIRE", "k", "9"],
              ["DEL", "k"], ["INCR", "n"]]
    with_module = [server.count(words) for words in others]
    server.stop()
    server = Server(program, None)
    server.call(*SET)
    without = [server.count(words) for words in others]
    server.stop()

    native = figures[1][1]
    print(f"version {version[1]}, instructions, mean of {PAIRS} rounds\n")
    print("| pair | instructions | to the native pair |\n|---|---|---|")
    for name, count in figures:
        print(f"| {name} | {count:,} | {count / native:.2f} |")
    print("\n| other people's command | without | with the module, a lock held | ratio |\n|---|---|---|---|")
    for words, plain, loaded in zip(others, without, with_module):
        print(f"| {' '.join(words)} | {plain:,} | {loaded:,} | {loaded / plain:.3f} |")


if __name__ == "__main__":
    main()
