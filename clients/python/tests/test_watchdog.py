"""The watchdog that reports a loss although a call of the renewer hangs."""

import threading
import time

import pytest

import gpulock
from gpulock import _clock, _watchdog
from gpulock._watchdog import Watchdog
from inspection import LOCK, stats
from servers import PATIENCE_S, eventually


@pytest.fixture(autouse=True)
def new_schedule():
    _watchdog._schedule.cache_clear()


def test_a_watchdog_calls_its_function_at_its_time():
    fired, late = threading.Event(), threading.Event()
    begin = time.monotonic()
    later = Watchdog(_clock.now() + 3600, late.set)
    watchdog = Watchdog(_clock.now() + 0.2, fired.set)
    assert fired.wait(PATIENCE_S)
    assert time.monotonic() - begin >= 0.2
    assert watchdog.stop()
    assert not later.stop()
    assert not late.is_set()


def test_a_watchdog_that_was_stopped_calls_nothing():
    fired, other = threading.Event(), threading.Event()
    watchdog = Watchdog(_clock.now() + 0.2, fired.set)
    Watchdog(_clock.now() + 0.4, other.set)
    assert not watchdog.stop()
    assert other.wait(PATIENCE_S)
    assert not fired.is_set()


def test_a_function_that_hangs_does_not_delay_other_watchdogs():
    end, fired = threading.Event(), threading.Event()
    Watchdog(_clock.now(), end.wait)
    Watchdog(_clock.now() + 0.1, fired.set)
    assert fired.wait(PATIENCE_S)
    end.set()


def test_the_thread_ends_when_it_is_idle(monkeypatch):
    monkeypatch.setattr(_watchdog, "IDLE_S", 0)
    fired = threading.Event()
    for _ in range(2):
        fired.clear()
        Watchdog(_clock.now(), fired.set)
        assert fired.wait(PATIENCE_S)
        eventually(lambda: not _watchdog._schedule()._is_running)


def test_a_lock_is_renewed_while_the_system_has_no_thread_left(server, monkeypatch):
    with server.client() as client:
        lock = gpulock.Lock(client, LOCK, timeout=1.5, renew=True)
        lock.acquire()

        def fail(_thread):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", fail)
        eventually(lambda: stats(client)["extends"] > 2 or lock.lost.is_set())
        assert not lock.lost.is_set()
        lock.release()
