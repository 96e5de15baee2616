"""Tests that runs of several ranks make the bytes of one rank, and can be resumed after a rank dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from fa3cli import api
from tests.conftest import ROOT
from tests.sample_models import snapshot, token_ids, write_lines, write_model

hard = pytest.mark.kills
RUNS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "smoothed": ("--anti-method", "m2", "--no-disable-last-linear", "--part-file-size", "0.001"),
    "scores": ("--act-method", "3", "--disable-level", "L3", "--fa-amp", "1", "--fa-score", "error"),
    "numpy": ("--anti-method", "m4", "--act-method", "2", "--mm-tensor", "--save-type", "numpy"),
    "targets": ("--target", "vllm", "--target", "vllm-ascend", "--anti-method", "m1"),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "smoothed": {"anti_method": "m2", "disable_last_linear": False, "part_file_size": 0.001},
    "scores": {"act_method": 3, "disable_level": "L3", "fa_amp": 1, "fa_score": "error"},
    "numpy": {"anti_method": "m4", "act_method": 2, "mm_tensor": True, "save_types": ["numpy"]},
    "targets": {"target": ["vllm", "vllm-ascend"], "anti_method": "m1"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, five lines of calibration data, and a longer file that keeps ranks busy for a while."""
    place = tmp_path_factory.mktemp("ranks")
    write_model(place / f"shared-{place.name}", num_hidden_layers=5, dtype=torch.bfloat16)
    write_lines(place / "few.jsonl", token_ids(9, 17, 5, 31, 22))
    write_lines(place / "two.jsonl", token_ids(9, 17))
    write_lines(place / "many.jsonl", token_ids(*[40] * 90))
    return place


def model(place: Path) -> Path:
    return place / f"shared-{place.name}"


def alone(place: Path, calib: str, output: Path, **options: Any) -> dict[str, bytes]:
    """Return the files that a run of one process makes."""
    api.quantize(model(place), calib=place / calib, output=output, recipe="default", **options)
    return snapshot(output)


def command(place: Path, calib: str, output: Path, *options: str) -> list[str]:
    return ["quantize", str(model(place)), "--calib", str(place / calib), "--output", str(output)] + [
        *("--recipe", "default"),
        *options,
    ]


def fa3(nproc: int) -> tuple[list[str], list[str]]:
    return [sys.executable, "-m", "fa3cli"], ["--nproc", str(nproc)]


def torchrun(nproc: int) -> tuple[list[str], list[str]]:
    own = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(nproc), "-m", "fa3cli"]
    return [sys.executable, *own], []


LAUNCHERS = {"nproc": fa3, "torchrun": torchrun}


@contextmanager
def started(launcher: str, nproc: int, arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a run of some ranks, one thread each; kill its remaining processes at the end."""
    before, behind = LAUNCHERS[launcher](nproc)
    run = subprocess.Popen(
        [*before, *arguments, *behind],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Background jobs of a shell, such as a CI run, ignore interrupts, and so would their child processes.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    try:
        yield run
    finally:
        for process in [*ranks(run).values(), run]:
            process.kill()
        run.communicate()


def ended(launcher: str, nproc: int, arguments: list[str]) -> tuple[int, str]:
    """Exit code and stderr."""
    with started(launcher, nproc, arguments) as run:
        _, err = run.communicate(timeout=120)
        return run.returncode, err


def ranks(run: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    """The processes of a run by their rank."""
    found = {}
    try:
        for process in psutil.Process(run.pid).children(recursive=True):
            found[int(process.environ()["RANK"])] = process
    except (psutil.Error, KeyError):
        pass
    return found


def wait_for(file: Path, run: subprocess.Popen[str]) -> None:
    while not file.exists():
        assert run.poll() is None, run.communicate()
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("launcher", "nproc", "name", "calib"),
    [
        ("nproc", 2, "smoothed", "few.jsonl"),
        pytest.param("nproc", 2, "scores", "few.jsonl", marks=hard),
        pytest.param("nproc", 3, "numpy", "two.jsonl", marks=hard),
        pytest.param("nproc", 3, "scores", "two.jsonl", marks=hard),
        pytest.param("torchrun", 2, "plain", "few.jsonl", marks=hard),
        pytest.param("torchrun", 3, "smoothed", "two.jsonl", marks=hard),
    ],
)
def test_several_ranks_make_the_same_export_as_one(
    place: Path, tmp_path: Path, launcher: str, nproc: int, name: str, calib: str
) -> None:
    """Also with fewer samples than ranks."""
    output = tmp_path / "out"
    code, err = ended(launcher, nproc, command(place, calib, output, *RUNS[name]))
    assert code == 0, err
    assert snapshot(output) == alone(place, calib, tmp_path / "whole", **OPTIONS[name])
    assert not (tmp_path / "out.journal").exists()


@pytest.mark.parametrize(
    ("nproc", "killed", "again", "name"),
    [
        (2, 1, 1, "plain"),
        pytest.param(2, 0, 3, "scores", marks=hard),
        pytest.param(3, 2, 2, "smoothed", marks=hard),
    ],
)
def test_a_killed_rank_ends_the_others_and_any_number_of_ranks_resumes(
    place: Path, tmp_path: Path, nproc: int, killed: int, again: int, name: str
) -> None:
    output, journal = tmp_path / "out", tmp_path / "out.journal"
    arguments = command(place, "many.jsonl", output, *RUNS[name])
    with started("nproc", nproc, arguments) as run:
        wait_for(journal / "visits" / "visit-00001.safetensors", run)
        all_of_them = ranks(run)
        assert all_of_them.keys() == set(range(nproc))
        all_of_them[killed].kill()
        begin = time.monotonic()
        _, err = run.communicate(timeout=120)
        assert time.monotonic() - begin < 60
    assert run.returncode == 6, err
    assert f"rank {killed} was killed by SIGKILL" in err and "Traceback" not in err
    assert not any(process.is_running() for process in all_of_them.values())
    assert any(journal.glob("visits/visit-*")) and not output.exists()
    if again == 1:
        found = alone(place, "many.jsonl", output, resume="required", **OPTIONS[name])
    else:
        code, err = ended("nproc", again, [*arguments, "--resume", "required"])
        assert code == 0 and "layer 1/" not in err, err
        found = snapshot(output)
    assert found == alone(place, "many.jsonl", tmp_path / "whole", **OPTIONS[name])
    assert not journal.exists()


@hard
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_ctrl_c_stops_all_ranks_after_the_same_layer(place: Path, tmp_path: Path, launcher: str) -> None:
    output, journal = tmp_path / "out", tmp_path / "out.journal"
    with started(launcher, 2, command(place, "many.jsonl", output)) as run:
        wait_for(journal / "visits" / "visit-00000.safetensors", run)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=120)
    if launcher == "nproc":  # torchrun has a traceback and an exit code of its own
        assert run.returncode == 75, err
        assert err.count("stopping at the next point") == 1 and "Traceback" not in err
    assert any(journal.glob("visits/visit-*")) and not output.exists()
    found = alone(place, "many.jsonl", output, resume="required")
    assert found == alone(place, "many.jsonl", tmp_path / "whole")


@hard
@pytest.mark.parametrize(
    ("option", "code", "words"),
    [
        (("--numerics", "reference"), 3, "numerics=reference on 2 ranks"),
        (("--disable-names", "nothing"), 5, "matches no linear"),
        (("--resume", "required"), 4, "nothing there to resume"),
    ],
)
def test_an_error_has_its_own_exit_code(
    place: Path, tmp_path: Path, option: tuple[str, ...], code: int, words: str
) -> None:
    """Also if only the leading rank fails, and the others lose their connection to it."""
    found, err = ended("nproc", 2, command(place, "few.jsonl", tmp_path / "out", *option))
    assert found == code and words in err and "Traceback" not in err, err
    assert list(tmp_path.iterdir()) == []


@hard
def test_ranks_of_a_killed_launcher_end_with_it(place: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with started("nproc", 2, command(place, "many.jsonl", output)) as run:
        wait_for(tmp_path / "out.journal" / "visits" / "visit-00000.safetensors", run)
        all_of_them = ranks(run)
        run.kill()
        gone, alive = psutil.wait_procs(all_of_them.values(), timeout=10)
    assert len(gone) == 2 and not alive
    found = alone(place, "many.jsonl", output, resume="required")
    assert found == alone(place, "many.jsonl", tmp_path / "whole")


@hard
def test_an_early_death_of_a_rank_ends_the_waiting_rank(place: Path, tmp_path: Path) -> None:
    """It waits within torch, where signals are not handled."""
    with started("nproc", 2, command(place, "few.jsonl", tmp_path / "out")) as run:
        while len(ranks(run)) < 2:
            time.sleep(0.01)
        ranks(run)[1].kill()
        _, err = run.communicate(timeout=120)
    assert run.returncode == 6 and "rank 1 was killed by SIGKILL" in err and "Traceback" not in err
