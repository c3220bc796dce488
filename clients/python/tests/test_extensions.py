"""What gpulock.Lock adds to redis-py's Lock: fencing tokens, the wait queue, sessions, renewal,
the report of a loss, and releases that can be repeated."""

import gc
import os
import signal
import threading
import time

import pytest
from redis.exceptions import ConnectionError, LockError, LockNotOwnedError, ResponseError

import gpulock
from inspection import LOCK, inspect, stats, waiting
from proxy import Proxy
from servers import eventually


@pytest.fixture
def proxy(server):
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def proxied(proxy, server):
    """A client without retries, connected through the proxy."""
    with type(server.client())(port=proxy.port, retry=None, socket_timeout=None) as client:
        yield client


class StopWorkError(Exception):
    """Raised by a signal at any point, like Celery's SoftTimeLimitExceeded."""


def in_thread(function, *args):
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread


def test_the_fencing_token_comes_from_the_server_and_rises(client):
    lock = gpulock.Lock(client, LOCK, timeout=10)
    assert lock.token is None
    tokens = []
    for _ in range(3):
        with lock:
            assert lock.token == inspect(client)["token"]
            tokens.append(lock.token)
    assert lock.token is None
    assert tokens == sorted(set(tokens))


def test_waiters_are_served_in_order(server):
    order = []
    with server.client() as client:
        holder = gpulock.Lock(client, LOCK, timeout=60)
        holder.acquire()

        def wait(number):
            with server.client() as own, gpulock.Lock(own, LOCK, timeout=60):
                order.append(number)

        threads = []
        for number in range(8):
            threads.append(in_thread(wait, number))
            eventually(lambda number=number: waiting(client) == number + 1)
        holder.release()
        for thread in threads:
            thread.join()
    assert order == list(range(8))


def test_a_wait_of_several_blocking_calls_keeps_its_position(server):
    order = []
    with server.client() as client:
        holder = gpulock.Lock(client, LOCK, timeout=60)
        holder.acquire()

        def wait(name, socket_timeout):
            # One blocking call lasts at most half of the client's socket_timeout.
            own = server.client(socket_timeout=socket_timeout, retry=None)
            with own, gpulock.Lock(own, LOCK, timeout=60):
                order.append(name)

        first = in_thread(wait, "first", 2)
        eventually(lambda: waiting(client) == 1)
        second = in_thread(wait, "second", None)
        eventually(lambda: waiting(client) == 2)
        before = stats(client)["wait_timeouts"]
        eventually(lambda: stats(client)["wait_timeouts"] > before + 1)
        # A kept position is skipped until its owner calls again.
        eventually(lambda: stats(client)["clients_waiting"] == 2)
        holder.release()
        first.join()
        second.join()
    assert order == ["first", "second"]


def test_the_owner_of_a_lock_can_acquire_it_again(client):
    first = gpulock.Lock(client, LOCK, timeout=10, owner="run-7")
    again = gpulock.Lock(client, LOCK, timeout=10, owner="run-7")
    assert first.acquire()
    assert again.acquire(blocking=False)
    assert (again.token, again.owner) == (first.token, b"run-7")
    again.release()
    with pytest.raises(LockNotOwnedError):
        first.release()


def test_a_wait_that_would_deadlock_is_rejected(server):
    with server.client() as client:
        mine = gpulock.Lock(client, "a", timeout=60, owner="me")
        yours = gpulock.Lock(client, "b", timeout=60, owner="you", thread_local=False)
        assert mine.acquire()
        assert yours.acquire()
        waiter = gpulock.Lock(client, "a", timeout=60, owner="you")
        thread = in_thread(waiter.acquire)
        eventually(lambda: waiting(client, "a") == 1)
        with pytest.raises(gpulock.DeadlockError, match="DEADLOCK"):
            gpulock.Lock(client, "b", timeout=60, owner="me").acquire()
        mine.release()
        thread.join()


def test_server_errors_are_raised_unchanged(client):
    client.rpush(LOCK, "a list")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        gpulock.Lock(client, LOCK).acquire()


def test_ensure_held_raises_unless_this_hold_is_current(client):
    lock = gpulock.Lock(client, LOCK, timeout=10)
    with pytest.raises(LockError, match="not held here"):
        lock.ensure_held()
    lock.acquire()
    lock.ensure_held()
    client.execute_command("GPULOCK.FORCERELEASE", LOCK)
    with pytest.raises(LockNotOwnedError):
        lock.ensure_held()
    # The same owner, but another hold.
    client.execute_command("GPULOCK.ACQUIRE", LOCK, lock.owner)
    with pytest.raises(LockNotOwnedError):
        lock.ensure_held()


def test_ensure_held_tries_inspect_once_without_the_permission(own_server):
    with own_server.client() as client:
        client.acl_setuser(
            "worker",
            enabled=True,
            passwords=["+pw"],
            keys=["*"],
            categories=["+@all"],
            commands=["-gpulock.inspect"],
        )
        client.acl_log_reset()
        with own_server.client(username="worker", password="pw") as own:
            lock = gpulock.Lock(own, LOCK, timeout=60)
            lock.acquire()
            for _ in range(3):
                lock.ensure_held()
            assert [entry["count"] for entry in client.acl_log()] == [1]
            client.set(LOCK, "other")
            with pytest.raises(LockNotOwnedError):
                lock.ensure_held()
            client.set(LOCK, "handed over")
            lock.local.token = "handed over"
            lock.ensure_held()
            assert len(client.acl_log()) == 1
            lock.release()


class TestRenewal:
    def test_a_lock_is_held_longer_than_its_lease(self, client):
        with gpulock.Lock(client, LOCK, timeout=3, renew=True) as lock:
            token = lock.token
            before = stats(client)["extends"]
            eventually(lambda: stats(client)["extends"] >= before + 4)
            lock.ensure_held()
            assert lock.token == token
            assert not lock.lost.is_set()
        after = stats(client)["extends"]
        time.sleep(1)
        assert stats(client)["extends"] == after, "renewed after the release"

    def test_renewal_stops_with_its_thread(self, client):
        in_thread(gpulock.Lock(client, LOCK, timeout=3, renew=True).acquire).join()
        assert client.exists(LOCK)
        eventually(lambda: not client.exists(LOCK))

    def test_renewal_stops_with_the_lock_object(self, client):
        lock = gpulock.Lock(client, LOCK, timeout=3, renew=True, thread_local=False)
        lock.acquire()
        del lock
        gc.collect()
        eventually(lambda: not client.exists(LOCK))

    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
    def test_renewal_does_not_continue_in_a_child(self, client):
        lock = gpulock.Lock(client, LOCK, timeout=3, renew=True)
        lock.acquire()
        child = os.fork()
        if not child:
            time.sleep(30)
            os._exit(0)
        try:
            # As if the parent had been killed.
            lock.local.tracked.renewer.abandon()
            eventually(lambda: not client.exists(LOCK))
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    def test_renewal_never_extends_a_successors_hold(self, client):
        losses = []
        lock = gpulock.Lock(
            client, LOCK, timeout=3, renew=True, owner="me", on_lost=losses.append
        )
        lock.acquire()
        old = lock.token
        client.execute_command("GPULOCK.FORCERELEASE", LOCK)
        client.execute_command("GPULOCK.ACQUIRE", LOCK, "me", "PX", 60_000)
        assert lock.lost.wait(30)
        assert client.pttl(LOCK) > 30_000, "the lease of the second hold was changed"
        (loss,) = eventually(lambda: losses)
        assert (loss.name, loss.owner, loss.token) == (LOCK, b"me", old)
        assert loss.reason == "the lock is no longer owned"
        with pytest.raises(LockNotOwnedError):
            lock.release()

    def test_renewal_does_not_shorten_an_extended_lease(self, client):
        with gpulock.Lock(client, LOCK, timeout=3, renew=True) as lock:
            lock.extend(60)
            before = stats(client)["extends"]
            eventually(lambda: stats(client)["extends"] > before)
            assert client.pttl(LOCK) > 50_000

    def test_a_loss_is_reported_before_the_lease_expires(self, proxy, proxied, client):
        reports = []
        lock = gpulock.Lock(
            proxied,
            LOCK,
            timeout=6,
            renew=True,
            on_lost=lambda loss: reports.append((loss.reason, client.get(LOCK))),
        )
        lock.acquire()
        proxy.refuse()
        assert lock.lost.wait(30)
        ((reason, value),) = eventually(lambda: reports)
        assert reason == "the lease was not renewed and is about to expire"
        assert value == lock.owner

    @pytest.mark.parametrize("session", [False, True])
    def test_a_hanging_server_does_not_delay_the_report_of_a_loss(self, own_server, session):
        # The server never replies, and the client would wait indefinitely.
        with own_server.client(socket_timeout=None, retry=None) as client:
            lock = gpulock.Lock(client, LOCK, timeout=9, renew=True, session=session)
            begin = time.monotonic()
            lock.acquire()
            own_server.process.send_signal(signal.SIGSTOP)
            try:
                assert lock.lost.wait(30)
                assert time.monotonic() - begin < 9, "reported after the lease expired"
            finally:
                own_server.process.send_signal(signal.SIGCONT)

    def test_renewal_survives_a_short_outage(self, proxy, proxied, client):
        with gpulock.Lock(proxied, LOCK, timeout=3, renew=True) as lock:
            proxy.refuse()
            time.sleep(1.2)
            proxy.refuse(False)
            before = stats(client)["extends"]
            eventually(lambda: stats(client)["extends"] > before)
            lock.ensure_held()

    def test_on_lost_can_release_the_lock(self, client):
        done = threading.Event()

        def release(_loss):
            lock.release()
            done.set()

        lock = gpulock.Lock(client, LOCK, timeout=4, thread_local=False, on_lost=release)
        lock.acquire()
        assert done.wait(30)
        assert not client.exists(LOCK)

    def test_the_new_token_from_a_restarted_server_is_used(self, own_server):
        with (
            own_server.client() as client,
            gpulock.Lock(client, LOCK, timeout=6, renew=True) as lock,
        ):
            before = lock.token
            own_server.restart()
            eventually(lambda: lock.token > before)
            lock.ensure_held()
            lock.extend(1)
            assert lock.owned()


class TestSession:
    def test_the_lock_is_tied_to_a_dedicated_connection(self, client):
        with gpulock.Lock(client, LOCK, timeout=60, session=True):
            session = inspect(client)["session"]
            ids = {int(entry["id"]) for entry in client.client_list()}
            assert session in ids
            assert session != client.client_id()
        assert inspect(client) == {}
        eventually(lambda: session not in {int(e["id"]) for e in client.client_list()})

    def test_closing_the_connection_releases_the_lock_and_is_reported(self, client):
        losses = []
        lock = gpulock.Lock(client, LOCK, timeout=60, session=True, on_lost=losses.append)
        lock.acquire()
        client.client_kill_filter(_id=inspect(client)["session"])
        assert lock.lost.wait(30)
        # Depends on which the renewer detects first.
        reasons = {"the session connection was lost", "the lock is no longer owned"}
        assert eventually(lambda: losses)[0].reason in reasons
        assert not client.exists(LOCK)
        with pytest.raises(LockNotOwnedError):
            lock.release()

    def test_the_connection_is_replaced_within_the_grace_period(self, client):
        lock = gpulock.Lock(client, LOCK, timeout=60, session=True, grace=20, renew=True)
        lock.acquire()
        token, old = lock.token, inspect(client)["session"]
        client.client_kill_filter(_id=old)
        eventually(lambda: inspect(client)["session"] not in (None, old))
        assert inspect(client)["grace_ms"] is None
        lock.ensure_held()
        assert (lock.token, lock.lost.is_set()) == (token, False)
        lock.release()
        assert not client.exists(LOCK)

    def test_the_end_of_the_grace_period_is_a_loss(self, proxy, proxied):
        lock = gpulock.Lock(proxied, LOCK, timeout=60, session=True, grace=0.5)
        lock.acquire()
        proxy.refuse()
        assert lock.lost.wait(30)

    def test_the_session_is_restored_on_a_restarted_server(self, own_server):
        with own_server.client() as client:
            lock = gpulock.Lock(client, LOCK, timeout=60, session=True, grace=30, renew=True)
            lock.acquire()
            before = lock.token
            own_server.restart()
            eventually(lambda: inspect(client)["session"])
            eventually(lambda: lock.token > before)
            lock.release()
            assert not lock.lost.is_set()

    def test_renewal_keeps_the_session_connection_from_idling(self, server, client):
        proxy = Proxy(server.port, idle_timeout_s=5)
        with server.client() as own:
            own.connection_pool.connection_kwargs["port"] = proxy.port
            lock = gpulock.Lock(own, LOCK, timeout=6, session=True, renew=True)
            lock.acquire()
            session, before = inspect(client)["session"], stats(client)["extends"]
            eventually(lambda: stats(client)["extends"] > before + 2)
            assert inspect(client)["session"] == session
            lock.release()
        proxy.close()

    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
    def test_a_child_does_not_keep_the_session_open(self, client, server):
        parent = os.fork()
        if not parent:
            with server.client() as own:
                lock = gpulock.Lock(own, LOCK, timeout=60, session=True)
                lock.acquire()
                if not os.fork():
                    time.sleep(20)
                    os._exit(0)
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(parent, 0)
        eventually(lambda: not client.exists(LOCK), patience=10)

    def test_a_wait_that_timed_out_leaves_no_connection(self, client):
        # Its position is kept for a while: other tests must not use this queue.
        holder = gpulock.Lock(client, "elsewhere", timeout=60)
        holder.acquire()
        before = len(client.client_list())
        lock = gpulock.Lock(client, "elsewhere", session=True, blocking_timeout=0.1)
        assert lock.acquire() is False
        eventually(lambda: len(client.client_list()) == before)

    def test_grace_without_session_is_rejected(self, client):
        with pytest.raises(ValueError, match="session"):
            gpulock.Lock(client, LOCK, grace=1)


class TestRelease:
    def test_a_failed_release_can_be_repeated(self, proxy, proxied, client):
        lock = gpulock.Lock(proxied, LOCK, timeout=60)
        lock.acquire()
        owner = lock.owner
        proxy.refuse()
        with pytest.raises(ConnectionError):
            lock.release()
        assert lock.owner == owner
        assert client.get(LOCK) == owner
        proxy.refuse(False)
        lock.release()
        assert lock.owner is None
        assert not client.exists(LOCK)

    def test_a_lost_reply_is_not_a_loss(self, proxy, proxied, client):
        lock = gpulock.Lock(proxied, LOCK, timeout=60)
        lock.acquire()
        proxy.drop_replies = True

        def close_after_release():
            eventually(lambda: not client.exists(LOCK))
            proxy.close_connections()

        thread = in_thread(close_after_release)
        with pytest.raises(ConnectionError):
            lock.release()
        thread.join()
        proxy.drop_replies = False
        lock.release()
        with pytest.raises(LockError, match="already unlocked"):
            lock.release()

    def test_a_server_error_keeps_the_token(self, client):
        lock = gpulock.Lock(client, LOCK, timeout=60)
        lock.acquire()
        client.delete(LOCK)
        client.rpush(LOCK, "a list")
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            lock.release()
        assert lock.owner is not None


class TestInterruptedWaits:
    @pytest.mark.parametrize("session", [False, True])
    def test_a_wait_continues_on_a_new_connection(self, proxy, proxied, client, session):
        holder = gpulock.Lock(client, LOCK, timeout=60)
        holder.acquire()
        settings = {"session": session, "thread_local": False}
        waiter = gpulock.Lock(proxied, LOCK, timeout=60, **settings)
        thread = in_thread(waiter.acquire)
        eventually(lambda: waiting(client) == 1)
        before = stats(client)["waits_abandoned"]
        proxy.close_connections()
        eventually(lambda: stats(client)["waits_abandoned"] > before)
        eventually(lambda: stats(client)["clients_waiting"] == 1)
        holder.release()
        thread.join()
        assert waiter.owned()

    def test_a_wait_survives_a_proxy_that_closes_idle_connections(self, server, client):
        proxy = Proxy(server.port, idle_timeout_s=0.5)
        holder = gpulock.Lock(client, LOCK, timeout=60)
        holder.acquire()
        with type(client)(port=proxy.port) as own:
            waiter = gpulock.Lock(own, LOCK, timeout=60, thread_local=False)
            thread = in_thread(waiter.acquire)
            eventually(lambda: waiting(client) == 1)
            later = in_thread(gpulock.Lock(client, LOCK, timeout=60).acquire)
            time.sleep(2)
            # The waiter may be between two connections.
            eventually(lambda: waiting(client) == 2)
            holder.release()
            thread.join()
            assert waiter.owned(), "the waiter lost its position"
            waiter.release()
        later.join()
        proxy.close()

    def test_a_wait_survives_a_server_restart(self, own_server):
        with own_server.client() as client:
            holder = gpulock.Lock(client, LOCK, timeout=60)
            waiter = gpulock.Lock(client, LOCK, timeout=60, thread_local=False)
            holder.acquire()
            thread = in_thread(waiter.acquire)
            eventually(lambda: waiting(client) == 1)
            own_server.restart()
            eventually(lambda: waiting(client) == 1)
            holder.release()
            thread.join()
            assert waiter.owned()

    def test_an_unreachable_server_is_an_immediate_error(self, own_server):
        own_server.kill()
        with pytest.raises(ConnectionError):
            gpulock.Lock(own_server.client(retry=None), LOCK).acquire(blocking_timeout=60)

    def test_an_interrupted_wait_holds_nothing(self, client):
        def interrupt(_signal, _frame):
            raise StopWorkError

        holder = gpulock.Lock(client, LOCK, timeout=60)
        holder.acquire()
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(StopWorkError):
                gpulock.Lock(client, LOCK, timeout=60).acquire()
        finally:
            signal.signal(signal.SIGALRM, before)
        holder.release()
        assert not client.exists(LOCK)
        assert gpulock.Lock(client, LOCK, timeout=1).acquire(blocking=False)
