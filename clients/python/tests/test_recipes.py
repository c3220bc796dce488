"""docs/python-recipes.md shows the programs in examples/recipes, which run here: with real
workers and servers of the frameworks, as far as these are installed."""

import asyncio
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import gpulock
import gpulock.asyncio
from inspection import stats, waiting
from servers import eventually, free_port

RECIPES = Path(__file__).parents[1] / "examples" / "recipes"
PAGE = Path(__file__).parents[3] / "docs" / "python-recipes.md"
BIN = Path(sys.executable).parent
GPUS = ["{node7}:gpu:0", "{node7}:gpu:1"]
JOBS = 8


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def environment(shared_server):
    return {
        **os.environ,
        "REDIS_URL": f"redis://127.0.0.1:{shared_server.port}/0",
        "PYTHONPATH": os.pathsep.join([str(RECIPES), os.environ.get("PYTHONPATH", "")]),
        # The frameworks warn about each other.
        "PYTHONWARNINGS": "ignore",
    }


@contextmanager
def running(command, environment, folder):
    """The program and the processes that it starts, which are killed at the end."""
    log = folder / f"{time.monotonic_ns()}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=RECIPES,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    except BaseException:
        print(log.read_text())
        raise
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def enqueue(environment, code):
    """Runs a line of Python that puts jobs into a queue."""
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=RECIPES, check=True)


def assert_exclusive(client, count=JOBS):
    """Waits for the jobs, and checks that no two of them used one GPU at the same time."""
    eventually(lambda: client.llen("runs") >= count)
    runs = [json.loads(run) for run in client.lrange("runs", 0, -1)]
    assert len(runs) == count
    for gpu in GPUS:
        times = sorted((begin, end) for key, begin, end in runs if key == gpu)
        assert all(end <= begin for (_, end), (begin, _) in zip(times, times[1:]))
    eventually(lambda: client.exists(*GPUS) == 0)


@pytest.mark.parametrize("worker_class", ["rq.Worker", "rq.SimpleWorker"])
def test_rq_jobs_do_not_share_a_gpu(client, environment, tmp_path, worker_class):
    pytest.importorskip("rq")
    enqueue(environment, f"import rq_jobs\nfor _ in range({JOBS}): rq_jobs.enqueue(0.05)")
    url = environment["REDIS_URL"]
    command = [BIN / "rq", "worker", "--burst", "--url", url, "-w", worker_class, "gpu"]
    workers = [running(command, environment, tmp_path) for _ in range(3)]
    with workers[0], workers[1], workers[2]:
        assert_exclusive(client)


@pytest.mark.parametrize("worker_class", ["rq.Worker", "rq.SimpleWorker"])
@pytest.mark.parametrize("state", ["running", "waiting"])
def test_the_timeout_of_an_rq_job_ends_its_hold_or_wait(
    client, environment, tmp_path, worker_class, state
):
    pytest.importorskip("rq")
    others = GPUS if state == "waiting" else []
    for gpu in others:
        client.set(gpu, "other", px=60_000)
    enqueue(
        environment,
        "import rq_jobs; rq_jobs.queue.enqueue(rq_jobs.transcribe, 60, job_timeout=3)",
    )
    url = environment["REDIS_URL"]
    command = [BIN / "rq", "worker", "--burst", "--url", url, "-w", worker_class, "gpu"]
    with running(command, environment, tmp_path) as worker:
        assert worker.wait(30) == 0
    assert client.zcard("rq:failed:gpu") == 1
    assert client.llen("runs") == 0
    assert client.exists(*GPUS) == len(others)
    assert waiting(client, GPUS[0]) == 0
    assert stats(client)["acquired"] == (1 if state == "running" else 0)


@pytest.mark.parametrize("worker_type", ["thread", "process"])
def test_huey_tasks_do_not_share_a_gpu(client, environment, tmp_path, worker_type):
    pytest.importorskip("huey")
    enqueue(
        environment, f"import huey_tasks\nfor _ in range({JOBS}): huey_tasks.transcribe(0.05)"
    )
    command = [BIN / "huey_consumer", "huey_tasks.huey", "-w", "4", "-k", worker_type]
    with running(command, environment, tmp_path):
        assert_exclusive(client)


def test_dramatiq_actors_do_not_share_a_gpu(client, environment, tmp_path):
    pytest.importorskip("dramatiq")
    enqueue(
        environment,
        f"import dramatiq_actors as d\nfor _ in range({JOBS}): d.transcribe.send(0.05)",
    )
    command = [BIN / "dramatiq", "dramatiq_actors", "--processes", "1", "--threads", "4"]
    with running(command, environment, tmp_path):
        assert_exclusive(client)


def test_the_time_limit_of_a_dramatiq_actor_releases_the_gpu(client, environment, tmp_path):
    pytest.importorskip("dramatiq")
    enqueue(
        environment,
        "import dramatiq_actors as d\n"
        "d.transcribe.send_with_options(args=(3,), time_limit=500, max_retries=0)",
    )
    command = [BIN / "dramatiq", "dramatiq_actors", "--processes", "1", "--threads", "1"]
    with running(command, environment, tmp_path):
        eventually(lambda: client.exists(*GPUS) == 1)
        eventually(lambda: client.exists(*GPUS) == 0)
        assert client.llen("runs") == 0


def test_taskiq_tasks_do_not_share_a_gpu(client, environment, tmp_path):
    pytest.importorskip("taskiq_redis")
    enqueue(
        environment,
        "import asyncio, taskiq_tasks as t\n"
        "async def main():\n"
        "    await t.broker.startup()\n"
        f"    for _ in range({JOBS}): await t.transcribe.kiq(0.05)\n"
        "    await t.broker.shutdown()\n"
        "asyncio.run(main())",
    )
    command = [BIN / "taskiq", "worker", "taskiq_tasks:broker", "--workers", "2"]
    with running(command, environment, tmp_path):
        assert_exclusive(client)


def test_arq_jobs_do_not_share_a_gpu(client, environment, tmp_path):
    pytest.importorskip("arq")
    enqueue(
        environment,
        "import asyncio, arq, arq_jobs\n"
        "async def main():\n"
        "    pool = await arq.create_pool(arq_jobs.WorkerSettings.redis_settings)\n"
        f"    for _ in range({JOBS}): await pool.enqueue_job('transcribe', 0.05)\n"
        "asyncio.run(main())",
    )
    command = [BIN / "arq", "arq_jobs.WorkerSettings"]
    with running(command, environment, tmp_path):
        assert_exclusive(client)


async def test_a_timeout_releases_the_gpu_when_the_thread_has_ended(
    client, aclient, environment, monkeypatch
):
    monkeypatch.setenv("REDIS_URL", environment["REDIS_URL"])
    monkeypatch.syspath_prepend(RECIPES)
    monkeypatch.delitem(sys.modules, "model", raising=False)
    model = importlib.import_module("model")

    @gpulock.locked(aclient, GPUS, timeout=10)
    async def transcribe():
        gpus = gpulock.current_lock(gpulock.asyncio.Pool).gpus
        await asyncio.wait_for(model.run_in_thread(gpus, 0.5), 0.1)

    with pytest.raises(asyncio.TimeoutError):
        await transcribe()
    assert client.llen("runs") == 1
    assert client.exists(*GPUS) == 0
    model.client.close()


@pytest.fixture(scope="module")
def fastapi_url(environment, tmp_path_factory):
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    port = free_port()
    command = [BIN / "uvicorn", "fastapi_app:app", "--port", port]
    with running(command, environment, tmp_path_factory.mktemp("fastapi")):
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: responds(f"{url}/openapi.json"))
        yield url


def responds(url):
    with suppress(OSError), urllib.request.urlopen(url):
        return True
    return False


def post(url):
    """The GPU that the request used, or the HTTP status of an error."""
    request = urllib.request.Request(url, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)["gpu"]
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.mark.parametrize("endpoint", ["threads", "asyncio"])
def test_fastapi_requests_do_not_share_a_gpu(client, fastapi_url, endpoint):
    # More requests than FastAPI has threads (40).
    with ThreadPoolExecutor(60) as threads:
        replies = threads.map(lambda _: post(f"{fastapi_url}/{endpoint}/0.02"), range(60))
    assert set(replies) == {0, 1}
    assert_exclusive(client, 60)


def test_fastapi_requests_that_do_not_wait_are_rejected(client, fastapi_url):
    with ThreadPoolExecutor(16) as threads:
        replies = list(threads.map(lambda _: post(f"{fastapi_url}/try/0.2"), range(16)))
    assert set(replies) <= {0, 1, 503}
    assert_exclusive(client, 16 - replies.count(503))


@pytest.mark.parametrize("endpoint", ["threads", "asyncio", "try"])
def test_a_fastapi_request_that_fails_releases_the_gpu(client, fastapi_url, endpoint):
    assert post(f"{fastapi_url}/{endpoint}/-1") == 500
    eventually(lambda: client.exists(*GPUS) == 0)


def test_django_requests_do_not_share_a_gpu(client, environment, tmp_path):
    pytest.importorskip("django_redis")
    port = free_port()
    command = [sys.executable, "django_app.py", "runserver", "--noreload", port]
    with running(command, environment, tmp_path):
        url = f"http://127.0.0.1:{port}/transcribe/50"
        eventually(lambda: responds(url))
        with ThreadPoolExecutor(7) as threads:
            list(threads.map(lambda _: urllib.request.urlopen(url).close(), range(JOBS - 1)))
        assert_exclusive(client)


def test_torchrun_sees_only_the_gpus_that_are_held(client, environment, tmp_path):
    # A stand-in for torchrun, which needs torch: the program only passes on its environment.
    torchrun = tmp_path / "torchrun"
    torchrun.write_text(
        '#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER $*"\nexit 7\n'
    )
    torchrun.chmod(0o755)
    client.set(GPUS[1], "other", px=60_000)
    done = subprocess.run(
        [sys.executable, "torchrun_launcher.py", "train.py", "--epochs", "3"],
        env={**environment, "PATH": f"{tmp_path}{os.pathsep}{environment['PATH']}"},
        cwd=RECIPES,
        capture_output=True,
        text=True,
        check=False,
    )
    arguments = "--standalone --nproc-per-node=2 train.py --epochs 3"
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout == f"0,2 PCI_BUS_ID {arguments}\n"
    assert client.keys("{node7}*") == [GPUS[1].encode()]


def test_the_page_shows_the_programs():
    if not PAGE.exists():
        pytest.skip("the page is in the repository, but not in the package")
    shown = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    programs = [path.read_text() for path in RECIPES.glob("*.py")]
    assert sorted(shown) == sorted(programs)
