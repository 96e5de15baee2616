"""Tests that the first signal requests a stop, the second interrupts, and the old handlers are restored."""

from __future__ import annotations

import signal

import pytest

from fa3cli.cli.interrupts import first_interrupt

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("second", SIGNALS)
@pytest.mark.parametrize("first", SIGNALS)
def test_the_first_signal_requests_a_stop_and_the_second_interrupts(
    first: signal.Signals, second: signal.Signals
) -> None:
    told: list[str] = []
    with first_interrupt(told.append) as came:
        assert not came() and told == []
        signal.raise_signal(first)
        assert came() and len(told) == 1 and "can resume" in told[0]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(second)
        assert came() and len(told) == 1


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_the_old_handlers_are_restored(error: type[BaseException] | None) -> None:
    seen: list[int] = []
    old = {number: signal.signal(number, lambda number, _: seen.append(number)) for number in SIGNALS}
    try:
        try:
            with first_interrupt(lambda _: None):
                if error:
                    raise error
        except BaseException as raised:  # noqa: BLE001
            assert type(raised) is error
        for number in SIGNALS:
            signal.raise_signal(number)
        assert seen == SIGNALS
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def test_a_later_run_starts_without_an_interrupt() -> None:
    with first_interrupt(lambda _: None) as came:
        signal.raise_signal(signal.SIGINT)
        assert came()
    with first_interrupt(lambda _: None) as came:
        assert not came()
