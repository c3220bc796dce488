"""``asyncio.run`` that ends while a lock is held: one line in the log, and no more."""

import subprocess
import sys

import pytest

from inspection import LOCK
from servers import eventually

HOLDER = """
import asyncio, gc, sys
import gpulock.asyncio, redis.asyncio

async def on_lost(loss):
    await asyncio.sleep(0.1)
    print(loss.reason)

async def hold():
    client = redis.asyncio.Redis(port=int(sys.argv[1]))
    settings = eval(sys.argv[3])
    held.append(gpulock.asyncio.Lock(client, sys.argv[2], on_lost=on_lost, **settings))
    await held[0].acquire()
    if float(sys.argv[4]):
        await asyncio.sleep(float(sys.argv[4]))

held = []
asyncio.run(hold())
assert held[0].lost.is_set()
held.clear()
gc.collect()
"""


# When the renewer has just started, and while it waits.
@pytest.mark.parametrize("held_s", [0, 0.7])
@pytest.mark.parametrize("settings", [{"renew": True}, {"session": True}])
def test_the_end_of_the_loop_logs_one_line(server, settings, held_s):
    arguments = [str(server.port), LOCK, repr({"timeout": 2, **settings}), str(held_s)]
    process = subprocess.run(
        [sys.executable, "-c", HOLDER, *arguments], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"lost the lock {LOCK}")
    assert line.endswith("the lock is no longer being renewed")
    with server.client() as client:
        eventually(lambda: not client.exists(LOCK))
    assert process.stdout == "the lock is no longer being renewed\n"
