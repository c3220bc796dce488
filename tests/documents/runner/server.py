"""The server of a session, and what it has in common with the others."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import redis

REPOSITORY = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Programs:
    """What the documents are tested with. `driver` is the folder of the stub of the driver."""

    server: Path
    cli: Path
    release: Path
    driver: Path


_ports: set[int] = set()


def free_port() -> int:
    """A port that no other session has got."""
    while True:
        with socket.socket() as chosen:
            chosen.bind(("127.0.0.1", 0))
            port: int = chosen.getsockname()[1]
        if port not in _ports:
            _ports.add(port)
            return port


class Server:
    """A server with the module and redis.conf, as `make run` starts it."""

    def __init__(self, programs: Programs, folder: Path) -> None:
        self._folder = folder.resolve()
        settings = (REPOSITORY / "redis.conf").read_text()
        module = f'loadmodule "{programs.release}/libgpulock.so"'
        settings = re.sub(r"^loadmodule .*", module, settings, flags=re.MULTILINE)
        settings = re.sub(r"^dir .*", f'dir "{self._folder}"', settings, flags=re.MULTILINE)
        (folder / "redis.conf").write_text(settings)
        # Another process may take the port before the server does.
        for _attempt in range(3):
            self.port = free_port()
            self._process = subprocess.Popen(
                [programs.server, folder / "redis.conf", "--port", str(self.port)],
                stdout=(folder / "server.log").open("w"),
                stderr=subprocess.STDOUT,
                cwd=folder,
            )
            if self._started():
                return
        log = (folder / "server.log").read_text()
        raise RuntimeError(f"{programs.server} does not start:\n{log}")

    def _started(self) -> bool:
        end = time.monotonic() + 10
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(redis.RedisError), redis.Redis(port=self.port) as client:
                # Another server may have taken the port.
                if client.config_get("dir")["dir"] == str(self._folder):
                    client.execute_command("GPULOCK.STATS")
                    return True
            time.sleep(0.01)
        self.stop()
        return False

    def blocked_clients(self) -> int:
        with redis.Redis(port=self.port) as client:
            return int(client.info("clients")["blocked_clients"])

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def stop_processes_with(variable: str) -> None:
    """Kills the processes that have `NAME=VALUE` in their environment."""
    wanted = variable.encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    os.kill(int(folder.name), signal.SIGKILL)
