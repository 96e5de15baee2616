"""What the patch API asks a kind of folder: the folder of a language model, or of a pipeline."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Protocol

from fa3cli.patching.build import Build
from fa3cli.patching.config_json import Config
from fa3cli.patching.edits import Edit
from fa3cli.patching.locating.classes import AttentionClass
from fa3cli.patching.origin import Origin
from fa3cli.patching.receipt import Options

__all__ = ["Format"]


class Format(Protocol):
    """One kind of folder. It has modeling files of a `library`, and an index that names what is loaded.

    `index` is the file name of that document: config.json or model_index.json.
    """

    index: str
    library: str

    @property
    def version(self) -> str:
        """The installed version of the library; MissingCapabilityError if it is missing or too old."""

    def read_index(self, folder: Path, patched: bool) -> Config | None:
        """Read the index; None if a pipeline has none and is not `patched`. InvalidInputError if it is broken."""

    def foreign(self, folder: Path, index: Config | None) -> str | None:
        """Why a folder without a receipt has a patch that is not fa3's; None if it has no patch."""

    def warnings(self, index: Config | None) -> tuple[str, ...]:
        """What to warn of; raises UnsupportedError for what the index says cannot be patched."""

    def origins(self, folder: Path, index: Config | None, modeling: Path | None) -> list[Origin]:
        """The modeling files to patch, `modeling` in place of the library's own file."""

    def build(self, folder: Path, origin: Origin, options: Options) -> Build:
        """Patch one modeling file; UnsupportedError (file:line) if that is not certain to be right."""

    def attention(self, origin: Origin, rules: str | Path | None) -> tuple[AttentionClass, ...]:
        """Every attention class of a modeling file, patchable or not."""

    def module(self, index: Config | None, made: Build) -> str:
        """The path in the folder that a patched file is written to."""

    def index_edits(self, index: Config | None, modules: Iterable[tuple[Origin, str]]) -> list[Edit]:
        """The edits of the index that let the patched files, `modules`, be loaded."""

    def loaded(self, index: Config | None) -> tuple[str, str] | None:
        """The file of the folder and its class that the index names in place of the library's; None if it names none."""

    def other_code(self, folder: Path, index: Config | None, patched: Collection[str | None]) -> str | None:
        """Which code of the folder besides the `patched` parts the index lets be loaded; None if there is none."""
