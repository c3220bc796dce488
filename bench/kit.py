"""What the benches share: a server under test, and a link to it. Python's library is enough."""

import atexit
import contextlib
import pathlib
import resource
import socket
import subprocess
import sys
import tempfile
import time


def packed(*words):
    """A command as the protocol has it."""
    words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    parts = [b"*%d\r\n" % len(words)]
    return b"".join(parts + [b"$%d\r\n%s\r\n" % (len(word), word) for word in words])


class Link:
    """A connection, one answer at a time."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answers = self.socket.makefile("rb")

    def send(self, data):
        self.socket.sendall(data)

    def call(self, *words):
        self.send(packed(*words))
        return self.read()

    def read(self):
        line = self.answers.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest
        if kind == b"$":
            return None if rest == b"-1" else self.answers.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return None if rest == b"-1" else [self.read() for _ in range(int(rest))]
        raise RuntimeError(line.decode() or "the server closed the connection")

    def close(self):
        self.answers.close()
        self.socket.close()


class Server:
    """A server on a free port, in a temporary folder, alone with what the bench does."""

    def __init__(self, program, module=None, *options, under=()):
        allow_many_files()
        self.folder = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.folder.name)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        load = ["--loadmodule", str(pathlib.Path(module).resolve())] if module else []
        under = [word.format(folder=self.folder.name) for word in under]
        with open(self.path / "log", "wb") as log:
            self.process = subprocess.Popen(
                [*under, program, "--port", str(self.port), "--dir", self.folder.name,
                 "--save", "", "--appendonly", "no", "--maxclients", "12000",
                 "--tcp-backlog", "4096", *load, *options],
                stdout=log, stderr=subprocess.STDOUT)
        atexit.register(self.process.kill)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.link = Link(self.port)
                break
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    sys.exit((self.path / "log").read_text() + f"{program} does not start")
                time.sleep(0.02)

    def call(self, *words):
        return self.link.call(*words)

    def info(self, section):
        lines = self.call("INFO", section).decode().split("\r\n")
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def version(self):
        info = self.info("server")
        name, version = next((name, info[f"{name}_version"]) for name in ("valkey", "redis")
                             if f"{name}_version" in info)
        return f"{name.capitalize()} {version}"

    def cpu_us(self):
        """CPU time of all its threads so far, user and system, in microseconds."""
        tasks = pathlib.Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e3

    def used_memory(self):
        """Once it stands still: buffers of idle clients are given back after some seconds."""
        time.sleep(7)
        before = None
        while True:
            now = int(self.info("memory")["used_memory"])
            if before is not None and abs(now - before) < 2_000:
                return now
            before = now
            time.sleep(1.5)

    def stop(self):
        self.process.terminate()
        self.process.wait()
        atexit.unregister(self.process.kill)
        self.folder.cleanup()


@contextlib.contextmanager
def serving(*arguments, **options):
    server = Server(*arguments, **options)
    try:
        yield server
    finally:
        server.stop()


def allow_many_files():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def need_files(number):
    """Ends the bench when so many files cannot be open."""
    allow_many_files()
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < number:
        sys.exit(f"needs `ulimit -n` of {number} or more")


def table(head, rows):
    """Prints a table in Markdown; the first column is text, the others figures."""
    print("| " + " | ".join(head) + " |")
    print("|---" + "|---:" * (len(head) - 1) + "|")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print(flush=True)
