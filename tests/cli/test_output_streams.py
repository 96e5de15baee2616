"""Tests that a broken stdout or stderr ends no command: a closed pipe, a full disk, a closed stream."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fa3cli.cli.output_streams import open_streams
from fa3cli.exports.verification import verify_export
from tests.conftest import ROOT
from tests.exports.exports import build_export
from tests.report.exports import write_export
from tests.sample_models import snapshot, token_ids, write_lines, write_model

FULL = "stdout cannot be written (No space left on device)"
FA3 = f"{shlex.quote(sys.executable)} -m fa3cli"


def shell(script: str) -> tuple[int, str]:
    """Run a line of bash; returns the exit code of its first command, and stderr."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = ["bash", "-c", f"{script}; exit ${{PIPESTATUS[0]}}"]
    run = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert "Traceback" not in run.stderr and "Exception ignored" not in run.stderr
    return run.returncode, run.stderr


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(tmp_path_factory.mktemp("sound") / "export").folder


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    export = build_export(tmp_path_factory.mktemp("broken"))
    export.description["fa_quant_type"] = None
    export.save()
    return export.folder


@pytest.mark.parametrize("arguments", ["--help", "report {sound}", "verify {sound} --json"])
@pytest.mark.parametrize("to", ["| true", ">&-"])
def test_a_closed_stdout_is_not_an_error(arguments: str, to: str, sound: Path) -> None:
    code, err = shell(f"{FA3} {arguments.format(sound=sound)} {to}")
    assert code == 0 and "cannot be written" not in err


@pytest.mark.parametrize("to", ["| true", ">&-"])
def test_findings_exit_1_with_a_closed_stdout(to: str, broken: Path) -> None:
    assert shell(f"{FA3} verify {broken} {to}")[0] == 1


@pytest.mark.parametrize(
    "arguments",
    ["--help", "report {sound}", "report {sound} --json", "verify {sound}", "verify {broken} --json"],
)
def test_a_full_stdout_exits_6(arguments: str, sound: Path, broken: Path) -> None:
    code, err = shell(f"{FA3} {arguments.format(sound=sound, broken=broken)} > /dev/full")
    assert code == 6 and FULL in err


@pytest.mark.parametrize("to", ["2> /dev/full", "2>&-", "2>&- >&- <&-"])
def test_a_broken_stderr_does_not_change_the_exit_code(to: str, sound: Path, broken: Path) -> None:
    assert shell(f"{FA3} verify {broken} {to}")[0] == 1
    assert shell(f"{FA3} verify {sound}-gone {to}")[0] == 5


def test_a_full_stdout_does_not_stop_a_run(tmp_path: Path) -> None:
    weights = write_model(tmp_path / f"llama-{tmp_path.name}")
    calib = write_lines(tmp_path / "calib.jsonl", token_ids(9, 5))
    command = f"{FA3} quantize {weights} --calib {calib} --json --output {tmp_path}"
    code, err = shell(f"{command}/full > /dev/full")
    assert code == 6 and FULL in err
    assert shell(f"{command}/gone 2>&- <&- | true")[0] == 0
    assert snapshot(tmp_path / "full") == snapshot(tmp_path / "gone")
    assert verify_export(tmp_path / "full").ok
    assert not list(tmp_path.glob("*.journal"))


def test_characters_missing_from_the_encoding_are_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with open_streams() as streams:
            print("bars ▁▂ and \ud800")
            assert sys.stdout.fileno() == stream.fileno() and sys.stdout.encoding == "ascii"
        assert sys.stdout is stream and streams.problem is None
    assert (tmp_path / "out").read_text() == "bars ?? and ?\n"


def test_a_full_pipe_is_waited_for_and_a_signal_handler_may_print(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    reader = subprocess.Popen(["bash", "-c", 'sleep 0.5; cat > "$0"', tmp_path / "read"], stdin=read)
    os.close(read)
    before = signal.signal(signal.SIGALRM, lambda *_: print("told", file=sys.stderr))
    with os.fdopen(write, "w", buffering=1) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with open_streams():
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            print("x" * 300_000, file=sys.stderr)
    monkeypatch.undo()
    signal.signal(signal.SIGALRM, before)
    reader.wait()
    text = (tmp_path / "read").read_text()
    assert text.count("x") == 300_000 and text.count("told\n") == 1
