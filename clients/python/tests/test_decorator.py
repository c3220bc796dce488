"""``locked``: functions that hold a lock while they run."""

import asyncio
import functools
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis.exceptions

import gpulock
import gpulock.asyncio

KEY = "gpu_lock:0"
KEYS = ["{node7}:gpu:0", "{node7}:gpu:1", "{node7}:gpu:2"]


class Overlap:
    """Counts how many calls run at the same time."""

    def __init__(self):
        self.running = self.most = 0
        self._mutex = threading.Lock()

    def __enter__(self):
        with self._mutex:
            self.running += 1
            self.most = max(self.most, self.running)

    def __exit__(self, *error):
        with self._mutex:
            self.running -= 1


def test_a_function_holds_the_lock_while_it_runs(client):
    @gpulock.locked(client, KEY, timeout=10)
    def work(a, *, b):
        """Its own docstring."""
        lock = gpulock.current_lock()
        assert client.get(KEY) == lock.owner
        return a + b, lock.token

    result, token = work(1, b=2)
    assert (result, work(3, b=4)[0]) == (3, 7)
    assert isinstance(token, int)
    assert client.exists(KEY) == 0
    assert (work.__name__, work.__doc__) == ("work", "Its own docstring.")


async def test_a_coroutine_function_holds_the_lock_while_it_runs(aclient):
    @gpulock.locked(aclient, KEY, timeout=10)
    async def work(a, *, b):
        lock = gpulock.current_lock(gpulock.asyncio.Lock)
        assert await aclient.get(KEY) == lock.owner
        return a + b

    assert inspect.iscoroutinefunction(work)
    assert await work(1, b=2) == 3
    assert await aclient.exists(KEY) == 0


def test_the_lock_is_released_when_the_function_fails(client):
    @gpulock.locked(client, KEY, timeout=10)
    def work():
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        work()
    assert client.exists(KEY) == 0
    with pytest.raises(gpulock.LockError, match="No function"):
        gpulock.current_lock()


def test_calls_in_several_threads_have_a_hold_each(client):
    overlap = Overlap()

    @gpulock.locked(client, KEY, timeout=10, renew=True)
    def work():
        with overlap:
            lock = gpulock.current_lock()
            lock.ensure_held()
            return lock.token

    with ThreadPoolExecutor(8) as threads:
        tokens = list(threads.map(lambda _: work(), range(24)))
    assert len(set(tokens)) == 24
    assert overlap.most == 1


async def test_calls_in_several_tasks_have_a_hold_each(aclient):
    overlap = Overlap()

    @gpulock.locked(aclient, KEY, timeout=10, renew=True)
    async def work():
        with overlap:
            lock = gpulock.current_lock(gpulock.asyncio.Lock)
            await lock.ensure_held()
            return lock.token

    tokens = await asyncio.gather(*(work() for _ in range(24)))
    assert len(set(tokens)) == 24
    assert overlap.most == 1


def test_methods_are_decorated(client):
    class Model:
        @gpulock.locked(client, KEY, timeout=10)
        def run(self):
            return self, client.exists(KEY)

        @classmethod
        @gpulock.locked(client, KEY, timeout=10)
        def load(cls):
            return cls, client.exists(KEY)

        @staticmethod
        @gpulock.locked(client, KEY, timeout=10)
        def check():
            return client.exists(KEY)

    model = Model()
    assert model.run() == (model, 1)
    assert Model.load() == (Model, 1)
    assert Model.check() == 1


def test_several_names_are_a_pool(client):
    @gpulock.locked(client, KEYS, n=2, timeout=10)
    def work():
        return gpulock.current_lock(gpulock.Pool).gpus.devices

    client.set(KEYS[0], "other", px=60_000)
    assert work() == (1, 2)
    assert client.exists(*KEYS) == 1


async def test_several_names_are_a_pool_for_asyncio(aclient):
    @gpulock.locked(aclient, {KEYS[1]: "GPU-7f", KEYS[2]: "GPU-80"}, n=2, timeout=10)
    async def work():
        return gpulock.current_lock(gpulock.asyncio.Pool).gpus.devices

    assert await work() == ("GPU-7f", "GPU-80")
    assert await aclient.exists(*KEYS) == 0


def test_the_settings_of_pools_apply(client):
    @gpulock.locked(client, [KEYS[:1], KEYS[1:]], n=2, groups=1, near="model", timeout=10)
    def work():
        return gpulock.current_lock(gpulock.Pool).gpus.devices

    assert work() == (1, 2)


@pytest.mark.parametrize("name", ["gpu_lock:0", b"gpu_lock:0", bytearray(b"gpu_lock:0"), 7])
def test_a_name_can_have_all_types(client, name):
    @gpulock.locked(client, name, timeout=10)
    def work():
        return gpulock.current_lock().name

    assert work() == name


def test_names_can_depend_on_the_arguments(client):
    @gpulock.locked(client, lambda gpu, **_: f"gpu_lock:{gpu}", timeout=10)
    def work(gpu, batch=None):
        return gpulock.current_lock().name

    assert work(3, batch=1) == "gpu_lock:3"


def test_the_client_can_be_a_function(client):
    connected = []

    def get_client():
        connected.append(client)
        return client

    @gpulock.locked(get_client, KEY, timeout=10)
    def work():
        return client.exists(KEY)

    assert connected == []
    assert work() == 1
    assert connected == [client]


def test_functions_within_functions_have_their_own_current_lock(client):
    @gpulock.locked(client, "gpu_lock:1", timeout=10)
    def inner():
        return gpulock.current_lock().name

    @gpulock.locked(client, KEY, timeout=10)
    def outer():
        return [gpulock.current_lock().name, inner(), gpulock.current_lock().name]

    assert outer() == [KEY, "gpu_lock:1", KEY]


async def test_a_thread_that_works_for_the_call_uses_its_lock(client):
    @gpulock.locked(client, KEY, timeout=10)
    def work():
        return asyncio.run(token_in_a_thread())

    async def token_in_a_thread():
        return await asyncio.to_thread(lambda: gpulock.current_lock().token)

    assert isinstance(await asyncio.to_thread(work), int)


def test_a_wrong_class_of_the_current_lock_is_rejected(client):
    @gpulock.locked(client, KEY, timeout=10)
    def work():
        return gpulock.current_lock(gpulock.Pool)

    with pytest.raises(gpulock.LockError, match=r"is a gpulock.lock.Lock, not a gpulock.pool"):
        work()


def test_a_lock_that_is_not_free_raises(client):
    @gpulock.locked(client, KEY, timeout=10, blocking=False)
    def work():
        raise AssertionError("the lock is held elsewhere")

    client.set(KEY, "other", px=60_000)
    with pytest.raises(redis.exceptions.LockError, match="Unable to acquire"):
        work()


def test_a_function_that_outlived_its_lease_raises(client):
    @gpulock.locked(client, KEY, timeout=10)
    def work():
        client.set(KEY, "other", px=60_000)

    with pytest.raises(gpulock.LockNotOwnedError):
        work()
    assert client.get(KEY) == b"other"


def plain():
    pass


async def coroutine():
    pass


def generator():
    yield


async def async_generator():
    yield


class Callable:
    async def __call__(self):
        pass


def test_a_client_and_a_function_that_do_not_match_are_rejected(client, aclient):
    with pytest.raises(TypeError, match=r"coroutine function needs a client of redis\.asyncio"):
        gpulock.locked(client, KEY)(coroutine)
    with pytest.raises(TypeError, match=r"coroutine function needs a client of redis\.asyncio"):
        gpulock.locked(client, KEY)(functools.partial(coroutine))
    with pytest.raises(TypeError, match=r"coroutine function needs a client of redis\.asyncio"):
        gpulock.locked(client, KEY)(Callable())
    with pytest.raises(TypeError, match="plain function needs a client of redis, not"):
        gpulock.locked(aclient, KEY)(plain)
    with pytest.raises(TypeError, match="plain function needs a client of redis, not"):
        gpulock.locked(lambda: aclient, KEY)(plain)()


@pytest.mark.parametrize("function", [generator, async_generator])
def test_generator_functions_are_rejected(client, function):
    with pytest.raises(TypeError, match="generator function"):
        gpulock.locked(client, KEY)(function)


@pytest.mark.parametrize("other", [Callable, staticmethod(plain), classmethod(plain), KEY])
def test_what_is_not_a_function_is_rejected(client, other):
    with pytest.raises(TypeError, match="decorates functions"):
        gpulock.locked(client, KEY)(other)


def test_a_coroutine_that_would_run_without_the_lock_is_rejected(client):
    @gpulock.locked(client, KEY, timeout=10)
    def work():
        return coroutine()

    with pytest.raises(TypeError, match="would run without the lock"):
        work()
    assert client.exists(KEY) == 0


def test_wrong_settings_are_rejected_at_the_decoration(client):
    with pytest.raises(TypeError, match="no setting owner"):
        gpulock.locked(client, KEY, owner="run")
    with pytest.raises(ValueError, match="grace needs session"):
        gpulock.locked(client, KEY, grace=5)(plain)
    with pytest.raises(ValueError, match="n must be from 1 to 3"):
        gpulock.locked(client, KEYS, n=4)(plain)
