"""Real Celery workers, most of them running the example project, with a test server as their
broker."""

import importlib
import os
import signal
import sys
from pathlib import Path

import pytest
from redis.exceptions import LockError

import gpulock
from celery_worker import Worker
from servers import CLOSED_PORT, eventually

pytest.importorskip("celery")

from gpulock.celery import GpuTimeoutError

TESTS = Path(__file__).parent
EXAMPLE = TESTS.parent / "examples" / "celery"
TASKS = EXAMPLE / "tasks.py"
RETRY_TASKS = TESTS / "retry_tasks.py"
GPUS = ["{node7}:gpu:0", "{node7}:gpu:1"]
GET_S = 60
# More than Celery's default number of retries.
MANY = 6


@pytest.fixture(scope="module", params=["module", "plain"])
def broker(request, shared_server, shared_plain_server):
    server = shared_server if request.param == "module" else shared_plain_server
    with server.client() as client:
        client.flushall()
    return server


@pytest.fixture(scope="module")
def tasks(broker):
    url = f"redis://127.0.0.1:{broker.port}/0"
    os.environ["REDIS_URL"] = url
    sys.path.insert(0, str(EXAMPLE))
    sys.modules.pop("tasks", None)
    tasks = importlib.import_module("tasks")
    yield tasks
    sys.path.remove(str(EXAMPLE))
    tasks.app.close()


@pytest.fixture(scope="module")
def worker(tasks, tmp_path_factory):
    url = os.environ["REDIS_URL"]
    worker = Worker(TASKS, url, tmp_path_factory.mktemp("celery"), "--pool=prefork", "-c", "4")
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def retry_tasks(tasks):
    sys.modules.pop("retry_tasks", None)
    retry_tasks = importlib.import_module("retry_tasks")
    yield retry_tasks
    retry_tasks.app.close()


@pytest.fixture
def retry_worker(retry_tasks, broker, tmp_path):
    with broker.client() as client:
        client.delete(retry_tasks.KEY)
    worker = Worker(RETRY_TASKS, os.environ["REDIS_URL"], tmp_path, "-c", "2")
    yield worker
    worker.close()


@pytest.fixture
def client(broker, worker):
    with broker.client() as client:
        client.delete(*GPUS)
        yield client


def test_no_two_tasks_share_a_gpu(tasks, client):
    results = [tasks.transcribe.delay(0.05) for _ in range(12)]
    runs = [result.get(timeout=GET_S) for result in results]
    for gpu in {run["gpu"] for run in runs}:
        times = sorted((run["begin"], run["end"]) for run in runs if run["gpu"] == gpu)
        assert all(end <= begin for (_, end), (begin, _) in zip(times, times[1:]))
    assert client.exists(*GPUS) == 0


def test_a_task_waiting_to_retry_does_not_occupy_a_worker_process(tasks, client):
    client.set(GPUS[0], "other", px=60_000)
    # More tasks than the worker has processes.
    training = [tasks.train.delay() for _ in range(6)]
    assert tasks.add.delay(1, 2).get(timeout=GET_S) == 3
    assert not any(result.ready() for result in training)
    client.delete(GPUS[0])
    assert [result.get(timeout=GET_S) for result in training] == [[0, 1]] * 6


def test_a_second_delivery_of_a_running_task_does_not_run(tasks, client, worker):
    first = tasks.restartable.apply_async((3,)) if has_module(client) else None
    if first is None:
        pytest.skip("the task uses a session")
    runs = f"runs:{first.id}"
    eventually(lambda: client.llen(runs) == 1, GET_S)
    # What the broker does after the visibility timeout.
    tasks.restartable.apply_async((0,), task_id=first.id)
    eventually(lambda: f"[{first.id}] is already running" in worker.text(), GET_S)
    assert first.get(timeout=GET_S) in (0, 1)
    eventually(lambda: f"[{first.id}] is already done" in worker.text(), GET_S)
    assert client.llen(runs) == 1


def test_a_task_runs_again_after_its_worker_process_is_killed(tasks, client):
    if not has_module(client):
        pytest.skip("the task uses a session")
    result = tasks.restartable.delay(60)
    runs = f"runs:{result.id}"
    eventually(lambda: client.llen(runs) == 1, GET_S)
    os.kill(int(client.lindex(runs, 0)), signal.SIGKILL)
    assert result.get(timeout=GET_S) in (0, 1)
    assert client.llen(runs) == 2


def test_a_short_visibility_timeout_is_logged(worker):
    warnings = [line for line in worker.text().splitlines() if "visibility_timeout" in line]
    assert warnings
    assert all("tasks.long_lease" in line for line in warnings)


def test_a_task_without_bind_finds_its_pool(tasks, client):
    run = tasks.held_tokens.delay().get(timeout=GET_S)
    assert list(run) == [GPUS[0]]
    with pytest.raises(LockError, match="no GpuTask"):
        gpulock.current_lock(gpulock.Pool)


def test_a_task_notices_that_its_gpu_was_lost(tasks, client):
    result = tasks.stop_on_loss.delay()
    eventually(lambda: client.exists(GPUS[0]), GET_S)
    client.delete(GPUS[0])
    assert result.get(timeout=GET_S) == "lost"


def test_the_solo_pool_runs_tasks(tasks, client, tmp_path):
    solo = Worker(TASKS, os.environ["REDIS_URL"], tmp_path, "--pool=solo", "--queues=solo")
    try:
        result = tasks.transcribe.apply_async(queue="solo")
        assert result.get(timeout=GET_S)["gpu"] == GPUS[0]
    finally:
        solo.close()


def test_waiting_for_a_gpu_does_not_use_up_retries(retry_tasks, retry_worker, broker):
    with broker.client() as client:
        client.set(retry_tasks.KEY, "other", px=120_000)
        result = retry_tasks.retry_once.delay()
        retried = f"[{result.id}] retry: Retry in 0.1s"
        eventually(lambda: retry_worker.text().count(retried) >= MANY, GET_S)
        client.delete(retry_tasks.KEY)
        assert result.get(timeout=GET_S) == 1


def test_a_second_delivery_is_requeued_without_limit(retry_tasks, retry_worker, broker):
    with broker.client() as client:
        first = retry_tasks.wait_for_signal.delay()
        runs = f"runs:{first.id}"
        eventually(lambda: client.llen(runs) == 1, GET_S)
        retry_tasks.wait_for_signal.apply_async(task_id=first.id)
        received = f"[{first.id}] received"
        eventually(lambda: retry_worker.text().count(received) > MANY, GET_S)
        assert retry_worker.text().count(f"[{first.id}] is already running") == 1
        # The state of the running delivery was not overwritten.
        assert first.state == "PENDING"
        client.rpush(f"finish:{first.id}", "now")
        assert first.get(timeout=GET_S) is True
        done = f"[{first.id}] is already done"
        eventually(lambda: done in retry_worker.text(), GET_S)
        assert client.llen(runs) == 1


def test_a_message_that_cannot_be_requeued_is_not_lost(retry_tasks, broker, tmp_path):
    worker = Worker(
        RETRY_TASKS,
        os.environ["REDIS_URL"],
        tmp_path,
        "--pool=solo",
        CELERY_BROKER_WRITE_URL=f"redis://127.0.0.1:{CLOSED_PORT}/0",
    )
    with broker.client() as client:
        try:
            client.set(retry_tasks.KEY, "other", px=120_000)
            result = retry_tasks.wait_for_signal.delay()
            received = f"[{result.id}] received"
            eventually(lambda: worker.text().count(received) > 1, GET_S)
            client.delete(retry_tasks.KEY)
            client.rpush(f"finish:{result.id}", "now")
            assert result.get(timeout=GET_S) is True
        finally:
            worker.close()


@pytest.mark.parametrize("backend", ["none", "away"])
def test_tasks_run_without_a_result_backend(retry_tasks, broker, tmp_path, backend):
    url = "disabled://" if backend == "none" else f"redis://127.0.0.1:{CLOSED_PORT}/0"
    worker = Worker(
        RETRY_TASKS,
        os.environ["REDIS_URL"],
        tmp_path,
        "--pool=solo",
        CELERY_RESULT_BACKEND=url,
    )
    try:
        task_id = retry_tasks.hold.apply_async(ignore_result=True).id
        succeeded = f"retry_tasks.hold[{task_id}] succeeded"
        eventually(lambda: succeeded in worker.text(), GET_S)
        error = f"failed to read from the result backend whether retry_tasks.hold[{task_id}]"
        assert (error in worker.text()) == (backend == "away")
    finally:
        worker.close()


def test_a_task_that_no_broker_delivered_raises_at_once(retry_tasks, broker):
    with broker.client() as client:
        client.set(retry_tasks.KEY, "other", px=120_000)
        with pytest.raises(GpuTimeoutError, match="no broker delivered it"):
            retry_tasks.retry_once()
        with pytest.raises(GpuTimeoutError, match="no broker delivered it"):
            retry_tasks.retry_once.apply().get()
        client.delete(retry_tasks.KEY)


def has_module(client):
    return bool(client.execute_command("COMMAND INFO", "GPULOCK.ACQUIRE")[0])
