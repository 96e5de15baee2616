"""Kills a patch, its replacement and its undo, or makes them fail, at every change of the disk."""

from __future__ import annotations

import errno
import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fa3cli.patching import patch, undo
from fa3cli.patching.formats import weights as weights_format
from tests.patching.diffusion import samples
from tests.patching.diffusion.conftest import library  # noqa: F401
from tests.patching.interrupted import DONE, FAILED, KILLED, PAST, failing, killed, together, tree

Action = Callable[[Path], object]


def replace_patch(folder: Path) -> object:
    return patch(folder, quantizer="msmodelslim")


def make_output(folder: Path) -> object:
    return patch(folder, output=folder.parent / "deep" / "out")


def replace_output(folder: Path) -> object:
    return patch(folder, output=folder.parent / "deep" / "out", quantizer="msmodelslim")


def undo_by_force(folder: Path) -> object:
    return undo(folder, force=True)


def patch_by_force(folder: Path) -> object:
    return patch(folder, force=True)


def change_by_hand(folder: Path) -> None:
    patch(folder)
    for path in (folder / "config.json", *folder.rglob("*_fa3*.py")):
        if path.exists():
            path.write_bytes(path.read_bytes().replace(b"hidden_size", b"hidden_size2") + b"\n")


def nothing(_: Path) -> None:
    return None


CASES = {
    "patch": (nothing, patch),
    "replace": (patch, replace_patch),
    "undo": (patch, undo),
    "output": (nothing, make_output),
    "replace output": (make_output, replace_output),
    "force": (change_by_hand, patch_by_force),
    "undo by force": (change_by_hand, undo_by_force),
}


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline's folder, or a weights folder whose config.json is a link, alone in its parent folder."""
    if request.param == "pipeline":
        request.getfixturevalue("library")
        (tmp_path / "base").mkdir()
        return samples.pipeline(tmp_path / "base" / "flux", vae="AutoencoderKL", transformer="FluxTransformer2DModel")
    weights = request.getfixturevalue("weights")
    target = tmp_path / "base" / "weights"
    target.parent.mkdir()
    weights.rename(target)
    (target / "config.json").rename(target.parent / "blob")
    (target / "config.json").symlink_to("../blob")
    real, made = weights_format.build, {}

    def once(transformers, folder, origin, options):
        key = repr((origin, options))
        if key not in made:
            made[key] = real(transformers, folder, origin, options)
        return made[key]

    monkeypatch.setattr(weights_format, "build", once)
    patch(target)
    undo(target)
    patch(target, quantizer="msmodelslim")
    undo(target)
    return target


def copied(folder: Path, name: str) -> Path:
    """Copy the parent folder, because entries beside the folder are checked too."""
    to = folder.parent.with_name(name)
    if to.exists():
        shutil.rmtree(to)
    shutil.copytree(folder.parent, to, symlinks=True)
    for path in to.rglob("*"):  # links of an output folder lead to the copy
        if path.is_symlink() and str(path.readlink()).startswith(str(folder.parent)):
            link = str(path.readlink()).replace(str(folder.parent), str(to), 1)
            path.unlink()
            path.symlink_to(link)
    return to / folder.name


def without_output(entries: dict[str, object]) -> dict[str, object]:
    return {name: content for name, content in entries.items() if not name.startswith("deep")}


def entries_of(folder: Path) -> dict[str, object]:
    """Everything in and beside a folder; links as paths relative to the parent folder."""
    place = str(folder.parent)
    return {
        name: content.replace(place, "") if isinstance(content, str) else content
        for name, content in tree(folder.parent).items()
    }


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("folder", ["linked", "pipeline"], indirect=True)
def test_after_a_kill_the_same_command_completes_and_undo_restores(folder: Path, case: str) -> None:
    prepare, act = CASES[case]
    prepare(folder)
    whole, bare = copied(folder, "whole"), copied(folder, "bare")
    act(whole)
    undo(bare, force=True)
    complete, original = entries_of(whole), entries_of(bare)
    for at in range(100):
        work = copied(folder, "work")
        ended = killed(functools.partial(act, work), at)
        if ended == PAST:
            break
        assert ended == KILLED
        again, back = copied(work, "again"), copied(work, "back")
        act(again)
        assert entries_of(again) == complete, at
        undo(back, force=case.endswith("force") or "force" in case)
        assert without_output(entries_of(back)) == without_output(original), at
    assert at > 5


@pytest.mark.parametrize(("case", "ever_after"), [*((case, False) for case in CASES), ("replace", True)])
@pytest.mark.parametrize("folder", ["linked"], indirect=True)
def test_a_failed_call_leaves_the_folder_unchanged_or_complete(folder: Path, case: str, ever_after: bool) -> None:
    prepare, act = CASES[case]
    prepare(folder)
    whole = copied(folder, "whole")
    act(whole)
    complete, before = entries_of(whole), entries_of(folder)
    before_and_place = {"deep": False, **before} if "output" in case else before
    for at in range(100):
        work = copied(folder, "work")
        ended = failing(functools.partial(act, work), at, errno.ENOSPC, ever_after=ever_after)
        if ended == PAST:
            break
        assert ended in (DONE, FAILED), at
        if ever_after:  # nothing can be undone: the same command completes it
            act(work)
            assert entries_of(work) == complete, at
        else:
            assert entries_of(work) in (before, before_and_place, complete), at
    assert at > 5


@pytest.mark.parametrize("folder", ["linked"], indirect=True)
@pytest.mark.parametrize("act", [patch, replace_patch, undo])
def test_concurrent_processes_leave_a_valid_folder(folder: Path, act: Action) -> None:
    bare = entries_of(folder)
    if act is not patch:
        patch(folder)
    whole = copied(folder, "whole")
    act(whole)
    ended = together([functools.partial(act, folder)] * 8)
    assert set(ended) <= {DONE, PAST}
    assert entries_of(folder) == entries_of(whole)
    others = [functools.partial(other, folder) for other in (patch, replace_patch, undo)] * 3
    assert set(together(others)) <= {DONE, PAST}
    undo(folder)
    assert entries_of(folder) == bare
