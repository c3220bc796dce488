"""PRIORITY, SHARE, NEAR and GROUPS: what orders the wait queue, and which locks are chosen."""

import asyncio
import threading

import pytest
import redis
import redis.asyncio

import gpulock
import gpulock.asyncio
from gpulock import ModuleMissingError
from inspection import LOCK, inspect, waiting
from servers import PATIENCE_S, eventually

UNREACHABLE = [
    (gpulock, redis.Redis(port=1)),
    (gpulock.asyncio, redis.asyncio.Redis(port=1)),
]
NODES = [[f"{{pool}}:node{node}:{gpu}" for gpu in range(4)] for node in range(3)]
KEYS = [key for node in NODES for key in node]

Q = [
    ({}, "plain"),
    ({"priority": 1}, "urgent"),
    ({"priority": -1}, "later"),
    ({"share": "kim"}, "kim 1"),
    ({"share": b"kim"}, "kim 2"),
]


def queue(client):
    return [
        (waiter[b"owner"], waiter[b"priority"], waiter[b"share"])
        for waiter in inspect(client)["waiters"]
    ]


@pytest.fixture
def watcher(server):
    with server.client(protocol=3) as client:
        yield client


EXPECTED_QUEUE = [
    (b"urgent", 1, None),
    (b"plain", 0, None),
    (b"kim 1", 0, b"kim"),
    (b"later", -1, None),
    (b"kim 2", 0, b"kim"),
]


def test_priority_and_share_order_the_queue(client, watcher):
    client.set(LOCK, "other", px=60_000)
    order, threads = [], []

    def work(owner, settings):
        with gpulock.Lock(client, LOCK, timeout=60, owner=owner, **settings):
            order.append(owner.encode())

    for index, (settings, owner) in enumerate(Q):
        threads.append(threading.Thread(target=work, args=(owner, settings), daemon=True))
        threads[-1].start()
        eventually(lambda index=index: waiting(client) == index + 1)
    assert queue(watcher) == EXPECTED_QUEUE
    client.delete(LOCK)
    for thread in threads:
        thread.join(PATIENCE_S)
    assert order == [owner for owner, _, _ in EXPECTED_QUEUE]


async def test_asyncio_priority_and_share_order_the_queue(aclient, watcher):
    watcher.set(LOCK, "other", px=60_000)
    order, tasks = [], []

    async def work(owner, settings):
        async with gpulock.asyncio.Lock(aclient, LOCK, timeout=60, owner=owner, **settings):
            order.append(owner.encode())

    for index, (settings, owner) in enumerate(Q):
        tasks.append(asyncio.ensure_future(work(owner, settings)))
        while waiting(watcher) != index + 1:
            await asyncio.sleep(0.01)
    assert queue(watcher) == EXPECTED_QUEUE
    watcher.delete(LOCK)
    await asyncio.gather(*tasks)
    assert order == [owner for owner, _, _ in EXPECTED_QUEUE]


def test_a_hold_has_the_share_of_its_call(client):
    with gpulock.Pool(client, ["a", "b"], timeout=60, share="kim"):
        assert inspect(client, "a")["share"] == b"kim"


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"priority": 101}, ValueError, "invalid priority 101: expected -100 to 100"),
        ({"priority": -101}, ValueError, "invalid priority -101"),
        ({"priority": True}, TypeError, "priority must be an integer, not True"),
        ({"priority": 1.5}, TypeError, "priority must be an integer"),
        ({"share": ""}, ValueError, "invalid share: expected 1 to 256 bytes"),
        ({"share": "x" * 257}, ValueError, "invalid share"),
        ({"share": True}, redis.DataError, "invalid share True"),
    ],
)
def test_invalid_settings_are_refused_at_once(settings, error, message):
    for module, unreachable in UNREACHABLE:
        with pytest.raises(error, match=message):
            module.Lock(unreachable, LOCK, **settings)
        with pytest.raises(error, match=message):
            module.Pool(unreachable, [LOCK], **settings)


def test_near_prefers_the_lock_whose_last_hold_had_the_tag(client):
    def device(near):
        with gpulock.Pool(client, NODES[0], timeout=60, near=near) as gpus:
            return gpus.devices[0]

    with gpulock.Pool(client, NODES[0], n=2, timeout=60):
        assert device("model-7b") == 2
    assert device(None) == 0
    assert device("model-7b") == 2
    assert device(b"model-7b") == 2


async def test_asyncio_near_prefers_the_lock_whose_last_hold_had_the_tag(aclient):
    pool = gpulock.asyncio.Pool(aclient, NODES[0], timeout=60, near="model-70b")
    async with gpulock.asyncio.Pool(aclient, NODES[0], n=3, timeout=60), pool as gpus:
        assert gpus.devices == (3,)
    async with pool as gpus:
        assert gpus.devices == (3,)


@pytest.mark.parametrize("near", ["", "x" * 65])
def test_an_invalid_tag_is_refused_at_once(near):
    with pytest.raises(ValueError, match="invalid near: expected 1 to 64 bytes"):
        gpulock.Pool(redis.Redis(port=1), KEYS, near=near)


def test_locks_are_acquired_from_one_group(client):
    client.set(NODES[0][1], "other", px=60_000)
    with gpulock.Pool(client, NODES, n=4, groups=1, timeout=60) as gpus:
        assert gpus.keys == tuple(NODES[1])
        assert gpus.devices == (0, 1, 2, 3)
        with gpulock.Pool(client, NODES, n=2, groups=2, timeout=60) as others:
            assert others.keys == (NODES[0][0], NODES[0][2], NODES[2][0], NODES[2][1])
        pool = gpulock.Pool(client, NODES, n=4, groups=2, timeout=60)
        assert not pool.acquire(blocking=False)
        assert not pool.acquire(blocking_timeout=0.01)
    assert client.exists(*KEYS) == 1


def test_groups_can_name_their_devices(client):
    nodes = ({"a:0": "GPU-7f3a", "a:1": "GPU-19c2"}, iter(["b:0", b"b:5"]))
    with gpulock.Pool(client, nodes, n=1, groups=2, timeout=60) as gpus:
        assert gpus.devices == ("GPU-7f3a", 0)
    pool = gpulock.Pool(client, [["b:0", b"b:5"], ["a:2"]], groups=2, timeout=60)
    with gpulock.Lock(client, "b:0", timeout=60), pool as gpus:
        assert dict(zip(gpus.keys, gpus.devices)) == {"b:5": 5, "a:2": 2}


async def test_asyncio_locks_are_acquired_from_one_group(aclient, watcher):
    watcher.set(NODES[0][1], "other", px=60_000)
    waiter = gpulock.asyncio.Pool(aclient, NODES[:1], n=4, groups=1, timeout=60, owner="four")
    acquiring = asyncio.ensure_future(waiter.acquire())
    while not waiting(watcher, NODES[0][0]):
        await asyncio.sleep(0.01)
    assert inspect(watcher, NODES[0][0])["waiters"][0][b"groups"] == 1
    watcher.delete(NODES[0][1])
    assert await acquiring
    assert waiter.gpus.keys == tuple(NODES[0])
    await waiter.release()


@pytest.mark.parametrize(
    ("keys", "n", "groups", "message"),
    [
        (NODES, 4, 0, "groups must be from 1 to 3, the number of groups"),
        (NODES, 4, 4, "groups must be from 1 to 3, the number of groups"),
        (NODES, 0, 1, "invalid n 0: expected at least 1"),
        (NODES, 5, 1, "n=5 of groups=1: only 0 of the groups have 5 keys or more"),
        ([["a", "b"], ["c"]], 2, 2, "n=2 of groups=2: only 1 of the groups have 2 keys"),
        ([["a"], []], 1, 1, "group 1 of the pool has no keys"),
        ([["a"], ["b", "a"]], 1, 1, "duplicate key 'a'"),
        ([], 1, 1, "a pool has 1 to 1024 keys, not 0"),
    ],
)
def test_groups_that_cannot_be_met_are_refused_at_once(keys, n, groups, message):
    for module, unreachable in UNREACHABLE:
        with pytest.raises(ValueError, match=message):
            module.Pool(unreachable, keys, n=n, groups=groups)


def test_a_group_is_a_collection_of_names():
    with pytest.raises(TypeError, match="collection of keys, not 'gpu:0'"):
        gpulock.Pool(redis.Redis(port=1), ["gpu:0"], groups=1)
    with pytest.raises(redis.DataError, match="invalid name"):
        gpulock.Pool(redis.Redis(port=1), NODES, n=2)


@pytest.mark.parametrize(
    "settings",
    [{"priority": 1}, {"share": "kim"}, {"near": "model-7b"}, {"groups": 1}],
    ids=lambda settings: next(iter(settings)),
)
def test_they_need_the_module(plain_server, settings):
    keys = [["a"]] if "groups" in settings else ["a"]
    message = f"^{next(iter(settings))} needs the GPULOCK module"
    with plain_server.client() as client:
        with pytest.raises(ModuleMissingError, match=message):
            gpulock.Pool(client, keys, timeout=60, **settings).acquire()
        assert not client.exists("a")


async def test_asyncio_they_need_the_module(plain_server):
    async with redis.asyncio.Redis(port=plain_server.port) as client:
        for settings in {"priority": 1}, {"share": "kim"}:
            with pytest.raises(ModuleMissingError):
                await gpulock.asyncio.Lock(client, LOCK, timeout=60, **settings).acquire()
