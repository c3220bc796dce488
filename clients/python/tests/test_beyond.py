"""What a lock of the module has beyond redis-py's: tokens, the line, sessions, renewal, the
news of a loss, releases that can be repeated."""

import gc
import os
import signal
import threading
import time

import pytest
from redis.exceptions import ConnectionError, LockError, LockNotOwnedError, ResponseError

import gpulock
from looks import LOCK, inspect, stats, waiting
from relay import Relay
from servers import eventually


@pytest.fixture
def relay(server):
    relay = Relay(server.port)
    yield relay
    relay.close()


@pytest.fixture
def relayed(relay, server):
    """A client whose way to the server can be cut, and which does not try again by itself."""
    with type(server.client())(port=relay.port, retry=None, socket_timeout=None) as client:
        yield client


class StopWorkError(Exception):
    """As Celery raises in the midst of everything when a task's time is over."""


def in_thread(function, *words):
    thread = threading.Thread(target=function, args=words, daemon=True)
    thread.start()
    return thread


def test_the_fencing_token_is_the_servers_and_rises(client):
    lock = gpulock.Lock(client, LOCK, timeout=10)
    assert lock.token is None
    tokens = []
    for _ in range(3):
        with lock:
            assert lock.token == inspect(client)["token"]
            tokens.append(lock.token)
    assert lock.token is None
    assert tokens == sorted(set(tokens))


def test_those_who_wait_are_served_in_turn(server):
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


def test_a_wait_in_slices_keeps_its_place(server):
    order = []
    with server.client() as client:
        holder = gpulock.Lock(client, LOCK, timeout=60)
        holder.acquire()

        def wait(name, socket_timeout):
            # A slice is half as long as the client bears silence.
            own = server.client(socket_timeout=socket_timeout, retry=None)
            with own, gpulock.Lock(own, LOCK, timeout=60):
                order.append(name)

        first = in_thread(wait, "first", 2)
        eventually(lambda: waiting(client) == 1)
        second = in_thread(wait, "second", None)
        eventually(lambda: waiting(client) == 2)
        before = stats(client)["wait_timeouts"]
        eventually(lambda: stats(client)["wait_timeouts"] > before + 1)
        # A place is kept, but passed over, until its owner asks again.
        eventually(lambda: stats(client)["clients_waiting"] == 2)
        holder.release()
        first.join()
        second.join()
    assert order == ["first", "second"]


def test_a_given_owner_is_told_that_the_lock_is_its_own(client):
    first = gpulock.Lock(client, LOCK, timeout=10, owner="run-7")
    again = gpulock.Lock(client, LOCK, timeout=10, owner="run-7")
    assert first.acquire()
    assert again.acquire(blocking=False)
    assert (again.token, again.owner) == (first.token, b"run-7")
    again.release()
    with pytest.raises(LockNotOwnedError):
        first.release()


def test_a_circle_of_waits_is_refused(server):
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


def test_errors_of_the_server_are_told_as_they_are(client):
    client.rpush(LOCK, "a list")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        gpulock.Lock(client, LOCK).acquire()


def test_ensure_held(client):
    lock = gpulock.Lock(client, LOCK, timeout=10)
    with pytest.raises(LockError, match="unlocked"):
        lock.ensure_held()
    lock.acquire()
    lock.ensure_held()
    client.execute_command("GPULOCK.FORCERELEASE", LOCK)
    with pytest.raises(LockNotOwnedError):
        lock.ensure_held()
    # The same name, but not the same hold.
    client.execute_command("GPULOCK.ACQUIRE", LOCK, lock.owner)
    with pytest.raises(LockNotOwnedError):
        lock.ensure_held()


class TestRenewal:
    def test_a_lock_outlives_its_lease(self, client):
        with gpulock.Lock(client, LOCK, timeout=3, renew=True) as lock:
            token = lock.token
            before = stats(client)["extends"]
            eventually(lambda: stats(client)["extends"] >= before + 4)
            lock.ensure_held()
            assert lock.token == token
            assert not lock.lost.is_set()
        after = stats(client)["extends"]
        time.sleep(1)
        assert stats(client)["extends"] == after, "nothing is renewed after the release"

    def test_it_stops_with_its_thread(self, client):
        in_thread(gpulock.Lock(client, LOCK, timeout=3, renew=True).acquire).join()
        assert client.exists(LOCK)
        eventually(lambda: not client.exists(LOCK))

    def test_it_stops_with_the_lock_object(self, client):
        lock = gpulock.Lock(client, LOCK, timeout=3, renew=True, thread_local=False)
        lock.acquire()
        del lock
        gc.collect()
        eventually(lambda: not client.exists(LOCK))

    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
    def test_it_does_not_go_on_in_a_child(self, client):
        lock = gpulock.Lock(client, LOCK, timeout=3, renew=True)
        lock.acquire()
        child = os.fork()
        if not child:
            time.sleep(30)
            os._exit(0)
        try:
            # As a parent does that dies without a word.
            lock.local.kept.keeper.abandon()
            eventually(lambda: not client.exists(LOCK))
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    def test_it_never_renews_a_successors_hold(self, client):
        losses = []
        lock = gpulock.Lock(
            client, LOCK, timeout=3, renew=True, owner="me", on_lost=losses.append
        )
        lock.acquire()
        old = lock.token
        client.execute_command("GPULOCK.FORCERELEASE", LOCK)
        client.execute_command("GPULOCK.ACQUIRE", LOCK, "me", "PX", 60_000)
        assert lock.lost.wait(30)
        assert client.pttl(LOCK) > 30_000, "the lease of the second hold is as it was"
        (loss,) = eventually(lambda: losses)
        assert (loss.name, loss.owner, loss.token) == (LOCK, b"me", old)
        assert loss.reason == "it was taken away"
        with pytest.raises(LockNotOwnedError):
            lock.release()

    def test_a_longer_lease_that_was_asked_for_is_left_alone(self, client):
        with gpulock.Lock(client, LOCK, timeout=3, renew=True) as lock:
            lock.extend(60)
            before = stats(client)["extends"]
            eventually(lambda: stats(client)["extends"] > before)
            assert client.pttl(LOCK) > 50_000

    def test_the_loss_is_told_while_the_lease_still_holds(self, relay, relayed, client):
        told = []
        lock = gpulock.Lock(
            relayed,
            LOCK,
            timeout=6,
            renew=True,
            on_lost=lambda loss: told.append((loss.reason, client.get(LOCK))),
        )
        lock.acquire()
        relay.refuse()
        assert lock.lost.wait(30)
        ((reason, value),) = eventually(lambda: told)
        assert reason == "its lease ends and was not renewed"
        assert value == lock.owner

    @pytest.mark.parametrize("session", [False, True])
    def test_a_server_that_hangs_does_not_keep_the_loss_from_the_holder(
        self, own_server, session
    ):
        # It never answers, and the client would wait for ever.
        with own_server.client(socket_timeout=None, retry=None) as client:
            lock = gpulock.Lock(client, LOCK, timeout=9, renew=True, session=session)
            begin = time.monotonic()
            lock.acquire()
            own_server.process.send_signal(signal.SIGSTOP)
            try:
                assert lock.lost.wait(30)
                assert time.monotonic() - begin < 9, "the lease still holds"
            finally:
                own_server.process.send_signal(signal.SIGCONT)

    def test_a_short_outage_is_ridden_out(self, relay, relayed, client):
        with gpulock.Lock(relayed, LOCK, timeout=3, renew=True) as lock:
            relay.refuse()
            time.sleep(1.2)
            relay.refuse(False)
            before = stats(client)["extends"]
            eventually(lambda: stats(client)["extends"] > before)
            lock.ensure_held()

    def test_on_lost_may_give_the_lock_back(self, client):
        done = threading.Event()

        def give_back(_loss):
            lock.release()
            done.set()

        lock = gpulock.Lock(client, LOCK, timeout=4, thread_local=False, on_lost=give_back)
        lock.acquire()
        assert done.wait(30)
        assert not client.exists(LOCK)

    def test_a_restarted_server_gives_a_new_token_that_is_used_from_then_on(self, own_server):
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
    def test_the_lock_is_tied_to_a_connection_of_its_own(self, client):
        with gpulock.Lock(client, LOCK, timeout=60, session=True):
            tied_to = inspect(client)["session"]
            ids = {int(entry["id"]) for entry in client.client_list()}
            assert tied_to in ids
            assert tied_to != client.client_id()
        assert inspect(client) == {}
        eventually(lambda: tied_to not in {int(e["id"]) for e in client.client_list()})

    def test_its_end_ends_the_lock_and_is_noticed(self, client):
        losses = []
        lock = gpulock.Lock(client, LOCK, timeout=60, session=True, on_lost=losses.append)
        lock.acquire()
        client.client_kill_filter(_id=inspect(client)["session"])
        assert lock.lost.wait(30)
        # Whichever the keeper sees first.
        reasons = {"its connection broke", "it was taken away"}
        assert eventually(lambda: losses)[0].reason in reasons
        assert not client.exists(LOCK)
        with pytest.raises(LockNotOwnedError):
            lock.release()

    def test_within_the_grace_it_is_replaced(self, client):
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

    def test_a_grace_that_is_over_is_a_loss(self, relay, relayed):
        lock = gpulock.Lock(relayed, LOCK, timeout=60, session=True, grace=0.5)
        lock.acquire()
        relay.refuse()
        assert lock.lost.wait(30)

    def test_a_restarted_server_is_come_back_to(self, own_server):
        with own_server.client() as client:
            lock = gpulock.Lock(client, LOCK, timeout=60, session=True, grace=30, renew=True)
            lock.acquire()
            before = lock.token
            own_server.restart()
            eventually(lambda: inspect(client)["session"])
            eventually(lambda: lock.token > before)
            lock.release()
            assert not lock.lost.is_set()

    def test_it_renews_on_its_own_connection_so_that_nobody_cuts_it(self, server, client):
        relay = Relay(server.port, cut_idle_s=5)
        with server.client() as own:
            own.connection_pool.connection_kwargs["port"] = relay.port
            lock = gpulock.Lock(own, LOCK, timeout=6, session=True, renew=True)
            lock.acquire()
            tied_to, before = inspect(client)["session"], stats(client)["extends"]
            eventually(lambda: stats(client)["extends"] > before + 2)
            assert inspect(client)["session"] == tied_to
            lock.release()
        relay.close()

    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
    def test_a_child_does_not_hold_it_on(self, client, server):
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

    def test_a_wait_that_is_over_leaves_no_connection(self, client):
        # Its place is kept for a while: not in the line that other tests look at.
        holder = gpulock.Lock(client, "elsewhere", timeout=60)
        holder.acquire()
        before = len(client.client_list())
        lock = gpulock.Lock(client, "elsewhere", session=True, blocking_timeout=0.1)
        assert lock.acquire() is False
        eventually(lambda: len(client.client_list()) == before)

    def test_a_grace_without_a_session_is_refused(self, client):
        with pytest.raises(ValueError, match="session"):
            gpulock.Lock(client, LOCK, grace=1)


class TestRelease:
    def test_it_can_be_repeated(self, relay, relayed, client):
        lock = gpulock.Lock(relayed, LOCK, timeout=60)
        lock.acquire()
        owner = lock.owner
        relay.refuse()
        with pytest.raises(ConnectionError):
            lock.release()
        assert lock.owner == owner
        assert client.get(LOCK) == owner
        relay.refuse(False)
        lock.release()
        assert lock.owner is None
        assert not client.exists(LOCK)

    def test_a_lost_answer_is_no_loss(self, relay, relayed, client):
        lock = gpulock.Lock(relayed, LOCK, timeout=60)
        lock.acquire()
        relay.swallow_replies = True
        cutter = in_thread(lambda: (eventually(lambda: not client.exists(LOCK)), relay.cut()))
        with pytest.raises(ConnectionError):
            lock.release()
        cutter.join()
        relay.swallow_replies = False
        lock.release()
        with pytest.raises(LockError, match="already unlocked"):
            lock.release()

    def test_an_error_of_the_server_keeps_the_token(self, client):
        lock = gpulock.Lock(client, LOCK, timeout=60)
        lock.acquire()
        client.delete(LOCK)
        client.rpush(LOCK, "a list")
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            lock.release()
        assert lock.owner is not None


class TestWaitsThatAreCutOff:
    def test_a_wait_goes_on_on_a_new_connection(self, relay, relayed, client):
        holder = gpulock.Lock(client, LOCK, timeout=60)
        holder.acquire()
        waiter = gpulock.Lock(relayed, LOCK, timeout=60, thread_local=False)
        thread = in_thread(waiter.acquire)
        eventually(lambda: waiting(client) == 1)
        before = stats(client)["waits_abandoned"]
        relay.cut()
        eventually(lambda: stats(client)["waits_abandoned"] > before)
        eventually(lambda: stats(client)["clients_waiting"] == 1)
        holder.release()
        thread.join()
        assert waiter.owned()

    def test_a_proxy_that_cuts_idle_connections(self, server, client):
        relay = Relay(server.port, cut_idle_s=0.5)
        holder = gpulock.Lock(client, LOCK, timeout=60)
        holder.acquire()
        with type(client)(port=relay.port) as own:
            waiter = gpulock.Lock(own, LOCK, timeout=60, thread_local=False)
            thread = in_thread(waiter.acquire)
            eventually(lambda: waiting(client) == 1)
            later = in_thread(gpulock.Lock(client, LOCK, timeout=60).acquire)
            time.sleep(2)
            assert waiting(client) == 2
            holder.release()
            thread.join()
            assert waiter.owned(), "its place was kept all the time"
            waiter.release()
        later.join()
        relay.close()

    def test_a_server_that_is_restarted_in_the_middle(self, own_server):
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

    def test_a_server_that_cannot_be_reached_is_told_at_once(self, own_server):
        own_server.kill()
        with pytest.raises(ConnectionError):
            gpulock.Lock(own_server.client(retry=None), LOCK).acquire(blocking_timeout=60)

    def test_an_interrupted_wait_leaves_nothing_behind(self, client):
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
