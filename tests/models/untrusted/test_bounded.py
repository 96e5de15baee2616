from __future__ import annotations

import resource
import signal
import threading
import time

import pytest
from torch import nn

from fa3cli.models.untrusted.bounded import bounded_memory, bounded_modules, bounded_time


def test_time_is_bounded() -> None:
    with pytest.raises(TimeoutError, match=r"not done within 0.05 s"), bounded_time(0.05):
        while True:
            pass


def test_an_earlier_timer_continues() -> None:
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: rung.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with bounded_time(30):
            pass
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 0.2
        time.sleep(0.4)
        assert rung == [signal.SIGALRM]
        with bounded_time(0.01):
            pass
        time.sleep(0.05)
        assert len(rung) == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_bounded_time_has_no_effect_in_another_thread() -> None:
    done: list[bool] = []

    def work() -> None:
        with bounded_time(0.001):
            time.sleep(0.01)
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


def test_memory_is_limited_only_within_the_block() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MemoryError), bounded_memory(64 << 20):
        bytearray(256 << 20)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    with bounded_memory(512 << 20):
        bytearray(128 << 20)


def test_modules_are_counted_only_within_the_block() -> None:
    with bounded_modules(5):
        nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    with pytest.raises(ValueError, match="more than 5 modules"), bounded_modules(5):
        nn.Sequential(*(nn.Linear(1, 1) for _ in range(6)))
    nn.Sequential(*(nn.Linear(1, 1) for _ in range(6)))
