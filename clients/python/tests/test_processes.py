"""Many processes on one lock, and processes that are killed."""

import os
import signal
import subprocess
import sys
import time

import pytest

import gap
import gpulock
from looks import LOCK
from servers import eventually

SECONDS = float(os.environ.get("GPULOCK_GAP_SECONDS", "3"))

HOLDER = """
import sys, time, redis, gpulock
client = redis.Redis(port=int(sys.argv[1]))
lock = gpulock.Lock(client, sys.argv[2], timeout=float(sys.argv[3]), renew=True,
                    session=sys.argv[4] == "session")
lock.acquire()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder():
    """Starts a process that holds the lock, and answers it when it does."""
    started = []

    def start(server, lease, kind):
        words = [sys.executable, "-c", HOLDER, str(server.port), LOCK, str(lease), kind]
        process = subprocess.Popen(words, stdout=subprocess.PIPE)
        started.append(process)
        process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_sixteen_processes_never_two_inside(server):
    rows = gap.table(server, SECONDS, 16)
    for kind, count, median, p99, most in rows:
        print(f"{kind}: {count} holds, gap {median:.2f} ms, p99 {p99:.2f}, sat out {most}")
        assert count > 16
    ours = rows[0]
    # One that the machine holds up for long misses turns; without a line it is thousands.
    assert ours[-1] <= 8 * 16, "nobody is passed over"


@pytest.mark.parametrize("kind", ["lease", "session", "plain"])
def test_a_killed_holder(server, plain_server, holder, kind):
    where = plain_server if kind == "plain" else server
    # With a session the lease does not matter.
    lease = 600 if kind == "session" else 1.0
    process = holder(where, lease, kind)
    with where.client() as client:
        assert client.exists(LOCK)
        process.send_signal(signal.SIGKILL)
        lock = gpulock.Lock(client, LOCK, timeout=60, blocking_timeout=30)
        with lock:
            assert lock.owned()


def test_a_holder_that_is_stopped_past_its_lease_is_told(server, holder):
    process = holder(server, 1.0, "lease")
    with server.client() as client:
        process.send_signal(signal.SIGSTOP)
        with gpulock.Lock(client, LOCK, timeout=60):
            owner = client.get(LOCK)
            process.send_signal(signal.SIGCONT)
            # Its keeper wakes up, and leaves the successor's lock alone.
            time.sleep(1.5)
            assert client.get(LOCK) == owner
            assert client.pttl(LOCK) > 30_000


def test_a_killed_waiter_is_passed_over(server):
    with server.client() as client:
        first = gpulock.Lock(client, LOCK, timeout=60)
        first.acquire()
        words = [sys.executable, "-c", HOLDER, str(server.port), LOCK, "60", "lease"]
        waiter = subprocess.Popen(words, stdout=subprocess.DEVNULL)

        def clients_waiting():
            return client.info("gpulock")["gpulock_clients_waiting"]

        eventually(lambda: clients_waiting() == 1)
        waiter.kill()
        waiter.wait()
        eventually(lambda: clients_waiting() == 0)
        first.release()
        with gpulock.Lock(client, LOCK, timeout=60, blocking_timeout=30):
            pass
