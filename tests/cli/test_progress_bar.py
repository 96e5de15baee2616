from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rich.console import Console

from fa3cli.cli import progress_bar as module
from fa3cli.cli.progress_bar import duration, show_progress
from fa3cli.runs.progress import Progress


def at(layer: int, sample: int, **values: float) -> Progress:
    return Progress(layer, 3, sample, 6, **{"seconds": 8.0, "seconds_left": 4.0} | values)


def test_prints_one_line_per_layer_without_a_terminal(capsys: pytest.CaptureFixture) -> None:
    with show_progress("quantize") as report:
        for layer in range(3):
            for sample in range(2):
                report(at(layer, 2 * layer + sample))
        report(
            at(
                3,
                6,
                seconds=125,
                seconds_left=7300,
                tokens_per_second=1234.5,
                read_per_second=2e8,
                written_per_second=1e8,
                memory=2_500_000_000,
                peak_memory=3_000_000_000,
            )
        )
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and len(lines) == 3
    assert lines[0].startswith("quantize: layer 1/3 done, 8 s passed, about 4 s left")
    assert lines[-1] == (
        "quantize: layer 3/3 done, 2 min 5 s passed, about 2 h 1 min left, 1,234 tokens/s, read 200 MB/s, "
        "written 100 MB/s, memory 2.50 GB, at most 3.00 GB"
    )


def test_json_has_one_object_per_line_on_stdout(capsys: pytest.CaptureFixture) -> None:
    with show_progress("quantize", as_json=True) as report:
        report(at(0, 1, seconds_left=None))
        report(at(1, 2, tokens_per_second=12.5))
        report(at(2, 4))
    out, err = capsys.readouterr()
    events = [json.loads(line) for line in out.splitlines()]
    assert err == "" and [event["layer"] for event in events] == [1, 2]
    assert events[0] | {"event": "progress", "layers": 3, "tokens_per_second": 12.5, "seconds_left": 4.0} == (events[0])


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(module, "Console", lambda **options: Console(force_terminal=True, width=250, **options))
    with show_progress("compare") as report:
        report(at(1, 2))
        assert "tokens/s" not in capsys.readouterr().err  # an export has none
        report(replace(at(3, 6), tokens_per_second=20.0))
    out, err = capsys.readouterr()
    assert out == ""
    assert "compare:" in err and "layer 3/3" in err and "20 tokens/s" in err and "memory" in err


def test_an_error_ends_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Console", lambda **options: Console(force_terminal=True, **options))
    with pytest.raises(ArithmeticError), show_progress("quantize"):
        raise ArithmeticError


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (3600, "1 h 0 min"), (90061, "25 h 1 min")],
)
def test_durations_are_formatted(seconds: float, text: str) -> None:
    assert duration(seconds) == text
