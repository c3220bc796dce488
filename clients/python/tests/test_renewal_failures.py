"""Lost replies, timeouts and role changes while a lock is renewed: the hold outlives them if
the server does, and a loss is reported in time if not."""

import asyncio
import signal
import threading
import time

import pytest
import redis
import redis.asyncio

import gpulock
import gpulock.asyncio
from gpulock import _renewal
from inspection import LOCK, inspect, stats
from proxy import Proxy
from reply_dropping_proxy import ReplyDroppingProxy
from servers import PATIENCE_S, close, eventually, until

EXTEND = b"GPULOCK.EXTEND"
INSPECT = b"GPULOCK.INSPECT"


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


@pytest.fixture
def proxy(server):
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


def extends(client):
    return stats(client)["extends"]


def connections(client):
    return {entry["id"] for entry in client.client_list()}


class TestLostReplies:
    """The server is well, and a reply does not arrive."""

    @pytest.mark.parametrize(
        ("socket_timeout", "session"), [(None, False), (None, True), (5, False), (0.1, True)]
    )
    def test_a_silent_connection_does_not_lose_the_lock(
        self, proxy, client, socket_timeout, session
    ):
        settings = {"socket_timeout": socket_timeout, "socket_connect_timeout": None}
        with redis.Redis(port=proxy.port, **settings) as own:
            lock = gpulock.Lock(own, LOCK, timeout=6, renew=True, session=session)
            lock.acquire()
            token = lock.token
            eventually(lambda: extends(client) > 0)
            proxy.silence_connections()
            before = extends(client)
            eventually(lambda: extends(client) > before + 1)
            assert not lock.lost.is_set()
            assert lock.token == token
            if session:
                eventually(lambda: inspect(client)["session"])
            own.connection_pool.disconnect()
            lock.release()

    @pytest.mark.parametrize(
        ("socket_timeout", "session"), [(None, True), (5, False), (5, True), (0.1, False)]
    )
    async def test_a_silent_connection_does_not_lose_the_lock_of_a_task(
        self, proxy, client, socket_timeout, session
    ):
        own = redis.asyncio.Redis(port=proxy.port, socket_timeout=socket_timeout)
        lock = gpulock.asyncio.Lock(own, LOCK, timeout=6, renew=True, session=session)
        await lock.acquire()
        await until(lambda: extends(client) > 0)
        proxy.silence_connections()
        before = extends(client)
        await until(lambda: extends(client) > before + 1)
        assert not lock.lost.is_set()
        await own.connection_pool.disconnect()
        await lock.release()
        await close(own)

    @pytest.mark.parametrize("pattern", [EXTEND, INSPECT, b"PTTL"])
    def test_a_reply_lost_with_its_connection_does_not_lose_the_lock(
        self, server, client, pattern
    ):
        proxy = ReplyDroppingProxy(server.port, pattern)
        settings = {"socket_timeout": None, "retry": None}
        with redis.Redis(port=proxy.port, **settings) as own:
            lock = gpulock.Lock(own, LOCK, timeout=6, renew=True)
            lock.acquire()
            eventually(lambda: proxy.has_dropped)
            before = extends(client)
            eventually(lambda: extends(client) > before + 1)
            assert not lock.lost.is_set()
            lock.release()
        proxy.close()

    def test_a_late_reply_is_not_taken_for_that_of_another_call(self, own_server):
        """The server is paused for longer than the timeout of a call."""
        with own_server.client(socket_timeout=None) as client:
            locks = [
                gpulock.Lock(client, LOCK, timeout=6, renew=True, session=True),
                gpulock.Lock(client, "other", timeout=6, renew=True),
            ]
            for lock in locks:
                lock.acquire()
            for _ in range(2):
                before = extends(client)
                own_server.process.send_signal(signal.SIGSTOP)
                time.sleep(1.5)
                own_server.process.send_signal(signal.SIGCONT)
                eventually(lambda before=before: extends(client) > before + 3)
            assert inspect(client)["session"]
            for lock in locks:
                assert not lock.lost.is_set()
                lock.release()


class TestSlowLinks:
    """Connecting and a renewal take several round trips each."""

    def test_a_lock_is_renewed_over_a_link_with_latency(self, server):
        proxy = Proxy(server.port, round_trip_s=0.1)
        with redis.Redis(port=proxy.port) as own:
            lock = gpulock.Lock(own, LOCK, timeout=3, renew=True)
            lock.acquire()
            assert not lock.lost.wait(4)
            lock.release()
        proxy.close()

    async def test_a_tasks_lock_is_renewed_over_a_link_with_latency(self, server):
        proxy = Proxy(server.port, round_trip_s=0.1)
        own = redis.asyncio.Redis(port=proxy.port)
        lock = gpulock.asyncio.Lock(own, LOCK, timeout=3, renew=True)
        await lock.acquire()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(lock.lost.wait(), 4)
        await lock.release()
        await own.connection_pool.disconnect()
        proxy.close()

    def test_a_pool_of_many_locks_is_renewed_over_a_link_with_latency(self, server):
        names = [f"{{node}}:gpu:{i}" for i in range(8)]
        proxy = Proxy(server.port, round_trip_s=0.04)
        with redis.Redis(port=proxy.port) as own:
            pool = gpulock.Pool(own, names, n=8, timeout=3, renew=True)
            pool.acquire()
            assert not pool.lost.wait(4)
            pool.release()
        proxy.close()


class TestStoppedServer:
    @pytest.mark.parametrize("session", [False, True])
    @pytest.mark.parametrize("socket_timeout", [None, 5])
    def test_a_loss_is_reported_before_the_lease_expires(
        self, own_server, session, socket_timeout
    ):
        settings = {"socket_timeout": socket_timeout, "socket_connect_timeout": None}
        with own_server.client(**settings) as client:
            lock = gpulock.Lock(client, LOCK, timeout=6, renew=True, session=session)
            lock.acquire()
            eventually(lambda: extends(client) > 0)
            own_server.process.send_signal(signal.SIGSTOP)
            try:
                stopped = time.monotonic()
                assert lock.lost.wait(PATIENCE_S)
                assert time.monotonic() - stopped < 6, "reported after the lease expired"
            finally:
                own_server.process.send_signal(signal.SIGCONT)

    async def test_a_task_learns_of_a_loss_before_the_lease_expires(self, own_server):
        own = redis.asyncio.Redis(port=own_server.port, socket_timeout=None)
        lock = gpulock.asyncio.Lock(own, LOCK, timeout=6, renew=True, session=True)
        await lock.acquire()
        await asyncio.sleep(0.5)
        own_server.process.send_signal(signal.SIGSTOP)
        try:
            stopped = time.monotonic()
            await asyncio.wait_for(lock.lost.wait(), PATIENCE_S)
            assert time.monotonic() - stopped < 6, "reported after the lease expired"
        finally:
            own_server.process.send_signal(signal.SIGCONT)
        await own.connection_pool.disconnect()
        await lock.release()
        await close(own)


class TestDefaultLease:
    """Without ``timeout``, only the server knows the length of the lease."""

    @pytest.mark.parametrize("session", [False, True])
    def test_a_server_that_never_reports_it_is_a_loss(self, proxy, monkeypatch, session):
        monkeypatch.setattr(_renewal, "ASSUMED_LEASE_S", 1.0)
        with redis.Redis(port=proxy.port, socket_timeout=1) as own:
            lock = gpulock.Lock(own, LOCK, session=session, grace=60 if session else 0)
            lock.acquire()
            proxy.refuse()
            assert lock.lost.wait(PATIENCE_S)
            proxy.refuse(False)
            lock.release()

    async def test_a_server_that_never_reports_it_is_a_loss_of_a_task(self, proxy, monkeypatch):
        monkeypatch.setattr(_renewal, "ASSUMED_LEASE_S", 1.0)
        own = redis.asyncio.Redis(port=proxy.port, socket_timeout=1)
        lock = gpulock.asyncio.Lock(own, LOCK)
        await lock.acquire()
        proxy.refuse()
        await asyncio.wait_for(lock.lost.wait(), PATIENCE_S)
        proxy.refuse(False)
        # The pool of redis-py 5.0 does not notice that its connections were closed.
        await own.connection_pool.disconnect()
        await lock.release()
        await own.connection_pool.disconnect()

    @pytest.mark.parametrize("settings", [{}, {"renew": False, "on_lost": lambda _: None}])
    def test_the_reported_length_counts(self, own_server, monkeypatch, settings):
        monkeypatch.setattr(_renewal, "ASSUMED_LEASE_S", 0.3)
        with own_server.client() as client:
            client.config_set("gpulock.default-lease", 3000)
            lock = gpulock.Lock(client, LOCK, **settings)
            lock.acquire()
            begin = time.monotonic()
            is_renewed = settings.get("renew", True)
            assert lock.lost.wait(4 if is_renewed else PATIENCE_S) != is_renewed
            assert time.monotonic() - begin > 2
            lock.release()


class TestLosses:
    """Without ``renew`` too, a loss is noticed within about a second."""

    @pytest.mark.parametrize("settings", [{"session": True}, {"on_lost": lambda _: None}])
    @pytest.mark.parametrize(
        "command", [["FLUSHALL"], ["DEL", LOCK], ["GPULOCK.FORCERELEASE", LOCK]]
    )
    def test_a_removed_lock_is_reported_soon(self, client, settings, command):
        lock = gpulock.Lock(client, LOCK, timeout=60, **settings)
        lock.acquire()
        client.execute_command(*command)
        assert lock.lost.wait(PATIENCE_S)
        lock.local.token = None

    async def test_a_removed_lock_is_reported_to_a_task(self, server, client):
        own = redis.asyncio.Redis(port=server.port)
        lock = gpulock.asyncio.Lock(own, LOCK, timeout=60, session=True)
        await lock.acquire()
        client.flushall()
        await asyncio.wait_for(lock.lost.wait(), PATIENCE_S)
        await close(own)

    def test_a_lease_that_another_client_shortens_is_renewed(self, client):
        with gpulock.Lock(client, LOCK, timeout=600, renew=True) as lock:
            client.pexpire(LOCK, 5_000)
            eventually(lambda: client.pttl(LOCK) > 60_000)
            assert not lock.lost.is_set()


class TestRoleChange:
    """The server is a replica for a while, and forgets the sessions. Connections stay open."""

    @pytest.mark.parametrize("renew", [False, True])
    def test_a_session_is_tied_again(self, own_server, renew):
        with own_server.client() as client:
            lock = gpulock.Lock(client, LOCK, timeout=60, session=True, renew=renew)
            lock.acquire()
            client.execute_command("REPLICAOF", "127.0.0.1", 1)
            client.execute_command("REPLICAOF", "NO", "ONE")
            assert inspect(client)["session"] is None
            session = eventually(lambda: inspect(client)["session"])
            assert not lock.lost.is_set()
            lock.ensure_held()
            # The hold ends with the session, as before.
            client.client_kill_filter(_id=session)
            eventually(lambda: not client.exists(LOCK))
            assert lock.lost.wait(PATIENCE_S)

    async def test_a_tasks_session_is_tied_again(self, own_server):
        own = redis.asyncio.Redis(port=own_server.port)
        with own_server.client() as client:
            lock = gpulock.asyncio.Lock(own, LOCK, timeout=60, session=True)
            await lock.acquire()
            client.execute_command("REPLICAOF", "127.0.0.1", 1)
            client.execute_command("REPLICAOF", "NO", "ONE")
            await until(lambda: inspect(client)["session"])
            assert not lock.lost.is_set()
            await lock.release()
        await close(own)

    def test_the_session_is_tied_after_a_long_time_as_replica(self, own_server):
        with own_server.client() as client:
            lock = gpulock.Lock(client, LOCK, timeout=10, session=True, renew=True)
            lock.acquire()
            client.execute_command("REPLICAOF", "127.0.0.1", 1)
            eventually(lambda: client.info("errorstats").get("errorstat_READONLY"))
            client.execute_command("REPLICAOF", "NO", "ONE")
            eventually(lambda: inspect(client)["session"])
            assert not lock.lost.is_set()
            lock.release()

    def test_a_lock_that_was_lost_is_not_acquired_again(self, own_server):
        with own_server.client() as client:
            lock = gpulock.Lock(client, LOCK, timeout=10, session=True, renew=True)
            lock.acquire()
            client.execute_command("REPLICAOF", "127.0.0.1", 1)
            client.execute_command("REPLICAOF", "NO", "ONE")
            client.delete(LOCK)
            assert lock.lost.wait(PATIENCE_S)
            assert not client.exists(LOCK)


class TestLimits:
    @pytest.mark.parametrize("renew", [False, True])
    def test_the_end_of_a_limited_hold_is_reported_in_time(self, own_server, renew):
        reports = []

        def on_lost(_loss):
            reports.append((time.monotonic(), client.get(LOCK)))

        with own_server.client() as client:
            client.config_set("gpulock.max-hold", 4000)
            lock = gpulock.Lock(client, LOCK, timeout=600, renew=renew, on_lost=on_lost)
            lock.acquire()
            begin = time.monotonic()
            ((at, value),) = eventually(lambda: reports)
            assert value == lock.owner
            assert 2 < at - begin < 4

    def test_a_user_without_inspect_can_renew_and_keeps_the_session(self, own_server):
        with own_server.client() as client:
            client.execute_command(
                "ACL", "SETUSER", "worker", "on", ">pw", "~*", "&*", "+@all", "-gpulock.inspect"
            )
            own = own_server.client(username="worker", password="pw")
            lock = gpulock.Lock(own, LOCK, timeout=3, session=True, renew=True)
            lock.acquire()
            eventually(lambda: extends(client) > 0)
            client.execute_command("REPLICAOF", "127.0.0.1", 1)
            client.execute_command("REPLICAOF", "NO", "ONE")
            eventually(lambda: inspect(client)["session"])
            assert not lock.lost.is_set()
            denied = [entry["count"] for entry in client.acl_log()]
            assert denied == [1], "each check is recorded in the server's ACL LOG"
            lock.release()
            own.close()


class TestConnections:
    def test_a_short_hold_opens_no_connection(self, client):
        with gpulock.Lock(client, LOCK, timeout=60, renew=True):
            pass
        before = client.info("stats")["total_connections_received"]
        for _ in range(3):
            with gpulock.Lock(client, LOCK, timeout=60, renew=True):
                pass
        assert client.info("stats")["total_connections_received"] == before

    def test_the_release_closes_the_connection_of_the_renewer(self, client):
        before = connections(client)
        lock = gpulock.Lock(client, LOCK, timeout=1.5, renew=True)
        lock.acquire()
        opened = eventually(lambda: connections(client) - before)
        lock.release()
        eventually(lambda: not opened & connections(client))

    def test_a_pool_without_free_connections_does_not_stop_the_renewal(self, server, client):
        with server.client(max_connections=1) as own:
            lock = gpulock.Lock(own, LOCK, timeout=1.5, renew=True)
            lock.acquire()
            blocked = threading.Thread(target=own.blpop, args=("nothing", 4))
            blocked.start()
            before = extends(client)
            eventually(lambda: extends(client) > before + 2)
            assert not lock.lost.is_set()
            blocked.join()
            lock.release()
