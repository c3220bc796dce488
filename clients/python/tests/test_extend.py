"""How a holder changes its lease: with extend, with a script as celery-redbeat's, and up to
gpulock.max-lease."""

import functools
from types import SimpleNamespace

import pytest
import redis.asyncio
import redis.client
from redis.exceptions import LockError, LockNotOwnedError

import gpulock
import gpulock.asyncio
from inspection import LOCK
from servers import eventually

celery = pytest.importorskip("celery", reason="celery-redbeat needs Celery")
schedulers = pytest.importorskip("redbeat.schedulers")


@pytest.fixture
def short_max_lease(client):
    before = client.config_get("gpulock.max-lease")["gpulock.max-lease"]
    client.config_set("gpulock.max-lease", 100_000)
    yield
    client.config_set("gpulock.max-lease", before)


def test_celery_redbeat_keeps_its_lock_for_one_timeout(any_server, monkeypatch):
    with_gpulock = functools.partialmethod(redis.client.Redis.lock, lock_class=gpulock.Lock)
    monkeypatch.setattr(redis.client.Redis, "lock", with_gpulock)
    app = celery.Celery(set_as_current=False)
    app.conf.update(
        redbeat_redis_url=f"redis://127.0.0.1:{any_server.port}",
        redbeat_lock_timeout=25,
        beat_max_loop_interval=1,
    )
    scheduler = schedulers.RedBeatScheduler(app, lazy=True)
    schedulers.acquire_distributed_beat_lock(SimpleNamespace(scheduler=scheduler))
    try:
        with any_server.client() as client:
            assert isinstance(scheduler.lock, gpulock.Lock)
            for _ in range(10):
                scheduler.tick()
            assert 20_000 < client.pttl(scheduler.lock_key) <= 25_000
            scheduler.close()
            assert not client.exists(app.redbeat_conf.lock_key)
    finally:
        schedulers.get_redis(app).close()


class DeletingClient(redis.Redis):
    """Another client removes the lock before the expiry is read."""

    def execute_command(self, *args, **options):
        if args[0] == "PTTL":
            super().execute_command("DEL", args[1])
        return super().execute_command(*args, **options)


def test_a_lock_that_is_removed_while_it_is_extended_is_not_owned(any_server):
    with DeletingClient(port=any_server.port) as client:
        lock = gpulock.Lock(client, LOCK, timeout=25)
        lock.acquire()
        with pytest.raises(LockNotOwnedError):
            lock.extend(25, replace_ttl=True)
        assert lock.lost.is_set()


def test_a_script_of_the_holder_replaces_extend(any_client):
    lock = gpulock.Lock(any_client, LOCK, timeout=25)
    lock.lua_extend = any_client.register_script(schedulers.LUA_EXTEND_TO_SCRIPT)
    lock.acquire()
    for _ in range(10):
        lock.extend(25)
    assert any_client.pttl(LOCK) <= 25_000
    lock.ensure_held()
    any_client.set(LOCK, "other", px=1000)
    with pytest.raises(LockNotOwnedError):
        lock.extend(25)
    assert lock.lost.is_set()


async def test_asyncio_a_script_of_the_holder_replaces_extend(any_aclient):
    lock = gpulock.asyncio.Lock(any_aclient, LOCK, timeout=25)
    lock.lua_extend = any_aclient.register_script(schedulers.LUA_EXTEND_TO_SCRIPT)
    await lock.acquire()
    for _ in range(10):
        await lock.extend(25)
    assert await any_aclient.pttl(LOCK) <= 25_000
    await any_aclient.delete(LOCK)
    with pytest.raises(LockNotOwnedError):
        await lock.extend(25)


def test_renewal_does_not_shorten_what_a_script_has_set(client):
    lock = gpulock.Lock(client, LOCK, timeout=0.9, renew=True)
    lock.lua_extend = client.register_script(schedulers.LUA_EXTEND_TO_SCRIPT)
    with lock:
        lock.extend(50)
        extends = client.info("gpulock")["gpulock_extends"]
        eventually(lambda: client.info("gpulock")["gpulock_extends"] > extends)
        assert client.pttl(LOCK) > 20_000


def test_other_scripts_are_rejected(client):
    for lock in gpulock.Lock(client, LOCK), gpulock.asyncio.Lock(redis.asyncio.Redis(), LOCK):
        for name in "lua_release", "lua_reacquire":
            with pytest.raises(AttributeError, match=f"{name} cannot be replaced"):
                setattr(lock, name, client.register_script("return 1"))


def test_a_lease_above_the_maximum_is_a_lock_error(client, short_max_lease):
    lock = gpulock.Lock(client, LOCK, timeout=60)
    lock.acquire()
    lock.extend(30)
    with pytest.raises(LockError, match=r"gpulock\.max-lease.*still held"):
        lock.extend(30)
    with pytest.raises(LockError, match=r"gpulock\.max-lease"):
        lock.extend(101, replace_ttl=True)
    lock.timeout = 101
    with pytest.raises(LockError, match=r"gpulock\.max-lease"):
        lock.reacquire()
    assert not lock.lost.is_set()
    assert lock.owned()
    assert 80_000 < client.pttl(LOCK) <= 90_000
    lock.release()


async def test_asyncio_a_lease_above_the_maximum_is_a_lock_error(aclient, short_max_lease):
    lock = gpulock.asyncio.Lock(aclient, LOCK, timeout=60)
    await lock.acquire()
    with pytest.raises(LockError, match=r"gpulock\.max-lease.*still held"):
        await lock.extend(60)
    assert await lock.owned()
    await lock.release()
