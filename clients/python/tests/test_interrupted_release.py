"""A signal handler can raise at any point of a release: the release is completed."""

import sys
import threading
import weakref
from contextlib import suppress
from pathlib import Path

import pytest

import gpulock
from inspection import LOCK

NAMES = [LOCK, "gpu_lock:1"]
PACKAGE = str(Path(gpulock.__file__).parent)
SETTINGS = {
    "lease": {"timeout": 60},
    "renew": {"timeout": 60, "renew": True},
    "session": {"timeout": 60, "session": True, "renew": True},
    "pool": {"timeout": 60, "renew": True, "n": 2},
}


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


class StopWorkError(BaseException):
    """Raised by a signal at any point, like KeyboardInterrupt."""


def new_lock(client, kind):
    if kind == "pool":
        return gpulock.Pool(client, NAMES, **SETTINGS[kind])
    return gpulock.Lock(client, LOCK, **SETTINGS[kind])


class Injector:
    """Raises at a line of the package that this thread executes, and at a later one for each
    further count. The first function, up to its first call, is left out: a signal that arrives
    before a context manager has begun to run cannot be handled by it."""

    def __init__(self, *counts):
        self.counts, self.raised_at = list(counts), []
        self._first_frame = None

    def __enter__(self):
        sys.settrace(self._trace)

    def __exit__(self, *_):
        sys.settrace(None)

    def _trace(self, frame, _event, _arg):
        if frame.f_code == threading.Condition.__enter__.__code__:
            # A signal can interrupt it after it has acquired the lock of an Event.
            return self._trace_return if self._first_frame else None
        if not frame.f_code.co_filename.startswith(PACKAGE) or self._finalizes(frame):
            return None
        if self._first_frame is None:
            self._first_frame = frame
            return None
        return self._trace_line

    def _finalizes(self, frame):
        """Python ignores what is raised in a finalizer."""
        while frame is not None and frame.f_code.co_filename != weakref.__file__:
            frame = frame.f_back
        return frame is not None

    def _trace_line(self, frame, event, _arg):
        if event == "line":
            self._count(frame)
        return self._trace_line

    def _trace_return(self, frame, event, _arg):
        if event == "return":
            self._count(frame)
        return self._trace_return

    def _count(self, frame):
        if self.counts:
            self.counts[0] -= 1
            if not self.counts[0]:
                self.counts.pop(0)
                self.raised_at.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
                raise StopWorkError


def interrupted_at_each_line(call, *further):
    """Calls ``call`` once for each line, and yields where the interrupt occurred."""
    for count in range(1, 2000):
        injector = Injector(count, *further)
        with suppress(StopWorkError), injector:
            call()
        if not injector.raised_at:
            assert count > 50
            return
        yield injector.raised_at


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("further", [[], [20]], ids=["once", "twice"])
def test_an_interrupted_exit_releases_the_lock(client, kind, further):
    lock = new_lock(client, kind)

    def entered():
        """What a ``with`` statement calls at its end, and looks up before it enters."""
        leave = lock.__exit__
        lock.__enter__()
        return leave

    leaves = [entered()]
    for raised_at in interrupted_at_each_line(lambda: leaves.pop()(None, None, None), *further):
        assert not client.exists(*NAMES), raised_at
        assert lock.owner is None
        leaves.append(entered())


@pytest.mark.parametrize("kind", ["lease", "renew"])
def test_an_interrupted_release_releases_the_lock(client, kind):
    lock = new_lock(client, kind)
    lock.acquire()
    for raised_at in interrupted_at_each_line(lock.release):
        assert not client.exists(*NAMES), raised_at
        assert lock.owner is None
        lock.acquire()


def test_an_interrupted_release_of_a_reservation_releases_its_locks(client):
    pool = gpulock.Pool(client, NAMES, n=2)
    reservations = [pool.reserve(for_s=60)]
    for raised_at in interrupted_at_each_line(lambda: reservations.pop().release()):
        assert not client.exists(*NAMES), raised_at
        reservations.append(pool.reserve(for_s=60))


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("acquire", "lease"),
        ("acquire", "session"),
        ("__enter__", "renew"),
        ("__enter__", "pool"),
    ],
)
def test_an_interrupted_acquire_holds_nothing(client, kind, method):
    lock = new_lock(client, kind)
    for raised_at in interrupted_at_each_line(getattr(lock, method)):
        assert not client.exists(*NAMES), raised_at
        assert lock.owner is None
