"""gpulock.Lock behaves like redis-py's Lock: the cases of redis-py's own tests run on both."""

import inspect
import threading
import time

import pytest
import redis.lock
from redis.exceptions import LockError, LockNotOwnedError

import gpulock
from servers import eventually

LOCK = "foo"

pytestmark = pytest.mark.skipif(
    "raise_on_release_error" not in inspect.signature(redis.Redis.lock).parameters,
    reason="compares with the lock of a newer redis-py",
)


@pytest.fixture(params=[redis.lock.Lock, gpulock.Lock], ids=["redis-py", "gpulock"])
def lock_class(request):
    return request.param


@pytest.fixture
def get_lock(any_client, lock_class):
    def get(client=any_client, name=LOCK, **settings):
        return client.lock(name, lock_class=lock_class, **settings)

    return get


def test_the_key_holds_the_token(get_lock, any_client):
    lock = get_lock()
    assert lock.acquire(blocking=False) is True
    assert any_client.get(LOCK) == lock.local.token
    lock.release()
    assert any_client.get(LOCK) is None


@pytest.mark.parametrize("thread_local", [True, False])
@pytest.mark.parametrize("token", ["test", b"test"])
def test_acquire_accepts_a_token(get_lock, any_client, thread_local, token):
    lock = get_lock(thread_local=thread_local)
    assert lock.acquire(blocking=False, token=token)
    assert any_client.get(LOCK) == b"test"
    assert lock.local.token == b"test"
    assert not get_lock().acquire(blocking=False, token=token), (
        "equal tokens do not share the lock"
    )
    lock.release()
    assert any_client.get(LOCK) is None
    assert lock.local.token is None


def test_locked_reports_the_state_of_the_lock(get_lock):
    lock = get_lock()
    assert lock.locked() is False
    lock.acquire(blocking=False)
    assert lock.locked() is True
    lock.release()
    assert lock.locked() is False


@pytest.mark.parametrize("decode", [False, True])
def test_owned_reports_only_its_own_hold(any_server, get_lock, decode):
    with any_server.client(decode_responses=decode) as client:
        mine, other = get_lock(client), get_lock(client)
        assert mine.owned() is False
        mine.acquire(blocking=False)
        assert (mine.owned(), other.owned()) == (True, False)
        mine.release()
        other.acquire(blocking=False)
        assert (mine.owned(), other.owned()) == (False, True)
        other.release()
        assert (mine.owned(), other.owned()) == (False, False)


def test_two_locks_exclude_each_other(get_lock):
    first, second = get_lock(), get_lock()
    assert first.acquire(blocking=False)
    assert not second.acquire(blocking=False)
    first.release()
    assert second.acquire(blocking=False)
    assert not first.acquire(blocking=False)
    second.release()


@pytest.mark.parametrize(("timeout", "most"), [(10, 10_000), (9.5, 9_500)])
def test_timeout_is_the_lease(get_lock, any_client, timeout, most):
    lock = get_lock(timeout=timeout)
    assert lock.acquire(blocking=False)
    assert most - 5_000 < any_client.pttl(LOCK) <= most
    lock.release()


def test_acquire_gives_up_after_the_blocking_timeout(get_lock):
    holder = get_lock()
    assert holder.acquire(blocking=False)
    begin = time.monotonic()
    assert get_lock(sleep=0.05, blocking_timeout=0.4).acquire() is False
    assert time.monotonic() - begin > 0.3
    assert get_lock(sleep=0.05).acquire(blocking_timeout=0.1) is False
    assert get_lock(blocking=False).acquire() is False
    assert get_lock(blocking_timeout=0).acquire() is False
    holder.release()


def test_a_waiter_acquires_a_released_lock(get_lock):
    holder, waiter = get_lock(), get_lock(thread_local=False)
    holder.acquire()
    thread = threading.Thread(target=waiter.acquire)
    thread.start()
    time.sleep(0.05)
    holder.release()
    thread.join()
    assert waiter.owned()
    waiter.release()


def test_a_waiter_acquires_an_expired_lock(get_lock):
    assert get_lock(timeout=0.2).acquire()
    waiter = get_lock()
    assert waiter.acquire() is True
    waiter.release()


def test_context_manager_acquires_and_releases(get_lock, any_client):
    with get_lock(blocking_timeout=0.2) as lock:
        assert any_client.get(LOCK) == lock.local.token
    assert any_client.get(LOCK) is None


def test_context_manager_raises_if_not_acquired(get_lock, any_client):
    any_client.set(LOCK, "bar")
    with pytest.raises(LockError) as raised, get_lock(blocking_timeout=0.1):
        pass
    assert raised.value.lock_name == LOCK


@pytest.mark.parametrize("quiet", [True, False])
def test_context_manager_reports_a_lost_lock(get_lock, any_client, quiet, caplog):
    def lose():
        with get_lock(timeout=10, raise_on_release_error=not quiet):
            any_client.set(LOCK, "a")

    if quiet:
        lose()
        assert "no longer owned" in caplog.text
    else:
        with pytest.raises(LockNotOwnedError):
            lose()


@pytest.mark.parametrize("quiet", [True, False])
def test_context_manager_reports_a_lock_released_inside_it(get_lock, quiet):
    def release_inside():
        with get_lock(timeout=10, raise_on_release_error=not quiet) as lock:
            lock.release()

    if quiet:
        release_inside()
    else:
        with pytest.raises(LockError, match="not owned or is already unlocked"):
            release_inside()


def test_releasing_an_unlocked_lock_raises(get_lock):
    with pytest.raises(LockError) as raised:
        get_lock().release()
    assert raised.value.lock_name == LOCK


def test_releasing_a_lock_no_longer_owned_raises(get_lock, any_client):
    lock = get_lock()
    lock.acquire(blocking=False)
    any_client.set(LOCK, "a")
    with pytest.raises(LockNotOwnedError) as raised:
        lock.release()
    assert raised.value.lock_name == LOCK
    assert lock.local.token is None
    assert any_client.get(LOCK) == b"a"


def test_extend_adds_time(get_lock, any_client):
    lock = get_lock(timeout=10.5)
    assert lock.acquire(blocking=False)
    before = any_client.pttl(LOCK)
    assert lock.extend(10.5) is True
    assert before + 5_000 < any_client.pttl(LOCK) <= before + 10_500 + 50
    lock.release()


def test_extend_can_replace_the_lease(get_lock, any_client):
    lock = get_lock(timeout=10)
    assert lock.acquire(blocking=False)
    assert lock.extend(10, replace_ttl=True) is True
    assert 5_000 < any_client.pttl(LOCK) <= 10_000
    lock.release()


def test_reacquire_resets_the_lease(get_lock, any_client):
    lock = get_lock(timeout=10)
    assert lock.acquire(blocking=False)
    assert any_client.pexpire(LOCK, 5_000)
    assert lock.reacquire() is True
    assert 5_000 < any_client.pttl(LOCK) <= 10_000
    lock.release()


@pytest.mark.parametrize("change", ["extend", "reacquire"])
def test_changing_the_lease_of_a_lock_not_owned_raises(get_lock, any_client, change):
    args = (10,) if change == "extend" else ()
    lock = get_lock(timeout=10)
    with pytest.raises(LockError, match="unlocked"):
        getattr(lock, change)(*args)
    assert lock.acquire(blocking=False)
    any_client.set(LOCK, "a")
    with pytest.raises(LockNotOwnedError) as raised:
        getattr(lock, change)(*args)
    assert raised.value.lock_name == LOCK

    any_client.delete(LOCK)
    permanent = get_lock()
    assert permanent.acquire(blocking=False)
    with pytest.raises(LockError, match="no timeout"):
        getattr(permanent, change)(*args)
    permanent.release()


def test_each_thread_has_its_own_hold(get_lock):
    lock = get_lock(timeout=10)
    assert lock.acquire()
    seen = []

    def other_thread():
        seen.append(getattr(lock.local, "token", None))
        seen.append(get_lock().acquire(blocking=False))

    thread = threading.Thread(target=other_thread)
    thread.start()
    thread.join()
    assert seen == [None, False]
    lock.release()


def test_without_thread_local_another_thread_can_release(get_lock):
    lock = get_lock(thread_local=False, timeout=10)
    assert lock.acquire()
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    assert lock.locked() is False


def test_a_lock_can_be_released_with_a_copied_token(get_lock):
    first, second = get_lock(timeout=10), get_lock(timeout=10)
    assert first.acquire()
    second.local.token = first.local.token
    assert second.owned()
    assert second.extend(1)
    second.release()
    assert first.locked() is False


def test_redis_py_and_gpulock_exclude_each_other(any_client):
    old = any_client.lock(LOCK, timeout=10)
    new = gpulock.Lock(any_client, LOCK, timeout=10)
    assert old.acquire()
    assert not new.acquire(blocking=False)
    old.release()
    assert new.acquire()
    assert not old.acquire(blocking=False)
    new.release()
    eventually(lambda: old.acquire(blocking=False))
    old.release()


def test_a_lock_without_timeout_is_held_longer_than_the_default_lease(server):
    with server.client() as client:
        default = client.config_get("gpulock.default-lease")["gpulock.default-lease"]
        client.config_set("gpulock.default-lease", 3000)
        try:
            with gpulock.Lock(client, LOCK) as lock:
                time.sleep(4)
                assert lock.owned()
                assert 0 < client.pttl(LOCK) <= 3000
        finally:
            client.config_set("gpulock.default-lease", default)
