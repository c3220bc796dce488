"""The settings of a Celery task are checked when it is declared."""

import re

import pytest

pytest.importorskip("celery")

from celery import Celery, Task

from gpulock.celery import GpuTask, gpu_task

# Celery registers the shared tasks of all apps of this process, those of other tests included.
pytestmark = pytest.mark.filterwarnings("ignore:Task name")


@pytest.fixture
def app():
    app = Celery("app", broker="redis://host", set_as_current=False)
    yield app
    app.close()


def bound(app, **options):
    """The task, which Celery creates when it finalizes the app."""
    app.task(**{"name": "task", "shared": False, **options})(work)
    app.finalize()
    return app.tasks["task"]


def work():
    pass


@pytest.mark.parametrize(
    "unknown", ["key", "n", "timeout", "leese", "gpu_key", "pool", "gpus", "gpu_pool"]
)
def test_an_unknown_setting_is_rejected(app, unknown):
    with pytest.raises(TypeError, match=f"no setting {unknown}. Its settings are keys, count"):
        gpu_task(app, **{unknown: 1})


@pytest.mark.parametrize("unknown", ["gpu_key", "keys", "lease", "gpu_pool"])
def test_an_unknown_attribute_is_rejected(app, unknown):
    with pytest.raises(TypeError, match=f"no setting {unknown}[.].*gpu_keys"):
        bound(app, base=GpuTask, **{unknown: 1})


def test_an_unknown_attribute_of_a_base_class_is_rejected():
    with pytest.raises(TypeError, match="no setting gpu_key"):
        type("Base", (GpuTask,), {"gpu_key": "gpu:1"})


def test_the_options_of_celery_and_of_a_base_class_are_accepted(app):
    class Base(GpuTask):
        once = True
        gpu_lease = 60

        def gpu_model(self):
            return "h100"

    options = {
        **{"bind": True, "lazy": False, "shared": False, "filter": None},
        **{"autoretry_for": (OSError,), "retry_backoff": 2, "retry_kwargs": {"max_retries": 1}},
        **{"retry_jitter": False, "retry_backoff_max": 9, "dont_autoretry_for": ()},
        **{"queue": "gpu", "routing_key": "gpu", "priority": 3, "acks_late": True},
        **{"time_limit": 9, "on_failure": None, "throws": (OSError,), "once": False},
    }
    task = gpu_task(app, keys=["a:0", "a:1"], count=2, name="task", base=Base, **options)(work)
    assert (task.gpu_count, task.gpu_lease, task.once, task.queue) == (2, 60, False, "gpu")
    assert bound(app, **{**options, "name": "other", "base": Base, "gpu_wait": 1})


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"lease": "60"},
            TypeError,
            "invalid .*[.]gpu_lease '60': expected a number of seconds",
        ),
        ({"lease": None}, TypeError, "gpu_lease None"),
        ({"lease": 0}, ValueError, "gpu_lease 0: expected a number of seconds, at least"),
        ({"lease": -3}, ValueError, "gpu_lease -3"),
        (
            {"wait": "5"},
            TypeError,
            "gpu_wait '5': expected a number of seconds, at least 0, or",
        ),
        ({"retry_in": -1}, ValueError, "gpu_retry_in -1"),
        ({"grace": 3}, ValueError, "gpu_grace 3: expected 0, because session is not set"),
        ({"count": 3}, ValueError, "gpu_count 3: expected 1 to 1, the number of keys"),
        ({"count": 0}, ValueError, "gpu_count 0"),
        ({"count": "1"}, TypeError, "gpu_count must be an integer, not '1'"),
        ({"keys": []}, ValueError, r"gpu_keys \[\]: expected 1 to 1024 names"),
        ({"keys": None}, TypeError, "gpu_keys None"),
        ({"keys": b"gpu:0"}, TypeError, "gpu_keys b'gpu:0'"),
        ({"url": 6379}, TypeError, "gpu_url 6379"),
    ],
)
def test_an_invalid_value_is_rejected(app, settings, error, message):
    with pytest.raises(error, match=message):
        gpu_task(app, **settings)(work)
    with pytest.raises(error, match=message):
        bound(app, base=GpuTask, **{f"gpu_{name}": value for name, value in settings.items()})


def test_a_property_gives_the_keys_to_each_task(app):
    class Base(GpuTask):
        @property
        def gpu_keys(self):
            return [f"{self.name}:0", f"{self.name}:1"]

    task = gpu_task(app, base=Base, count=2, name="task")(work)
    assert task._keys() == ["task:0", "task:1"]


def test_the_keys_can_be_a_mapping_to_devices(app):
    task = gpu_task(app, keys={"a": "GPU-7f3a", "b": "GPU-19c2"}, name="task")(work)
    assert task._pool().names == ("a", "b")


def test_a_producer_does_not_warn_of_a_short_visibility_timeout(app, caplog):
    app.conf.broker_transport_options = {"visibility_timeout": 30}
    assert bound(app, base=GpuTask, gpu_lease=60)
    assert not caplog.records


def test_the_decorator_needs_the_app_and_a_gpu_task():
    with pytest.raises(TypeError, match=re.escape("as in @gpu_task(app), not <function work")):
        gpu_task(work)
    with pytest.raises(TypeError, match="must be a subclass of GpuTask"):
        gpu_task(Celery(set_as_current=False), base=Task)
