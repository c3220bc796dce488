"""Starts a primary, a replica and a Sentinel, which fails over when the primary is killed."""

import subprocess
from contextlib import suppress
from pathlib import Path

import redis
import redis.sentinel

from servers import Server, eventually, free_port

NAME = "main"


class SentinelServers:
    """One primary and one replica, watched by one Sentinel."""

    def __init__(self, program, *, module=True):
        options = ["--repl-diskless-sync-delay", "0"]
        self.primary = Server(program, module=module, options=options)
        replica_of = ["--replicaof", f"127.0.0.1 {self.primary.port}"]
        self.replica = Server(program, module=module, options=options + replica_of)
        with self.replica.client() as client:
            eventually(lambda: client.info()["master_link_status"] == "up")
        self.port = free_port()
        config = Path(self.primary.folder, "sentinel.conf")
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\n"
            f"sentinel monitor {NAME} 127.0.0.1 {self.primary.port} 1\n"
            f"sentinel down-after-milliseconds {NAME} 500\n"
            f"sentinel failover-timeout {NAME} 5000\n"
        )
        self.process = subprocess.Popen(
            [program, str(config), "--sentinel"], stdout=subprocess.DEVNULL
        )
        eventually(self._knows_the_replica)

    def _knows_the_replica(self):
        with suppress(redis.ConnectionError):
            return self._state()["num-slaves"] == 1
        return False

    def _state(self):
        with redis.Redis(port=self.port) as client:
            return client.sentinel_master(NAME)

    def client(self, **settings):
        """A client of whichever server is the primary."""
        sentinel = redis.sentinel.Sentinel([("127.0.0.1", self.port)])
        return sentinel.master_for(NAME, **settings)

    def fail_over(self):
        """Kills the primary, and waits until the replica is the primary."""
        self.primary.kill()
        eventually(lambda: self._state()["port"] == self.replica.port)
        with self.replica.client() as client:
            eventually(lambda: client.info()["role"] == "master")

    def close(self):
        self.process.kill()
        self.process.wait()
        self.replica.close()
        self.primary.close()
