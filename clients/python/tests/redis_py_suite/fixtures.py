"""Fixtures in place of those in redis-py's tests/conftest.py.

Each test runs with the module and without it, and with both protocols.
"""

import pytest
import redis

import gpulock
import gpulock.asyncio
from differences import DIFFERENCES
from servers import ROOT, Server, programs

PROTOCOLS = {"resp2": 2, "resp3": 3}
PAGE = ROOT / "docs" / "migrate-python.md"


def pytest_collection_modifyitems(items):
    by_name = {}
    for item in items:
        module = item.module.__name__.split(".", 1)[1]
        by_name.setdefault(f"{module}::{item.originalname}", []).append(item)
    for difference in DIFFERENCES:
        # The page is in the repository, but not in the package.
        if PAGE.exists() and f"\n| {difference.row} | " not in PAGE.read_text():
            raise pytest.UsageError(f"{PAGE} has no row {difference.row}")
        for name in difference.tests:
            if name not in by_name:
                raise pytest.UsageError(f"differences.py lists {name}, which does not exist")
            for item in by_name[name]:
                if _applies(difference, item):
                    item.add_marker(pytest.mark.xfail(strict=True, reason=difference.row))


def _applies(difference, item):
    fakes_clock = "fake_lock_time" in item.fixturenames
    return item.callspec.params["lock_server"] in difference.servers and (
        difference.fakes_clock in (None, fakes_clock)
    )


def _get_client(client_class, request, **settings):
    return request.getfixturevalue("connect")(client_class, **settings)


@pytest.fixture(scope="session", params=programs().values(), ids=programs())
def program(request):
    return request.param


@pytest.fixture(scope="session", params=["module", "plain"])
def lock_server(request, program):
    server = Server(program, module=request.param == "module")
    yield server
    server.close()


@pytest.fixture(params=PROTOCOLS.values(), ids=PROTOCOLS)
def connect(request, lock_server):
    """Makes clients of an empty server."""
    with lock_server.client() as client:
        client.flushall()
    clients = []

    def connect(client_class, **settings):
        client = client_class(port=lock_server.port, protocol=request.param, **settings)
        clients.append(client)
        return client

    yield connect
    for client in clients:
        if isinstance(client, redis.Redis):
            client.close()


@pytest.fixture
def r(connect):
    return connect(redis.Redis)


@pytest.fixture(autouse=True)
def gpulock_in_place_of_redis_py(request, connect, monkeypatch):
    is_asyncio = request.module.__name__.endswith("test_asyncio.test_lock")
    lock_class = gpulock.asyncio.Lock if is_asyncio else gpulock.Lock
    monkeypatch.setattr(request.module, "Lock", lock_class)
