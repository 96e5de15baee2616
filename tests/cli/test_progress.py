from __future__ import annotations

import pytest
from rich.console import Console

from fa3cli.calibration.progress import Progress
from fa3cli.cli import progress as module
from fa3cli.cli.progress import show_progress


def test_a_line_a_layer_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture) -> None:
    with show_progress("quantize") as report:
        for layer in range(3):
            for sample in range(2):
                report(Progress(layer, 3, 2 * layer + sample, 6))
        report(Progress(3, 3, 6, 6))
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and len(lines) == 3
    assert lines[0].startswith("quantize: layer 1/3 done, ") and lines[-1].startswith(
        "quantize: layer 3/3 done, "
    )
    assert all(" s left, memory " in line and line.endswith(" GB") for line in lines)


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(
        module, "Console", lambda **options: Console(force_terminal=True, width=120, **options)
    )
    with show_progress("compare") as report:
        report(Progress(1, 4, 2, 8))
        report(Progress(4, 4, 8, 8))
    out, err = capsys.readouterr()
    assert out == ""
    assert "compare: layer 4/4" in err and "100%" in err and "memory" in err


def test_an_error_ends_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Console", lambda **options: Console(force_terminal=True, **options))
    with pytest.raises(ArithmeticError), show_progress("quantize"):
        raise ArithmeticError
