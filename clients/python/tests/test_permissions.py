"""Users who may run few commands: which ones the package needs, and what is logged if they are
missing."""

import functools

import pytest
import redis
import redis.asyncio

import gpulock
import gpulock.asyncio
from inspection import LOCK
from servers import eventually, until

NEEDED = [
    "gpulock.acquire",
    "gpulock.acquireany",
    "gpulock.extend",
    "gpulock.inspect",
    "gpulock.release",
    "command|info",
    "get",
    "pttl",
]
WITHOUT_MODULE = [
    "command|info",
    "del",
    "eval",
    "exists",
    "get",
    "pexpire",
    "pttl",
    "publish",
    "set",
    "subscribe",
    "unsubscribe",
]
SERVER_SPECIFIC = "delex", "delifeq"
"""Both lists are those of docs/python.md."""


@pytest.fixture
def new_user(server):
    """Creates a user who may run these commands on the locks, and returns the settings of its
    connections."""
    with server.client() as client:
        yield functools.partial(create_user, client, server.port)
        client.execute_command("ACL DELUSER", USER)


USER = "worker"


def create_user(client, port, commands):
    keys = [f"~{LOCK}", "~gpu:*"]
    channels = ["resetchannels", "&gpu_lock:*"]
    allowed = [f"+{command}" for command in commands]
    client.execute_command(
        "ACL SETUSER", USER, "reset", "on", ">pw", *keys, *channels, *allowed
    )
    client.execute_command("ACL LOG", "RESET")
    return {"port": port, "username": USER, "password": "pw"}


def denied(server):
    """The commands that were refused, except those of redis-py itself."""
    with server.client() as client:
        entries = client.execute_command("ACL LOG")
    objects = {redis.client.str_if_bytes(entry["object"]) for entry in map(as_map, entries)}
    return {name for name in objects if not name.startswith("client|")}


def as_map(entry):
    pairs = entry.items() if isinstance(entry, dict) else zip(entry[::2], entry[1::2])
    return {redis.client.str_if_bytes(name): value for name, value in pairs}


@pytest.mark.parametrize("session", [False, True])
def test_the_listed_commands_are_enough(server, new_user, session):
    with server.client() as admin, redis.Redis(**new_user(NEEDED)) as client:
        settings = {"timeout": 0.6, "renew": True, "session": session}
        with gpulock.Lock(client, LOCK, **settings) as lock:
            assert not gpulock.Lock(client, LOCK).acquire(blocking_timeout=0.1)
            before = stats_extends(admin)
            eventually(lambda: stats_extends(admin) > before)
            lock.extend(60, replace_ttl=True)
            lock.reacquire()
            lock.ensure_held()
            assert lock.owned()
            assert lock.locked()
        with gpulock.Pool(client, ["gpu:0", "gpu:1"], **settings) as gpus:
            assert gpus.devices == (0,)
        gpulock.Lock(client, LOCK).reserve(for_s=60).release()
        assert denied(server) == set()


async def test_asyncio_the_listed_commands_are_enough(server, new_user):
    with server.client() as admin:
        async with redis.asyncio.Redis(**new_user(NEEDED)) as client:
            async with gpulock.asyncio.Lock(client, LOCK, timeout=0.6, renew=True) as lock:
                before = stats_extends(admin)
                await until(lambda: stats_extends(admin) > before)
                await lock.extend(60)
                await lock.ensure_held()
                assert await lock.owned()
            async with gpulock.asyncio.Pool(client, ["gpu:0", "gpu:1"], timeout=60) as gpus:
                assert gpus.devices == (0,)
        assert denied(server) == set()


def test_the_listed_commands_are_enough_without_the_module(plain_server):
    with plain_server.client() as admin:
        specific = [name for name in SERVER_SPECIFIC if is_known(admin, name)]
        settings = create_user(admin, plain_server.port, WITHOUT_MODULE + specific)
        with redis.Redis(**settings) as client:
            lock = gpulock.Lock(client, LOCK, timeout=0.6, renew=True)
            with lock:
                assert not gpulock.Lock(client, LOCK).acquire(blocking_timeout=0.1)
                admin.pexpire(LOCK, 300)
                eventually(lambda: admin.pttl(LOCK) > 300)
                lock.extend(60, replace_ttl=True)
                lock.reacquire()
                lock.ensure_held()
            with gpulock.Pool(client, ["gpu:0", "gpu:1"], timeout=60) as gpus:
                assert gpus.tokens == {"gpu:0": None}
            with gpulock.Lock(client, LOCK):
                assert admin.pttl(LOCK) == -1
        assert denied(plain_server) == set()
        admin.execute_command("ACL DELUSER", USER)


def is_known(client, command):
    try:
        return bool(client.execute_command("COMMAND", "GETKEYS", command, "key"))
    except redis.ResponseError as error:
        return "invalid command" not in str(error).lower()


def stats_extends(client):
    return gpulock._commands.parse_map(client.execute_command("GPULOCK.STATS"))["extends"]


def warnings(caplog, text):
    return [record.message for record in caplog.records if text in record.message]


def without(*commands):
    return [command for command in NEEDED if command not in commands]


def test_the_cause_of_a_failed_renewal_is_logged_once(new_user, caplog):
    with redis.Redis(**new_user(without("gpulock.extend"))) as client:
        lock = gpulock.Lock(client, LOCK, timeout=0.9, renew=True)
        lock.acquire()
        assert lock.lost.wait(30)
    (warning,) = warnings(caplog, f"cannot renew {LOCK}: ")
    assert "gpulock.extend" in warning.lower()


async def test_asyncio_the_cause_of_a_failed_renewal_is_logged_once(new_user, caplog):
    async with redis.asyncio.Redis(**new_user(without("gpulock.extend"))) as client:
        lock = gpulock.asyncio.Lock(client, LOCK, timeout=0.9, renew=True)
        await lock.acquire()
        await lock.lost.wait()
    (warning,) = warnings(caplog, f"cannot renew {LOCK}: ")
    assert "gpulock.extend" in warning.lower()


@pytest.mark.parametrize("missing", [(), ("get", "pttl")], ids=["get", "nothing"])
def test_a_user_who_may_not_inspect_is_warned_once(new_user, caplog, missing):
    commands = without("gpulock.inspect", *missing)
    with redis.Redis(**new_user(commands)) as client:
        for _ in range(2):
            lock = gpulock.Lock(client, LOCK, timeout=0.6, renew=True)
            lock.acquire()
            hold = lock._current()[0]
            eventually(lambda hold=hold: not hold.can_inspect)
            lock.release()
    assert len(warnings(caplog, "this user may not run GPULOCK.INSPECT")) == 1
