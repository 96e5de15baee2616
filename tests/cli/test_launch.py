"""Runs small programs as ranks: their variables, the exit code that counts, and that no process is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fa3cli.cli import launch as module
from fa3cli.cli.launch import launch, launched_rank, rank_command
from tests.conftest import ROOT

PYTHON = [sys.executable, "-I", "-S", "-c"]


def program(code: str, *arguments: object) -> list[str]:
    """Return the command of a rank's program, which knows its rank."""
    return [
        *PYTHON,
        f"import os, signal, sys, time; rank = int(os.environ['RANK']); {code}",
        *map(str, arguments),
    ]


def launch_in_process(code: list[str], nproc: int) -> subprocess.Popen[str]:
    """Start a process that launches ranks and ends with their exit code."""
    text = f"import sys; from fa3cli.cli.launch import launch; sys.exit(launch({nproc}, {code!r}))"
    return subprocess.Popen(
        [sys.executable, "-c", text], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GRACE", 2.0)
    monkeypatch.setattr(module, "_NOTICE", 0.5)


def test_each_rank_gets_the_variables_of_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    write = "import json; json.dump(dict(os.environ), open(sys.argv[1] + '/' + str(rank), 'w'))"
    assert launch(3, program(write, tmp_path)) == 0
    told = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(3)]
    for rank, variables in enumerate(told):
        assert variables["RANK"] == variables["LOCAL_RANK"] == str(rank)
        assert variables["WORLD_SIZE"] == variables["LOCAL_WORLD_SIZE"] == "3"
        assert variables["OMP_NUM_THREADS"] == "2"
        assert variables["MASTER_ADDR"] == "127.0.0.1" and variables["MASTER_PORT"] == told[0]["MASTER_PORT"]
        assert variables["PATH"] == os.environ["PATH"]


def test_a_given_number_of_threads_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert launch(2, program("sys.exit(os.environ['OMP_NUM_THREADS'] != '5')")) == 0


@pytest.mark.parametrize(
    ("codes", "delays", "expected"),
    [
        ([0, 0, 0], [0, 0, 0], 0),
        ([0, 5, 0], [0, 0, 0], 5),
        ([75, 75], [0, 0], 75),
        ([3, 4], [0.4, 0], 4),  # the first that failed
        ([6, 4], [0, 0.3], 4),  # losing another rank does not count as a cause
        ([6, 6], [0, 0], 6),
    ],
)
def test_the_exit_code_is_that_of_the_first_failed_rank(codes: list[int], delays: list[float], expected: int) -> None:
    code = f"time.sleep({delays}[rank]); sys.exit({codes}[rank])"
    assert launch(len(codes), program(code)) == expected


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_rank_killed_by_a_signal_is_a_missing_capability(
    capfd: pytest.CaptureFixture, number: signal.Signals
) -> None:
    """The peers of the killed rank fail too, before the kill is noticed."""
    assert launch(2, program(f"rank and (time.sleep(0.2), os.kill(os.getpid(), {int(number)})); sys.exit(6)")) == 6
    assert f"rank 1 was killed by {number.name}" in capfd.readouterr().err


def test_ranks_that_keep_running_get_a_second_signal(tmp_path: Path) -> None:
    """The first SIGTERM lets a run finish its layer; the second ends it at once."""
    wait = (
        "told = []; signal.signal(signal.SIGTERM, lambda *_: told.append(1)); rank or sys.exit(5)\n"
        "while len(told) < 2: time.sleep(0.01)\n"
        "open(sys.argv[1], 'w').close(); sys.exit(75)"
    )
    assert launch(2, program(wait, tmp_path / "told")) == 5
    assert (tmp_path / "told").exists()


def test_a_rank_that_ignores_signals_is_killed() -> None:
    begin = time.monotonic()
    deaf = "[signal.signal(number, signal.SIG_IGN) for number in (15, 2)]; rank or sys.exit(4); time.sleep(600)"
    assert launch(2, program(deaf)) == 4
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_all_ranks_and_the_handlers_are_restored(tmp_path: Path, number: signal.Signals) -> None:
    """Every signal is forwarded, so that a second one reaches the ranks too."""
    code = (
        "import signal\n"
        "told = []\n"
        f"signal.signal({int(number)}, lambda *_: told.append(1))\n"
        "open(f'{sys.argv[1]}/ready-{rank}-0', 'w').close()\n"
        "for count in (1, 2):\n"
        "    while len(told) < count: time.sleep(0.01)\n"
        "    open(f'{sys.argv[1]}/ready-{rank}-{count}', 'w').close()\n"
        "sys.exit(75)"
    )
    with launch_in_process(program(code, tmp_path), 2) as run:
        for count in range(3):
            deadline = time.monotonic() + 60
            while len(list(tmp_path.glob(f"ready-*-{count}"))) < 2:
                assert time.monotonic() < deadline and (count == 2 or run.poll() is None)
                time.sleep(0.01)
            if count < 2:
                run.send_signal(number)
        assert run.wait(timeout=60) == 75
    before = signal.getsignal(number)
    assert launch(1, program("")) == 0 and signal.getsignal(number) is before


def test_ranks_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("no other system can do that")
    code = "open(f'{sys.argv[1]}/{rank}', 'w').close(); time.sleep(600)"
    with launch_in_process(program(code, tmp_path), 3) as run:
        while len(list(tmp_path.iterdir())) < 3:
            assert run.poll() is None
            time.sleep(0.01)
        children = psutil.Process(run.pid).children()
        run.kill()
        gone, alive = psutil.wait_procs(children, timeout=10)
    assert len(gone) == 3 and not alive


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, None),
        ({"WORLD_SIZE": "1", "RANK": "0"}, None),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost"}, 1),
    ],
)
def test_a_process_knows_its_rank(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], rank: int | None
) -> None:
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launched_rank() == rank


def test_a_rank_runs_no_code_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder may be a weights folder, whose code may run only with trust."""
    for name in ("typer", "torch", "fa3cli", "json", "__future__", "logging", "importlib", "re"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(99)")
    monkeypatch.setattr(sys, "argv", ["fa3", "--help"])
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    run = subprocess.run(rank_command(), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0 and "fa3" in run.stdout, run.stderr
