"""Declares the options of a patch; outside `patching`, because the command line starts without importing that room."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated

from fa3cli.options import File, Option, Texts

__all__ = ["PatchOptions"]


@dataclass(frozen=True)
class PatchOptions:
    """Everything that a user may choose for a patch.

    `attention` names the classes to patch (none: all that build the architecture). `modeling` is a modeling file to use
    instead of the installed library's. `output` is a folder to create; then the weights folder stays unchanged.
    """

    weights_dir: Annotated[
        str | Path, Option("Folder with config.json and the weights, or a pipeline's folder.", argument=True)
    ]
    _: KW_ONLY
    attention: Annotated[Texts, Option("Attention class to patch; may be repeated.", metavar="CLASS")] = None
    modeling: Annotated[File, Option("Start from this modeling file, not the installed one.", metavar="FILE")] = None
    output: Annotated[
        File, Option("Patch a new folder of links; leave the weights folder as it is.", metavar="DIR")
    ] = None
    quantizer: Annotated[str, Option("Package to import FAQuantizer from.", choices=("fa3cli", "msmodelslim"))] = (
        "fa3cli"
    )
    rules: Annotated[File, Option("Rules of your own (docs/patch-rules.md).", metavar="DIR")] = None
    force: Annotated[bool, Option("Discard changes made by hand to patched files.", flags="--force")] = False
