"""Pools for threads and asyncio tasks, with the module and without it."""

import asyncio
import subprocess
import sys
import threading
import time

import pytest
from redis.exceptions import ConnectionError, LockError, LockNotOwnedError

import gpulock
import gpulock.asyncio
from inspection import inspect, stats, waiting
from proxy import Proxy
from servers import eventually

KEYS = gpulock.gpu_keys("gpus", range(4), host="node7")


def test_gpu_keys_names_the_gpus_of_a_host():
    assert KEYS[:2] == ["{gpus:node7}:gpu:0", "{gpus:node7}:gpu:1"]
    assert gpulock.gpu_keys("gpus", [3])[0].endswith("}:gpu:3")


def test_acquires_any_two_of_four(any_client):
    any_client.set(KEYS[0], "other")
    with gpulock.Pool(any_client, KEYS, n=2, timeout=60) as gpus:
        assert gpus.devices == (1, 2)
        assert gpus.keys == (KEYS[1], KEYS[2])
        assert gpus.torch == ("cuda:1", "cuda:2")
        assert any_client.get(KEYS[1]) == any_client.get(KEYS[2])
        assert 50_000 < any_client.pttl(KEYS[2]) <= 60_000
        assert not gpulock.Pool(any_client, KEYS, n=2, timeout=60).acquire(blocking=False)
        with gpulock.Pool(any_client, KEYS, timeout=60) as last:
            assert last.devices == (3,)
    assert any_client.exists(*KEYS) == 1


def test_a_subprocess_sees_only_its_gpus(client):
    with gpulock.Pool(client, KEYS, n=2, timeout=60) as gpus:
        output = subprocess.run(
            [
                sys.executable,
                "-c",
                "import os; print(*(os.environ[k] for k in ('CUDA_VISIBLE_DEVICES',"
                "'CUDA_DEVICE_ORDER', 'GPULOCK_KEYS', 'GPULOCK_TOKENS')))",
            ],
            env=gpus.environment(),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        tokens = [str(inspect(client, key)["token"]) for key in gpus.keys]
        devices = map(str, gpus.devices)
        expected = [",".join(devices), "PCI_BUS_ID", ",".join(gpus.keys), ",".join(tokens)]
    assert output == expected


def test_devices_can_be_given_by_name(client):
    pool = gpulock.Pool(client, {"a": "GPU-7f3a", "b": "GPU-19c2"}, n=2, timeout=60)
    with pool as gpus:
        assert gpus.environment({})["CUDA_VISIBLE_DEVICES"] == "GPU-7f3a,GPU-19c2"
        assert gpus.devices == ("GPU-7f3a", "GPU-19c2")
        with pytest.raises(ValueError, match="'GPU-7f3a' is not an index"):
            _ = gpus.torch
    with gpulock.Pool(client, {"a": "3"}, timeout=60) as gpus:
        assert gpus.torch == ("cuda:3",)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (["gpu:1", "gpu:01"], "keys 'gpu:1' and 'gpu:01' have the same device, 1"),
        (["{x}:node7:0", "{x}:node8:0"], "one pool for each host"),
        ({"a": 1, "b": "1"}, "keys 'a' and 'b' have the same device, '1'"),
        (["gpu:1", "big"], "the device of key 'big' is unknown.* map each key to its device"),
        ({"a": 0, "b:1": None}, "the device of key 'b:1' is unknown"),
    ],
)
def test_ambiguous_devices_are_rejected_when_they_are_used(any_client, keys, reason):
    with gpulock.Pool(any_client, keys, n=2, timeout=60) as gpus:
        assert gpus.keys == tuple(keys)
        uses = (lambda: gpus.devices, lambda: gpus.torch, gpus.environment)
        for use in uses:
            with pytest.raises(ValueError, match=reason):
                use()
    reservation = gpulock.Pool(any_client, keys, n=2).reserve(for_s=60)
    for use in (lambda: reservation.devices, reservation.environment):
        with pytest.raises(ValueError, match=reason):
            use()
    reservation.release()


def test_two_locks_of_a_pool_can_be_for_one_gpu_if_they_are_not_held_together(client):
    with gpulock.Pool(client, {"slot:a": 0, "slot:b": 0}, timeout=60) as gpus:
        assert gpus.devices == (0,)


@pytest.mark.parametrize("kind", ["GPU", "MIG"])
def test_a_key_that_ends_with_a_uuid_is_for_this_gpu(client, kind):
    uuid = f"{kind}-5a1c7c1e-0b1d-4c1e-9d3a-0123456789ab"
    keys = [f"{{gpus:node7}}:{uuid[:-1]}{digit}" for digit in "01"]
    with gpulock.Pool(client, keys, n=2, timeout=60) as gpus:
        assert gpus.devices == (f"{uuid[:-1]}0", f"{uuid[:-1]}1")
    with gpulock.Pool(client, ["node7:GPU-3"], timeout=60) as gpus:
        assert gpus.devices == (3,)


def test_a_key_with_a_comma_has_no_environment(client):
    with gpulock.Pool(client, ["a,b:0"], timeout=60) as gpus:
        assert gpus.devices == (0,)
        with pytest.raises(ValueError, match="invalid key 'a,b:0': a comma separates keys"):
            gpus.environment()


@pytest.mark.parametrize("n", [0, 5])
def test_an_impossible_number_is_rejected(client, n):
    with pytest.raises(ValueError, match="n must be from 1 to 4"):
        gpulock.Pool(client, KEYS, n=n)


def test_release_and_gpus_raise_when_nothing_is_held(client):
    pool = gpulock.Pool(client, KEYS)
    with pytest.raises(LockError):
        pool.release()
    with pytest.raises(LockError):
        _ = pool.gpus


def test_a_large_request_is_not_starved(client):
    first = gpulock.Pool(client, KEYS, n=4, timeout=60)
    first.acquire()
    order = []

    def work(n):
        with gpulock.Pool(client, KEYS, n=n, timeout=60):
            order.append(n)

    threads = []
    for index, n in enumerate((3, 1, 2)):
        threads.append(threading.Thread(target=work, args=(n,)))
        threads[-1].start()
        eventually(lambda index=index: waiting(client, KEYS[0]) == index + 1)
    first.release()
    for thread in threads:
        thread.join()
    assert order.index(3) < order.index(2)


def test_without_the_module_waiters_poll(plain_server):
    with plain_server.client() as client:
        held = gpulock.Pool(client, KEYS, n=3, timeout=60)
        held.acquire()
        acquired = []

        def work():
            with gpulock.Pool(client, KEYS, n=2, timeout=60) as gpus:
                acquired.append(gpus.devices)

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.3)
        assert not acquired
        held.release()
        thread.join()
        # The holder releases its locks one by one; KEYS[3] was free all along.
        assert acquired in ([(0, 1)], [(0, 3)])
        assert not client.exists(*KEYS)


def test_all_locks_are_renewed_and_losing_one_is_a_loss(client):
    pool = gpulock.Pool(client, KEYS, n=2, timeout=3, renew=True, session=True)
    pool.acquire()
    before = stats(client)["extends"]
    eventually(lambda: stats(client)["extends"] > before + 7)
    pool.ensure_held()
    client.execute_command("GPULOCK.FORCERELEASE", KEYS[1])
    assert pool.lost.wait(30)
    with pytest.raises(LockNotOwnedError):
        pool.release()
    assert not client.exists(*KEYS), "the remaining locks were released"


def test_a_partial_release_can_be_completed(server, client):
    proxy = Proxy(server.port)
    with server.client(retry=None) as own:
        own.connection_pool.connection_kwargs["port"] = proxy.port
        pool = gpulock.Pool(own, KEYS, n=3, timeout=60)
        pool.acquire()

        def cut_after_the_first():
            eventually(lambda: client.exists(*KEYS) < 3)
            proxy.refuse()

        proxy.drop_replies = True
        thread = threading.Thread(target=cut_after_the_first)
        thread.start()
        with pytest.raises(ConnectionError):
            pool.release()
        thread.join()
        assert client.exists(*KEYS) == 2
        proxy.drop_replies = False
        proxy.refuse(False)
        pool.release()
        assert client.exists(*KEYS) == 0
    proxy.close()


async def test_asyncio_pools_never_share_a_gpu(any_aclient):
    pools = [gpulock.asyncio.Pool(any_aclient, KEYS, n=2, timeout=60) for _ in range(5)]
    held = []

    async def work(pool):
        async with pool as gpus:
            assert not set(gpus.devices) & {d for devices in held for d in devices}
            held.append(gpus.devices)
            await asyncio.sleep(0.01)
            held.remove(gpus.devices)

    await asyncio.gather(*map(work, pools))
    assert not await any_aclient.exists(*KEYS)


async def test_asyncio_a_cancelled_wait_for_several_locks_holds_nothing(aclient, client):
    held = gpulock.Pool(client, KEYS, n=2, timeout=60)
    held.acquire()
    acquiring = asyncio.ensure_future(
        gpulock.asyncio.Pool(aclient, KEYS, n=3, timeout=60).acquire()
    )
    while stats(client)["clients_waiting"] != 1:
        await asyncio.sleep(0.01)
    acquiring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await acquiring
    held.release()
    assert not client.exists(*KEYS)
