"""The lock manager that the module replaces: its own tests, under their old names but against a
real server; then tests of what it did wrong."""

import functools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis.exceptions import ConnectionError

import gpulock.compat
import gpulock.locks
from gpulock.compat import (
    RELEASE_LOCK_SCRIPT,
    GpuLockTimeoutError,
    SmartGpuLockManager,
    configure,
    get_gpu_lock_health_summary,
    get_gpu_lock_status,
    gpu_lock,
    release_gpu_lock,
)
from inspection import LOCK, inspect, stats, waiting
from proxy import Proxy
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
        statistics = manager.get_exception_statistics()
        return {name: statistics[name] for name in gpulock._manager.COUNTERS}

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
        with client.pubsub() as pubsub:
            pubsub.subscribe(f"gpu_lock:{LOCK}")
            assert pubsub.get_message(timeout=30)["type"] == "subscribe"
            assert manager.release_lock("task_a", LOCK, "preempted") is True
            assert b'"release_reason":"preempted"' in pubsub.get_message(timeout=30)["data"]
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
        assert "rejected the release" in caplog.text

    def test_release_lock_redis_unavailable(self, own_server, caplog):
        with own_server.client(retry=None) as client:
            manager = SmartGpuLockManager(client)
            assert manager.acquire_lock_with_smart_polling("task_a", LOCK, CONFIG)
            own_server.kill()
            assert manager.release_lock("task_a", LOCK) is False
            assert "task_a failed to release" in caplog.text
            assert not manager.acquire_lock_with_smart_polling("task_b", LOCK, AT_ONCE)
            own_server.start()
            assert manager.release_lock("task_a", LOCK) is True
            assert not client.exists(LOCK)

    def test_lua_script_atomicity(self, manager, client):
        # The successor acquires the lock between the releases of the old holder.
        successor = SmartGpuLockManager(client)
        for _ in range(20):
            assert manager.acquire_lock_with_smart_polling("old", LOCK, CONFIG)
            acquirer = threading.Thread(
                target=successor.acquire_lock_with_smart_polling, args=("new", LOCK, CONFIG)
            )
            acquirer.start()
            results = [manager.release_lock("old", LOCK) for _ in range(4)]
            acquirer.join()
            assert results == [True, False, False, False]
            assert client.get(LOCK).startswith(b"locked_by_new")
            # The thread that acquired it has ended; the task can still release it.
            assert successor.release_lock("new", LOCK)

    def test_exception_stats_initialization(self, manager):
        statistics = manager.get_exception_statistics()
        assert abs(statistics.pop("timestamp") - time.time()) < 30
        assert statistics == {
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
        holders, counts, released = [], [], []

        def work(number):
            manager = SmartGpuLockManager(client)
            assert manager.acquire_lock_with_smart_polling(f"task_{number}", LOCK, CONFIG)
            holders.append(number)
            counts.append(len(holders))
            time.sleep(0.01)
            holders.remove(number)
            released.append(manager.release_lock(f"task_{number}", LOCK))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counts == [1] * 5
        assert released == [True] * 5

    def test_emergency_release_on_normal_failure(self, configured, client):
        """When the server rejects the release, a forced release ends that hold."""
        alerts = []
        configure(client, alert=lambda kind, data: alerts.append((kind, data["lock_key"])))

        class ReleaseRejectingClient(type(client)):
            def execute_command(self, *args, **options):
                if args[0] == "GPULOCK.RELEASE":
                    args = (*args, "NONSENSE")
                return super().execute_command(*args, **options)

        broken = ReleaseRejectingClient(connection_pool=client.connection_pool)
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
    def test_a_task_holds_the_lock_as_its_owner(self, configured):
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

    def test_a_failing_task_releases_the_lock(self, configured):
        @gpu_lock(LOCK)
        def task():
            raise RuntimeError("CUDA out of memory")

        with pytest.raises(RuntimeError, match="CUDA"):
            task()
        assert not configured.exists(LOCK)

    def test_a_lock_that_stays_held_raises(self, configured):
        cleaned = []
        configure(configured, cleanup=lambda: cleaned.append(True))
        configured.set(LOCK, "locked_by_other", ex=60)

        @gpu_lock(LOCK, max_wait_time=0.1)
        def task():
            pytest.fail("it ran without the lock")

        with pytest.raises(
            GpuLockTimeoutError, match="GPU_LOCK_TIMEOUT: task task did not acquire"
        ):
            task()
        assert cleaned == [True]

    def test_the_cleanup_runs_before_the_release_and_may_fail(self, configured, caplog):
        seen = []

        def cleanup():
            seen.append(configured.exists(LOCK))
            raise RuntimeError("no driver")

        configure(configured, cleanup=cleanup)
        assert gpu_lock(LOCK)(lambda: 1)() == 1
        assert seen == [1]
        assert not configured.exists(LOCK)
        assert "no driver" in caplog.text

    def test_a_late_release_does_not_affect_the_successor(self, configured):
        """The old lock manager deleted the key as a last resort, even a successor's."""
        for plain_owner in (False, True):
            configure(configured, plain_owner=plain_owner)

            @gpu_lock(LOCK, timeout=60)
            def task():
                # The lease expires, and the next run of the same task acquires the lock.
                configured.delete(LOCK)
                name = "locked_by_task"
                return configured.execute_command("GPULOCK.ACQUIRE", LOCK, name, "EX", 60)

            successor = task()
            assert inspect(configured)["token"] == successor
            configured.delete(LOCK)

    def test_an_unreachable_server_does_not_fail_the_task(self, server, client, caplog):
        proxy = Proxy(server.port)
        with server.client(retry=None) as own:
            own.connection_pool.connection_kwargs["port"] = proxy.port
            configure(own)

            @gpu_lock(LOCK, timeout=60)
            def task():
                proxy.refuse()
                return "done"

            assert task() == "done"
        configure()
        proxy.close()
        assert "held until its lease expires" in caplog.text
        assert client.exists(LOCK)

    def test_a_function_whose_body_runs_later_is_rejected(self):
        async def coroutine():
            pass

        def generator():
            yield

        async def asynchronous_generator():
            yield

        for function in (coroutine, generator, asynchronous_generator):
            with pytest.raises(TypeError, match=r"gpulock\.asyncio\.Lock"):
                gpu_lock(LOCK)(function)

    def test_plain_owner_writes_the_old_value(self, configured):
        configure(configured, plain_owner=True)
        values = []
        gpu_lock(LOCK)(lambda: values.append(configured.get(LOCK)))()
        assert values == [b"locked_by_<lambda>"]


class TestStatistics:
    def test_status_reports_the_holder(self, configured):
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

    def test_status_reports_an_unreachable_server(self, own_server):
        own_server.kill()
        configure(own_server.client(retry=None))
        assert "error" in get_gpu_lock_status(LOCK)
        configure()

    def test_without_a_server_the_process_reports_its_own_counters(self, own_server, caplog):
        with own_server.client(retry=None) as client:
            configure(client)
            manager = gpulock.compat.lock_manager
            assert manager.acquire_lock_with_smart_polling("asr", LOCK, CONFIG)
            acquired = manager.lock_stats["successful_acquisitions"]
            own_server.kill()
            assert manager.get_exception_statistics()["total_locks"] == acquired > 0
            assert "failed to read the server's counters" in caplog.text
            assert release_gpu_lock(LOCK, "asr") is False
            assert "failed to release" in caplog.text
        configure()

    def test_an_expired_lock_has_no_age(self, own_server):
        """The lease of a lock that could not be released still expires."""
        with own_server.client(retry=None) as client:
            manager = SmartGpuLockManager(client)
            short = {**CONFIG, "lock_timeout": 0.5}
            assert manager.acquire_lock_with_smart_polling("asr", LOCK, short)
            own_server.kill()
            assert manager.release_lock("asr", LOCK) is False
            eventually(lambda: manager.get_lock_health()["lock_age"] is None)

    def test_statistics_health_and_history_agree(self, manager, client):
        client.set("held", "other")
        assert manager.acquire_lock_with_smart_polling("a", LOCK, CONFIG)
        assert not manager.acquire_lock_with_smart_polling("b", "held", AT_ONCE)
        statistics = manager.get_statistics()
        assert (statistics["total_attempts"], statistics["successful_acquisitions"]) == (2, 1)
        assert (statistics["success_rate"], statistics["timeout_rate"]) == (0.5, 0.5)
        assert (statistics["event_driven_rate"], statistics["last_lock_holder"]) == (1.0, "a")
        health = manager.get_lock_health()
        assert health["status"] == "warning"
        assert "high timeout rate" in health["issues"]
        history = manager.get_lock_history()
        assert [(e["task_name"], e["success"]) for e in history] == [("a", True), ("b", False)]
        assert manager.get_lock_history(limit=1) == history[1:]

    def test_the_failures_and_calls_of_the_process_are_attributes(self, manager, counts):
        manager.max_history_size = 3
        for _ in range(2):
            assert manager.acquire_lock_with_smart_polling("a", LOCK, CONFIG)
            assert not manager.acquire_lock_with_smart_polling("b", LOCK, AT_ONCE)
            assert manager.release_lock("b", LOCK) is False
            assert manager.release_lock("a", LOCK) is True
        assert manager.exception_stats == counts()
        assert manager.exception_stats["ownership_violations"] == 2
        assert [entry["task_name"] for entry in manager.lock_history[-3:]] == ["b", "a", "b"]
        assert len(manager.lock_history) == 3

    def test_waiting_clients_are_counted(self, server, configured):
        configured.set(LOCK, "other", ex=60)
        assert get_gpu_lock_status(LOCK)["waiting"] == 0
        managers = [SmartGpuLockManager(server.client()) for _ in range(2)]
        with ThreadPoolExecutor(2) as threads:
            for number, manager in enumerate(managers):
                threads.submit(
                    manager.acquire_lock_with_smart_polling, f"task_{number}", LOCK, CONFIG
                )
                eventually(lambda number=number: waiting(configured) == number + 1)
                assert get_gpu_lock_status(LOCK)["waiting"] == number + 1
                assert manager.get_statistics()["active_waiters"] == 1
            # A kept position is not a waiting client.
            assert not SmartGpuLockManager(configured).acquire_lock_with_smart_polling(
                "impatient", LOCK, {**CONFIG, "max_wait_time": 0.1}
            )
            assert get_gpu_lock_status(LOCK)["waiting"] == 2
            for number, manager in enumerate(managers):
                eventually(lambda number=number: waiting(configured) == 2 - number)
                configured.delete(LOCK)
                eventually(lambda m=manager: m.get_statistics()["active_waiters"] == 0)
        assert get_gpu_lock_status(LOCK)["waiting"] == 0
        for manager in managers:
            manager.redis.close()

    def test_without_the_module_waiting_clients_cannot_be_counted(self, plain_server):
        with plain_server.client() as client:
            configure(client)
            assert get_gpu_lock_status(LOCK)["waiting"] is None
        configure()

    def test_the_counters_cover_all_clients(self, manager, server):
        manager.release_lock("a", LOCK)
        with server.client() as other:
            statistics = SmartGpuLockManager(other).get_exception_statistics()
        assert statistics["ownership_violations"] == 1

    def test_without_the_module_each_process_counts_separately(self, plain_server):
        with plain_server.client() as client:
            manager = SmartGpuLockManager(client)
            assert manager.acquire_lock_with_smart_polling("a", LOCK, CONFIG)
            assert manager.release_lock("b", LOCK) is False
            assert manager.release_lock("a", LOCK) is True
            statistics = manager.get_exception_statistics()
            assert statistics["total_locks"] == 1
            assert statistics["ownership_violations"] == 1
            assert manager.get_statistics()["polling_rate"] == 1.0

    def test_release_gpu_lock_releases_any_run_of_the_task(self, configured):
        manager = gpulock.compat.lock_manager
        assert manager.acquire_lock_with_smart_polling("asr", LOCK, CONFIG)
        assert release_gpu_lock(LOCK, "tts") is False
        assert release_gpu_lock(LOCK, "as") is False
        assert release_gpu_lock(LOCK, "asr") is True
        assert not configured.exists(LOCK)
        assert release_gpu_lock(LOCK) is False

    def test_the_environment_gives_the_server(self, server, monkeypatch):
        monkeypatch.setenv("REDIS_HOST", "127.0.0.1")
        monkeypatch.setenv("REDIS_PORT", str(server.port))
        configure()
        client = gpulock.compat.redis_client
        assert client.connection_pool.connection_kwargs["db"] == 2
        assert gpu_lock(LOCK)(lambda: client.get(LOCK))().startswith("locked_by_")
        client.close()
        configure()


def test_the_release_of_an_expired_run_does_not_affect_the_next_run(manager, client):
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
def test_a_run_that_did_not_acquire_releases_nothing(client, counts, plain_owner):
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
def test_a_second_release_does_not_affect_the_next_run(client, plain_owner):
    manager = SmartGpuLockManager(client, plain_owner=plain_owner)
    assert manager.acquire_lock_with_smart_polling("asr", LOCK, CONFIG)
    assert manager.release_lock("asr", LOCK) is True
    acquire = functools.partial(manager.acquire_lock_with_smart_polling, "asr", LOCK, CONFIG)
    assert in_a_thread(acquire)
    assert manager.release_lock("asr", LOCK) is False
    assert client.exists(LOCK)


def test_a_failed_attempt_keeps_the_earlier_lock(manager, client):
    assert manager.acquire_lock_with_smart_polling("asr", LOCK, CONFIG)
    assert not manager.acquire_lock_with_smart_polling("asr", LOCK, AT_ONCE)
    assert manager.release_lock("asr", LOCK) is True
    assert not client.exists(LOCK)


def test_renewal_stops_with_the_thread_that_acquired_the_lock(manager, client):
    renewed = {**CONFIG, "lock_timeout": 3, "renew": True}

    def work():
        assert manager.acquire_lock_with_smart_polling("asr", LOCK, renewed)
        eventually(lambda: stats(client)["extends"] > 0)

    in_a_thread(work)
    eventually(lambda: not client.exists(LOCK))
    eventually(lambda: manager.get_lock_health()["lock_age"] is None)


def test_the_old_release_script_releases_a_plain_owner(client, server):
    manager = SmartGpuLockManager(client, plain_owner=True)
    assert manager.acquire_lock_with_smart_polling("asr", LOCK, CONFIG)
    with server.client() as other, ThreadPoolExecutor(1) as threads:
        next_manager = SmartGpuLockManager(other)
        successor = threads.submit(
            next_manager.acquire_lock_with_smart_polling, "tts", LOCK, CONFIG
        )
        eventually(lambda: waiting(client) == 1)
        assert client.eval(RELEASE_LOCK_SCRIPT, 1, LOCK, "locked_by_llm") == 0
        assert client.eval(RELEASE_LOCK_SCRIPT, 1, LOCK, "locked_by_asr") == 1
        assert successor.result()
        assert client.get(LOCK).startswith(b"locked_by_tts:")


def test_locks_is_an_alias(configured):
    assert gpulock.locks.gpu_lock is gpulock.compat.gpu_lock
    assert gpulock.locks.lock_manager is gpulock.compat.lock_manager
    assert gpulock.locks.redis_client is configured


def in_a_thread(function):
    """Runs the function in a new thread, and returns its result after the thread has ended."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(function).result()


def test_errors_are_classified_by_type(own_server):
    class ResponseError(ConnectionError):
        """The old lock manager classified this as a script error, by its name."""

    with own_server.client() as client:
        manager = SmartGpuLockManager(client)
        manager.acquire_lock_with_smart_polling("asr", LOCK, CONFIG)
        lock = manager._find_lock("asr", LOCK)

        def fail(_reason):
            raise ResponseError("away")

        lock.release = fail
        assert manager.release_lock("asr", LOCK) is False
        assert manager.exception_stats["release_script_errors"] == 0
