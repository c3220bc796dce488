"""Lock names of every type and encoding that redis-py accepts. Others are refused before
anything is sent."""

import subprocess
import sys

import pytest
import redis.asyncio
from redis.exceptions import DataError

import gpulock
import gpulock.asyncio


def _type_name(value):
    """Not the repr, whose address differs in each test process."""
    return type(value).__name__ + ("" if not isinstance(value, bool) else str(value))


UNREACHABLE = [
    (gpulock, redis.Redis(port=1)),
    (gpulock.asyncio, redis.asyncio.Redis(port=1)),
]
ACCEPTED = [7, 1.5, "{图}:0", b"\xff\x00", bytearray(b"ba"), memoryview(b"mv")]
REFUSED = [None, True, False, object(), ("a", "b")]


def bytes_or_same(name):
    """Before 7.0, redis-py accepts no bytearray."""
    return bytes(name) if isinstance(name, bytearray) else name


@pytest.mark.parametrize("name", ACCEPTED, ids=_type_name)
@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "decoded"])
def test_a_name_means_the_same_key_as_in_redis_py(any_server, name, decode):
    with any_server.client(decode_responses=decode) as client:
        lock = gpulock.Lock(client, name, timeout=60)
        assert lock.name is name
        with lock:
            assert client.exists(bytes_or_same(name))
            assert lock.owned()
            assert lock.locked()
            lock.extend(5)
            lock.ensure_held()
            assert client.dbsize() == 1
        assert not client.exists(bytes_or_same(name))


@pytest.mark.parametrize("name", ACCEPTED, ids=_type_name)
async def test_asyncio_a_name_means_the_same_key_as_in_redis_py(any_aclient, name):
    async with gpulock.asyncio.Lock(any_aclient, name, timeout=60) as lock:
        assert await any_aclient.exists(bytes_or_same(name))
        assert await lock.owned()
        assert await lock.locked()
    async with gpulock.asyncio.Pool(any_aclient, [name, "other"], n=2, timeout=60):
        assert await any_aclient.exists(bytes_or_same(name))
    assert not await any_aclient.dbsize()


@pytest.mark.parametrize("encoding", ["utf-8", "gbk", "latin-1"])
def test_a_pool_uses_the_encoding_of_the_client(any_server, encoding):
    names = ["{ü}:0", "{ü}:1"]
    with any_server.client(encoding=encoding) as client:
        with gpulock.Pool(client, names, n=2, timeout=60, renew=True) as gpus:
            assert client.keys() == client.keys("{*}:?")
            assert sorted(client.keys()) == [name.encode(encoding) for name in names]
            assert gpus.keys == tuple(names)
            assert gpus.devices == (0, 1)
        waiting = gpulock.Lock(client, names[0], timeout=60)
        client.set(names[0], "other", px=300)
        assert waiting.acquire(blocking_timeout=30)
        waiting.release()
        assert not client.keys()


def test_a_pool_of_numbers_has_devices_with_these_numbers(any_client):
    with gpulock.Pool(any_client, [3, 5], n=2, timeout=60) as gpus:
        assert gpus.devices == (3, 5)
        assert gpus.keys == ("3", "5")
        assert sorted(any_client.keys()) == [b"3", b"5"]
    assert not any_client.keys()


def test_surrogates_are_accepted_if_the_client_can_encode_them(any_server):
    with any_server.client() as client, pytest.raises(UnicodeEncodeError):
        gpulock.Lock(client, "\udcff", timeout=60)
    with any_server.client(encoding_errors="surrogateescape") as client:
        pool = gpulock.Pool(client, ["\udcff", "a"], n=2, timeout=60)
        with pool as gpus:
            assert client.exists(b"\xff")
            assert gpus.keys == ("\udcff", "a")


def test_the_environment_has_names_that_are_not_text(client):
    with gpulock.Pool(client, [b"\xff0", b"\xfe1"], n=2, timeout=60) as gpus:
        printed = subprocess.run(
            [sys.executable, "-c", "import os; os.write(1, os.environb[b'GPULOCK_KEYS'])"],
            env=gpus.environment(),
            capture_output=True,
            check=True,
        ).stdout
        assert gpus.devices == (0, 1)
    assert printed == b"\xff0,\xfe1"


@pytest.mark.parametrize("name", REFUSED, ids=_type_name)
def test_other_names_are_refused_before_anything_is_sent(name):
    for module, unreachable in UNREACHABLE:
        with pytest.raises(DataError, match="invalid name"):
            module.Lock(unreachable, name)
        with pytest.raises(DataError, match="invalid name"):
            module.Pool(unreachable, ["a", name], n=2)


@pytest.mark.parametrize(
    "keys", ["gpu:0", b"gpu:0", bytearray(b"gpu"), 7, None], ids=_type_name
)
def test_a_single_name_is_no_collection_of_keys(keys):
    for module, unreachable in UNREACHABLE:
        with pytest.raises(TypeError, match="collection of keys"):
            module.Pool(unreachable, keys)


def test_a_pool_has_at_most_1024_different_keys(client):
    keys = [f"{{pool}}:{index}" for index in range(1025)]
    with gpulock.Pool(client, keys[:1024], n=1024, timeout=60) as gpus:
        assert gpus.keys == tuple(keys[:1024])
    unreachable = redis.Redis(port=1)
    with pytest.raises(ValueError, match="a pool has 1 to 1024 keys, not 1025"):
        gpulock.Pool(unreachable, keys)
    with pytest.raises(ValueError, match="a pool has 1 to 1024 keys, not 0"):
        gpulock.Pool(unreachable, [])
    for twice in (["a", "b", "a"], ["a", b"a"], [1, "1"]):
        with pytest.raises(ValueError, match="duplicate key"):
            gpulock.Pool(unreachable, twice)


@pytest.mark.parametrize("owner", ["", "x" * 1025], ids=["empty", "long"])
def test_an_owner_that_the_server_would_refuse_is_refused_at_once(owner):
    with pytest.raises(ValueError, match="invalid owner: expected 1 to 1024 bytes"):
        gpulock.Lock(redis.Redis(port=1), "a", owner=owner)


@pytest.mark.parametrize("owner", [7, bytearray(b"run"), memoryview(b"run")], ids=_type_name)
def test_an_owner_has_the_types_of_a_value_in_redis_py(any_client, owner):
    with gpulock.Lock(any_client, "a", timeout=60, owner=owner) as lock:
        assert lock.owned()
        assert any_client.get("a") == lock.owner
