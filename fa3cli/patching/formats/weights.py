"""Handles the folder of a language model: auto_map of config.json names the patched file."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Final

from fa3cli.patching.edits import Edit
from fa3cli.patching.folders.config_json import CAUSAL_LM, Config, read_config, require_types, set_auto_map
from fa3cli.patching.folders.receipt import RECEIPT, Options, Receipt
from fa3cli.patching.locating.classes import AttentionClass
from fa3cli.patching.origins.build import Build, build
from fa3cli.patching.origins.hand_made import check_hand_made
from fa3cli.patching.origins.installed import Installed, installed_transformers
from fa3cli.patching.origins.origin import (
    Origin,
    find_origin,
    has_quantizer,
    installed_origin,
    quantizer_exists_error,
    read_source,
)
from fa3cli.patching.rules.examples import checked_rules
from fa3cli.patching.source import parse
from fa3cli.patching.sources import list_source

__all__ = ["Weights"]


class Weights:
    """A folder with config.json and the weights of one causal language model.

    Each format has an `index`, the document that names the code to load, and modeling files of a `library`.
    """

    index = "config.json"
    library: Final = "transformers"

    @cached_property
    def installed(self) -> Installed:
        """The installed transformers."""
        return installed_transformers()

    @property
    def version(self) -> str:
        """The installed version of the library with the modeling files."""
        return self.installed.version

    def read_index(self, folder: Path, patched: bool) -> Config:
        """Read the index; raises InvalidInputError if it is broken."""
        config = read_config(folder / self.index)
        require_types(config)
        return config

    def foreign(self, folder: Path, index: Config) -> str | None:
        """Return why a folder without a receipt has a patch that is not fa3's; None if it has no patch."""
        custom, own = index.causal_lm, folder / _own_name(index)
        if custom and not custom.repository and custom.file == own.name:
            entry = f"{index.path}: auto_map lets {CAUSAL_LM} load {custom.file}, and there is no {RECEIPT} of fa3"
            return None if self.hand_made(index) else entry
        return f"{own} exists, and there is no {RECEIPT} of fa3" if os.path.lexists(own) else None

    def hand_made(self, index: Config) -> Path | None:
        """Return the file that auto_map names, if somebody patched it by hand; None if there is no such file."""
        custom = index.causal_lm
        own = index.path.parent / custom.file if custom and not custom.repository else None
        return own if own and has_quantizer(own) else None

    def warnings(self, index: Config) -> tuple[str, ...]:
        """Warnings about values of the index."""
        written = index.data.get("transformers_version")
        if not written or written == self.version:
            return ()
        return (f"config.json was written by transformers {written}, installed is {self.version}",)

    def origins(self, folder: Path, index: Config, modeling: str | None, receipt: Receipt | None) -> list[Origin]:
        """Return the modeling files to patch; `modeling` replaces the library's own.

        A file that was patched by hand is compared once, before fa3 patches the folder (there is no `receipt` yet).
        """
        if receipt and modeling is None and self._is_library_file(index, receipt.files[0].source):
            return [installed_origin(self.installed, index)]
        own = self.hand_made(index) if modeling is None else None
        if own is None:
            return [find_origin(self.installed, index, Path(modeling) if modeling else None)]
        if not self.installed.knows(index.model_type):
            raise quantizer_exists_error(own, "pass the unpatched file as --modeling")
        origin = installed_origin(self.installed, index)
        hand, library = (parse(read_source(path), str(path)) for path in (own, origin.path))
        package = self.installed.modeling_file(index.model_type).package
        check_hand_made(hand, library, package, index.data)
        return [replace(origin, instead_of=own)]

    def build(self, folder: Path, origin: Origin, options: Options) -> Build:
        """Patch one modeling file; UnsupportedError (file:line) if the result is not certain to be correct."""
        return build(self.installed, folder, origin, options)

    def attention(self, origin: Origin, rules: str | Path | None) -> tuple[AttentionClass, ...]:
        """Return every attention class of a modeling file, patchable or not."""
        data, name = read_source(origin.path), str(origin.path)
        return list_source(data, name=name, rules=checked_rules(rules), config=origin.config)

    def module(self, index: Config, made: Build) -> str:
        """Return the path in the folder that a patched file is written to."""
        name, custom = _own_name(index), index.causal_lm
        # A file patched by hand after the guide has the same name, and must not be overwritten.
        return name.replace("_fa3.py", "_by_fa3.py") if custom and custom.file == name else name

    def index_edits(self, index: Config, modules: Iterable[tuple[Origin, str]]) -> list[Edit]:
        """Return the edits of the index that make it load the patched files, `modules`."""
        [(origin, module)] = modules
        return set_auto_map(index, f"{module.removesuffix('.py')}.{origin.class_name}")

    def loaded(self, index: Config) -> tuple[str, str] | None:
        """Return the folder's own file and class that the index names instead of the library's; None without one."""
        custom = index.causal_lm
        return (custom.file, custom.name) if custom and not custom.repository else None

    def other_code(self, folder: Path, index: Config, patched: Collection[str | None]) -> str | None:
        """Describe code of the folder that the index loads besides the `patched` components; None if there is none."""
        others = sorted(index.auto_map.keys() - {CAUSAL_LM})
        return f"auto_map lets {', '.join(others)} load code too" if others else None

    def _is_library_file(self, index: Config, path: str) -> bool:
        """Tell whether a path is the library's own file of the model type, in this or another environment."""
        if not self.installed.knows(index.model_type):
            return False
        package = self.installed.modeling_file(index.model_type).package.split(".")
        return list(Path(path).parent.parts[-len(package) :]) == package


def _own_name(index: Config) -> str:
    stem = "".join(char if char.isalnum() else "_" for char in index.model_type)
    return f"modeling_{stem}_fa3.py"
