"""Real workers, most of the example project, on our server as their broker."""

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from servers import eventually, free_port

pytest.importorskip("celery")

from gpulock.celery import GpuTimeoutError

TESTS = Path(__file__).parent
EXAMPLE = TESTS.parent / "examples" / "celery"
GPUS = ["{node7}:gpu:0", "{node7}:gpu:1"]
GET_S = 60
# More often than Celery tries a task when nobody says otherwise.
OFTEN = 6
CELERY = [sys.executable, "-m", "celery"]
OPTIONS = ["-l", "INFO", "--without-gossip", "--without-mingle", "--without-heartbeat"]


class Worker:
    def __init__(self, url, folder, *options, project=EXAMPLE / "tasks.py", **environment):
        self.log = folder / f"worker-{time.monotonic_ns()}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*CELERY, "-A", project.stem, "worker", *OPTIONS, *options],
                cwd=project.parent,
                env={**os.environ, "REDIS_URL": url, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        eventually(lambda: self.process.poll() is not None or " ready." in self.text(), 60)
        assert self.process.poll() is None, self.text()

    def text(self):
        return self.log.read_text()

    def close(self):
        # Its children too: all of the session that was started here.
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


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
    worker = Worker(url, tmp_path_factory.mktemp("celery"), "--pool=prefork", "-c", "4")
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def stubborn(tasks):
    sys.modules.pop("stubborn_tasks", None)
    stubborn = importlib.import_module("stubborn_tasks")
    yield stubborn
    stubborn.app.close()


@pytest.fixture
def stubborn_worker(stubborn, broker, tmp_path):
    with broker.client() as client:
        client.delete(stubborn.KEY)
    worker = Worker(
        os.environ["REDIS_URL"], tmp_path, "-c", "2", project=TESTS / "stubborn_tasks.py"
    )
    yield worker
    worker.close()


@pytest.fixture
def client(broker, worker):
    with broker.client() as client:
        client.delete(*GPUS)
        yield client


def test_never_two_on_one_gpu(tasks, client):
    results = [tasks.transcribe.delay(0.05) for _ in range(12)]
    runs = [result.get(timeout=GET_S) for result in results]
    for gpu in {run["gpu"] for run in runs}:
        mine = sorted((run["begin"], run["end"]) for run in runs if run["gpu"] == gpu)
        assert all(end <= begin for (_, end), (begin, _) in zip(mine, mine[1:]))
    assert client.exists(*GPUS) == 0


def test_a_retry_leaves_the_children_to_others(tasks, client):
    client.set(GPUS[0], "somebody", px=60_000)
    # More than the worker has children.
    training = [tasks.train.delay() for _ in range(6)]
    assert tasks.add.delay(1, 2).get(timeout=GET_S) == 3
    assert not any(result.ready() for result in training)
    client.delete(GPUS[0])
    assert [result.get(timeout=GET_S) for result in training] == [[0, 1]] * 6


def test_the_same_task_delivered_again_does_not_run_twice(tasks, client, worker):
    first = tasks.survive.apply_async((3,)) if has_module(client) else None
    if first is None:
        pytest.skip("this task wants a session")
    runs = f"runs:{first.id}"
    eventually(lambda: client.llen(runs) == 1, GET_S)
    # As the broker does when the visibility timeout is over.
    tasks.survive.apply_async((0,), task_id=first.id)
    eventually(lambda: f"[{first.id}] is already yours" in worker.text(), GET_S)
    assert first.get(timeout=GET_S) in (0, 1)
    eventually(lambda: f"[{first.id}] is done already" in worker.text(), GET_S)
    assert client.llen(runs) == 1


def test_a_task_whose_child_is_killed_runs_again(tasks, client):
    if not has_module(client):
        pytest.skip("this task wants a session")
    result = tasks.survive.delay(60)
    runs = f"runs:{result.id}"
    eventually(lambda: client.llen(runs) == 1, GET_S)
    os.kill(int(client.lindex(runs, 0)), signal.SIGKILL)
    assert result.get(timeout=GET_S) in (0, 1)
    assert client.llen(runs) == 2


def test_a_visibility_timeout_that_is_too_short_is_told(worker):
    warnings = [line for line in worker.text().splitlines() if "visibility_timeout" in line]
    assert warnings
    assert all("tasks.careless" in line for line in warnings)


def test_a_worker_without_children(tasks, client, tmp_path):
    solo = Worker(os.environ["REDIS_URL"], tmp_path, "--pool=solo", "--queues=solo")
    try:
        result = tasks.transcribe.apply_async(queue="solo")
        assert result.get(timeout=GET_S)["gpu"] == GPUS[0]
    finally:
        solo.close()


def test_to_come_again_for_a_gpu_is_no_try_of_the_task(stubborn, stubborn_worker, broker):
    with broker.client() as client:
        client.set(stubborn.KEY, "somebody", px=120_000)
        result = stubborn.try_once_more.delay()
        came_again = f"[{result.id}] retry: Retry in 0.1s"
        eventually(lambda: stubborn_worker.text().count(came_again) >= OFTEN, GET_S)
        client.delete(stubborn.KEY)
        assert result.get(timeout=GET_S) == 1


def test_a_second_delivery_waits_for_the_first_without_a_limit(
    stubborn, stubborn_worker, broker
):
    with broker.client() as client:
        first = stubborn.wait_for_a_word.delay()
        runs = f"runs:{first.id}"
        eventually(lambda: client.llen(runs) == 1, GET_S)
        stubborn.wait_for_a_word.apply_async(task_id=first.id)
        yours = f"[{first.id}] is already yours"
        eventually(lambda: stubborn_worker.text().count(yours) >= OFTEN, GET_S)
        # Nothing was written over the state of the one that runs.
        assert first.state == "PENDING"
        client.rpush(f"enough:{first.id}", "now")
        assert first.get(timeout=GET_S) is True
        done = f"[{first.id}] is done already"
        eventually(lambda: done in stubborn_worker.text(), GET_S)
        assert client.llen(runs) == 1


def test_a_message_that_cannot_be_put_back_is_not_lost(stubborn, broker, tmp_path):
    worker = Worker(
        os.environ["REDIS_URL"],
        tmp_path,
        "--pool=solo",
        project=TESTS / "stubborn_tasks.py",
        CELERY_BROKER_WRITE_URL=f"redis://127.0.0.1:{free_port()}/0",
    )
    with broker.client() as client:
        try:
            client.set(stubborn.KEY, "somebody", px=120_000)
            result = stubborn.wait_for_a_word.delay()
            received = f"[{result.id}] received"
            eventually(lambda: worker.text().count(received) > 1, GET_S)
            client.delete(stubborn.KEY)
            client.rpush(f"enough:{result.id}", "now")
            assert result.get(timeout=GET_S) is True
        finally:
            worker.close()


@pytest.mark.parametrize("backend", ["none", "away"])
def test_without_a_result_backend(stubborn, broker, tmp_path, backend):
    url = "disabled://" if backend == "none" else f"redis://127.0.0.1:{free_port()}/0"
    worker = Worker(
        os.environ["REDIS_URL"],
        tmp_path,
        "--pool=solo",
        project=TESTS / "stubborn_tasks.py",
        CELERY_RESULT_BACKEND=url,
    )
    try:
        task_id = stubborn.hold.apply_async(ignore_result=True).id
        succeeded = f"stubborn_tasks.hold[{task_id}] succeeded"
        eventually(lambda: succeeded in worker.text(), GET_S)
        told = f"nobody tells whether stubborn_tasks.hold[{task_id}] is done" in worker.text()
        assert told == (backend == "away")
    finally:
        worker.close()


def test_who_is_not_delivered_is_told_that_there_is_no_gpu(stubborn, broker):
    with broker.client() as client:
        client.set(stubborn.KEY, "somebody", px=120_000)
        with pytest.raises(GpuTimeoutError, match="nobody delivers it again"):
            stubborn.try_once_more()
        with pytest.raises(GpuTimeoutError, match="nobody delivers it again"):
            stubborn.try_once_more.apply().get()
        client.delete(stubborn.KEY)


def has_module(client):
    return bool(client.execute_command("COMMAND INFO", "GPULOCK.ACQUIRE")[0])
