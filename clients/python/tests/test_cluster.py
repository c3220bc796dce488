"""Cluster clients: the same API, except for sessions."""

import pytest
import redis
import redis.asyncio

import gpulock
import gpulock.asyncio
from servers import Server, eventually, free_port

LOCK = "gpu_lock:0"


@pytest.fixture(scope="module")
def cluster(program):
    """One node that serves all slots."""
    # The default bus port, 10000 higher, may exceed the valid range.
    options = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
    server = Server(program, options=options)
    with server.client() as client:
        client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        eventually(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
    yield server
    server.close()


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
