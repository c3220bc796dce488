"""The notice that an operator gives with FORCERELEASE AFTER: ``revoked``, ``on_revoked`` and
``notice``, and the report of the loss before the deadline."""

import asyncio
import threading
import time

import pytest
import redis.asyncio

import gpulock
import gpulock.asyncio
from inspection import LOCK, inspect, stats
from servers import PATIENCE_S, eventually, until

# A loss is reported 1.5 s before the deadline.
NOTICE_S = 9


@pytest.fixture
def client(server):
    """Not for each protocol: test_the_holder_learns_the_deadline has both."""
    with server.client() as client:
        yield client


@pytest.fixture
def watcher(client):
    """Does not use the event loop."""
    return client


@pytest.fixture
async def aclient(server):
    async with redis.asyncio.Redis(port=server.port) as client:
        yield client


def give_notice(client, name, after_s, *reason):
    after_ms = int(after_s * 1000)
    return client.execute_command("GPULOCK.FORCERELEASE", name, "AFTER", after_ms, *reason)


def deadline(client, name):
    return time.time() + inspect(client, name)["revoked_ms"] / 1000


@pytest.mark.parametrize("settings", [{"timeout": 60}, {"timeout": 60, "session": True}, {}])
def test_the_holder_learns_the_deadline(server, protocol, settings):
    client = server.client(protocol=protocol)
    notices, called = [], threading.Event()

    def on_revoked(notice):
        notices.append((notice, lock.revoked.is_set()))
        called.set()

    lock = gpulock.Lock(client, LOCK, thread_local=False, on_revoked=on_revoked, **settings)
    lock.acquire()
    assert not lock.revoked.is_set()
    assert lock.notice is None
    give_notice(client, LOCK, 40, "REASON", "maintenance")
    assert called.wait(PATIENCE_S)
    ((notice, was_set),) = notices
    assert was_set
    assert lock.notice == notice
    expected = (LOCK, lock.owner, lock.token, "maintenance")
    assert (notice.name, notice.owner, notice.token, notice.reason) == expected
    assert abs(notice.deadline - deadline(client, LOCK)) < 2
    lock.ensure_held()
    lock.release()
    assert lock.notice is None
    assert lock.acquire()
    assert not lock.revoked.is_set()
    lock.release()
    client.close()


async def test_a_task_learns_the_deadline(aclient, watcher):
    notices = []

    async def on_revoked(notice):
        await asyncio.sleep(0)
        notices.append(notice)
        await lock.release("preempted")

    lock = gpulock.asyncio.Lock(aclient, LOCK, timeout=60, renew=True, on_revoked=on_revoked)
    await lock.acquire()
    revoked = lock.revoked
    give_notice(watcher, LOCK, 40)
    expected = deadline(watcher, LOCK)
    await until(lambda: notices)
    assert revoked.is_set()
    assert abs(notices[0].deadline - expected) < 2
    await until(lambda: lock.owner is None)
    assert not watcher.exists(LOCK)


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout": 600, "renew": True},
        {"timeout": 600, "session": True},
        {"timeout": 4, "renew": True},
        {"timeout": 4, "renew": True, "session": True},
    ],
)
def test_a_loss_is_reported_before_the_deadline(client, settings):
    lost = []

    def on_lost(loss):
        lost.append((loss.reason, client.get(LOCK), time.time()))

    notices = []
    lock = gpulock.Lock(
        client,
        LOCK,
        on_revoked=notices.append,
        on_lost=on_lost,
        **settings,
    )
    lock.acquire()
    give_notice(client, LOCK, NOTICE_S)
    assert lock.revoked.wait(PATIENCE_S)
    assert not lock.lost.is_set(), "the notice itself counts as a loss"
    assert lock.lost.wait(PATIENCE_S)
    ((reason, holder, lost_at),) = eventually(lambda: lost)
    assert (reason, holder) == ("the time after a notice is about to end", lock.owner)
    assert notices[0].deadline - lost_at < NOTICE_S / 2, "reported too early"
    eventually(lambda: stats(client)["emergency_releases"] == 1)
    assert len(notices) == 1


async def test_a_task_loses_the_lock_before_the_deadline(aclient, watcher):
    notices = []
    lock = gpulock.asyncio.Lock(aclient, LOCK, timeout=600, on_revoked=notices.append)
    await lock.acquire()
    give_notice(watcher, LOCK, NOTICE_S)
    await asyncio.wait_for(lock.revoked.wait(), PATIENCE_S)
    assert not lock.lost.is_set()
    await asyncio.wait_for(lock.lost.wait(), PATIENCE_S)
    assert watcher.get(LOCK) == lock.owner
    assert notices[0].deadline - time.time() < NOTICE_S / 2, "reported too early"


def test_a_lease_shorter_than_the_notice_is_renewed_until_the_deadline(client):
    lock = gpulock.Lock(client, LOCK, timeout=1.5, renew=True)
    lock.acquire()
    give_notice(client, LOCK, NOTICE_S)
    assert lock.revoked.wait(PATIENCE_S)
    assert lock.lost.wait(PATIENCE_S)
    assert client.get(LOCK) == lock.owner
    assert lock.notice.deadline - time.time() < NOTICE_S / 2, "reported too early"


def test_each_notice_is_reported_once(client):
    notices = []
    with gpulock.Lock(client, LOCK, timeout=2, renew=True, on_revoked=notices.append):
        give_notice(client, LOCK, 300, "REASON", "first")
        eventually(lambda: len(notices) == 1)
        give_notice(client, LOCK, 400, "REASON", "later")
        give_notice(client, LOCK, 30, "REASON", "second")
        eventually(lambda: len(notices) == 2)
        # INSPECT and renewals after it report nothing.
        before = stats(client)["extends"]
        eventually(lambda: stats(client)["extends"] > before + 1)
    assert [notice.reason for notice in notices] == ["first", "second"]


def test_a_pool_learns_which_lock_is_revoked(client):
    notices = []
    keys = ["{g}:0", "{g}:1", "{g}:2"]
    pool = gpulock.Pool(client, keys, n=2, timeout=60, renew=True, on_revoked=notices.append)
    with pool as gpus:
        assert not pool.revoked.is_set()
        give_notice(client, keys[1], 40)
        assert pool.revoked.wait(PATIENCE_S)
        (notice,) = eventually(lambda: notices)
        assert (notice.name, notice.token) == (keys[1], gpus.tokens[keys[1]])
        assert pool.notice == notice


async def test_an_asyncio_pool_learns_which_lock_is_revoked(aclient, watcher):
    keys = ["{g}:0", "{g}:1", "{g}:2"]
    pool = gpulock.asyncio.Pool(aclient, keys, n=2, timeout=60, renew=True)
    async with pool:
        give_notice(watcher, keys[1], 40)
        await asyncio.wait_for(pool.revoked.wait(), PATIENCE_S)
        assert pool.notice.name == keys[1]


def test_a_slow_callback_does_not_delay_the_renewal(client):
    finish = threading.Event()
    lock = gpulock.Lock(
        client, LOCK, timeout=1.5, renew=True, on_revoked=lambda _: finish.wait(PATIENCE_S)
    )
    lock.acquire()
    give_notice(client, LOCK, 60)
    assert lock.revoked.wait(PATIENCE_S)
    before = stats(client)["extends"]
    eventually(lambda: stats(client)["extends"] > before + 4)
    finish.set()
    assert not lock.lost.is_set()
    lock.release()


def test_a_callback_that_fails_is_logged(client, caplog):
    def fail(_notice):
        raise RuntimeError("no disk space")

    with gpulock.Lock(client, LOCK, timeout=60, on_revoked=fail):
        give_notice(client, LOCK, 40)
        eventually(lambda: "no disk space" in caplog.text)
