"""Locks that are reserved for a fixed time: no process holds them."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

import gpulock
import gpulock.asyncio
from gpulock import LockNotOwnedError
from inspection import LOCK, inspect, stats
from servers import MODULE, eventually

KEYS = gpulock.gpu_keys("gpus", range(4), host="node7")
COMMAND = Path(MODULE).with_name("gpulock")

RESERVE = """
import sys, redis, gpulock
client = redis.Redis(port=int(sys.argv[1]))
devices = {"{node7}:a": "GPU-7f3a", "{node7}:b": "GPU-19c2"}
pool = gpulock.Pool(client, devices, n=2, session=True)
for name, value in pool.reserve(for_s=60).environment({}).items():
    print(f"{name}={value}")
"""

RELEASE = """
import sys, redis, gpulock
gpulock.Reservation.from_environment(redis.Redis(port=int(sys.argv[1]))).release("done")
"""


def run(*command, **settings):
    return subprocess.run(command, check=True, capture_output=True, text=True, **settings)


def test_a_reservation_lasts_for_its_time_and_is_not_renewed(client):
    lock = gpulock.Lock(
        client, LOCK, timeout=0.3, renew=True, session=True, grace=1, share="kim"
    )
    reservation = lock.reserve(for_s=60)
    assert client.get(LOCK).decode() == reservation.owner
    assert reservation.owner.startswith("reserved:")
    assert reservation.tokens == {LOCK: inspect(client)["token"]}
    assert abs(reservation.until - time.time() - 60) < 30
    assert inspect(client)["session"] is None
    assert inspect(client)["share"] == b"kim"
    assert lock.token is None
    assert not lock.owned()
    del lock
    gc.collect()
    with gpulock.Lock(client, "other", timeout=0.9, renew=True):
        extends = stats(client)["extends"]
        eventually(lambda: stats(client)["extends"] > extends)
    assert 30_000 < client.pttl(LOCK) <= 60_000
    reservation.release()
    assert not client.exists(LOCK)
    with pytest.raises(LockNotOwnedError):
        reservation.release()


def test_a_with_block_neither_uses_nor_ends_a_reservation(client):
    lock = gpulock.Lock(client, LOCK, timeout=60)
    reservation = lock.reserve(for_s=1)
    with lock:
        assert client.get(LOCK).decode() != reservation.owner
    assert not client.exists(LOCK)
    with pytest.raises(LockNotOwnedError, match="no longer held"):
        reservation.release()


def test_a_reservation_that_is_not_granted_changes_nothing(any_client):
    any_client.set(LOCK, "other", px=60_000)
    lock = gpulock.Lock(any_client, LOCK)
    assert lock.reserve(for_s=60, blocking=False) is None
    assert lock.reserve(for_s=60, blocking_timeout=0.05) is None
    assert any_client.get(LOCK) == b"other"


def test_an_interrupted_reservation_leaves_nothing(client):
    def interrupt(signum, frame):
        raise KeyboardInterrupt

    client.set(LOCK, "other", px=60_000)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            gpulock.Lock(client, LOCK).reserve(for_s=60)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not inspect(client)["waiters"]


def test_a_shortened_lease_ends_the_reservation(client):
    before = client.config_get("gpulock.max-hold")["gpulock.max-hold"]
    client.config_set("gpulock.max-hold", 20_000)
    try:
        reservation = gpulock.Lock(client, LOCK).reserve(for_s=60)
    finally:
        client.config_set("gpulock.max-hold", before)
    assert reservation.until < time.time() + 21


@pytest.mark.parametrize("for_s", [0, 0.5, -1, float("nan")])
def test_an_invalid_time_is_refused(for_s):
    with pytest.raises(ValueError, match="invalid for_s"):
        gpulock.Lock(redis.Redis(port=1), LOCK).reserve(for_s=for_s)


def test_a_key_with_a_comma_is_refused():
    with pytest.raises(ValueError, match="invalid key 'a,b': a comma separates keys"):
        gpulock.Pool(redis.Redis(port=1), ["a,b", "c"]).reserve(for_s=60)


def test_a_reservation_outlives_its_process_and_another_one_ends_it(client, server):
    printed = run(sys.executable, "-c", RESERVE, str(server.port)).stdout
    variables = dict(line.split("=", 1) for line in printed.splitlines())
    assert variables["CUDA_VISIBLE_DEVICES"] == "GPU-7f3a,GPU-19c2"
    assert variables["GPULOCK_KEYS"] == "{node7}:a,{node7}:b"
    assert variables["GPULOCK_RESERVED"].split() == list(variables)
    tokens = [str(inspect(client, key)["token"]) for key in ("{node7}:a", "{node7}:b")]
    assert variables["GPULOCK_TOKENS"].split(",") == tokens
    releases = stats(client)["releases"]
    run(sys.executable, "-c", RELEASE, str(server.port), env={**os.environ, **variables})
    assert not client.exists("{node7}:a", "{node7}:b")
    assert stats(client)["releases"] == releases + 2
    with pytest.raises(ValueError, match="no reservation"):
        gpulock.Reservation.from_environment(client, {})


def test_a_reservation_is_released_by_its_owner_and_tokens(any_client):
    made = gpulock.Pool(any_client, [b"\xff0", "b1"], n=2).reserve(for_s=60)
    assert any_client.exists(b"\xff0", "b1") == 2
    same = gpulock.Reservation.from_environment(any_client, made.environment())
    assert (same.owner, same.tokens, int(made.until)) == (made.owner, made.tokens, same.until)
    gpulock.Reservation(any_client, made.owner, made.tokens).release()
    assert not any_client.exists(b"\xff0", "b1")


@pytest.mark.skipif(not COMMAND.exists(), reason="the command gpulock is not built")
def test_the_command_gpulock_understands_a_reservation(client, server):
    reservation = gpulock.Lock(client, LOCK).reserve(for_s=60)
    variables = reservation.environment({"GPULOCK_LOST": "outer", "PATH": os.environ["PATH"]})
    variables["GPULOCK_URL"] = f"redis://127.0.0.1:{server.port}"
    assert reservation.owner in run(COMMAND, "ls", env=variables).stdout
    # Otherwise it would wait for the lock.
    nested = run(
        COMMAND, "run", "--key", LOCK, "--no-wait", "--", "echo", "done", env=variables
    )
    assert nested.stdout == "done\n"
    released = run(COMMAND, "release", env=variables)
    assert released.stdout.startswith("unset GPULOCK_OWNER")
    assert not client.exists(LOCK)


async def test_asyncio_a_reservation_is_made_and_released(any_aclient):
    reservation = await gpulock.asyncio.Lock(any_aclient, LOCK).reserve(for_s=60)
    assert (await any_aclient.get(LOCK)).decode() == reservation.owner
    assert await gpulock.asyncio.Lock(any_aclient, LOCK).reserve(60, blocking=False) is None
    await gpulock.asyncio.Reservation.from_environment(
        any_aclient, reservation.environment()
    ).release()
    assert not await any_aclient.exists(LOCK)
    pool = gpulock.asyncio.Pool(any_aclient, KEYS, n=2)
    reservation = await pool.reserve(for_s=60)
    assert reservation.environment({})["CUDA_VISIBLE_DEVICES"] == "0,1"
    await reservation.release()


async def test_asyncio_a_cancelled_reservation_leaves_nothing(aclient, client):
    client.set(LOCK, "other", px=60_000)
    reserving = asyncio.ensure_future(gpulock.asyncio.Lock(aclient, LOCK).reserve(for_s=60))
    while not stats(client)["clients_waiting"]:
        await asyncio.sleep(0.01)
    reserving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reserving
    assert not inspect(client)["waiters"]
