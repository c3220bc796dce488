"""Servers without the module: the same API, with an error for features that need the module."""

import asyncio
import json
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

import gpulock
from gpulock import ModuleMissingError
from gpulock._server import server_of
from inspection import LOCK, inspect, waiting
from reply_dropping_proxy import ReplyDroppingProxy
from servers import MODULE, PATIENCE_S, Server, eventually

RETRIES = {"retry": Retry(NoBackoff(), 3), "retry_on_error": [redis.ConnectionError]}


@pytest.fixture
def plain(plain_server):
    with plain_server.client() as client:
        client.config_resetstat()
        yield client


def calls(client):
    return {name[len("cmdstat_") :].upper() for name in client.info("commandstats")}


def test_the_missing_module_is_logged_once(plain, caplog):
    for _ in range(3):
        with gpulock.Lock(plain, LOCK, timeout=10):
            pass
    records = [r for r in caplog.records if "no GPULOCK module" in r.message]
    assert len(records) == 1
    assert records[0].levelno == logging.WARNING


def test_what_is_known_about_a_server_may_be_discarded_at_any_time(plain):
    """A renewer does that in its own thread when its connection breaks."""
    lock = gpulock.Lock(plain, LOCK, timeout=10)

    class Discard(logging.Handler):
        def emit(self, record):
            server_of(plain).invalidate()

    handler = Discard()
    logging.getLogger("gpulock").addHandler(handler)
    try:
        with lock:
            assert lock.owned()
    finally:
        logging.getLogger("gpulock").removeHandler(handler)


def test_release_uses_the_best_command_of_the_server(plain):
    known = plain.execute_command("COMMAND INFO", "DELEX", "DELIFEQ")
    best = "DELEX" if known[0] else "DELIFEQ" if known[1] else "EVAL"
    with gpulock.Lock(plain, LOCK, timeout=10):
        pass
    used = calls(plain) & {"DELEX", "DELIFEQ", "EVAL"}
    assert used == {best}
    assert not any(call.startswith("GPULOCK") for call in calls(plain))


def test_features_of_the_module_raise(plain):
    for feature in ({"session": True}, {"fair": True}):
        with pytest.raises(ModuleMissingError):
            gpulock.Lock(plain, LOCK, timeout=10, **feature).acquire()
        assert not plain.exists(LOCK)
    with gpulock.Lock(plain, LOCK, timeout=10) as lock, pytest.raises(ModuleMissingError):
        lock.token  # noqa: B018


def test_a_release_wakes_the_waiters(plain):
    holder = gpulock.Lock(plain, LOCK, timeout=60)
    holder.acquire()
    # Polling alone would be too slow.
    waiter = gpulock.Lock(plain, LOCK, timeout=60, sleep=10 * PATIENCE_S, thread_local=False)
    thread = threading.Thread(target=waiter.acquire, daemon=True)
    thread.start()
    eventually(lambda: plain.pubsub_numsub(f"gpu_lock:{LOCK}")[0][1] == 1)
    holder.release()
    thread.join(PATIENCE_S)
    assert waiter.owned()
    eventually(lambda: plain.pubsub_numsub(f"gpu_lock:{LOCK}")[0][1] == 0)


def test_the_release_event_matches_the_modules(plain, server):
    # A key of its own: events for locks removed by FLUSHALL arrive up to a second later.
    events, key = [], "gpu_lock:event"
    with server.client() as with_module:
        for client in plain, with_module:
            with client.pubsub() as pubsub:
                pubsub.subscribe(f"gpu_lock:{key}")
                assert pubsub.get_message(timeout=PATIENCE_S)["type"] == "subscribe"
                lock = gpulock.Lock(client, key, timeout=10, owner="locked_by_asr")
                lock.acquire()
                lock.release()
                events.append(json.loads(pubsub.get_message(timeout=PATIENCE_S)["data"]))
    own, modules = events
    for event in events:
        assert time.time() - event.pop("timestamp") < PATIENCE_S
    assert own == {key: value for key, value in modules.items() if key in own}


def test_a_lock_is_renewed_and_its_loss_is_reported(plain):
    with gpulock.Lock(plain, LOCK, timeout=3, renew=True) as lock:
        time.sleep(4)
        lock.ensure_held()
        assert 0 < plain.pttl(LOCK) <= 3000
    lock = gpulock.Lock(plain, LOCK, timeout=3, renew=True)
    lock.acquire()
    plain.set(LOCK, "other")
    assert lock.lost.wait(PATIENCE_S)


def test_a_lock_without_timeout_never_expires_and_has_no_renewer(plain):
    before = set(threading.enumerate())
    with gpulock.Lock(plain, LOCK):
        assert plain.ttl(LOCK) == -1
        assert not set(threading.enumerate()) - before


async def test_asyncio_locks_work_without_the_module(plain_server):
    async with redis.asyncio.Redis(port=plain_server.port) as client:
        lock = gpulock.asyncio.Lock(client, LOCK, timeout=3, renew=True)
        async with lock:
            await lock.ensure_held()
            with pytest.raises(ModuleMissingError):
                lock.token  # noqa: B018
            assert not await gpulock.asyncio.Lock(client, LOCK).acquire(blocking_timeout=4)
        assert not await client.exists(LOCK)
        with pytest.raises(ModuleMissingError):
            await gpulock.asyncio.Lock(client, LOCK, session=True).acquire()


def test_the_module_is_detected_again_after_a_reconnect(program, caplog):
    server = Server(program, module=False)
    try:
        with server.client() as client:
            lock = gpulock.Lock(client, LOCK, timeout=60)
            lock.acquire()
            lock.release()
            for module in (True, False, True):
                server.module = module
                server.restart()
                lock.acquire()
                assert (
                    client.execute_command("COMMAND INFO", "GPULOCK.ACQUIRE")[0] or not module
                )
                if module:
                    assert lock.token
                else:
                    with pytest.raises(ModuleMissingError):
                        lock.token  # noqa: B018
                lock.release()
    finally:
        server.close()
    assert "has the GPULOCK module now" in caplog.text


@pytest.fixture
def loadable_server(program):
    """A server without the module, which can be loaded with MODULE LOAD."""
    server = Server(program, module=False, options=["--enable-module-command", "yes"])
    yield server
    server.close()


def test_a_polling_waiter_is_queued_once_the_module_is_loaded(loadable_server):
    with loadable_server.client() as client, loadable_server.client() as other:
        client.set(LOCK, "other", ex=60)
        lock = gpulock.Lock(other, LOCK, timeout=60, thread_local=False)
        with ThreadPoolExecutor(1) as threads:
            acquired = threads.submit(lock.acquire)
            eventually(lambda: client.pubsub_numsub(f"gpu_lock:{LOCK}")[0][1] == 1)
            client.module_load(MODULE)
            eventually(lambda: waiting(client) == 1)
            client.delete(LOCK)
            assert acquired.result()
        assert inspect(client)["token"] == lock.token
        lock.release()


async def test_a_polling_task_is_queued_once_the_module_is_loaded(loadable_server):
    with loadable_server.client() as client:
        async with redis.asyncio.Redis(port=loadable_server.port) as other:
            client.set(LOCK, "other", ex=60)
            lock = gpulock.asyncio.Lock(other, LOCK, timeout=60)
            acquired = asyncio.create_task(lock.acquire())
            await asyncio.to_thread(
                eventually, lambda: client.pubsub_numsub(f"gpu_lock:{LOCK}")[0][1] == 1
            )
            client.module_load(MODULE)
            await asyncio.to_thread(eventually, lambda: waiting(client) == 1)
            client.delete(LOCK)
            assert await acquired
            assert inspect(client)["token"] == lock.token
            await lock.release()


def test_a_lock_acquired_with_the_module_can_be_released_without_it(program):
    server = Server(program, options=["--appendonly", "yes", "--appendfsync", "always"])
    try:
        with server.client() as client:
            lock = gpulock.Lock(client, LOCK, timeout=60)
            lock.acquire()
            server.module = False
            server.restart()
            lock.extend(5)
            lock.release()
            assert not client.exists(LOCK)
    finally:
        server.close()


@pytest.mark.skipif("GPULOCK_DELEX_SERVER" not in os.environ, reason="needs Redis 8.4 or newer")
def test_release_uses_delex_on_redis_8_4():
    server = Server(os.environ["GPULOCK_DELEX_SERVER"], module=False)
    try:
        with server.client() as client:
            test_release_uses_the_best_command_of_the_server(client)
            assert "DELEX" in calls(client)
    finally:
        server.close()


def acquire_after_release(client, holder):
    """Waits for the lock with this client while ``holder`` holds it, then acquires it."""
    waiter = gpulock.Lock(client, LOCK, timeout=60, thread_local=False)
    thread = threading.Thread(target=waiter.acquire, daemon=True)
    thread.start()
    time.sleep(0.5)
    holder.release()
    thread.join(PATIENCE_S)
    assert waiter.owned()
    waiter.release()


def test_a_waiter_needs_only_one_pool_connection(plain, plain_server):
    holder = gpulock.Lock(plain, LOCK, timeout=60, thread_local=False)
    holder.acquire()
    with plain_server.client(max_connections=1) as client:
        acquire_after_release(client, holder)


def test_a_waiter_without_permission_to_subscribe_polls(plain, plain_server):
    settings = {"enabled": True, "nopass": True, "keys": ["*"], "commands": ["+@all"]}
    plain.acl_setuser("no-channels", reset_channels=True, **settings)
    holder = gpulock.Lock(plain, LOCK, timeout=60, thread_local=False)
    holder.acquire()
    with plain_server.client(username="no-channels", password="any") as client:
        acquire_after_release(client, holder)
    plain.acl_deluser("no-channels")


@pytest.mark.parametrize("settings", [{"retry": None}, {}], ids=["no-retries", "retries"])
async def test_a_waiting_task_needs_only_one_pool_connection(plain, plain_server, settings):
    plain.set(LOCK, "other", px=1000)
    client = redis.asyncio.Redis(port=plain_server.port, max_connections=1, **settings)
    async with client, gpulock.asyncio.Lock(client, LOCK, timeout=60) as lock:
        assert await lock.owned()


def test_a_lost_reply_does_not_lock_out_its_own_client(plain, plain_server):
    proxy = ReplyDroppingProxy(plain_server.port, b"NX")
    with redis.Redis(port=proxy.port, **RETRIES) as client:
        lock = gpulock.Lock(client, LOCK)
        assert lock.acquire(blocking_timeout=PATIENCE_S)
        assert proxy.has_dropped
        lock.release()
    assert not plain.exists(LOCK)
    proxy.close()


def test_a_lost_reply_does_not_acquire_more_locks(plain, plain_server):
    keys = gpulock.gpu_keys("gpus", range(4), host="node7")
    proxy = ReplyDroppingProxy(plain_server.port, b"free[")
    with redis.Redis(port=proxy.port, **RETRIES) as client:
        pool = gpulock.Pool(client, keys, n=2, timeout=60)
        with pool as gpus:
            assert proxy.has_dropped
            assert gpus.devices == (0, 1)
            assert plain.exists(*keys) == 2
    assert not plain.exists(*keys)
    proxy.close()


def test_a_call_without_retries_releases_what_it_was_granted(plain, plain_server):
    proxy = ReplyDroppingProxy(plain_server.port, b"NX")
    with redis.Redis(port=proxy.port, retry=None) as client:
        with pytest.raises(redis.ConnectionError):
            gpulock.Lock(client, LOCK).acquire()
        assert proxy.has_dropped
    assert not plain.exists(LOCK)
    proxy.close()
