"""A credential provider of the client also applies to the connections of a lock outside of the
client's pool, while a wait or a session is in progress."""

import asyncio
import sys
import threading

import pytest
import redis
import redis.asyncio
import redis.credentials

import gpulock
import gpulock.asyncio
from gpulock._connection import follow_credentials
from gpulock._thread_connection import DedicatedConnection
from inspection import LOCK, inspect, waiting
from servers import PATIENCE_S, eventually, until

SESSION = "gpu_lock:session"
FIRST, SECOND = "first-user", "second-user"
PROVIDER = getattr(redis.credentials, "StreamingCredentialProvider", object)

streaming = pytest.mark.skipif(PROVIDER is object, reason="redis-py 5.3 and newer")


class Token:
    def __init__(self, user, password):
        self.user, self.password = user, password

    def try_get(self, claim):
        assert claim == "oid"
        return self.user

    def get_value(self):
        return self.password


class Provider(redis.credentials.CredentialProvider):
    def __init__(self, user):
        self.credentials = user, f"password of {user}"

    def get_credentials(self):
        return self.credentials


class StreamingProvider(PROVIDER):
    """Like the providers in use, it reports to a single function."""

    def __init__(self, user):
        self.credentials = user, f"password of {user}"

    def get_credentials(self):
        return self.credentials

    def on_next(self, callback):
        self._callback = callback

    def on_error(self, callback):
        pass

    def is_streaming(self):
        return True

    def rotate(self, user):
        self.credentials = user, f"password of {user}"
        return self._callback(Token(*self.credentials))


@pytest.fixture(params=["module", "plain"])
def admin(request, server, plain_server):
    with (server if request.param == "module" else plain_server).client() as client:
        yield from _with_users(client)


@pytest.fixture
def module_admin(server):
    with server.client() as client:
        yield from _with_users(client)


def _with_users(client):
    for user in FIRST, SECOND:
        passwords = [f"+password of {user}"]
        client.acl_setuser(
            user, enabled=True, reset=True, passwords=passwords, keys="*", channels="*"
        )
        client.execute_command("ACL SETUSER", user, "+@all")
    yield client
    client.acl_deluser(FIRST, SECOND)


def users(client):
    return [entry["user"] for entry in client.client_list() if entry["user"] in (FIRST, SECOND)]


def settings(client, provider):
    # Blocking commands last at most half of the timeout.
    port = client.connection_pool.connection_kwargs["port"]
    return {"port": port, "credential_provider": provider, "socket_timeout": 1}


@streaming
def test_waits_and_sessions_authenticate_again(module_admin):
    admin, provider = module_admin, StreamingProvider(FIRST)
    holder = gpulock.Lock(admin, LOCK, timeout=60)
    holder.acquire()
    with redis.Redis(**settings(admin, provider)) as client:
        tied = gpulock.Lock(client, SESSION, timeout=60, session=True)
        waiter = gpulock.Lock(client, LOCK, timeout=60, thread_local=False)
        tied.acquire()
        session = inspect(admin, SESSION)["session"]
        thread = threading.Thread(target=waiter.acquire, daemon=True)
        thread.start()
        eventually(lambda: waiting(admin) == 1)

        provider.rotate(SECOND)
        eventually(lambda: FIRST not in users(admin))
        admin.acl_deluser(FIRST)  # Closes the connections of the user.

        assert inspect(admin, SESSION)["session"] == session
        holder.release()
        thread.join(PATIENCE_S)
        assert waiter.owned()
        tied.ensure_held()
        waiter.release()
        tied.release()


@streaming
async def test_waits_and_sessions_of_tasks_authenticate_again(module_admin):
    admin, provider = module_admin, StreamingProvider(FIRST)
    holder = gpulock.Lock(admin, LOCK, timeout=60)
    holder.acquire()
    client = redis.asyncio.Redis(**settings(admin, provider))
    tied = gpulock.asyncio.Lock(client, SESSION, timeout=60, session=True)
    waiter = gpulock.asyncio.Lock(client, LOCK, timeout=60)
    await tied.acquire()
    session = inspect(admin, SESSION)["session"]
    acquiring = asyncio.create_task(waiter.acquire())
    await until(lambda: waiting(admin) == 1)

    await provider.rotate(SECOND)
    await until(lambda: FIRST not in users(admin))
    admin.acl_deluser(FIRST)

    assert inspect(admin, SESSION)["session"] == session
    holder.release()
    assert await acquiring
    await tied.ensure_held()
    await waiter.release()
    await tied.release()
    await client.connection_pool.disconnect()


def change_password(admin, provider):
    """As after a rotation that is not reported to the client."""
    admin.execute_command("ACL SETUSER", FIRST, "resetpass", ">changed")
    provider.credentials = FIRST, "changed"
    admin.execute_command("CLIENT KILL", "USER", FIRST, "SKIPME", "yes")


def test_new_connections_of_waits_and_sessions_use_a_changed_password(module_admin):
    admin, provider = module_admin, Provider(FIRST)
    holder = gpulock.Lock(admin, LOCK, timeout=60)
    holder.acquire()
    with redis.Redis(**settings(admin, provider)) as client:
        tied = gpulock.Lock(client, SESSION, timeout=60, session=True, grace=60)
        waiter = gpulock.Lock(client, LOCK, timeout=60, thread_local=False)
        tied.acquire()
        session = inspect(admin, SESSION)["session"]
        thread = threading.Thread(target=waiter.acquire, daemon=True)
        thread.start()
        eventually(lambda: waiting(admin) == 1)
        change_password(admin, provider)
        eventually(lambda: inspect(admin, SESSION)["session"] not in (session, None))
        eventually(lambda: waiting(admin) == 1)
        holder.release()
        thread.join(PATIENCE_S)
        assert waiter.owned()
        tied.ensure_held()
        waiter.release()
        tied.release()


async def test_new_connections_of_tasks_use_a_changed_password(module_admin):
    admin, provider = module_admin, Provider(FIRST)
    holder = gpulock.Lock(admin, LOCK, timeout=60)
    holder.acquire()
    client = redis.asyncio.Redis(**settings(admin, provider))
    tied = gpulock.asyncio.Lock(client, SESSION, timeout=60, session=True, grace=60)
    waiter = gpulock.asyncio.Lock(client, LOCK, timeout=60)
    await tied.acquire()
    session = inspect(admin, SESSION)["session"]
    acquiring = asyncio.create_task(waiter.acquire())
    await until(lambda: waiting(admin) == 1)
    change_password(admin, provider)
    # The pool of redis-py 5.0 does not notice that its connections were closed.
    await client.connection_pool.disconnect(inuse_connections=False)
    await until(lambda: inspect(admin, SESSION)["session"] not in (session, None))
    await until(lambda: waiting(admin) == 1)
    holder.release()
    assert await acquiring
    await tied.ensure_held()
    await waiter.release()
    await tied.release()
    await client.connection_pool.disconnect()


@streaming
def test_a_wait_without_the_module_keeps_the_callback_of_the_pool(admin):
    """redis-py makes the provider report to each new subscription only."""
    provider = StreamingProvider(FIRST)
    with redis.Redis(protocol=3, **settings(admin, provider)) as client:
        with gpulock.Lock(admin, LOCK, timeout=60):
            assert not gpulock.Lock(client, LOCK, timeout=60).acquire(blocking_timeout=0.3)
        provider.rotate(SECOND)
        eventually(lambda: users(admin) and FIRST not in users(admin))


@streaming
async def test_a_wait_of_a_task_without_the_module_keeps_the_callback_of_the_pool(admin):
    provider = StreamingProvider(FIRST)
    client = redis.asyncio.Redis(protocol=3, **settings(admin, provider))
    with gpulock.Lock(admin, LOCK, timeout=60):
        other = gpulock.asyncio.Lock(client, LOCK, timeout=60)
        assert not await other.acquire(blocking_timeout=0.3)
    await provider.rotate(SECOND)
    await until(lambda: users(admin) and FIRST not in users(admin))
    await client.connection_pool.disconnect()


@streaming
def test_a_new_token_can_arrive_while_other_threads_open_connections(server, monkeypatch):
    provider = StreamingProvider(FIRST)
    monkeypatch.setattr(redis.ConnectionPool, "re_auth_callback", lambda _pool, _token: None)
    pool = redis.ConnectionPool(port=server.port, credential_provider=provider)
    provider.on_next(lambda token: pool.re_auth_callback(token))
    is_rotating = True

    def follow():
        while is_rotating:
            connections = [DedicatedConnection(pool) for _ in range(200)]
            for connection in connections:
                follow_credentials(pool, connection)

    follow_credentials(pool, DedicatedConnection(pool))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=follow)
    thread.start()
    try:
        for _ in range(1000):
            provider.rotate(SECOND)
    finally:
        is_rotating = False
        thread.join()
        sys.setswitchinterval(interval)
