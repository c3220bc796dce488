"""Lock objects that are shared by threads, tasks, processes and `with` blocks."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, contextmanager

import pytest
import redis
import redis.asyncio
from redis.exceptions import ConnectionError, LockError, LockNotOwnedError

import gpulock
import gpulock.asyncio
from inspection import LOCK, stats
from servers import PATIENCE_S, eventually

NAMES = [LOCK, "gpu_lock:1"]


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


@pytest.fixture
def any_client(any_server):
    with any_server.client() as client:
        yield client


@pytest.fixture
def threads():
    """Threads that run one call at a time."""
    executors = [ThreadPoolExecutor(1) for _ in range(3)]
    yield [
        lambda call, *args, on=e: on.submit(call, *args).result(PATIENCE_S) for e in executors
    ]
    for executor in executors:
        executor.shutdown()


class TestSharedObjects:
    async def test_a_task_that_outlived_its_lease_does_not_end_the_next_hold(self, aclient):
        lock = gpulock.asyncio.Lock(aclient, LOCK, timeout=0.3)
        first_holds, second_holds, first_left = (asyncio.Event() for _ in range(3))

        async def outlive_the_lease():
            async with lock:
                first_holds.set()
                await second_holds.wait()

        async def first():
            with pytest.raises(LockNotOwnedError):
                await outlive_the_lease()
            first_left.set()

        async def second():
            await first_holds.wait()
            lock.timeout = 60
            async with lock:
                owner = lock.owner
                second_holds.set()
                await first_left.wait()
                assert await aclient.get(LOCK) == owner == lock.owner
                assert not lock.lost.is_set()
                await lock.ensure_held()

        await asyncio.gather(first(), second())
        assert not await aclient.exists(LOCK)

    def test_a_thread_that_outlived_its_lease_does_not_end_the_next_hold(self, client, threads):
        lock = gpulock.Lock(client, LOCK, timeout=0.3, thread_local=False)
        first, second, _ = threads
        first_block, second_block = ExitStack(), ExitStack()
        first(first_block.enter_context, lock)
        lock.timeout, lock.renew = 60, True
        second(second_block.enter_context, lock)
        with pytest.raises(LockNotOwnedError):
            first(first_block.close)
        assert second(client.get, LOCK) == lock.owner
        assert not lock.lost.is_set()
        before = stats(client)["extends"]
        second(lock.extend, 1)
        assert stats(client)["extends"] == before + 1
        second(second_block.close)
        assert not client.exists(LOCK)

    async def test_each_task_has_its_own_hold_of_a_pool(self, aclient, server):
        pool = gpulock.asyncio.Pool(aclient, NAMES, timeout=3, renew=True)
        entered, leave = asyncio.Event(), asyncio.Event()

        async def first():
            async with pool as gpus:
                token = dict(gpus.tokens)
                entered.set()
                await leave.wait()
                assert dict(pool.gpus.tokens) == token
                await pool.ensure_held()

        async def second():
            await entered.wait()
            async with pool as gpus:
                assert gpus.devices == (1,)
            assert await aclient.exists(*NAMES) == 1
            # The hold of the first task is still renewed.
            with server.client() as watcher:
                before = stats(watcher)["extends"]
                while stats(watcher)["extends"] < before + 2:
                    await asyncio.sleep(0.05)
            leave.set()

        await asyncio.gather(first(), second())
        assert not await aclient.exists(*NAMES)

    async def test_each_task_has_its_own_hold_without_blocks(self, aclient, server):
        pool = gpulock.asyncio.Pool(aclient, NAMES, timeout=1, renew=True)
        acquired = [asyncio.Event(), asyncio.Event()]
        leave = asyncio.Event()

        async def work(number):
            await pool.acquire()
            lost, devices = pool.lost, pool.gpus.devices
            acquired[number].set()
            await leave.wait()
            assert (pool.lost, pool.gpus.devices) == (lost, devices)
            await pool.ensure_held()
            await pool.release()
            assert not lost.is_set()

        tasks = [asyncio.ensure_future(work(0)), asyncio.ensure_future(work(1))]
        await asyncio.gather(*(event.wait() for event in acquired))
        # Longer than the lease.
        await asyncio.sleep(1.2)
        leave.set()
        await asyncio.gather(*tasks)
        assert not await aclient.exists(*NAMES)

    @pytest.mark.parametrize("thread_local", [True, False])
    def test_a_hold_that_a_later_one_replaces_is_reported_as_lost(self, client, thread_local):
        losses = []
        pool = gpulock.Pool(
            client,
            NAMES,
            timeout=1,
            renew=True,
            thread_local=thread_local,
            on_lost=losses.append,
        )
        pool.acquire()
        first = pool.lost
        pool.acquire()
        assert first.wait(PATIENCE_S)
        eventually(lambda: losses)
        assert losses[0].reason == "the lock is no longer being renewed"
        assert not pool.lost.is_set()
        pool.release()
        eventually(lambda: not client.exists(*NAMES))
        assert len(losses) == 1

    async def test_the_hold_of_a_task_that_ended_is_reported_as_lost(self, aclient):
        pool = gpulock.asyncio.Pool(aclient, NAMES, timeout=1, renew=True)

        async def acquire():
            await pool.acquire()
            return pool.lost

        # The tasks are referenced for longer than they run.
        tasks = [asyncio.ensure_future(acquire())]
        first = await tasks[0]
        tasks.append(asyncio.ensure_future(acquire()))
        latest = await tasks[1]
        await asyncio.wait_for(first.wait(), PATIENCE_S)
        # Another task may still release the latest one.
        assert not latest.is_set()
        await pool.release()

    def test_a_block_continues_with_a_lock_that_was_acquired_again(self, any_client):
        lock = gpulock.Lock(any_client, LOCK, timeout=60)
        with lock:
            lock.release()
            lock.acquire()
        assert not any_client.exists(LOCK)

    def test_a_release_inside_a_block_makes_the_exit_fail(self, any_client):
        lock = gpulock.Lock(any_client, LOCK, timeout=60)
        with pytest.raises(LockError, match="already unlocked"), lock:
            lock.release()
        lock.raise_on_release_error = False
        with lock:
            lock.release()


class TestNestedBlocks:
    @pytest.mark.parametrize(
        "settings", [{}, {"renew": True}, {"session": True, "renew": True}]
    )
    def test_the_outermost_exit_releases(self, client, settings):
        lock = gpulock.Lock(client, LOCK, timeout=3, owner="run-7", **settings)
        with lock:
            token, lost = lock.token, lock.lost
            with lock, lock:
                assert lock.token == token
            lock.ensure_held()
            assert lock.lost is lost
            if settings:
                before = stats(client)["extends"]
                eventually(lambda: stats(client)["extends"] > before + 2)
            assert not lost.is_set()
        assert not client.exists(LOCK)
        assert lock.owner is None

    async def test_the_outermost_exit_releases_asyncio(self, any_aclient):
        lock = gpulock.asyncio.Lock(any_aclient, LOCK, timeout=60, owner="run-7", renew=True)
        async with lock:
            async with lock:
                pass
            await lock.ensure_held()
            assert await any_aclient.get(LOCK) == b"run-7"
        assert not await any_aclient.exists(LOCK)

    def test_the_outermost_exit_of_a_pool_releases(self, any_client):
        pool = gpulock.Pool(any_client, NAMES, n=2, timeout=60, owner="run-7", renew=True)
        with pool as gpus:
            with pool as inner:
                assert inner == gpus
            assert any_client.exists(*NAMES) == 2
            pool.ensure_held()
        assert not any_client.exists(*NAMES)

    def test_an_explicit_hold_outlives_a_block(self, any_client):
        lock = gpulock.Lock(any_client, LOCK, timeout=60, owner="run-7")
        lock.acquire()
        with lock:
            pass
        lock.ensure_held()
        lock.release()
        assert not any_client.exists(LOCK)

    def test_nested_blocks_of_a_pool_have_their_own_holds(self, client):
        pool = gpulock.Pool(client, NAMES, timeout=3, renew=True)
        with pool as outer:
            with pool as inner:
                assert (outer.devices, inner.devices) == ((0,), (1,))
                before = stats(client)["extends"]
                eventually(lambda: stats(client)["extends"] > before + 4)
            assert client.exists(LOCK)
            assert not client.exists(NAMES[1])
            assert pool.gpus == outer
        assert not client.exists(*NAMES)


class TestOtherThreads:
    @pytest.mark.parametrize("settings", [{"timeout": 60, "renew": True}, {}, {"n": 1}])
    def test_a_generator_can_be_continued_by_another_thread(self, client, threads, settings):
        kind = gpulock.Pool if "n" in settings else gpulock.Lock
        lock = kind(client, NAMES if "n" in settings else LOCK, **settings)

        def dependency():
            with lock:
                yield

        generator = dependency()
        threads[0](next, generator)
        with pytest.raises(StopIteration):
            threads[1](next, generator)
        assert not client.exists(*NAMES)
        assert threads[0](lambda: lock.owner) is None

    def test_each_generator_ends_its_own_hold(self, client, threads):
        """As FastAPI does with a global pool and several requests."""
        pool = gpulock.Pool(client, NAMES, timeout=60, renew=True)

        @contextmanager
        def dependency():
            with pool as gpus:
                yield gpus

        contexts = [dependency(), dependency()]
        for context, number in zip(contexts, range(2)):
            assert threads[0](context.__enter__).devices == (number,)
        threads[0](contexts[0].__exit__, None, None, None)
        assert not client.exists(LOCK)
        assert client.exists(NAMES[1])
        threads[1](contexts[1].__exit__, None, None, None)
        assert not client.exists(*NAMES)

    def test_a_generator_outlives_the_thread_that_entered_its_block(self, client, threads):
        lock = gpulock.Lock(client, LOCK, timeout=1, renew=True)

        def dependency():
            with lock:
                yield lock.lost

        generator, lost = dependency(), []
        thread = threading.Thread(target=lambda: lost.append(next(generator)))
        thread.start()
        thread.join()
        before = stats(client)["extends"]
        eventually(lambda: stats(client)["extends"] > before + 2)
        assert not lost[0].is_set()
        with pytest.raises(StopIteration):
            threads[0](next, generator)
        assert not client.exists(LOCK)

    @pytest.mark.parametrize("exits_in", [0, 1])
    def test_each_exit_stack_ends_its_own_hold(self, client, threads, exits_in):
        pool = gpulock.Pool(client, NAMES, timeout=60)
        stacks = ExitStack(), ExitStack()
        for thread, stack, number in zip(threads, stacks, range(2)):
            assert thread(stack.enter_context, pool).devices == (number,)
        threads[exits_in](stacks[0].close)
        assert not client.exists(LOCK)
        assert client.exists(NAMES[1])
        threads[exits_in](stacks[1].close)
        assert not client.exists(*NAMES)

    async def test_each_exit_stack_of_a_task_ends_its_own_hold(self, aclient):
        pool = gpulock.asyncio.Pool(aclient, NAMES, timeout=60)
        stacks = AsyncExitStack(), AsyncExitStack()
        for stack, number in zip(stacks, range(2)):
            # A task of its own, as wait_for before Python 3.12 creates it.
            entering = asyncio.ensure_future(stack.enter_async_context(pool))
            assert (await entering).devices == (number,)
        await stacks[0].aclose()
        assert not await aclient.exists(LOCK)
        assert await aclient.exists(NAMES[1])
        await stacks[1].aclose()
        assert not await aclient.exists(*NAMES)

    def test_the_hold_of_a_stack_that_is_dropped_is_lost(self, client):
        lock = gpulock.Lock(client, LOCK, timeout=1, renew=True)
        stack = ExitStack()
        stack.enter_context(lock)
        lost = lock.lost
        del stack
        gc.collect()
        assert lost.wait(PATIENCE_S)
        eventually(lambda: not client.exists(LOCK))

    def test_a_second_exit_of_a_block_does_not_end_another_hold(self, client):
        pool = gpulock.Pool(client, NAMES, timeout=60)
        with pool:
            with pytest.raises(LockError, match="already unlocked"), pool:
                pool.__exit__(None, None, None)
            assert client.exists(LOCK)

    def test_threads_that_share_holds_do_not_exit_the_block_of_another(self, client, threads):
        pool = gpulock.Pool(client, NAMES, timeout=60, thread_local=False)
        for thread in threads[:2]:
            thread(pool.__enter__)
        with pytest.raises(LockError, match="several holds"):
            threads[1](pool.__exit__, None, None, None)
        assert client.exists(*NAMES) == 2

    def test_a_later_thread_with_the_same_number_holds_nothing(self, client):
        lock, seen = gpulock.Lock(client, LOCK, timeout=60), []

        def dependency():
            with lock:
                yield

        def observe():
            seen.append((threading.get_ident(), lock.owner))

        generator = dependency()
        first = threading.Thread(target=lambda: next(generator) or observe())
        first.start()
        first.join()
        assert seen[0][1] is not None
        for _ in range(200):
            thread = threading.Thread(target=observe)
            thread.start()
            thread.join()
            if seen[-1][0] == seen[0][0]:
                break
        else:
            pytest.skip("no thread got the same number")
        assert seen[-1][1] is None
        generator.close()
        assert not client.exists(LOCK)

    def test_an_open_block_keeps_no_local_variables_alive(self, client):
        class Worker:
            def __init__(self):
                self.lock = gpulock.Lock(client, LOCK, timeout=1, renew=True)

            def start(self):
                self.lock.__enter__()

        class Model:
            pass

        def started():
            model, worker = Model(), Worker()
            worker.start()
            return worker, weakref.ref(model)

        gc.disable()
        try:
            worker, model = started()
            assert model() is None
            del worker
            eventually(lambda: not client.exists(LOCK))
        finally:
            gc.enable()

    def test_a_release_elsewhere_does_not_disturb_a_with_statement(self, client, threads):
        lock = gpulock.Lock(client, LOCK, timeout=1, renew=True)
        with lock:
            with pytest.raises(LockError, match="not owned"):
                threads[0](lock.release)
            assert not lock.lost.is_set()

    def test_an_ambiguous_exit_raises_and_stops_the_renewal(self, client, threads):
        pool = gpulock.Pool(client, NAMES, timeout=2, renew=True)
        lost = []
        for thread in threads[:2]:
            thread(pool.__enter__)
            lost.append(thread(lambda: pool.lost))
        with pytest.raises(LockError, match="several holds"):
            threads[2](pool.__exit__, None, None, None)
        assert all(event.is_set() for event in lost)
        eventually(lambda: not client.exists(*NAMES))

    def test_a_release_in_another_thread_stops_the_renewal(self, client, threads):
        lock = gpulock.Lock(client, LOCK, timeout=1, renew=True)
        threads[0](lock.acquire)
        with pytest.raises(LockError, match="not owned"):
            threads[1](lock.release)
        assert threads[0](lambda: lock.lost).is_set()
        eventually(lambda: not client.exists(LOCK))

    def test_a_thread_that_acquired_nothing_does_not_disturb_the_holder(self, client, threads):
        lock = gpulock.Lock(client, LOCK, timeout=2, renew=True)
        threads[0](lock.acquire)
        assert not threads[1](lambda: lock.acquire(blocking=False))
        with pytest.raises(LockError, match="not owned"):
            threads[1](lock.release)
        before = stats(client)["extends"]
        eventually(lambda: stats(client)["extends"] > before)
        threads[0](lock.release)

    async def test_a_block_can_be_exited_by_another_task(self, any_aclient):
        lock = gpulock.asyncio.Lock(any_aclient, LOCK, timeout=60, renew=True)
        await asyncio.ensure_future(lock.__aenter__())
        await asyncio.ensure_future(lock.__aexit__(None, None, None))
        assert not await any_aclient.exists(LOCK)

    def test_renewal_stops_with_the_thread_of_an_open_block(self, client):
        lock = gpulock.Lock(client, LOCK, timeout=1, renew=True)
        lost = []
        thread = threading.Thread(target=lambda: lock.__enter__() and lost.append(lock.lost))
        thread.start()
        thread.join()
        assert lost[0].wait(PATIENCE_S)
        eventually(lambda: not client.exists(LOCK))
        with pytest.raises(LockNotOwnedError):
            lock.__exit__(None, None, None)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
class TestForks:
    def in_child(self, call):
        """Runs the call in a child process, and returns what it returned, as text."""
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.write(writer, str(call()).encode())
            except BaseException as error:
                os.write(writer, type(error).__name__.encode())
            os._exit(0)
        os.close(writer)
        os.waitpid(child, 0)
        with open(reader) as file:
            return file.read()

    def test_a_child_does_not_hold_the_lock_of_its_parent(self, client):
        lock = gpulock.Lock(client, LOCK, timeout=60, renew=True)
        lock.acquire()
        saved = lock.lost

        def release():
            try:
                lock.release()
            except LockError as error:
                return lock.owner, lock.token, lock.lost.is_set(), saved.is_set(), type(error)

        assert self.in_child(release) == str((None, None, True, True, LockError))
        assert client.get(LOCK) == lock.owner
        assert not lock.lost.is_set()
        lock.release()

    def test_a_child_that_exits_does_not_release_the_lock(self, any_client):
        lock = gpulock.Lock(any_client, LOCK, timeout=60, renew=True)
        parent = os.getpid()
        try:
            with lock:
                child = os.fork()
                if not child:
                    sys.exit(7)
                assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 7
                assert any_client.get(LOCK) == lock.owner
        except SystemExit as end:
            if os.getpid() != parent:
                os._exit(end.code)
            raise
        assert not any_client.exists(LOCK)

    def test_a_child_that_leaves_the_block_gets_an_error(self, any_client):
        lock = gpulock.Lock(any_client, LOCK, timeout=60, renew=True)
        with lock:
            result = self.in_child(lambda: lock.__exit__(None, None, None))
            assert result == "LockNotOwnedError"
            assert any_client.get(LOCK) == lock.owner

    def test_a_child_can_acquire_inside_the_block_of_its_parent(self, client, server):
        lock = gpulock.Lock(client, LOCK, timeout=60)

        def hold():
            with server.client() as own:
                lock.redis = own
                own.delete(LOCK)
                lock.acquire()
                held = own.get(LOCK) == lock.owner
                lock.release()
                return held, own.exists(LOCK)

        with pytest.raises(LockNotOwnedError), lock:
            assert self.in_child(hold) == str((True, 0))

    async def test_a_child_does_not_hold_the_lock_of_a_task(self, aclient):
        lock = gpulock.asyncio.Lock(aclient, LOCK, timeout=60, renew=True)
        async with lock:
            result = self.in_child(lambda: (lock.owner, lock.lost.is_set()))
            assert result == str((None, True))
            await lock.ensure_held()

    def test_a_child_can_use_the_object(self, client, server):
        lock = gpulock.Lock(client, LOCK, timeout=60, renew=True)
        with lock:
            pass

        def hold():
            with server.client() as own:
                lock.redis = own
                with lock:
                    return own.get(LOCK) == lock.owner, lock.lost.is_set()

        assert self.in_child(hold) == str((True, False))
        assert not client.exists(LOCK)

    def test_a_daemon_does_not_hold_the_lock_that_its_parent_acquired(self, server, client):
        reader, writer = os.pipe()
        parent = os.fork()
        if not parent:
            lock = gpulock.Lock(server.client(), LOCK, timeout=1, renew=True)
            lock.acquire()
            if not os.fork():
                os.write(writer, str((lock.owner, lock.lost.is_set())).encode())
            os._exit(0)
        os.close(writer)
        os.waitpid(parent, 0)
        with open(reader) as file:
            assert file.read() == str((None, True))
        eventually(lambda: not client.exists(LOCK))


class TestCallbacks:
    """A callback refers to its own hold, even if the object has a later one."""

    def test_on_lost_does_not_release_the_next_hold(self, client, threads):
        errors, called = [], threading.Event()

        def on_lost(_loss):
            called.wait(PATIENCE_S)
            try:
                lock.release()
            except LockError as error:
                errors.append(error)

        lock = gpulock.Lock(
            client, LOCK, timeout=60, renew=True, on_lost=on_lost, thread_local=False
        )
        threads[0](lock.acquire)
        lost = lock.lost
        client.delete(LOCK)
        assert lost.wait(PATIENCE_S)
        threads[1](lock.acquire)
        called.set()
        eventually(lambda: errors)
        assert isinstance(errors[0], LockNotOwnedError)
        assert client.get(LOCK) == lock.owner
        threads[1](lock.release)

    def test_on_lost_can_release_a_thread_local_hold(self, client):
        pool, released = None, threading.Event()

        def on_lost(_loss):
            with pytest.raises(LockNotOwnedError):
                pool.release()
            released.set()

        pool = gpulock.Pool(client, NAMES, n=2, timeout=60, renew=True, on_lost=on_lost)
        pool.acquire()
        client.delete(LOCK)
        assert released.wait(PATIENCE_S)
        assert not client.exists(NAMES[1])

    async def test_on_lost_does_not_release_the_next_hold_asyncio(self, aclient):
        errors, next_holds = [], asyncio.Event()

        async def on_lost(_loss):
            await next_holds.wait()
            try:
                await lock.release()
            except LockError as error:
                errors.append(error)

        lock = gpulock.asyncio.Lock(aclient, LOCK, timeout=60, renew=True, on_lost=on_lost)
        await asyncio.ensure_future(lock.acquire())
        lost = lock.lost
        await aclient.delete(LOCK)
        await asyncio.wait_for(lost.wait(), PATIENCE_S)
        await lock.acquire()
        next_holds.set()
        while not errors:
            await asyncio.sleep(0.01)
        assert isinstance(errors[0], LockNotOwnedError)
        assert await aclient.get(LOCK) == lock.owner
        await lock.release()


class TestFailedReleases:
    """The exit of a block cannot be repeated by its caller."""

    @pytest.mark.parametrize("settings", [{"timeout": 60}, {"session": True}])
    def test_an_exit_releases_although_the_pool_has_no_connection(
        self, client, server, settings
    ):
        with server.client(max_connections=1) as small:
            lock = gpulock.Lock(small, LOCK, **settings)
            with lock:
                connection = taken(small.connection_pool)
            assert not client.exists(LOCK)
            assert lock.owner is None
            small.connection_pool.release(connection)

    async def test_an_exit_releases_although_the_pool_has_no_connection_asyncio(
        self, aclient, server
    ):
        small = redis.asyncio.Redis(port=server.port, max_connections=1)
        lock = gpulock.asyncio.Lock(small, LOCK, session=True)
        async with lock:
            connection = await taken(small.connection_pool)
        assert not await aclient.exists(LOCK)
        assert lock.owner is None
        await small.connection_pool.release(connection)
        await getattr(small, "aclose", small.close)()

    def test_an_exit_that_fails_ends_the_session(self, client, server):
        class Connection(redis.Connection):
            fails = False

            def _connect(self):
                if self.fails:
                    raise OSError("unreachable")
                return super()._connect()

        pool = redis.ConnectionPool(port=server.port, connection_class=Connection)
        lock = gpulock.Lock(redis.Redis(connection_pool=pool), LOCK, session=True)

        def work():
            with lock:
                pool.disconnect()
                Connection.fails = True

        with pytest.raises(ConnectionError, match="unreachable"):
            work()
        eventually(lambda: not client.exists(LOCK))


def taken(pool):
    """A connection of the pool; redis-py 5 requires the name of the command."""
    try:
        return pool.get_connection()
    except TypeError:
        return pool.get_connection("PING")


class TestSubclasses:
    @pytest.mark.parametrize("base", [gpulock.Lock, gpulock.Pool])
    def test_a_block_calls_the_methods_of_a_subclass(self, any_client, base):
        calls = []

        class Logged(base):
            def acquire(self, *args, **settings):
                calls.append("acquire")
                return super().acquire(*args, **settings)

            def release(self, *args):
                calls.append("release")
                super().release(*args)

        names = LOCK if base is gpulock.Lock else NAMES
        with Logged(any_client, names, timeout=60):
            assert calls == ["acquire"]
        assert calls == ["acquire", "release"]
        assert not any_client.exists(LOCK)

    @pytest.mark.parametrize("base", [gpulock.asyncio.Lock, gpulock.asyncio.Pool])
    async def test_an_asyncio_block_calls_the_methods_of_a_subclass(self, any_aclient, base):
        calls = []

        class Logged(base):
            async def acquire(self, *args, **settings):
                calls.append("acquire")
                return await asyncio.wait_for(super().acquire(*args, **settings), PATIENCE_S)

            async def release(self, *args):
                calls.append("release")
                await asyncio.wait_for(super().release(*args), PATIENCE_S)

        names = LOCK if base is gpulock.asyncio.Lock else NAMES
        async with Logged(any_aclient, names, timeout=60):
            assert calls == ["acquire"]
        assert calls == ["acquire", "release"]
        assert not await any_aclient.exists(LOCK)

    @pytest.mark.parametrize("method", ["acquire", "release"])
    async def test_a_subclass_that_is_cancelled_leaves_no_lock(self, any_aclient, method):
        class Slow(gpulock.asyncio.Lock):
            async def acquire(self):
                acquired = await super().acquire()
                if method == "acquire":
                    await asyncio.sleep(PATIENCE_S)
                return acquired

            async def release(self):
                await asyncio.sleep(PATIENCE_S)
                await super().release()

        async def work():
            async with Slow(any_aclient, LOCK, timeout=60, renew=True):
                pass

        working = asyncio.ensure_future(work())
        while not await any_aclient.exists(LOCK):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        assert not await any_aclient.exists(LOCK)

    @pytest.mark.parametrize("method", ["acquire", "release"])
    def test_a_subclass_that_fails_leaves_no_lock(self, any_client, method):
        class Failing(gpulock.Lock):
            def acquire(self):
                acquired = super().acquire()
                if method == "acquire":
                    raise ZeroDivisionError
                return acquired

            def release(self):
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError), Failing(any_client, LOCK, timeout=60):
            pass
        assert not any_client.exists(LOCK)


GREENLETS = """
import sys, gpulock, redis
from gevent import monkey
monkey.patch_all()
import gevent

client = redis.Redis(port=int(sys.argv[1]))
lock = gpulock.Lock(client, "gpu_lock:0", timeout=0.3)
first_holds, second_holds, first_left = (gevent.event.Event() for _ in range(3))

def first():
    lock.acquire()
    first_holds.set()
    second_holds.wait()
    try:
        lock.release()
    except gpulock.LockNotOwnedError:
        first_left.set()

def second():
    first_holds.wait()
    lock.timeout, lock.renew = 60, True
    lock.acquire()
    owner = lock.owner
    second_holds.set()
    first_left.wait()
    assert client.get("gpu_lock:0") == owner == lock.owner
    lock.release()

gevent.joinall([gevent.spawn(first), gevent.spawn(second)], raise_error=True)
with lock:
    assert client.exists("gpu_lock:0")
assert not client.exists("gpu_lock:0")
"""


def test_greenlets_have_their_own_holds_if_gevent_patches_after_the_import(server):
    pytest.importorskip("gevent")
    command = [sys.executable, "-c", GREENLETS, str(server.port)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert result.returncode == 0, result.stderr
