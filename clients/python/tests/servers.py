"""Starts servers for the tests, on free ports and in temporary folders.

SERVERS lists programs, or folders with a program ``server``; the default is the server on
PATH. GPULOCK_MODULE is the path of the module.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import redis

ROOT = Path(__file__).resolve().parents[3]
BUILT = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
MODULE = os.environ.get("GPULOCK_MODULE") or str(BUILT / "release/libgpulock.so")
PATIENCE_S = 30


def programs():
    """The server programs to test against, by display name."""
    listed = os.environ.get("SERVERS", "").split()
    if not listed:
        listed = [p for p in map(shutil.which, ("redis-server", "valkey-server")) if p][:1]
    found = {}
    for entry in map(Path, listed):
        path = entry / "server" if entry.is_dir() else entry
        found[entry.name if entry.is_dir() else path.name] = str(path)
    return found


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def eventually(condition, patience=PATIENCE_S):
    """Waits until the condition returns a true value, and returns that value."""
    until = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, "timed out waiting for the condition"
        time.sleep(0.01)


class Server:
    """A server process that can be killed, paused and restarted."""

    def __init__(self, program, *, module=True, options=()):
        self.program, self.module, self.options = program, module, list(options)
        self.port = free_port()
        self.folder = tempfile.mkdtemp(prefix="gpulock-python-")
        self.start()

    def start(self):
        command = [self.program, "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", self.folder, "--save", "", "--logfile", "log", *self.options]
        if self.module:
            command += ["--loadmodule", MODULE]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        eventually(self._is_ready)

    def _is_ready(self):
        assert self.process.poll() is None, Path(self.folder, "log").read_text()
        with suppress(redis.ConnectionError), self.client() as client:
            return client.ping()
        return False

    def client(self, **settings):
        return redis.Redis(host="127.0.0.1", port=self.port, **settings)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def restart(self):
        self.kill()
        self.start()

    def close(self):
        if self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
