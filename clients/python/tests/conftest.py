"""The servers and protocols that the tests run against."""

import gc
import sys

import pytest
import redis
import redis.asyncio

from servers import Server, programs

PROGRAMS = programs()


def pytest_configure(config):
    if not PROGRAMS:
        raise pytest.UsageError(
            "no server found: install one, or list server programs in SERVERS"
        )


_frozen_modules = 0


@pytest.fixture(autouse=True)
def collected_garbage(request):
    """A test that leaves a connection open fails itself: otherwise a later one would, in which
    the connection happens to be collected."""
    global _frozen_modules
    yield
    # It refers to the clients of the fixtures until the test has been reported.
    request.node.funcargs.clear()
    # The finalizers of the first collection release further objects.
    gc.collect()
    gc.collect()
    if len(sys.modules) > _frozen_modules:
        # With the objects of all modules, each collection takes 40 ms.
        gc.freeze()
        _frozen_modules = len(sys.modules)


def _server(program, module):
    server = Server(program, module=module, options=["--enable-debug-command", "yes"])
    yield server
    server.close()


@pytest.fixture(scope="session", params=PROGRAMS.values(), ids=PROGRAMS)
def program(request):
    return request.param


@pytest.fixture(scope="session")
def shared_server(program):
    yield from _server(program, module=True)


@pytest.fixture(scope="session")
def shared_plain_server(program):
    yield from _server(program, module=False)


@pytest.fixture
def server(shared_server):
    """A server with the module, empty."""
    with shared_server.client() as client:
        client.flushall()
        client.execute_command("GPULOCK.RESETSTATS")
    return shared_server


@pytest.fixture
def plain_server(shared_plain_server):
    """The same server program without the module, empty."""
    with shared_plain_server.client() as client:
        client.flushall()
    return shared_plain_server


@pytest.fixture
def own_server(program):
    """A server for a single test, which may kill it. It keeps its keys across restarts."""
    server = Server(program, options=["--appendonly", "yes", "--appendfsync", "always"])
    yield server
    server.close()


@pytest.fixture(params=["module", "plain"])
def any_server(request, server, plain_server):
    """A server with the module, then one without it."""
    return server if request.param == "module" else plain_server


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
def protocol(request):
    return request.param


@pytest.fixture
def client(server, protocol):
    with server.client(protocol=protocol) as client:
        yield client


@pytest.fixture
def any_client(any_server, protocol):
    with any_server.client(protocol=protocol) as client:
        yield client


@pytest.fixture
async def aclient(server, protocol):
    async with redis.asyncio.Redis(port=server.port, protocol=protocol) as client:
        yield client


@pytest.fixture
async def any_aclient(any_server, protocol):
    async with redis.asyncio.Redis(port=any_server.port, protocol=protocol) as client:
        yield client
