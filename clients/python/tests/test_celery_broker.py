"""Which server a Celery task locks at, by the app's settings."""

import importlib
import os
import ssl
import sys
from pathlib import Path

import pytest

from inspection import LOCK as KEY
from inspection import waiting
from sentinel import SentinelServers
from servers import Server, eventually

pytest.importorskip("celery")

import redis
from celery import Celery
from celery.exceptions import ImproperlyConfigured

from celery_worker import Worker
from gpulock.celery import gpu_task

# Celery registers the shared tasks of all apps of this process, those of other tests included.
pytestmark = pytest.mark.filterwarnings("ignore:Task name")

TESTS = Path(__file__).parent
GET_S = 60


def declared_task(broker=None, **settings):
    """A task whose app is finalized: its settings were read."""
    app = Celery("app", broker=broker, set_as_current=False)
    app.conf.update(settings)
    return finalized(app)


def finalized(app, **task_settings):
    @gpu_task(app, keys=KEY, lease=60, name="task", bind=True, **task_settings)
    def task(self):
        return self.gpu_pool.redis

    app.finalize()
    return app.tasks["task"]


def connection_settings(task):
    client = task._client()
    assert isinstance(client, redis.Redis)
    return client.connection_pool.connection_kwargs


@pytest.mark.parametrize(
    ("broker", "expected"),
    [
        ("redis://", {"host": "127.0.0.1", "port": 6379, "db": 0}),
        ("redis://host:7000/3", {"host": "host", "port": 7000, "db": 3}),
        ("redis://user:p%40%2Fw@host", {"username": "user", "password": "p@/w"}),
        (["redis://host:7000/3"], {"host": "host", "port": 7000, "db": 3}),
        ("redis+socket:///run/r.sock?virtual_host=3", {"path": "/run/r.sock", "db": 3}),
        ("rediss://host/1?ssl_cert_reqs=CERT_NONE", {"ssl_cert_reqs": ssl.CERT_NONE, "db": 1}),
        ("rediss://host?ssl_cert_reqs=required", {"ssl_cert_reqs": ssl.CERT_REQUIRED}),
        ("rediss://host?ssl_ca_certs=/ca.pem", {"ssl_ca_certs": "/ca.pem"}),
    ],
)
def test_broker_urls_are_read_as_by_celery(broker, expected):
    found = connection_settings(declared_task(broker))
    assert {name: found.get(name) for name in expected} == expected


def test_the_other_settings_of_the_broker_apply():
    task = declared_task(
        "redis://host",
        broker_use_ssl={"ssl_cert_reqs": ssl.CERT_NONE},
        broker_transport_options={"socket_timeout": 7, "global_keyprefix": "app:"},
    )
    found = connection_settings(task)
    assert found["ssl_cert_reqs"] == ssl.CERT_NONE
    assert found["socket_timeout"] == 7
    assert issubclass(task._client().connection_pool.connection_class, redis.SSLConnection)


def test_the_locks_are_at_the_primary_that_sentinel_names():
    task = declared_task(
        "sentinel://:secret@host1:26379/2;sentinel://host2:26380",
        broker_transport_options={
            "master_name": "main",
            "sentinel_kwargs": {"password": "of the sentinels"},
        },
    )
    assert connection_settings(task)["db"] == 2
    assert connection_settings(task)["password"] == "secret"
    pool = task._client().connection_pool
    sentinels = [s.connection_pool.connection_kwargs for s in pool.sentinel_manager.sentinels]
    assert [(s["host"], s["port"]) for s in sentinels] == [("host1", 26379), ("host2", 26380)]
    assert [s["password"] for s in sentinels] == ["of the sentinels"] * 2
    assert pool.service_name == "main"


@pytest.mark.parametrize(
    ("broker", "reason"),
    [
        ("amqp://guest@localhost//", "it is not Redis, but amqp"),
        ("memory://", "it is not Redis, but memory"),
        ("redis://host1;redis://host2", "it is several servers, and a lock is on one"),
        (["redis://host1", "redis://host2"], "it is several servers, and a lock is on one"),
        ("sentinel://host", "'master_name' transport option must be specified"),
        ("redis://host/db", "Database is int"),
        ("redis://host?socket_timeout=5", "unexpected keyword argument 'socket_timeout'"),
        ("redis://host?virtual_host=3", "virtual_host"),
        ("rediss://host?ssl_cert_reqs=sometimes", "sometimes"),
        ("rediss+socket:///run/r.sock", "unexpected keyword argument 'ssl_cert_reqs'"),
        ("unix:///run/r.sock", "No such transport: unix"),
    ],
)
def test_a_broker_without_one_server_for_the_locks_is_rejected_at_the_declaration(
    broker, reason
):
    with pytest.raises(ImproperlyConfigured, match=reason) as raised:
        declared_task(broker)
    assert "gpulock_url" in str(raised.value)
    # With a server of its own, the task does not depend on the broker.
    settings = {"gpulock_url": "redis://host:7000/3"}
    assert connection_settings(declared_task(broker, **settings))["db"] == 3


def test_a_url_that_redis_py_rejects_is_rejected_at_the_declaration():
    with pytest.raises(ImproperlyConfigured, match="must specify one of the following schemes"):
        declared_task("redis://host", gpulock_url="sentinel://host")
    with pytest.raises(ImproperlyConfigured, match="unexpected keyword argument"):
        finalized(Celery("app", set_as_current=False), url="redis://host?virtual_host=3")


def test_a_broker_that_is_set_after_the_declaration_is_used():
    app = Celery("app", set_as_current=False)
    task = finalized(app)
    with pytest.raises(ImproperlyConfigured, match="not Redis, but amqp"):
        task._client()
    app.conf.broker_url = "redis://host:7000/3"
    assert connection_settings(task)["db"] == 3


def test_tasks_share_a_client_until_the_settings_change():
    task = declared_task("redis://host")
    client = task._client()
    assert task._client() is client
    task.app.conf.broker_transport_options = {"socket_timeout": 7}
    assert connection_settings(task)["socket_timeout"] == 7


def test_settings_that_are_loaded_lazily_are_used():
    app = Celery("app", set_as_current=False)

    @gpu_task(app, keys=KEY, name="task")
    def task():
        pass

    app.config_from_object({"broker_url": "redis://host:7000/3"})
    app.finalize()
    assert connection_settings(task)["db"] == 3


def test_the_broker_in_the_environment_is_used(monkeypatch):
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://host:7000/3")
    assert connection_settings(declared_task("amqp://host"))["db"] == 3


def test_a_worker_whose_broker_is_rejected_does_not_start(tmp_path):
    with pytest.raises(AssertionError, match="it is not Redis, but memory"):
        Worker(
            TESTS / "sentinel_tasks.py",
            os.environ.get("REDIS_URL", "redis://"),
            tmp_path,
            BROKER="memory://",
        ).close()


def test_the_client_has_connections_for_many_threads():
    pool = declared_task("redis://host")._client().connection_pool
    assert pool.max_connections >= 100  # kombu's is 10.


def test_a_task_locks_through_a_unix_socket(program, tmp_path):
    path = tmp_path / "redis.sock"
    server = Server(program, options=["--unixsocket", str(path)])
    try:
        task = declared_task(f"redis+socket://{path}?virtual_host=3")
        client = task()
        assert client.info("keyspace") == {}
        assert client.client_info()["db"] == 3
    finally:
        server.close()


@pytest.fixture(scope="module")
def sentinel(program):
    servers = SentinelServers(program)
    yield servers
    servers.close()


@pytest.fixture
def sentinel_tasks(sentinel, plain_server, monkeypatch):
    monkeypatch.setenv("BROKER", f"sentinel://127.0.0.1:{sentinel.port}/0")
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{plain_server.port}/0")
    sys.modules.pop("sentinel_tasks", None)
    tasks = importlib.import_module("sentinel_tasks")
    yield tasks
    tasks.app.close()


def test_tasks_lock_at_the_new_primary_after_a_failover(sentinel, sentinel_tasks, tmp_path):
    worker = Worker(TESTS / "sentinel_tasks.py", os.environ["REDIS_URL"], tmp_path, "-c", "1")
    try:
        assert run_after_a_wait(sentinel.primary, sentinel_tasks) == sentinel.primary.port
        sentinel.fail_over()
        assert run_after_a_wait(sentinel.replica, sentinel_tasks) == sentinel.replica.port
    finally:
        worker.close()


def run_after_a_wait(primary, tasks):
    """Runs a task that waits in the queue of the lock. Returns the port of its server."""
    with primary.client() as client:
        client.set(KEY, "other", px=120_000)
        result = tasks.locked_at.delay()
        eventually(lambda: waiting(client) == 1, GET_S)
        client.delete(KEY)
        return result.get(timeout=GET_S)
