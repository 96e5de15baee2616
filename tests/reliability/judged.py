"""Runs one input in a child process and judges the exit code, output, time, memory and opened files."""

from __future__ import annotations

import os
import random
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.reliability.documents import mutate
from tests.reliability.forked import forked
from tests.reliability.odd_files import LINKED
from tests.reliability.readers import READERS, Reader
from tests.reliability.sources import HOSTILE
from tests.reliability.states import state_of
from tests.reliability.values import CANARY
from tests.reliability.watched import limit, run_command, warm_up, watch

__all__ = ["Outcome", "copy_scene", "judge", "try_valid"]


@dataclass(frozen=True)
class Outcome:
    """The result of one input; `failure` says what the command did wrong, or is empty."""

    reader: str
    seed: int
    code: int
    failure: str
    seconds: float


def try_valid(name: str, scenes: Path, place: Path) -> None:
    """Run a reader's command on its unchanged scene in this process; raises RuntimeError if it fails."""
    shutil.rmtree(place, ignore_errors=True)
    copy_scene(scenes / READERS[name].scene, place / "work")
    output = place / "output"
    code, problem = warm_up(READERS[name].command.format(w=place / "work").split(), output)
    if code or problem:
        raise RuntimeError(f"{name}: its valid folder: {code} {problem}: {output.read_text()}")


def judge(name: str, seed: int, scenes: Path, place: Path, *, keep: bool = False) -> Outcome:
    """Make input number `seed` of a reader in the folder `place`, run the reader's command there, and judge it.

    Number -1 is the unchanged scene.
    """
    reader, work = READERS[name], place / "work"
    shutil.rmtree(place, ignore_errors=True)
    copy_scene(scenes / reader.scene, work)
    if seed >= 0:
        rng = random.Random(f"{name} {seed}")
        documents = sorted(file for pattern in reader.documents for file in work.glob(pattern))
        mutate(rng.choice(documents), reader.form, rng)
        for folder in work.glob("*/.fa3"):
            with suppress(OSError):
                folder.rmdir()  # a killed run may leave an empty one, which the next command removes
    os.environ["FA3_CANARY"] = str(work / CANARY)
    outside = [state_of(work / folder) for folder in (LINKED, CANARY)]
    begin = time.monotonic()

    def child() -> tuple[int, str]:
        limit()
        seen = watch(work, work / CANARY)
        code, problem = run_command(reader.command.format(w=work).split())
        return code, problem or "; ".join(dict.fromkeys(seen))

    before = _file_stats(work)
    code, problem = forked(child, place / "output")
    output = (place / "output").read_text(errors="replace")
    problem = problem or _exit_problem(reader, code, output)
    if not problem and outside != [state_of(work / folder) for folder in (LINKED, CANARY)]:
        problem = "wrote outside the model's folder"
    if (
        not problem
        and code > 1
        and reader.refuses_before_writing
        and (odd := dict(_file_stats(work).items() ^ before.items()))
    ):
        problem = f"exit code {code}, but wrote {' '.join(sorted(odd))}"
    if not keep:
        shutil.rmtree(place, ignore_errors=True)
    return Outcome(name, seed, code, problem[:600], time.monotonic() - begin)


def _exit_problem(reader: Reader, code: int, output: str) -> str:
    """Return what is wrong with an exit code and the output; empty if nothing is."""
    if not (0 <= code <= 6 or code in (75, 130)):
        return f"exit code {code}"
    if code == 1 and not reader.finds:
        return "exit code 1 of a command that never has findings"
    if "Traceback" in output or "Exception ignored" in output:
        return f"a traceback was printed: {output.strip()[-200:]!a}"
    return f"exit code {code} without a message" if code and not output.strip() else ""


def _file_stats(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return inode, size and time of everything below a folder: files may be too large to compare their bytes."""
    found = {str(path.relative_to(folder)): path.lstat() for path in folder.rglob("*")}
    return {name: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


def copy_scene(scene: Path, work: Path) -> None:
    """Copy a scene, and put files beside it that no command may open."""
    shutil.copytree(scene, work, symlinks=True)
    (work / LINKED).mkdir()
    (work / CANARY).mkdir()
    (work / "x").write_text("outside the model's folder\n")
    for file in ("x.py", "x.json", "x--x.py"):
        (work / CANARY / file).write_text(HOSTILE)
    (work / CANARY / "model.safetensors").write_bytes(b"\x02" + b"\x00" * 7 + b"{}")
