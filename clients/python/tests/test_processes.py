"""Many processes that share one lock, and processes that are killed or paused."""

import os
import signal
import subprocess
import sys
import time

import pytest

import gpulock
import handoff_gap
import mixed_clients
from inspection import LOCK
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
    """Starts processes that hold the lock, and returns each once it does."""
    started = []

    def start(server, lease, kind):
        command = [sys.executable, "-c", HOLDER, str(server.port), LOCK, str(lease), kind]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        started.append(process)
        process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.alone
def test_sixteen_processes_exclude_each_other_and_take_turns(server):
    rows = handoff_gap.table(server, SECONDS, 16)
    for kind, count, median, p99, most in rows:
        print(f"{kind}: {count} holds, gap {median:.2f} ms, p99 {p99:.2f}, skipped {most}")
        assert count > 16
    gpulock_row = rows[0]
    # A process that the machine delays misses some turns; without a queue it misses thousands.
    assert gpulock_row[-1] <= 8 * 16, "a process was starved"


def test_processes_that_poll_and_processes_that_queue_exclude_each_other(server):
    # The processes check that no other holds the lock.
    kinds = ["redis-py Lock", "gpulock.Lock"] * 2
    counts = mixed_clients.holds(server, kinds, SECONDS / 3)
    print(counts)
    assert min(counts["gpulock.Lock"]) > 0


@pytest.mark.parametrize("kind", ["lease", "session", "plain"])
def test_the_lock_of_a_killed_holder_becomes_free(server, plain_server, holder, kind):
    where = plain_server if kind == "plain" else server
    # With a session, the lock is released long before its lease expires.
    lease = 600 if kind == "session" else 1.0
    process = holder(where, lease, kind)
    with where.client() as client:
        assert client.exists(LOCK)
        process.send_signal(signal.SIGKILL)
        lock = gpulock.Lock(client, LOCK, timeout=60, blocking_timeout=30)
        with lock:
            assert lock.owned()


def test_a_holder_paused_past_its_lease_does_not_disturb_its_successor(server, holder):
    process = holder(server, 1.0, "lease")
    with server.client() as client:
        process.send_signal(signal.SIGSTOP)
        with gpulock.Lock(client, LOCK, timeout=60):
            owner = client.get(LOCK)
            process.send_signal(signal.SIGCONT)
            # Its renewer resumes, and must not renew the successor's lock.
            time.sleep(1.5)
            assert client.get(LOCK) == owner
            assert client.pttl(LOCK) > 30_000


def test_a_killed_waiter_is_skipped(server):
    """Its position is kept for ten seconds, so the lock is not one of the other tests'."""
    with server.client() as client:
        first = gpulock.Lock(client, "killed-waiter", timeout=60)
        first.acquire()
        command = [
            sys.executable,
            "-c",
            HOLDER,
            str(server.port),
            "killed-waiter",
            "60",
            "lease",
        ]
        waiter = subprocess.Popen(command, stdout=subprocess.DEVNULL)

        def clients_waiting():
            return client.info("gpulock")["gpulock_clients_waiting"]

        eventually(lambda: clients_waiting() == 1)
        waiter.kill()
        waiter.wait()
        eventually(lambda: clients_waiting() == 0)
        first.release()
        with gpulock.Lock(client, "killed-waiter", timeout=60, blocking_timeout=30):
            pass
