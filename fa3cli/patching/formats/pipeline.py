"""Handles the folder of a diffusers pipeline: model_index.json names a patched file in each transformer's folder.

For a folder without model_index.json and a given modeling file, no index names the patched file.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from functools import cached_property
from pathlib import Path
from typing import Final

from fa3cli.errors import InvalidInputError
from fa3cli.patching.diffusion.build import attention_classes_of, build, origins
from fa3cli.patching.diffusion.index import INDEX, components, set_modules
from fa3cli.patching.diffusion.library import Diffusers, installed_diffusers
from fa3cli.patching.edits import Edit
from fa3cli.patching.folders.config_json import Config, read_config
from fa3cli.patching.folders.receipt import Options, Receipt, sha256
from fa3cli.patching.locating.classes import AttentionClass
from fa3cli.patching.origins.build import Build
from fa3cli.patching.origins.origin import Origin

__all__ = ["Pipeline"]


class Pipeline:
    """A folder with model_index.json and one folder per component; it has the methods of `Weights`."""

    index = INDEX
    library: Final = "diffusers"

    @cached_property
    def installed(self) -> Diffusers:
        """The installed diffusers."""
        return installed_diffusers()

    @property
    def version(self) -> str:
        return self.installed.version

    def read_index(self, folder: Path, patched: bool) -> Config:
        if not folder.is_dir():
            raise InvalidInputError(f"{folder} is not a folder")
        path = folder / INDEX
        return read_config(path) if patched or os.path.lexists(path) else Config(path, "", {})

    def foreign(self, folder: Path, index: Config) -> str | None:
        return None

    def hand_made(self, index: Config) -> Path | None:
        return None

    def warnings(self, index: Config) -> tuple[str, ...]:
        return ()

    def origins(self, folder: Path, index: Config, modeling: str | None, receipt: Receipt | None) -> list[Origin]:
        return origins(self.installed, folder, index, Path(modeling) if modeling else None)

    def build(self, folder: Path, origin: Origin, options: Options) -> Build:
        return build(self.installed, origin, options)

    def attention(self, origin: Origin, rules: str | Path | None) -> tuple[AttentionClass, ...]:
        return attention_classes_of(self.installed, origin, rules)

    def module(self, index: Config, made: Build) -> str:
        """Return the path. Its name has the text's digest: diffusers loads files of all folders into one namespace."""
        digest = sha256(made.patched.text.encode())
        name = f"{made.origin.path.stem}_fa3_{digest[:12]}.py"
        return f"{made.origin.component}/{name}" if made.origin.component else name

    def index_edits(self, index: Config, modules: Iterable[tuple[Origin, str]]) -> list[Edit]:
        stems = {origin.component: Path(module).stem for origin, module in modules if origin.component}
        return set_modules(index, stems) if stems else []

    def loaded(self, index: Config) -> tuple[str, str] | None:
        return None

    def other_code(self, folder: Path, index: Config, patched: Collection[str | None]) -> str | None:
        others = [
            part.name
            for part in components(index)
            if part.name not in patched and os.path.lexists(folder / part.name / f"{part.library}.py")
        ]
        return f"model_index.json lets {', '.join(others)} load code too" if others else None
