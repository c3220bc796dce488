"""Clients with redis-py's client-side cache: it never answers who holds a lock."""

import pytest
import redis
from redis.exceptions import ConnectionError, LockNotOwnedError

import gpulock
from inspection import LOCK
from proxy import Proxy
from servers import eventually

cache = pytest.importorskip("redis.cache", reason="redis-py has no client-side cache")


@pytest.fixture
def caching(any_server):
    """Makes clients with a cache."""
    clients = []

    def make(port=any_server.port, **settings):
        config = cache.CacheConfig()
        clients.append(redis.Redis(port=port, protocol=3, cache_config=config, **settings))
        try:
            clients[-1].ping()
        except ConnectionError as error:
            if "client-side caching is supported by" in str(error):
                pytest.skip(str(error))
            raise
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def test_all_calls_work(caching):
    client = caching()
    lock = gpulock.Lock(client, LOCK, timeout=0.9, renew=True)
    other = gpulock.Lock(client, LOCK, timeout=60)
    with lock:
        assert lock.owned()
        assert lock.locked()
        assert not other.owned()
        assert not other.acquire(blocking=False)
        # Longer than the lease, which is renewed meanwhile.
        assert not other.acquire(blocking_timeout=1.5)
        lock.ensure_held()
        lock.extend(1)
        assert not lock.lost.is_set()
    assert not lock.locked()
    with gpulock.Pool(client, ["a", "b"], n=2, timeout=60) as gpus:
        assert gpus.keys == ("a", "b")


def test_the_cached_owner_is_not_used(caching, any_server):
    proxy = Proxy(any_server.port)
    client = caching(proxy.port, retry=None)
    lock = gpulock.Lock(client, LOCK, timeout=60)
    lock.acquire()
    assert client.get(LOCK) == client.get(LOCK) == lock.owner
    with any_server.client() as other:
        calls = other.info("commandstats")["cmdstat_get"]["calls"]
        assert client.get(LOCK) == lock.owner
        assert other.info("commandstats")["cmdstat_get"]["calls"] == calls, "cached"
        assert lock.owned()
        assert other.info("commandstats")["cmdstat_get"]["calls"] == calls + 1
        other.set(LOCK, "other", px=60_000)
        assert not lock.owned()
        assert lock.locked()
        with pytest.raises(LockNotOwnedError):
            lock.ensure_held()
    proxy.refuse()
    for call in lock.owned, lock.locked, lock.ensure_held:
        with pytest.raises(ConnectionError):
            call()
    proxy.close()


def test_a_loss_is_noticed(caching, any_server):
    client = caching()
    with any_server.client() as other:
        lock = gpulock.Lock(client, LOCK, timeout=0.9, renew=True)
        lock.acquire()
        client.get(LOCK)
        other.set(LOCK, "other", px=60_000)
        eventually(lock.lost.is_set)
