from __future__ import annotations

import pytest

from fa3cli.runs import progress as module
from fa3cli.runs.progress import Progress, Ticks, now_and_then


def test_ticks_count_samples_and_layers_up_to_the_end() -> None:
    seen: list[Progress] = []
    ticks = Ticks(2, 5, seen.append)
    for samples in (2, 3):
        for _ in range(samples):
            ticks.sample_begins()
        ticks.layer_ends()
    assert [(at.layer, at.sample) for at in seen] == [(0, 0), (0, 1), (1, 2), (1, 2), (1, 3), (1, 4), (2, 5)]
    assert {(at.layers, at.samples) for at in seen} == {(2, 5)}


@pytest.mark.parametrize("ranks", [1, 3])
def test_rates_and_time_left_count_only_this_run(monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
    """Layers of an earlier run do not count for the time of this run."""
    now, seen = [100.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    ticks = Ticks(4, 8, seen.append, ranks=ranks)
    ticks.skip_layer(2)
    assert not seen
    for _ in range(2):
        ticks.sample_begins(tokens=50)
        now[0] += 5
    ticks.layer_ends(nbytes=1000)
    first, last = seen[0], seen[-1]
    assert first.seconds_left is None and (first.layer, first.sample) == (1, 2)
    assert (last.layer, last.sample, last.seconds) == (2, 4, 10)
    # Four of eight samples are left, at five seconds each.
    assert last.seconds_left == 20
    assert last.tokens_per_second == 10 * ranks and last.read_per_second == 100


def test_memory_and_written_bytes_are_those_of_this_process(tmp_path) -> None:
    seen: list[Progress] = []
    ticks = Ticks(1, 1, seen.append)
    held = bytearray(64_000_000)
    (tmp_path / "file").write_bytes(held)
    ticks.layer_ends()
    assert seen[0].peak_memory >= seen[0].memory > len(held)
    assert seen[0].written_per_second * seen[0].seconds == pytest.approx(len(held), rel=0.1)


def test_logs_report_each_layer_and_progress_after_long_pauses() -> None:
    told: list[Progress] = []
    report = now_and_then(told.append)
    steps = [(0, 1), (1, 20), (1, 30), (1, 51), (1, 60), (1, 82), (2, 83)]
    for layer, seconds in steps:
        report(Progress(layer, 2, 0, 8, seconds=seconds))
    assert [(at.layer, at.seconds) for at in told] == [(1, 20), (1, 51), (1, 82), (2, 83)]
