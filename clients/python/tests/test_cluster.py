"""Cluster clients: the same API, except for sessions."""

import asyncio
import threading

import pytest
import redis
import redis.asyncio

import gpulock
import gpulock.asyncio
from inspection import LOCK, inspect, waiting
from servers import PATIENCE_S, Server, eventually, free_port, until


def start_node(program):
    # The default bus port, 10000 higher, may exceed the valid range.
    bus_port = free_port()
    server = Server(
        program, options=["--cluster-enabled", "yes", "--cluster-port", str(bus_port)]
    )
    server.bus_port = bus_port
    return server


def serve_slots(server, first, last):
    with server.client() as client:
        client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)


def wait_until_complete(server, nodes):
    """Waits until the server knows all nodes and their slots."""

    def is_complete():
        info = client.execute_command("CLUSTER INFO")
        expected = str(nodes), "16384", "ok"
        names = "cluster_known_nodes", "cluster_slots_assigned", "cluster_state"
        return tuple(info[name] for name in names) == expected

    with server.client() as client:
        eventually(is_complete)


@pytest.fixture(scope="module")
def cluster(program):
    """One node that serves all slots."""
    server = start_node(program)
    serve_slots(server, 0, 16383)
    wait_until_complete(server, 1)
    yield server
    server.close()


@pytest.fixture
def two_nodes(program):
    """The first one serves nearly all slots. redis-py follows redirections to nodes that serve
    at least one."""
    servers = start_node(program), start_node(program)
    serve_slots(servers[0], 1, 16383)
    serve_slots(servers[1], 0, 0)
    with servers[0].client() as client:
        address = "127.0.0.1", servers[1].port, servers[1].bus_port
        client.execute_command("CLUSTER MEET", *address)
    for server in servers:
        wait_until_complete(server, 2)
    yield servers
    for server in servers:
        server.close()


def move_slot(source, target, key):
    """Moves the slot of the key, and the key."""
    with source.client() as old, target.client() as new:
        slot = old.execute_command("CLUSTER KEYSLOT", key)
        old_id, new_id = (c.execute_command("CLUSTER MYID") for c in (old, new))
        new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", old_id)
        old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", new_id)
        old.execute_command("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
        for node in new, old:
            node.execute_command("CLUSTER SETSLOT", slot, "NODE", new_id)


def test_locks_and_pools_work_on_a_cluster(cluster):
    with redis.RedisCluster(host="127.0.0.1", port=cluster.port) as client:
        with gpulock.Lock(client, LOCK, timeout=3, renew=True) as lock:
            assert lock.token
            # Waits longer than the lease and than one blocking call.
            assert not gpulock.Lock(client, LOCK, timeout=60).acquire(blocking_timeout=4)
            lock.ensure_held()
            lock.extend(1)
        assert not lock.locked()
        with gpulock.Pool(client, ["{node}:0", "{node}:1"], n=2, timeout=60) as gpus:
            assert gpus.devices == (0, 1)
        with pytest.raises(ValueError, match="not of a cluster"):
            gpulock.Lock(client, LOCK, session=True)


async def test_asyncio_locks_work_on_a_cluster(cluster):
    async with redis.asyncio.RedisCluster(host="127.0.0.1", port=cluster.port) as client:
        async with gpulock.asyncio.Lock(client, LOCK, timeout=3, renew=True) as lock:
            assert lock.token
            other = gpulock.asyncio.Lock(client, LOCK, timeout=60)
            assert not await other.acquire(blocking_timeout=4)
            await lock.ensure_held()
        assert not await lock.locked()


CROSS_SLOT = "(?i)slot"


def test_a_pool_of_several_slots_is_reported_as_such(cluster, caplog):
    with redis.RedisCluster(host="127.0.0.1", port=cluster.port) as client:
        pool = gpulock.Pool(client, ["a", "b"], timeout=60)
        with pytest.raises(Exception, match=CROSS_SLOT):
            pool.acquire(blocking_timeout=1)
    assert "interrupted" not in caplog.text


async def test_asyncio_a_pool_of_several_slots_is_reported_as_such(cluster, caplog):
    async with redis.asyncio.RedisCluster(host="127.0.0.1", port=cluster.port) as client:
        pool = gpulock.asyncio.Pool(client, ["a", "b"], timeout=60)
        with pytest.raises(Exception, match=CROSS_SLOT):
            await pool.acquire(blocking_timeout=1)
    assert "interrupted" not in caplog.text


def test_a_wait_uses_its_own_connection(cluster):
    with (
        redis.RedisCluster(host="127.0.0.1", port=cluster.port, max_connections=2) as client,
        cluster.client() as watcher,
    ):
        holder = gpulock.Lock(client, LOCK, timeout=60)
        holder.acquire()
        waiters = [gpulock.Lock(client, LOCK, timeout=60, thread_local=False) for _ in range(3)]
        threads = [threading.Thread(target=waiter.acquire, daemon=True) for waiter in waiters]
        for count, thread in enumerate(threads, start=1):
            thread.start()
            eventually(lambda c=count: waiting(watcher) == c)
        holder.release()
        for thread, waiter in zip(threads, waiters):
            thread.join(PATIENCE_S)
            waiter.release()
        assert not holder.locked()


async def test_a_wait_of_a_task_uses_its_own_connection(cluster):
    async with redis.asyncio.RedisCluster(
        host="127.0.0.1", port=cluster.port, max_connections=2
    ) as client:
        with cluster.client() as watcher:
            holder = gpulock.asyncio.Lock(client, LOCK, timeout=60)
            await holder.acquire()
            waiters = [gpulock.asyncio.Lock(client, LOCK, timeout=60) for _ in range(3)]
            tasks = []
            for count, waiter in enumerate(waiters, start=1):
                tasks.append(asyncio.create_task(waiter.acquire()))
                await until(lambda c=count: waiting(watcher) == c)
            await holder.release()
            for task, waiter in zip(tasks, waiters):
                assert await task
                await waiter.release()
            assert not await holder.locked()


def test_a_wait_follows_its_slot(two_nodes):
    source, target = two_nodes
    with (
        redis.RedisCluster(host="127.0.0.1", port=source.port) as client,
        source.client() as old,
        target.client() as new,
    ):
        holder = gpulock.Lock(client, LOCK, timeout=60, renew=True)
        holder.acquire()
        waiter = gpulock.Lock(client, LOCK, timeout=60, thread_local=False)
        thread = threading.Thread(target=waiter.acquire, daemon=True)
        thread.start()
        eventually(lambda: waiting(old) == 1)
        move_slot(source, target, LOCK)
        eventually(lambda: waiting(new) == 1)
        holder.release()
        thread.join(PATIENCE_S)
        assert inspect(new)["owner"] == waiter.owner
        waiter.release()


async def test_a_wait_of_a_task_follows_its_slot(two_nodes):
    source, target = two_nodes
    async with redis.asyncio.RedisCluster(host="127.0.0.1", port=source.port) as client:
        with source.client() as old, target.client() as new:
            holder = gpulock.asyncio.Lock(client, LOCK, timeout=60, renew=True)
            await holder.acquire()
            waiter = gpulock.asyncio.Lock(client, LOCK, timeout=60)
            acquiring = asyncio.create_task(waiter.acquire())
            await until(lambda: waiting(old) == 1)
            move_slot(source, target, LOCK)
            await until(lambda: waiting(new) == 1)
            await holder.release()
            assert await acquiring
            assert inspect(new)["owner"] == waiter.owner
            await waiter.release()
