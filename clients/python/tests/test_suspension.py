"""A machine that is suspended for longer than a lease."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

import gpulock
from inspection import LOCK
from servers import PATIENCE_S, eventually

# After a suspension, CLOCK_MONOTONIC and all timers are late by its length, and CLOCK_BOOTTIME
# is not. This library takes the time that the process was stopped off CLOCK_MONOTONIC.
SUSPENDED_S = 4
LIBRARY = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static int (*real)(clockid_t, struct timespec *);

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    if (clock == CLOCK_MONOTONIC && access(getenv("SUSPENDED"), F_OK) == 0)
        time->tv_sec -= %d;
    return result;
}
"""
HOLDER = """
import sys, time
import gpulock, redis

def report(loss):
    print(loss, flush=True)

client = redis.Redis(port=int(sys.argv[1]))
client.config_resetstat()
lock = gpulock.Lock(client, sys.argv[2], timeout=4, on_lost=report)
lock.acquire()
# Until the first call of the renewer has ended, and the next one is not due.
while not any("inspect" in name.lower() for name in client.info("commandstats")):
    time.sleep(0.01)
print("acquired", flush=True)
time.sleep(60)
"""
ASYNCIO_HOLDER = """
import asyncio, sys
import gpulock.asyncio, redis.asyncio

def report(loss):
    print(loss, flush=True)

async def hold():
    client = redis.asyncio.Redis(port=int(sys.argv[1]))
    lock = gpulock.asyncio.Lock(client, sys.argv[2], timeout=4, on_lost=report)
    await client.config_resetstat()
    await lock.acquire()
    while not any("inspect" in name.lower() for name in await client.info("commandstats")):
        await asyncio.sleep(0.01)
    print("acquired", flush=True)
    await asyncio.sleep(60)

asyncio.run(hold())
"""

compiler = shutil.which("cc") or shutil.which("gcc")
pytestmark = [
    pytest.mark.skipif(compiler is None, reason="needs a C compiler"),
    pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="needs CLOCK_BOOTTIME"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clock")
    source, built = folder / "clock.c", folder / "clock.so"
    source.write_text(LIBRARY % SUSPENDED_S)
    command = [compiler, "-shared", "-fPIC", "-o", built, source, "-ldl"]
    subprocess.run(command, check=True)
    return built


@pytest.mark.parametrize("holder", [HOLDER, ASYNCIO_HOLDER], ids=["thread", "task"])
def test_the_loss_is_reported_at_once_after_the_suspension(server, library, tmp_path, holder):
    suspended = tmp_path / "suspended"
    environment = {**os.environ, "LD_PRELOAD": str(library), "SUSPENDED": str(suspended)}
    process = subprocess.Popen(
        [sys.executable, "-c", holder, str(server.port), LOCK],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout.readline() == "acquired\n"
        begin = time.monotonic()
        process.send_signal(signal.SIGSTOP)
        with server.client() as client:
            eventually(lambda: gpulock.Lock(client, LOCK, timeout=60).acquire(blocking=False))
        time.sleep(max(0.0, begin + SUSPENDED_S - time.monotonic()))
        suspended.touch()
        process.send_signal(signal.SIGCONT)
        resumed = time.monotonic()
        assert process.stdout.readline().startswith("Loss(")
        # A clock that stood still would report it after more than 3 s.
        assert time.monotonic() - resumed < 2.5
    finally:
        process.kill()
        process.wait(PATIENCE_S)
        process.stdout.close()
