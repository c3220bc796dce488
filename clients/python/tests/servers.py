"""Starts servers for the tests, on free ports and in temporary folders.

SERVERS lists programs, or folders with a program ``server``, separated by line breaks, colons
or spaces; the default is the server on PATH. GPULOCK_MODULE is the path of the module.
"""

import asyncio
import os
import random
import re
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
# Reserved for a service that is not in use, so that nothing listens on it.
CLOSED_PORT = 1


def programs():
    """The server programs to test against, by display name."""
    listed = []
    for part in re.split("[:\n]", os.environ.get("SERVERS", "")):
        # An existing path may contain spaces.
        listed += [part] if os.path.exists(part) else part.split()
    if not listed:
        listed = [p for p in map(shutil.which, ("redis-server", "valkey-server")) if p][:1]
    found = {}
    for entry in map(Path, listed):
        path = entry / "server" if entry.is_dir() else entry
        found[entry.name if entry.is_dir() else path.name] = str(path)
    return found


def free_port():
    """A port on which a server can listen.

    It is below the range from which the system takes the ports of other sockets, so that it
    stays free while a server restarts.
    """
    while True:
        port = random.randrange(12_000, 22_000)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def eventually(condition, patience=PATIENCE_S):
    """Waits until the condition returns a true value, and returns that value."""
    until = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, "timed out waiting for the condition"
        time.sleep(0.01)


class PortTakenError(Exception):
    """A test that runs at the same time has started a server on the same port."""


async def until(condition, patience=PATIENCE_S):
    """Like ``eventually``, without blocking the event loop."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "timed out waiting for the condition"
        await asyncio.sleep(0.01)


async def close(client):
    """Closes an asyncio client: redis-py 5.0.0 has no aclose yet."""
    await getattr(client, "aclose", client.close)()


class Server:
    """A server process that can be killed, paused and restarted."""

    def __init__(self, program, *, module=True, options=()):
        self.program, self.module, self.options = program, module, list(options)
        self.folder = tempfile.mkdtemp(prefix="gpulock-python-")
        while True:
            self.port = free_port()
            with suppress(PortTakenError):
                return self.start()

    def start(self):
        self._log.unlink(missing_ok=True)
        command = [self.program, "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", self.folder, "--save", "", "--logfile", "log", *self.options]
        if self.module:
            command += ["--loadmodule", MODULE]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        eventually(self._is_ready)

    @property
    def _log(self):
        return Path(self.folder, "log")

    def _is_ready(self):
        if self.process.poll() is not None:
            log = self._log.read_text()
            if "Address already in use" in log:
                raise PortTakenError(self.port)
            raise AssertionError(log)
        with suppress(redis.ConnectionError), self.client() as client:
            return client.ping() and client.info()["process_id"] == self.process.pid
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
