"""Shared lock objects, errors during renewal, interrupted calls, lost replies, and exhausted
connection pools."""

import asyncio
import gc
import os
import signal
import threading
import time
import weakref

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, LockError, LockNotOwnedError
from redis.retry import Retry

import gpulock
import gpulock.asyncio
from inspection import LOCK, inspect, stats, waiting
from proxy import Proxy
from reply_dropping_proxy import ReplyDroppingProxy
from servers import PATIENCE_S, Server, close, eventually, until

RETRIES = {"retry": Retry(NoBackoff(), 3), "retry_on_error": [ConnectionError]}
ASYNC_RETRIES = {**RETRIES, "retry": AsyncRetry(NoBackoff(), 3)}


class StopWorkError(Exception):
    """Raised by a signal at any point, like Celery's SoftTimeLimitExceeded."""


@pytest.fixture
def proxy(server):
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def interrupts():
    """Makes SIGALRM raise in the main thread."""

    def interrupt(_signal, _frame):
        raise StopWorkError

    before = signal.signal(signal.SIGALRM, interrupt)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def in_thread(function, *args):
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread


def acquire_calls(client):
    """The number of ACQUIRE calls that the server has executed."""
    stats = {name.upper(): counts for name, counts in client.info("commandstats").items()}
    return stats["CMDSTAT_GPULOCK.ACQUIRE"]["calls"]


def delay_reply(client, command, received, resume):
    """Makes the client hold back the reply to one command until ``resume`` is set."""
    base = client.connection_pool.connection_class

    class DelayingConnection(base):
        def send_command(self, *args, **settings):
            self.delays_reply = args[0] == command
            super().send_command(*args, **settings)

        def read_response(self, *args, **settings):
            reply = super().read_response(*args, **settings)
            if getattr(self, "delays_reply", False):
                self.delays_reply = False
                received.set()
                resume.wait(PATIENCE_S)
            return reply

    client.connection_pool.connection_class = DelayingConnection
    return client


class TestSharedLockObjects:
    def test_a_release_does_not_end_the_next_threads_hold(self, server, client):
        received, resume = threading.Event(), threading.Event()
        own = delay_reply(server.client(), "GPULOCK.RELEASE", received, resume)
        lock = gpulock.Lock(own, LOCK, timeout=60, renew=True, thread_local=False)
        lock.acquire()
        releasing = in_thread(lock.release)
        assert received.wait(PATIENCE_S)
        assert lock.acquire()
        held = lock.owner
        resume.set()
        releasing.join()
        assert lock.owner == held == client.get(LOCK)
        client.execute_command("GPULOCK.FORCERELEASE", LOCK)
        with pytest.raises(LockNotOwnedError):
            lock.ensure_held()
        own.close()

    async def test_a_release_does_not_end_the_next_tasks_hold(self, aclient, server):
        lock = gpulock.asyncio.Lock(aclient, LOCK, timeout=60, renew=True)
        holders = 0

        async def work():
            nonlocal holders
            for _ in range(20):
                await lock.acquire()
                holders += 1
                assert holders == 1
                await asyncio.sleep(0)
                holders -= 1
                await lock.release()

        await asyncio.gather(*(work() for _ in range(3)))
        assert lock.owner is None
        with server.client() as watcher:
            assert not watcher.exists(LOCK)

    def test_a_loss_applies_to_its_own_hold_only(self, client):
        lock = gpulock.Lock(client, LOCK, timeout=60)
        lock.acquire()
        old = lock.lost
        client.delete(LOCK)
        with pytest.raises(LockNotOwnedError):
            lock.reacquire()
        with pytest.raises(LockNotOwnedError):
            lock.release()
        with lock:
            assert old.is_set()
            assert not lock.lost.is_set()
            lock.ensure_held()


class TestRenewalErrors:
    def test_renewal_works_without_permission_for_inspect(self, server, client):
        client.acl_setuser(
            "worker",
            enabled=True,
            nopass=True,
            keys=["*"],
            commands=["+@all", "-gpulock.inspect"],
        )
        own = server.client(username="worker", password="any")
        with own, gpulock.Lock(own, LOCK, timeout=3, renew=True) as lock:
            before = stats(client)["extends"]
            eventually(lambda: stats(client)["extends"] > before + 3)
            lock.ensure_held()
            assert not lock.lost.is_set()
        client.acl_deluser("worker")

    def test_the_owner_can_be_invalid_utf8(self, server, client):
        owner = b"\xff\xfe"
        with server.client(decode_responses=True) as own:
            lock = gpulock.Lock(own, LOCK, timeout=3, renew=True, owner=owner)
            with lock:
                before = stats(client)["extends"]
                eventually(lambda: stats(client)["extends"] > before + 3)
                assert lock.owned()
                lock.ensure_held()

    def test_ensure_held_works_after_the_module_is_unloaded(self, program):
        server = Server(program, options=["--enable-module-command", "yes"])
        try:
            with server.client() as client:
                lock = gpulock.Lock(client, LOCK, timeout=60)
                lock.acquire()
                client.execute_command("MODULE", "UNLOAD", "gpulock")
                client.set(LOCK, lock.owner, px=60_000)
                lock.ensure_held()
                client.delete(LOCK)
                with pytest.raises(LockNotOwnedError):
                    lock.ensure_held()
        finally:
            server.close()

    def test_a_session_survives_a_server_that_rejects_writes(self, own_server):
        with own_server.client() as client:
            lock = gpulock.Lock(client, LOCK, timeout=60, session=True, grace=30)
            lock.acquire()
            session = inspect(client)["session"]
            client.config_set("min-replicas-to-write", 1)
            client.client_kill_filter(_id=session)
            eventually(lambda: inspect(client)["session"] is None)
            eventually(lambda: client.info("errorstats").get("errorstat_NOREPLICAS"))
            client.config_set("min-replicas-to-write", 0)
            eventually(lambda: inspect(client)["session"])
            assert not lock.lost.is_set()
            lock.release()

    def test_an_unexpected_error_of_the_renewer_is_a_loss(self, server, client):
        losses = []
        lock = gpulock.Lock(server.client(), LOCK, timeout=3, renew=True, on_lost=losses.append)
        lock.acquire()

        def broken(*_args, **_settings):
            raise StopWorkError

        # The renewer opens its own connection.
        lock.redis.connection_pool.connection_class = broken
        assert lock.lost.wait(PATIENCE_S)
        assert eventually(lambda: losses)[0].reason == "the lock is no longer being renewed"
        client.execute_command("GPULOCK.FORCERELEASE", LOCK)

    @pytest.mark.parametrize("has_started", [False, True])
    async def test_a_cancelled_renewer_is_a_loss(self, aclient, has_started):
        losses = []
        lock = gpulock.asyncio.Lock(
            aclient, LOCK, timeout=60, renew=True, on_lost=losses.append
        )
        await lock.acquire()
        if has_started:
            await asyncio.sleep(0.1)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.wait_for(lock.lost.wait(), PATIENCE_S)
        await until(lambda: losses)
        assert losses[0].reason == "the lock is no longer being renewed"
        await lock.release()

    def test_a_shortened_lease_is_renewed_in_time(self, client):
        with gpulock.Lock(client, LOCK, timeout=600, renew=True) as lock:
            # Lets the renewer schedule the renewal of the long lease.
            time.sleep(0.5)
            lock.extend(3, replace_ttl=True)
            eventually(lambda: client.pttl(LOCK) > 10_000)
            assert not lock.lost.is_set()

    async def test_a_shortened_lease_is_renewed_in_time_by_a_task(self, aclient):
        async with gpulock.asyncio.Lock(aclient, LOCK, timeout=600, renew=True) as lock:
            await asyncio.sleep(0.5)
            await lock.extend(3, replace_ttl=True)
            while await aclient.pttl(LOCK) < 10_000:
                assert not lock.lost.is_set()
                await asyncio.sleep(0.01)

    def test_the_renewer_does_not_keep_the_owning_object_alive(self, client):
        class Worker:
            def __init__(self):
                self.lock = gpulock.Lock(
                    client,
                    LOCK,
                    timeout=3,
                    renew=True,
                    thread_local=False,
                    on_lost=self.stop,
                )

            def stop(self, loss):
                raise AssertionError(loss)

        worker = Worker()
        worker.lock.acquire()
        reference = weakref.ref(worker)
        del worker
        gc.collect()
        assert reference() is None
        eventually(lambda: not client.exists(LOCK))

    def test_on_lost_can_be_a_method(self, client):
        class Worker:
            loss = None

            def stop(self, loss):
                self.loss = loss

        worker = Worker()
        lock = gpulock.Lock(client, LOCK, timeout=1, on_lost=worker.stop)
        lock.acquire()
        eventually(lambda: worker.loss)


class TestInterruptedCalls:
    async def test_a_cancelled_repeated_acquire_keeps_the_hold(self, server, aclient):
        proxy = Proxy(server.port)
        proxied = redis.asyncio.Redis(port=proxy.port, retry=None)
        with server.client() as watcher:
            lock = gpulock.asyncio.Lock(proxied, LOCK, timeout=60, owner="me")
            await lock.acquire()
            proxy.drop_replies = True
            before = acquire_calls(watcher)
            again = asyncio.ensure_future(lock.acquire())
            await until(lambda: acquire_calls(watcher) > before)
            proxy.drop_replies = False
            again.cancel()
            with pytest.raises(asyncio.CancelledError):
                await again
            assert watcher.get(LOCK) == b"me"
            await proxied.connection_pool.disconnect()
            await lock.ensure_held()
            await lock.release()
        await close(proxied)
        proxy.close()

    def test_a_signal_leaves_no_reply_for_the_next_command(self, server, client):
        with server.client() as own:

            class Interrupted(own.connection_pool.connection_class):
                """Raises between a command and its reply, as a signal handler does."""

                def send_command(self, *args, **settings):
                    super().send_command(*args, **settings)
                    if args[0] == "GPULOCK.ACQUIRE":
                        raise StopWorkError

            lock = gpulock.Lock(own, LOCK, timeout=30)
            assert own.ping()
            with lock:
                pass
            for connection in own.connection_pool._available_connections:
                connection.__class__ = Interrupted
            # The late reply is not visible on the connection when the call ends.
            client.client_pause(1500, all=False)
            with pytest.raises(StopWorkError):
                lock.acquire()
            assert own.ping() is True
            client.client_unpause()
            eventually(lambda: not client.exists(LOCK))

    def test_an_interrupted_wait_does_not_hang_with_the_server(self, interrupts, own_server):
        settings = {"socket_timeout": None, "retry": None}
        with own_server.client() as client, own_server.client(**settings) as own:
            gpulock.Lock(client, LOCK, timeout=60).acquire()
            stopped = threading.Event()

            def stop_server():
                eventually(lambda: waiting(client) == 1)
                own_server.process.send_signal(signal.SIGSTOP)
                stopped.set()
                os.kill(os.getpid(), signal.SIGALRM)

            thread = in_thread(stop_server)
            try:
                with pytest.raises(StopWorkError):
                    gpulock.Lock(own, LOCK, timeout=60).acquire()
                assert stopped.is_set()
            finally:
                own_server.process.send_signal(signal.SIGCONT)
            thread.join()

    async def test_a_cancelled_wait_does_not_hang_with_the_server(self, own_server, caplog):
        own = redis.asyncio.Redis(port=own_server.port, socket_timeout=None, retry=None)
        with own_server.client() as client:
            gpulock.Lock(client, LOCK, timeout=60).acquire()
            acquiring = asyncio.ensure_future(gpulock.asyncio.Lock(own, LOCK).acquire())
            await until(lambda: waiting(client) == 1)
            own_server.process.send_signal(signal.SIGSTOP)
            try:
                acquiring.cancel()
                done, _ = await asyncio.wait({acquiring}, timeout=PATIENCE_S)
                assert done
                assert acquiring.cancelled()
            finally:
                own_server.process.send_signal(signal.SIGCONT)
        assert "held until their lease expires" in caplog.text
        await close(own)

    def test_a_renewer_that_cannot_start_releases_the_lock(self, client, monkeypatch):
        def start(_thread):
            raise RuntimeError("can't start new thread")

        lock = gpulock.Lock(client, LOCK, timeout=60, renew=True, session=True)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(RuntimeError, match="new thread"):
                lock.acquire()
        assert lock.owner is None
        eventually(lambda: not client.exists(LOCK))


class TestRelease:
    @pytest.mark.parametrize("reason", ["x" * 65, "é" * 40, "error:\n" + "日" * 30])
    def test_a_long_reason_is_truncated(self, any_client, reason):
        lock = gpulock.Lock(any_client, LOCK, timeout=60)
        lock.acquire()
        lock.release(reason)
        assert not any_client.exists(LOCK)

    def test_a_lost_reply_is_retried_by_the_client(self, any_server):
        proxy = ReplyDroppingProxy(any_server.port, LOCK.encode())
        with (
            any_server.client() as watcher,
            redis.Redis(port=proxy.port, **RETRIES) as client,
        ):
            lock = gpulock.Lock(watcher, LOCK, timeout=60, thread_local=False)
            lock.acquire()
            lock.redis = client
            lock.release()
            assert proxy.has_dropped
            assert not watcher.exists(LOCK)
            with pytest.raises(LockError, match="unlocked"):
                lock.release()
        proxy.close()

    async def test_a_lost_reply_is_retried_by_the_asyncio_client(self, any_server):
        proxy = ReplyDroppingProxy(any_server.port, LOCK.encode())
        direct = redis.asyncio.Redis(port=any_server.port)
        proxied = redis.asyncio.Redis(port=proxy.port, **ASYNC_RETRIES)
        async with direct, proxied:
            lock = gpulock.asyncio.Lock(direct, LOCK, timeout=60)
            await lock.acquire()
            lock.redis = proxied
            await lock.release()
            assert proxy.has_dropped
            assert not await direct.exists(LOCK)
        proxy.close()

    def test_releasing_a_lock_that_was_lost_raises(self, any_client):
        lock = gpulock.Lock(any_client, LOCK, timeout=60)
        lock.acquire()
        any_client.delete(LOCK)
        with pytest.raises(LockNotOwnedError):
            lock.release()

    def test_acquire_completes_a_failed_release(self, proxy, client):
        with redis.Redis(port=proxy.port, retry=None, socket_timeout=None) as own:
            lock = gpulock.Lock(own, LOCK, timeout=60)
            lock.acquire()
            before = lock.token
            proxy.refuse()
            with pytest.raises(ConnectionError):
                lock.release()
            proxy.refuse(False)
            assert lock.acquire(blocking_timeout=10)
            assert lock.token > before
            lock.release()
        assert not client.exists(LOCK)


class TestConnections:
    def test_waiters_do_not_exhaust_the_pool(self, server, client):
        with server.client(max_connections=3) as own:
            holder = gpulock.Lock(own, LOCK, timeout=60)
            holder.acquire()
            waiters = []
            for number in range(6):
                lock = gpulock.Lock(own, LOCK, timeout=60, thread_local=False)
                waiters.append((lock, in_thread(lock.acquire)))
                eventually(lambda number=number: waiting(client) == number + 1)
            holder.release()
            for lock, thread in waiters:
                thread.join()
                lock.release()
        assert not client.exists(LOCK)

    def test_a_free_lock_needs_no_dedicated_connection(self, client):
        gpulock.Lock(client, LOCK, timeout=60).acquire()
        client.delete(LOCK)
        before = client.info("stats")["total_connections_received"]
        with gpulock.Lock(client, LOCK, timeout=60):
            assert client.info("stats")["total_connections_received"] == before

    async def test_waiting_tasks_do_not_exhaust_the_pool(self, server):
        own = redis.asyncio.Redis(port=server.port, max_connections=2)
        with server.client() as watcher:
            holder = gpulock.asyncio.Lock(own, LOCK, timeout=60)
            await holder.acquire()

            async def wait():
                async with gpulock.asyncio.Lock(own, LOCK, timeout=60):
                    pass

            tasks = []
            for number in range(4):
                tasks.append(asyncio.ensure_future(wait()))
                await until(lambda number=number: waiting(watcher) == number + 1)
            await holder.release()
            for task in tasks:
                await task
        await close(own)

    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
    def test_a_child_does_not_keep_a_tasks_session_open(self, client, server):
        async def hold_and_fork():
            own = redis.asyncio.Redis(port=server.port)
            lock = gpulock.asyncio.Lock(own, LOCK, timeout=60, session=True)
            await lock.acquire()
            if not os.fork():
                time.sleep(20)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)

        parent = os.fork()
        if not parent:
            asyncio.run(hold_and_fork())
        os.waitpid(parent, 0)
        eventually(lambda: not client.exists(LOCK), patience=10)

    def test_an_unreachable_server_is_an_immediate_error(self, own_server):
        with own_server.client(retry=None) as client:
            lock = gpulock.Lock(client, LOCK, timeout=60, session=True)
            lock.acquire()
            lock.release()
            own_server.kill()
            begin = time.monotonic()
            with pytest.raises(ConnectionError):
                lock.acquire(blocking_timeout=60)
            assert time.monotonic() - begin < 20, "the call waited for the server"


def test_a_timeout_of_zero_means_no_timeout(client):
    with gpulock.Lock(client, LOCK, timeout=0) as lock:
        assert lock.renew


def test_on_lost_can_release_the_lock_of_another_thread(client):
    """As described in docs/python.md."""
    done = threading.Event()

    def release(_loss):
        lock.release()
        done.set()

    lock = gpulock.Lock(client, LOCK, timeout=4, on_lost=release)
    lock.acquire()
    assert done.wait(PATIENCE_S)
    assert not client.exists(LOCK)
