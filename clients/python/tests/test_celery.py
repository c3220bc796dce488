"""A real worker of the example project, on our server as its broker."""

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from servers import eventually

pytest.importorskip("celery")

EXAMPLE = Path(__file__).parents[1] / "examples" / "celery"
GPUS = ["{node7}:gpu:0", "{node7}:gpu:1"]
GET_S = 60
CELERY = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-l", "INFO"]
CELERY += ["--without-gossip", "--without-mingle", "--without-heartbeat"]


class Worker:
    def __init__(self, url, folder, *options):
        self.log = folder / f"worker-{time.monotonic_ns()}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*CELERY, *options],
                cwd=EXAMPLE,
                env={**os.environ, "REDIS_URL": url},
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


def has_module(client):
    return bool(client.execute_command("COMMAND INFO", "GPULOCK.ACQUIRE")[0])
