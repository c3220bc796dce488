"""The acceptance of the replaced system, under the names that its tests had, but against a
real server; then what it did wrong, done right."""

import functools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis.exceptions import ConnectionError

import gpulock.locks
from gpulock.locks import (
    GpuLockTimeoutError,
    SmartGpuLockManager,
    configure,
    get_gpu_lock_health_summary,
    get_gpu_lock_status,
    gpu_lock,
    release_gpu_lock,
)
from looks import LOCK, inspect, stats
from relay import Relay
from servers import eventually

CONFIG = {"max_wait_time": 10, "poll_interval": 0.05, "lock_timeout": 60}
AT_ONCE = {**CONFIG, "max_wait_time": 0}


@pytest.fixture
def manager(client):
    return SmartGpuLockManager(client)


@pytest.fixture
def configured(client):
    configure(client)
    yield client
    configure()


@pytest.fixture
def counts(manager):
    def counts():
        told = manager.get_exception_statistics()
        return {name: told[name] for name in gpulock._manager.COUNTERS}

    return counts


class TestAtomicity:
    def test_release_lock_ownership_verification(self, manager, client, counts):
        assert manager.acquire_lock_with_smart_polling("task_a", LOCK, CONFIG)
        holder = client.get(LOCK)
        assert manager.release_lock("task_b", LOCK, "malicious") is False
        assert client.get(LOCK) == holder
        assert counts()["ownership_violations"] == 1
        assert manager.release_lock("task_a", LOCK) is True

    def test_release_lock_success(self, manager, client, counts):
        assert manager.acquire_lock_with_smart_polling("task_a", LOCK, CONFIG)
        with client.pubsub() as ears:
            ears.subscribe(f"gpu_lock:{LOCK}")
            assert ears.get_message(timeout=30)["type"] == "subscribe"
            assert manager.release_lock("task_a", LOCK, "preempted") is True
            assert b'"release_reason":"preempted"' in ears.get_message(timeout=30)["data"]
        assert not client.exists(LOCK)
        assert set(counts().values()) == {0}

    def test_concurrent_release_no_race_condition(self, manager, client, counts):
        assert manager.acquire_lock_with_smart_polling("task_a", LOCK, CONFIG)
        start, results = threading.Barrier(5), []

        def release():
            start.wait()
            results.append(manager.release_lock("task_a", LOCK, "normal"))

        threads = [threading.Thread(target=release) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == [False] * 4 + [True]
        assert not client.exists(LOCK)

    def test_lua_script_error_handling(self, manager, client, counts, caplog):
        client.rpush(LOCK, "a list")
        assert manager.release_lock("task_a", LOCK) is False
        assert counts() == {
            "ownership_violations": 0,
            "release_script_errors": 1,
            "normal_release_failures": 1,
            "emergency_releases": 0,
        }
        assert client.type(LOCK) == b"list"
        assert "refuses to release" in caplog.text

    def test_release_lock_redis_unavailable(self, own_server, caplog):
        with own_server.client(retry=None) as client:
            manager = SmartGpuLockManager(client)
            assert manager.acquire_lock_with_smart_polling("task_a", LOCK, CONFIG)
            own_server.kill()
            assert manager.release_lock("task_a", LOCK) is False
            assert "could not be given back" in caplog.text
            assert not manager.acquire_lock_with_smart_polling("task_b", LOCK, AT_ONCE)
            own_server.start()
            assert manager.release_lock("task_a", LOCK) is True
            assert not client.exists(LOCK)

    def test_lua_script_atomicity(self, manager, client):
        # The successor takes the lock in the midst of the releases of the old holder.
        successor = SmartGpuLockManager(client)
        for _ in range(20):
            assert manager.acquire_lock_with_smart_polling("old", LOCK, CONFIG)
            taker = threading.Thread(
                target=successor.acquire_lock_with_smart_polling, args=("new", LOCK, CONFIG)
            )
            taker.start()
            results = [manager.release_lock("old", LOCK) for _ in range(4)]
            taker.join()
            assert results == [True, False, False, False]
            assert client.get(LOCK).startswith(b"locked_by_new")
            # The thread that took it is over; the task gives it back all the same.
            assert successor.release_lock("new", LOCK)

    def test_exception_stats_initialization(self, manager):
        told = manager.get_exception_statistics()
        assert abs(told.pop("timestamp") - time.time()) < 30
        assert told == {
            "normal_release_failures": 0,
            "emergency_releases": 0,
            "release_script_errors": 0,
            "ownership_violations": 0,
            "exception_rate": 0.0,
            "emergency_release_rate": 0.0,
            "total_locks": 0,
        }


class TestDeadlock:
    def test_concurrent_lock_acquisition(self, client):
        inside, most, done = [], [], []

        def work(number):
            manager = SmartGpuLockManager(client)
            assert manager.acquire_lock_with_smart_polling(f"task_{number}", LOCK, CONFIG)
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.01)
            inside.remove(number)
            done.append(manager.release_lock(f"task_{number}", LOCK))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == [1] * 5
        assert done == [True] * 5

    def test_emergency_release_on_normal_failure(self, configured, client):
        """A release that the server refuses; then the last resort takes that very hold."""
        alerts = []
        configure(client, alert=lambda kind, data: alerts.append((kind, data["lock_key"])))

        class RefusesRelease(type(client)):
            def execute_command(self, *words, **options):
                if words[0] == "GPULOCK.RELEASE":
                    words = (*words, "NONSENSE")
                return super().execute_command(*words, **options)

        broken = RefusesRelease(connection_pool=client.connection_pool)
        configure(broken, alert=lambda kind, data: alerts.append((kind, data["lock_key"])))

        @gpu_lock(LOCK, timeout=60, max_wait_time=1)
        def task():
            return "done"

        assert task() == "done"
        assert not client.exists(LOCK)
        after = stats(client)
        assert (after["emergency_releases"], after["release_script_errors"]) == (1, 1)
        assert alerts == [("gpu_lock_emergency_release", LOCK)]


class TestDecorator:
    def test_a_task_holds_the_lock_and_its_value_names_it(self, configured):
        class Task:
            name = "asr"

            @gpu_lock(LOCK, timeout=30, poll_interval=1, event_driven=True, fallback_timeout=3)
            def run(self, factor, *, offset):
                """Doc."""
                value = configured.get(LOCK).decode()
                return value, factor * 2 + offset, configured.ttl(LOCK)

        value, result, ttl = Task().run(3, offset=1)
        assert value.startswith("locked_by_asr:")
        assert (result, Task.run.__doc__) == (7, "Doc.")
        assert 20 < ttl <= 30
        assert not configured.exists(LOCK)

    def test_a_failing_task_gives_it_back(self, configured):
        @gpu_lock(LOCK)
        def task():
            raise RuntimeError("CUDA out of memory")

        with pytest.raises(RuntimeError, match="CUDA"):
            task()
        assert not configured.exists(LOCK)

    def test_a_lock_that_is_not_to_be_had(self, configured):
        cleaned = []
        configure(configured, cleanup=lambda: cleaned.append(True))
        configured.set(LOCK, "locked_by_somebody", ex=60)

        @gpu_lock(LOCK, max_wait_time=0.1)
        def task():
            pytest.fail("it ran without the lock")

        with pytest.raises(GpuLockTimeoutError, match="GPU_LOCK_TIMEOUT: task did not get"):
            task()
        assert cleaned == [True]

    def test_the_cleanup_runs_while_the_lock_is_held_and_may_fail(self, configured, caplog):
        seen = []

        def cleanup():
            seen.append(configured.exists(LOCK))
            raise RuntimeError("no driver")

        configure(configured, cleanup=cleanup)
        assert gpu_lock(LOCK)(lambda: 1)() == 1
        assert seen == [1]
        assert not configured.exists(LOCK)
        assert "no driver" in caplog.text

    def test_a_late_release_leaves_the_successor_alone(self, configured):
        """The old third layer deleted the key, whoever held it by then."""
        for plain_owner in (False, True):
            configure(configured, plain_owner=plain_owner)

            @gpu_lock(LOCK, timeout=60)
            def task():
                # The lease is over, and the next run of the same task has the lock.
                configured.delete(LOCK)
                name = "locked_by_task"
                return configured.execute_command("GPULOCK.ACQUIRE", LOCK, name, "EX", 60)

            successor = task()
            assert inspect(configured)["token"] == successor
            configured.delete(LOCK)

    def test_a_server_away_in_the_finally(self, server, client, caplog):
        relay = Relay(server.port)
        with server.client(retry=None) as own:
            own.connection_pool.connection_kwargs["port"] = relay.port
            configure(own)

            @gpu_lock(LOCK, timeout=60)
            def task():
                relay.refuse()
                return "done"

            assert task() == "done"
        configure()
        relay.close()
        assert "left to its lease" in caplog.text
        assert client.exists(LOCK)

    def test_a_body_that_runs_after_the_call_is_refused(self):
        async def coroutine():
            pass

        def generator():
            yield

        async def asynchronous_generator():
            yield

        for late in (coroutine, generator, asynchronous_generator):
            with pytest.raises(TypeError, match=r"gpulock\.asyncio\.Lock"):
                gpu_lock(LOCK)(late)

    def test_the_plain_old_value(self, configured):
        configure(configured, plain_owner=True)
        values = []
        gpu_lock(LOCK)(lambda: values.append(configured.get(LOCK)))()
        assert values == [b"locked_by_<lambda>"]


class TestFigures:
    def test_status(self, configured):
        free = get_gpu_lock_status(LOCK)
        assert (free["is_locked"], free["lock_holder"], free["lock_type"]) == (
            False,
            None,
            "free",
        )
        seen = []

        @gpu_lock(LOCK, timeout=60)
        def asr():
            seen.append(get_gpu_lock_status(LOCK))
            seen.append(get_gpu_lock_health_summary())

        asr()
        status, summary = seen
        assert status["lock_holder"].startswith("locked_by_asr:")
        assert 50 < status["ttl_seconds"] <= 60
        assert status["lock_type"] == "active"
        assert 0 <= status["lock_age"] < 30
        assert status["fencing_token"] > 0
        assert summary["overall_status"] == "healthy"
        assert summary["lock_age"] is not None

    def test_status_without_a_server(self, own_server):
        own_server.kill()
        configure(own_server.client(retry=None))
        assert "error" in get_gpu_lock_status(LOCK)
        configure()

    def test_figures_without_a_server(self, own_server, caplog):
        with own_server.client(retry=None) as client:
            configure(client)
            manager = gpulock.locks.lock_manager
            assert manager.acquire_lock_with_smart_polling("asr", LOCK, CONFIG)
            seen = manager._own_counts["acquired"]
            own_server.kill()
            assert manager.get_exception_statistics()["total_locks"] == seen > 0
            assert "does not tell its counters" in caplog.text
            assert release_gpu_lock(LOCK, "asr") is False
            assert "could not be released" in caplog.text
        configure()

    def test_what_is_held_no_more_is_not_old(self, own_server):
        """A lock that could not be given back: its lease is over all the same."""
        with own_server.client(retry=None) as client:
            manager = SmartGpuLockManager(client)
            short = {**CONFIG, "lock_timeout": 0.5}
            assert manager.acquire_lock_with_smart_polling("asr", LOCK, short)
            own_server.kill()
            assert manager.release_lock("asr", LOCK) is False
            eventually(lambda: manager.get_lock_health()["lock_age"] is None)

    def test_statistics_health_and_history(self, manager, client):
        client.set("taken", "somebody")
        assert manager.acquire_lock_with_smart_polling("a", LOCK, CONFIG)
        assert not manager.acquire_lock_with_smart_polling("b", "taken", AT_ONCE)
        told = manager.get_statistics()
        assert (told["total_attempts"], told["successful_acquisitions"]) == (2, 1)
        assert (told["success_rate"], told["timeout_rate"]) == (0.5, 0.5)
        assert (told["event_driven_rate"], told["last_lock_holder"]) == (1.0, "a")
        health = manager.get_lock_health()
        assert health["status"] == "warning"
        assert "high timeout rate" in health["issues"]
        history = manager.get_lock_history()
        assert [(e["task_name"], e["success"]) for e in history] == [("a", True), ("b", False)]
        assert manager.get_lock_history(limit=1) == history[1:]

    def test_the_counters_are_everybodys(self, manager, server):
        manager.release_lock("a", LOCK)
        with server.client() as other:
            told = SmartGpuLockManager(other).get_exception_statistics()
        assert told["ownership_violations"] == 1

    def test_without_the_module_each_process_counts_for_itself(self, plain_server):
        with plain_server.client() as client:
            manager = SmartGpuLockManager(client)
            assert manager.acquire_lock_with_smart_polling("a", LOCK, CONFIG)
            assert manager.release_lock("b", LOCK) is False
            assert manager.release_lock("a", LOCK) is True
            told = manager.get_exception_statistics()
            assert (told["total_locks"], told["ownership_violations"]) == (1, 1)
            assert manager.get_statistics()["polling_rate"] == 1.0

    def test_release_by_people(self, configured):
        manager = gpulock.locks.lock_manager
        assert manager.acquire_lock_with_smart_polling("asr", LOCK, CONFIG)
        assert release_gpu_lock(LOCK, "tts") is False
        assert release_gpu_lock(LOCK, "as") is False
        assert release_gpu_lock(LOCK, "asr") is True
        assert not configured.exists(LOCK)
        assert release_gpu_lock(LOCK) is False

    def test_the_environment_names_the_server(self, server, monkeypatch):
        monkeypatch.setenv("REDIS_HOST", "127.0.0.1")
        monkeypatch.setenv("REDIS_PORT", str(server.port))
        configure()
        client = gpulock.locks.redis_client
        assert client.connection_pool.connection_kwargs["db"] == 2
        assert gpu_lock(LOCK)(lambda: client.get(LOCK))().startswith("locked_by_")
        client.close()
        configure()


def test_two_runs_of_a_task_in_one_process(manager, client):
    """The first one's lease is over; its release must not give back the second one's lock."""
    config = {**CONFIG, "lock_timeout": 0.3}
    assert manager.acquire_lock_with_smart_polling("asr", LOCK, config)
    eventually(lambda: not client.exists(LOCK))
    second = threading.Thread(
        target=manager.acquire_lock_with_smart_polling, args=("asr", LOCK, CONFIG)
    )
    second.start()
    second.join()
    assert manager.release_lock("asr", LOCK) is False
    assert client.exists(LOCK)


@pytest.mark.parametrize("plain_owner", [False, True])
def test_a_run_that_got_nothing_frees_nothing(client, counts, plain_owner):
    manager = SmartGpuLockManager(client, plain_owner=plain_owner)
    assert manager.acquire_lock_with_smart_polling("asr", LOCK, CONFIG)
    holder = client.get(LOCK)

    def second():
        acquired = manager.acquire_lock_with_smart_polling("asr", LOCK, AT_ONCE)
        return acquired, manager.release_lock("asr", LOCK), manager.release_lock("asr", LOCK)

    assert in_a_thread(second) == (False, False, False)
    assert client.get(LOCK) == holder
    assert counts()["ownership_violations"] == 2
    assert manager.release_lock("asr", LOCK) is True


@pytest.mark.parametrize("plain_owner", [False, True])
def test_a_second_release_leaves_the_next_run_alone(client, plain_owner):
    manager = SmartGpuLockManager(client, plain_owner=plain_owner)
    assert manager.acquire_lock_with_smart_polling("asr", LOCK, CONFIG)
    assert manager.release_lock("asr", LOCK) is True
    take = functools.partial(manager.acquire_lock_with_smart_polling, "asr", LOCK, CONFIG)
    assert in_a_thread(take)
    assert manager.release_lock("asr", LOCK) is False
    assert client.exists(LOCK)


def test_a_failed_try_does_not_forget_what_is_held(manager, client):
    assert manager.acquire_lock_with_smart_polling("asr", LOCK, CONFIG)
    assert not manager.acquire_lock_with_smart_polling("asr", LOCK, AT_ONCE)
    assert manager.release_lock("asr", LOCK) is True
    assert not client.exists(LOCK)


def test_the_renewal_ends_with_the_thread_that_took_the_lock(manager, client):
    renewed = {**CONFIG, "lock_timeout": 3, "renew": True}

    def work():
        assert manager.acquire_lock_with_smart_polling("asr", LOCK, renewed)
        eventually(lambda: stats(client)["extends"] > 0)

    in_a_thread(work)
    eventually(lambda: not client.exists(LOCK))
    eventually(lambda: manager.get_lock_health()["lock_age"] is None)


def in_a_thread(function):
    """What the function answers in a thread of its own, which is over then."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(function).result()


def test_errors_are_told_apart_by_type(own_server):
    class ResponseError(ConnectionError):
        """What the old code took for an error of the script, by its name."""

    with own_server.client() as client:
        manager = SmartGpuLockManager(client)
        manager.acquire_lock_with_smart_polling("asr", LOCK, CONFIG)
        lock = manager._held_by("asr", LOCK)

        def fail(_reason):
            raise ResponseError("away")

        lock.release = fail
        assert manager.release_lock("asr", LOCK) is False
        assert manager._own_counts["release_script_errors"] == 0
