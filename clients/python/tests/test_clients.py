"""Which clients are accepted."""

import pytest
import redis
import redis.asyncio
import valkey
import valkey.asyncio

import gpulock
import gpulock.asyncio
from inspection import LOCK


class Wrapper:
    """Passes all calls on to another object."""

    def __init__(self, target):
        self._target = target

    def __getattr__(self, name):
        # So that the object can be copied.
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._target, name)


@pytest.mark.parametrize(
    "make",
    [
        lambda client: gpulock.Lock(client, LOCK),
        lambda client: gpulock.Pool(client, [LOCK]),
        lambda client: gpulock.asyncio.Lock(client, LOCK),
        lambda client: gpulock.asyncio.Pool(client, [LOCK]),
    ],
    ids=["lock", "pool", "asyncio-lock", "asyncio-pool"],
)
@pytest.mark.parametrize("package", [valkey, valkey.asyncio], ids=["valkey", "valkey.asyncio"])
def test_clients_of_valkey_py_are_rejected(make, package):
    name = f"not {package.Valkey.__module__}.Valkey"
    with pytest.raises(TypeError, match=rf"expected a client of redis-py, .*, {name}"):
        make(package.Valkey())


def test_objects_that_are_no_client_are_rejected():
    with pytest.raises(
        TypeError, match=r"expected a client of redis-py, .*, not builtins\.str"
    ):
        gpulock.Lock("redis://localhost", LOCK)


@pytest.mark.parametrize(
    ("module", "package"), [(gpulock, redis), (gpulock.asyncio, redis.asyncio)]
)
def test_pipelines_and_clients_of_the_other_kind_are_rejected(module, package):
    other = redis if package is redis.asyncio else redis.asyncio
    for client in (other.Redis(), package.Redis().pipeline()):
        with pytest.raises(TypeError, match=rf"such as {package.__name__}\.Redis, not redis"):
            module.Lock(client, LOCK)
    with pytest.raises(TypeError, match="Pipeline"):
        gpulock.Lock(redis.Redis().pipeline(), LOCK)


def test_a_subclass_of_a_client_is_accepted(any_server):
    class Subclass(redis.Redis):
        pass

    with Subclass(port=any_server.port) as client, gpulock.Lock(client, LOCK) as lock:
        assert lock.owned()


def test_an_object_that_passes_calls_on_to_a_client_is_accepted(any_client):
    with gpulock.Lock(Wrapper(any_client), LOCK) as lock:
        assert lock.owned()


async def test_such_an_object_is_accepted_by_asyncio_locks(any_aclient):
    async with gpulock.asyncio.Lock(Wrapper(any_aclient), LOCK) as lock:
        assert await lock.owned()
