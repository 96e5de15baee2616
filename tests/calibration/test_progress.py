from __future__ import annotations

from fa3cli.calibration.progress import Progress, Ticks, each_layer


def test_ticks_count_samples_and_layers_up_to_the_end() -> None:
    seen: list[Progress] = []
    ticks = Ticks(2, 5, seen.append)
    for samples in (2, 3):
        for _ in range(samples):
            ticks.sample_begins()
        ticks.layer_ends()
    assert [(at.layer, at.sample) for at in seen] == [(0, 0), (0, 1), (1, 2), (1, 2), (1, 3), (1, 4), (2, 5)]
    assert {(at.layers, at.samples) for at in seen} == {(2, 5)}


def test_each_layer_is_told_once_with_the_time_left() -> None:
    told: list[tuple[int, float, float]] = []
    report = each_layer(lambda at, passed, left: told.append((at.layer, passed, left)))
    for at in (Progress(0, 2, 0, 8), Progress(1, 2, 2, 8), Progress(1, 2, 3, 8), Progress(2, 2, 8, 8)):
        report(at)
    assert [layer for layer, _, _ in told] == [1, 2]
    # Six of eight samples are left after the first two, none after the last.
    assert told[0][2] == told[0][1] * 3 and told[1][2] == 0
