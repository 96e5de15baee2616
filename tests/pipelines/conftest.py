"""Provides tiny whole pipelines, each made once per session; a test that changes one copies it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fa3cli import patching
from tests.pipelines.whole_pipelines import make_whole, missing


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Path]:
    """The folder of a pipeline by name, patched or not; tests must not change it."""
    folders: dict[tuple[str, bool], Path] = {}

    def folder_of(name: str, patched: bool = False) -> Path:
        if reason := missing(name):
            pytest.skip(reason)
        if (name, patched) not in folders:
            folder = tmp_path_factory.mktemp("pipeline") / name
            if patched:
                shutil.copytree(folder_of(name), folder)
                patching.patch(folder)
            else:
                make_whole(name, folder)
            folders[name, patched] = folder
        return folders[name, patched]

    return folder_of


@pytest.fixture
def flux(made: Callable[..., Path]) -> Path:
    return made("flux")


@pytest.fixture
def patched_flux(made: Callable[..., Path]) -> Path:
    return made("flux", True)
