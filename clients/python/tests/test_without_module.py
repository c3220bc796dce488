"""Servers without the module: the same API, and what cannot be had says so."""

import json
import logging
import os
import threading
import time

import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

import gpulock
from cutter import Cutter
from gpulock import ModuleMissingError
from servers import PATIENCE_S, Server, eventually

LOCK = "gpu_lock:0"
RETRIES = {"retry": Retry(NoBackoff(), 3), "retry_on_error": [redis.ConnectionError]}


@pytest.fixture
def plain(plain_server):
    with plain_server.client() as client:
        client.config_resetstat()
        yield client


def calls(client):
    return {name[len("cmdstat_") :].upper() for name in client.info("commandstats")}


def test_it_is_announced_once(plain, caplog):
    for _ in range(3):
        with gpulock.Lock(plain, LOCK, timeout=10):
            pass
    told = [r for r in caplog.records if "no GPULOCK module" in r.message]
    assert len(told) == 1
    assert told[0].levelno == logging.WARNING


def test_the_best_release_that_the_server_has(plain):
    known = plain.execute_command("COMMAND INFO", "DELEX", "DELIFEQ")
    best = "DELEX" if known[0] else "DELIFEQ" if known[1] else "EVAL"
    with gpulock.Lock(plain, LOCK, timeout=10):
        pass
    used = calls(plain) & {"DELEX", "DELIFEQ", "EVAL"}
    assert used == {best}
    assert not any(call.startswith("GPULOCK") for call in calls(plain))


def test_what_cannot_be_had_raises_when_asked_for(plain):
    for wish in ({"session": True}, {"fair": True}):
        with pytest.raises(ModuleMissingError):
            gpulock.Lock(plain, LOCK, timeout=10, **wish).acquire()
        assert not plain.exists(LOCK)
    with gpulock.Lock(plain, LOCK, timeout=10) as lock, pytest.raises(ModuleMissingError):
        lock.token  # noqa: B018


def test_a_release_wakes_those_who_wait(plain):
    holder = gpulock.Lock(plain, LOCK, timeout=60)
    holder.acquire()
    # Polling alone would not see it in time.
    waiter = gpulock.Lock(plain, LOCK, timeout=60, sleep=10 * PATIENCE_S, thread_local=False)
    thread = threading.Thread(target=waiter.acquire, daemon=True)
    thread.start()
    eventually(lambda: plain.pubsub_numsub(f"gpu_lock:{LOCK}")[0][1] == 1)
    holder.release()
    thread.join(PATIENCE_S)
    assert waiter.owned()
    eventually(lambda: plain.pubsub_numsub(f"gpu_lock:{LOCK}")[0][1] == 0)


def test_the_event_is_the_modules(plain, server):
    # Of no other test: what FLUSHALL removed is told up to a second later.
    seen, key = [], "gpu_lock:told"
    with server.client() as with_module:
        for client in plain, with_module:
            with client.pubsub() as ears:
                ears.subscribe(f"gpu_lock:{key}")
                assert ears.get_message(timeout=PATIENCE_S)["type"] == "subscribe"
                lock = gpulock.Lock(client, key, timeout=10, owner="locked_by_asr")
                lock.acquire()
                lock.release()
                seen.append(json.loads(ears.get_message(timeout=PATIENCE_S)["data"]))
    ours, modules = seen
    for event in seen:
        assert time.time() - event.pop("timestamp") < PATIENCE_S
    assert ours == {key: value for key, value in modules.items() if key in ours}


def test_renewal_and_loss(plain):
    with gpulock.Lock(plain, LOCK, timeout=3, renew=True) as lock:
        time.sleep(4)
        lock.ensure_held()
        assert 0 < plain.pttl(LOCK) <= 3000
    lock = gpulock.Lock(plain, LOCK, timeout=3, renew=True)
    lock.acquire()
    plain.set(LOCK, "somebody")
    assert lock.lost.wait(PATIENCE_S)


def test_a_lock_without_timeout_has_no_end_and_no_keeper(plain):
    before = set(threading.enumerate())
    with gpulock.Lock(plain, LOCK):
        assert plain.ttl(LOCK) == -1
        assert not set(threading.enumerate()) - before


async def test_asyncio(plain_server):
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


def test_it_is_found_out_again_after_a_reconnect(program, caplog):
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


def test_a_lock_taken_with_the_module_is_given_back_without_it(program):
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
def test_delex():
    server = Server(os.environ["GPULOCK_DELEX_SERVER"], module=False)
    try:
        with server.client() as client:
            test_the_best_release_that_the_server_has(client)
            assert "DELEX" in calls(client)
    finally:
        server.close()


def waits_for(client, holder):
    """Waits for the lock of the holder with this client, and is granted it."""
    waiter = gpulock.Lock(client, LOCK, timeout=60, thread_local=False)
    thread = threading.Thread(target=waiter.acquire, daemon=True)
    thread.start()
    time.sleep(0.5)
    holder.release()
    thread.join(PATIENCE_S)
    assert waiter.owned()
    waiter.release()


def test_a_waiter_with_one_connection(plain, plain_server):
    holder = gpulock.Lock(plain, LOCK, timeout=60, thread_local=False)
    holder.acquire()
    with plain_server.client(max_connections=1) as client:
        waits_for(client, holder)


def test_a_waiter_who_may_not_subscribe(plain, plain_server):
    settings = {"enabled": True, "nopass": True, "keys": ["*"], "commands": ["+@all"]}
    plain.acl_setuser("deaf", reset_channels=True, **settings)
    holder = gpulock.Lock(plain, LOCK, timeout=60, thread_local=False)
    holder.acquire()
    with plain_server.client(username="deaf", password="any") as client:
        waits_for(client, holder)
    plain.acl_deluser("deaf")


@pytest.mark.parametrize("settings", [{"retry": None}, {}], ids=["alone", "retries"])
async def test_a_task_with_one_connection(plain, plain_server, settings):
    plain.set(LOCK, "somebody", px=1000)
    client = redis.asyncio.Redis(port=plain_server.port, max_connections=1, **settings)
    async with client, gpulock.asyncio.Lock(client, LOCK, timeout=60) as lock:
        assert await lock.owned()


def test_a_lost_answer_locks_nobody_out(plain, plain_server):
    cutter = Cutter(plain_server.port, b"NX")
    with redis.Redis(port=cutter.port, **RETRIES) as client:
        lock = gpulock.Lock(client, LOCK)
        assert lock.acquire(blocking_timeout=PATIENCE_S)
        assert cutter.has_cut
        lock.release()
    assert not plain.exists(LOCK)
    cutter.close()


def test_a_lost_answer_takes_no_second_share(plain, plain_server):
    keys = gpulock.gpu_keys("gpus", range(4), host="node7")
    cutter = Cutter(plain_server.port, b"free[")
    with redis.Redis(port=cutter.port, **RETRIES) as client:
        pool = gpulock.Pool(client, keys, n=2, timeout=60)
        with pool as gpus:
            assert cutter.has_cut
            assert gpus.devices == (0, 1)
            assert plain.exists(*keys) == 2
    assert not plain.exists(*keys)
    cutter.close()


def test_a_call_without_retries_takes_back_what_it_was_given(plain, plain_server):
    cutter = Cutter(plain_server.port, b"NX")
    with redis.Redis(port=cutter.port, retry=None) as client:
        with pytest.raises(redis.ConnectionError):
            gpulock.Lock(client, LOCK).acquire()
        assert cutter.has_cut
    assert not plain.exists(LOCK)
    cutter.close()
