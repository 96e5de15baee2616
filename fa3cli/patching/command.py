"""Offers the codemod as a libcst command: `python -m libcst.tool codemod -x --no-format
fa3cli.patching.command.PatchAttentionCommand --attention Qwen2Attention FILE` patches FILE in place.
"""

from __future__ import annotations

import argparse

import libcst as cst
from libcst.codemod import CodemodContext, VisitorBasedCodemodCommand

from fa3cli.patching.imports import QUANTIZERS
from fa3cli.patching.sources import patch_source

__all__ = ["PatchAttentionCommand"]


class PatchAttentionCommand(VisitorBasedCodemodCommand):
    """Inserts the quantizer and its three calls into the attention classes of a modeling file."""

    DESCRIPTION = __doc__

    @staticmethod
    def add_args(arg_parser: argparse.ArgumentParser) -> None:
        """Add the options of `fa3 patch` that concern a single file."""
        arg_parser.add_argument(
            "--attention", metavar="CLASS", action="append", default=[], help="patch this class (default: all)"
        )
        arg_parser.add_argument(
            "--package", metavar="NAME", help="make relative imports absolute, as for a file of this package"
        )
        arg_parser.add_argument("--quantizer", choices=QUANTIZERS, default="fa3cli", help="the package of FAQuantizer")

    def __init__(
        self,
        context: CodemodContext,
        attention: list[str] | None = None,
        package: str | None = None,
        quantizer: str = "fa3cli",
    ) -> None:
        super().__init__(context)
        self.attention, self.package, self.quantizer = attention or [], package, quantizer

    def transform_module_impl(self, tree: cst.Module) -> cst.Module:
        """Patch the text of a module."""
        name = self.context.filename or "modeling.py"
        patched = patch_source(
            tree.code, name=name, package=self.package, attention=self.attention, quantizer=self.quantizer
        )
        return cst.parse_module(patched.text)
