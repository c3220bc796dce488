"""TCP, Unix sockets, TLS and URLs: waits and sessions work, a forked child does not disturb its
parent's connections, and no connection is left open."""

import asyncio
import gc
import os
import subprocess
import threading
from pathlib import Path

import pytest
import redis
import redis.asyncio

import gpulock
import gpulock.asyncio
from inspection import LOCK, inspect, waiting
from servers import PATIENCE_S, Server, eventually, free_port, until

SESSION = "gpu_lock:session"


class EveryKind:
    """A server that listens in all ways."""

    def __init__(self, program, folder):
        self.certificate, self.tls_port = folder / "server.crt", free_port()
        self.socket = folder / "server.sock"
        command = "openssl req -x509 -newkey rsa:2048 -noenc -days 1 -subj /CN=localhost"
        command += " -addext subjectAltName=IP:127.0.0.1 -keyout server.key -out server.crt"
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
        options = {
            "unixsocket": self.socket,
            "tls-port": self.tls_port,
            "tls-cert-file": self.certificate,
            "tls-key-file": folder / "server.key",
            "tls-auth-clients": "no",
        }
        arguments = [
            text for name, value in options.items() for text in (f"--{name}", str(value))
        ]
        self.server = Server(program, options=arguments)

    def client(self, kind, module=redis, **settings):
        if kind == "unix":
            return module.Redis(unix_socket_path=str(self.socket), **settings)
        if kind == "tls":
            tls = {"ssl": True, "ssl_ca_certs": str(self.certificate)}
            return module.Redis(host="127.0.0.1", port=self.tls_port, **tls, **settings)
        if kind == "tls URL":
            url = f"rediss://127.0.0.1:{self.tls_port}/0?ssl_ca_certs={self.certificate}"
            return module.Redis.from_url(url, **settings)
        return module.Redis(host="127.0.0.1", port=self.server.port, **settings)


@pytest.fixture(scope="module")
def listening(program, tmp_path_factory):
    # The path of a Unix socket is limited to about a hundred characters.
    listening = EveryKind(program, Path(tmp_path_factory.mktemp("s")))
    yield listening
    listening.server.close()


@pytest.fixture
def admin(listening):
    with listening.server.client() as client:
        client.flushall()
        yield client


@pytest.fixture(params=["tcp", "unix", "tls", "tls URL"])
def kind(request):
    return request.param


def connections(admin):
    return len(admin.client_list())


class TestThreads:
    @pytest.fixture
    def client(self, listening, kind, admin):
        with listening.client(kind) as client:
            client.ping()
            yield client

    def test_a_wait_and_a_session(self, client, admin):
        before = connections(admin)
        tied = gpulock.Lock(client, SESSION, timeout=60, session=True)
        waiter = gpulock.Lock(client, LOCK, timeout=60, thread_local=False)
        with gpulock.Lock(client, LOCK, timeout=60), tied:
            thread = threading.Thread(target=waiter.acquire, daemon=True)
            thread.start()
            eventually(lambda: waiting(admin) == 1)
            assert inspect(admin, SESSION)["session"]
        thread.join(PATIENCE_S)
        waiter.release()
        eventually(lambda: connections(admin) <= before + 1)
        assert admin.dbsize() == 0

    def test_a_child_does_not_disturb_its_parent(self, client, admin):
        tied = gpulock.Lock(client, SESSION, timeout=4, session=True, renew=True)
        waiter = gpulock.Lock(client, LOCK, timeout=60, thread_local=False)
        with gpulock.Lock(admin, LOCK, timeout=60), tied:
            session = inspect(admin, SESSION)["session"]
            thread = threading.Thread(target=waiter.acquire, daemon=True)
            thread.start()
            eventually(lambda: waiting(admin) == 1)
            waiting_client = inspect(admin)["waiters"][0]
            if not os.fork():
                try:
                    del tied, waiter
                    gc.collect()
                finally:
                    os._exit(0)
            os.wait()
            # It is renewed on the connection of the session.
            calls = _extend_calls(admin)
            eventually(lambda: _extend_calls(admin) > calls)
            assert inspect(admin, SESSION)["session"] == session
            assert _client_of(inspect(admin)["waiters"][0]) == _client_of(waiting_client)
        thread.join(PATIENCE_S)
        waiter.release()

    def test_errors_leave_no_connection(self, client, admin):
        before = connections(admin)
        admin.rpush("list", 1)
        with pytest.raises(redis.ResponseError):
            gpulock.Lock(client, "list", timeout=60, session=True).acquire()
        admin.config_set("gpulock.max-waiters", 0)
        try:
            with gpulock.Lock(admin, LOCK, timeout=60), pytest.raises(redis.ResponseError):
                gpulock.Lock(client, LOCK, timeout=60).acquire(blocking_timeout=1)
        finally:
            admin.config_set("gpulock.max-waiters", 10_000)
        eventually(lambda: connections(admin) <= before)


class TestTasks:
    @pytest.fixture
    async def client(self, listening, kind, admin):
        client = listening.client(kind, redis.asyncio)
        await client.ping()
        yield client
        await client.connection_pool.disconnect()

    async def test_a_wait_and_a_session(self, client, admin):
        before = connections(admin)
        tied = gpulock.asyncio.Lock(client, SESSION, timeout=60, session=True)
        waiter = gpulock.asyncio.Lock(client, LOCK, timeout=60)
        async with gpulock.asyncio.Lock(client, LOCK, timeout=60), tied:
            acquiring = asyncio.create_task(waiter.acquire())
            await until(lambda: waiting(admin) == 1)
            assert inspect(admin, SESSION)["session"]
        await acquiring
        await waiter.release()
        await until(lambda: connections(admin) <= before + 1)
        assert admin.dbsize() == 0

    async def test_a_child_does_not_disturb_its_parent(self, client, admin):
        tied = gpulock.asyncio.Lock(client, SESSION, timeout=4, session=True, renew=True)
        waiter = gpulock.asyncio.Lock(client, LOCK, timeout=60)
        async with tied:
            with gpulock.Lock(admin, LOCK, timeout=60):
                session = inspect(admin, SESSION)["session"]
                acquiring = asyncio.create_task(waiter.acquire())
                await until(lambda: waiting(admin) == 1)
                waiting_client = inspect(admin)["waiters"][0]
                if not os.fork():
                    try:
                        # What garbage collection does to a TLS connection.
                        for connection in gpulock._asyncio_connection._dedicated_connections:
                            connection._connection._writer.close()
                    finally:
                        os._exit(0)
                os.wait()
                calls = _extend_calls(admin)
                await until(lambda: _extend_calls(admin) > calls)
                assert inspect(admin, SESSION)["session"] == session
                assert _client_of(inspect(admin)["waiters"][0]) == _client_of(waiting_client)
            await acquiring
            await waiter.release()

    async def test_errors_leave_no_connection(self, client, admin):
        before = connections(admin)
        admin.rpush("list", 1)
        with pytest.raises(redis.ResponseError):
            await gpulock.asyncio.Lock(client, "list", timeout=60, session=True).acquire()
        with gpulock.Lock(admin, LOCK, timeout=60):
            for session in False, True:
                lock = gpulock.asyncio.Lock(client, LOCK, timeout=60, session=session)
                acquiring = asyncio.create_task(lock.acquire())
                await until(lambda: waiting(admin) == 1)
                acquiring.cancel()
                await asyncio.wait({acquiring})
                assert acquiring.cancelled()
        await until(lambda: connections(admin) <= before + 1)


def _extend_calls(admin):
    counts = {name.upper(): value for name, value in admin.info("commandstats").items()}
    return counts.get("CMDSTAT_GPULOCK.EXTEND", {"calls": 0})["calls"]


def _client_of(waiter):
    if isinstance(waiter, list):
        waiter = dict(zip(waiter[::2], waiter[1::2]))
    return waiter[b"client"]
