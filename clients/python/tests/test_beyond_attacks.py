"""What a lock must bear: objects that are shared, keepers that meet errors, calls that are cut
off, answers that are lost, pools of connections that are used up."""

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
from cutter import Cutter
from looks import LOCK, inspect, stats, waiting
from relay import Relay
from servers import PATIENCE_S, Server, eventually

RETRIES = {"retry": Retry(NoBackoff(), 3), "retry_on_error": [ConnectionError]}
ASYNC_RETRIES = {**RETRIES, "retry": AsyncRetry(NoBackoff(), 3)}


class StopWorkError(Exception):
    """As Celery raises in the midst of everything when a task's time is over."""


@pytest.fixture
def relay(server):
    relay = Relay(server.port)
    yield relay
    relay.close()


@pytest.fixture
def interrupts():
    """Makes SIGALRM raise in the main thread."""

    def interrupt(_signal, _frame):
        raise StopWorkError

    before = signal.signal(signal.SIGALRM, interrupt)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def in_thread(function, *words):
    thread = threading.Thread(target=function, args=words, daemon=True)
    thread.start()
    return thread


async def until(condition):
    """As ``eventually``, with the loop going on."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.01)


async def close(client):
    """redis-py 5.0.0 has no aclose yet."""
    await getattr(client, "aclose", client.close)()


def asked(client):
    """How often anybody has asked for a lock."""
    told = {name.upper(): counts for name, counts in client.info("commandstats").items()}
    return told["CMDSTAT_GPULOCK.ACQUIRE"]["calls"]


def slow_after(client, word, begun, goes_on):
    """The client's connections, with the reply to one command held up in the client."""
    execute = client.connection_pool.connection_class

    class Slow(execute):
        def send_command(self, *words, **settings):
            self.is_slow = words[0] == word
            super().send_command(*words, **settings)

        def read_response(self, *words, **settings):
            reply = super().read_response(*words, **settings)
            if getattr(self, "is_slow", False):
                self.is_slow = False
                begun.set()
                goes_on.wait(PATIENCE_S)
            return reply

    client.connection_pool.connection_class = Slow
    return client


class TestOneObjectForMany:
    def test_a_release_leaves_the_next_threads_hold_alone(self, server, client):
        begun, goes_on = threading.Event(), threading.Event()
        own = slow_after(server.client(), "GPULOCK.RELEASE", begun, goes_on)
        lock = gpulock.Lock(own, LOCK, timeout=60, renew=True, thread_local=False)
        lock.acquire()
        releasing = in_thread(lock.release)
        assert begun.wait(PATIENCE_S)
        assert lock.acquire()
        held = lock.owner
        goes_on.set()
        releasing.join()
        assert lock.owner == held == client.get(LOCK)
        client.execute_command("GPULOCK.FORCERELEASE", LOCK)
        with pytest.raises(LockNotOwnedError):
            lock.ensure_held()
        own.close()

    async def test_a_release_leaves_the_next_tasks_hold_alone(self, aclient, server):
        lock = gpulock.asyncio.Lock(aclient, LOCK, timeout=60, renew=True)
        inside = 0

        async def work():
            nonlocal inside
            for _ in range(20):
                await lock.acquire()
                inside += 1
                assert inside == 1
                await asyncio.sleep(0)
                inside -= 1
                await lock.release()

        await asyncio.gather(*(work() for _ in range(3)))
        assert lock.owner is None
        with server.client() as watcher:
            assert not watcher.exists(LOCK)

    def test_a_loss_belongs_to_its_own_hold(self, client):
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


class TestKeepersThatMeetErrors:
    def test_a_user_who_may_not_look(self, server, client):
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

    def test_a_name_that_is_no_text(self, server, client):
        owner = b"\xff\xfe"
        with server.client(decode_responses=True) as own:
            lock = gpulock.Lock(own, LOCK, timeout=3, renew=True, owner=owner)
            with lock:
                before = stats(client)["extends"]
                eventually(lambda: stats(client)["extends"] > before + 3)
                assert lock.owned()
                lock.ensure_held()

    def test_a_module_that_is_unloaded(self, program):
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

    def test_a_server_that_takes_no_writes_for_a_while(self, own_server):
        with own_server.client() as client:
            lock = gpulock.Lock(client, LOCK, timeout=60, session=True, grace=30)
            lock.acquire()
            tied_to = inspect(client)["session"]
            client.config_set("min-replicas-to-write", 1)
            client.client_kill_filter(_id=tied_to)
            eventually(lambda: inspect(client)["session"] is None)
            eventually(lambda: client.info("errorstats").get("errorstat_NOREPLICAS"))
            client.config_set("min-replicas-to-write", 0)
            eventually(lambda: inspect(client)["session"])
            assert not lock.lost.is_set()
            lock.release()

    def test_whatever_else_ends_a_keeper_is_a_loss(self, server, client):
        told = []
        lock = gpulock.Lock(server.client(), LOCK, timeout=3, renew=True, on_lost=told.append)
        lock.acquire()

        def broken(*_words, **_settings):
            raise StopWorkError

        lock.redis.execute_command = broken
        assert lock.lost.wait(PATIENCE_S)
        assert eventually(lambda: told)[0].reason == "nobody looks after it any more"
        client.execute_command("GPULOCK.FORCERELEASE", LOCK)

    @pytest.mark.parametrize("has_begun", [False, True])
    async def test_a_keeper_that_is_cancelled_is_a_loss(self, aclient, has_begun):
        told = []
        lock = gpulock.asyncio.Lock(aclient, LOCK, timeout=60, renew=True, on_lost=told.append)
        await lock.acquire()
        if has_begun:
            await asyncio.sleep(0.1)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.wait_for(lock.lost.wait(), PATIENCE_S)
        await until(lambda: told)
        assert told[0].reason == "nobody looks after it any more"
        await lock.release()

    def test_a_lease_that_is_cut_short_is_renewed_in_time(self, client):
        with gpulock.Lock(client, LOCK, timeout=600, renew=True) as lock:
            # So that the plan for the long lease is made.
            time.sleep(0.5)
            lock.extend(3, replace_ttl=True)
            eventually(lambda: client.pttl(LOCK) > 10_000)
            assert not lock.lost.is_set()

    async def test_a_lease_that_is_cut_short_is_renewed_in_time_by_a_task(self, aclient):
        async with gpulock.asyncio.Lock(aclient, LOCK, timeout=600, renew=True) as lock:
            await asyncio.sleep(0.5)
            await lock.extend(3, replace_ttl=True)
            while await aclient.pttl(LOCK) < 10_000:
                assert not lock.lost.is_set()
                await asyncio.sleep(0.01)

    def test_a_keeper_does_not_keep_the_locks_owner_alive(self, client):
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
        seen = weakref.ref(worker)
        del worker
        gc.collect()
        assert seen() is None
        eventually(lambda: not client.exists(LOCK))

    def test_a_method_is_told_of_a_loss(self, client):
        class Worker:
            loss = None

            def stop(self, loss):
                self.loss = loss

        worker = Worker()
        lock = gpulock.Lock(client, LOCK, timeout=1, on_lost=worker.stop)
        lock.acquire()
        eventually(lambda: worker.loss)


class TestCallsThatAreCutOff:
    async def test_asking_again_takes_nothing_away_when_cancelled(self, server, aclient):
        relay = Relay(server.port)
        relayed = redis.asyncio.Redis(port=relay.port, retry=None)
        with server.client() as watcher:
            lock = gpulock.asyncio.Lock(relayed, LOCK, timeout=60, owner="me")
            await lock.acquire()
            relay.swallow_replies = True
            before = asked(watcher)
            again = asyncio.ensure_future(lock.acquire())
            await until(lambda: asked(watcher) > before)
            relay.swallow_replies = False
            again.cancel()
            with pytest.raises(asyncio.CancelledError):
                await again
            assert watcher.get(LOCK) == b"me"
            await relayed.connection_pool.disconnect()
            await lock.ensure_held()
            await lock.release()
        await close(relayed)
        relay.close()

    def test_a_signal_leaves_no_reply_for_others(self, server, client):
        with server.client() as own:

            class Interrupted(own.connection_pool.connection_class):
                """A signal comes between the command and its reply."""

                def send_command(self, *words, **settings):
                    super().send_command(*words, **settings)
                    if words[0] == "GPULOCK.ACQUIRE":
                        raise StopWorkError

            lock = gpulock.Lock(own, LOCK, timeout=30)
            assert own.ping()
            with lock:
                pass
            for connection in own.connection_pool._available_connections:
                connection.__class__ = Interrupted
            # The reply comes late: nobody could see that one is still to come.
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
            frozen = threading.Event()

            def freeze():
                eventually(lambda: waiting(client) == 1)
                own_server.process.send_signal(signal.SIGSTOP)
                frozen.set()
                os.kill(os.getpid(), signal.SIGALRM)

            thread = in_thread(freeze)
            try:
                with pytest.raises(StopWorkError):
                    gpulock.Lock(own, LOCK, timeout=60).acquire()
                assert frozen.is_set()
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
        assert "the lease of what it may have been granted" in caplog.text
        await close(own)

    def test_no_thread_for_the_keeper(self, client, monkeypatch):
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
    def test_a_long_reason_is_cut(self, any_client, reason):
        lock = gpulock.Lock(any_client, LOCK, timeout=60)
        lock.acquire()
        lock.release(reason)
        assert not any_client.exists(LOCK)

    def test_a_lost_answer_that_the_client_makes_up_for(self, any_server):
        cutter = Cutter(any_server.port, LOCK.encode())
        with (
            any_server.client() as watcher,
            redis.Redis(port=cutter.port, **RETRIES) as client,
        ):
            lock = gpulock.Lock(watcher, LOCK, timeout=60, thread_local=False)
            lock.acquire()
            lock.redis = client
            lock.release()
            assert cutter.has_cut
            assert not watcher.exists(LOCK)
            with pytest.raises(LockError, match="unlocked"):
                lock.release()
        cutter.close()

    async def test_a_lost_answer_that_the_asyncio_client_makes_up_for(self, any_server):
        cutter = Cutter(any_server.port, LOCK.encode())
        near = redis.asyncio.Redis(port=any_server.port)
        far = redis.asyncio.Redis(port=cutter.port, **ASYNC_RETRIES)
        async with near, far:
            lock = gpulock.asyncio.Lock(near, LOCK, timeout=60)
            await lock.acquire()
            lock.redis = far
            await lock.release()
            assert cutter.has_cut
            assert not await near.exists(LOCK)
        cutter.close()

    def test_a_lock_that_is_gone_is_still_told(self, any_client):
        lock = gpulock.Lock(any_client, LOCK, timeout=60)
        lock.acquire()
        any_client.delete(LOCK)
        with pytest.raises(LockNotOwnedError):
            lock.release()

    def test_acquire_finishes_a_release_that_failed(self, relay, client):
        with redis.Redis(port=relay.port, retry=None, socket_timeout=None) as own:
            lock = gpulock.Lock(own, LOCK, timeout=60)
            lock.acquire()
            before = lock.token
            relay.refuse()
            with pytest.raises(ConnectionError):
                lock.release()
            relay.refuse(False)
            assert lock.acquire(blocking_timeout=10)
            assert lock.token > before
            lock.release()
        assert not client.exists(LOCK)


class TestConnections:
    def test_those_who_wait_leave_the_pool_to_the_holder(self, server, client):
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

    def test_a_free_lock_needs_no_connection_of_its_own(self, client):
        gpulock.Lock(client, LOCK, timeout=60).acquire()
        client.delete(LOCK)
        before = client.info("stats")["total_connections_received"]
        with gpulock.Lock(client, LOCK, timeout=60):
            assert client.info("stats")["total_connections_received"] == before

    async def test_waiting_tasks_leave_the_pool_to_the_holder(self, server):
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
    def test_a_child_does_not_hold_a_tasks_session_on(self, client, server):
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

    def test_a_server_that_went_away_since_the_last_call_is_told_at_once(self, own_server):
        with own_server.client(retry=None) as client:
            lock = gpulock.Lock(client, LOCK, timeout=60, session=True)
            lock.acquire()
            lock.release()
            own_server.kill()
            begin = time.monotonic()
            with pytest.raises(ConnectionError):
                lock.acquire(blocking_timeout=60)
            assert time.monotonic() - begin < 20, "it was not waited for"


def test_a_timeout_of_zero_is_none(client):
    with gpulock.Lock(client, LOCK, timeout=0) as lock:
        assert lock.renew


def test_on_lost_may_give_back_what_another_thread_holds(client):
    """As the documentation says."""
    done = threading.Event()

    def give_back(_loss):
        with pytest.raises(LockError):
            lock.release()
        lock.local.token = owner
        lock.release()
        done.set()

    lock = gpulock.Lock(client, LOCK, timeout=4, on_lost=give_back)
    lock.acquire()
    owner = lock.owner
    assert done.wait(PATIENCE_S)
    assert not client.exists(LOCK)
