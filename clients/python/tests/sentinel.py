"""A primary, its replica, and a Sentinel that monitors them. The Sentinel promotes the replica
only when a test asks for it, not because the machine is slow."""

import shutil
import subprocess
import tempfile
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import redis
import redis.asyncio.sentinel
import redis.sentinel

from servers import Server, eventually, free_port

NAME = "main"
NEVER_MS = 3_600_000


class SentinelServers:
    """``primary`` and ``replica`` are what the servers were at first."""

    def __init__(self, program, *, module=True):
        options = ["--repl-diskless-sync-delay", "0"]
        self.primary = Server(program, module=module, options=options)
        replica_of = ["--replicaof", f"127.0.0.1 {self.primary.port}"]
        self.replica = Server(program, module=module, options=options + replica_of)
        with self.replica.client() as client:
            eventually(lambda: client.info()["master_link_status"] == "up")
        self.port = free_port()
        self._folder = tempfile.mkdtemp(prefix="gpulock-sentinel-")
        config = Path(self._folder, "sentinel.conf")
        config.write_text(
            f"port {self.port}\n"
            "bind 127.0.0.1\n"
            f"dir {self._folder}\n"
            f"logfile {self._folder}/log\n"
            f"sentinel monitor {NAME} 127.0.0.1 {self.primary.port} 1\n"
            f"sentinel down-after-milliseconds {NAME} {NEVER_MS}\n"
            f"sentinel failover-timeout {NAME} 1000\n"
        )
        self.process = subprocess.Popen(
            [program, str(config), "--sentinel"], stdout=subprocess.DEVNULL
        )
        eventually(self._is_ready)
        # Query the servers twice a second, and never pause on a busy machine.
        for name, ms in (
            ("INFO-PERIOD", 500),
            ("PUBLISH-PERIOD", 100),
            ("TILT-TRIGGER", NEVER_MS),
        ):
            self._call("DEBUG", name, ms)
        eventually(lambda: self._state()["num-slaves"] == "1")

    def client(self, **settings):
        """A client of the primary."""
        sentinel = redis.sentinel.Sentinel([("127.0.0.1", self.port)], socket_timeout=5)
        return sentinel.master_for(NAME, **settings)

    @asynccontextmanager
    async def asyncio_client(self, **settings):
        sentinel = redis.asyncio.sentinel.Sentinel([("127.0.0.1", self.port)], socket_timeout=5)
        client = sentinel.master_for(NAME, **settings)
        yield client
        for closing in client, *sentinel.sentinels:
            await closing.connection_pool.disconnect()

    def switch_roles(self):
        """Swaps the roles of the running servers."""

        def done():
            state = self._state()
            begun = "failover_in_progress" in state["flags"]
            if state["port"] != str(self.replica.port) and not begun:
                # Fails while the replica has not replied recently.
                with suppress(redis.ResponseError):
                    self._call("FAILOVER", NAME)
            return state["port"] == str(self.replica.port) and not begun

        eventually(done)

    def fail_over(self):
        """Kills the primary, and waits until the replica has been promoted."""
        self.primary.kill()
        promoted = str(self.replica.port)

        def done():
            state = self._state()
            begun = state["port"] == promoted or "failover_in_progress" in state["flags"]
            # Only until the failover begins: the replica might be considered down as well.
            down_after = NEVER_MS if begun else 500
            self._call("SET", NAME, "down-after-milliseconds", down_after)
            return state["port"] == promoted and "failover_in_progress" not in state["flags"]

        eventually(done)

    def close(self):
        self.process.kill()
        self.process.wait()
        self.primary.close()
        self.replica.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _is_ready(self):
        with suppress(redis.ConnectionError):
            return self._state()

    def _state(self):
        reply = self._call("MASTER", NAME)
        if not isinstance(reply, dict):
            reply = dict(zip(reply[::2], reply[1::2]))
        return {str(name): str(value) for name, value in reply.items()}

    def _call(self, *command):
        client = redis.Redis(host="127.0.0.1", port=self.port, decode_responses=True)
        # Not a command that redis-py knows: it would parse the reply.
        client.response_callbacks.clear()
        with client:
            return client.execute_command("SENTINEL", *command)
