"""Makes relative imports absolute, because the patched file lies outside its package, and imports the quantizer."""

from __future__ import annotations

import ast

from fa3cli.patching.places import Above, Absolute
from fa3cli.patching.source import Source

__all__ = ["QUANTIZERS", "absolute_imports", "absolute_module", "quantizer_import"]

QUANTIZERS = {
    "fa3cli": ("from fa3cli.fa_quantizer import FAQuantizer", "from fa3cli import logger"),
    "msmodelslim": (
        "from msmodelslim.pytorch.llm_ptq.llm_ptq_tools.fa_quant import FAQuantizer",
        "from msmodelslim import logger",
    ),
}


def absolute_imports(source: Source, package: str | None) -> list[Absolute]:
    """Return every relative import, at any depth of the file, with its full module name as seen from `package`.

    Without a package nothing changes: a file that came with the weights imports files of its own folder.
    """
    nodes = [node for node in ast.walk(source.tree) if isinstance(node, ast.ImportFrom) and node.level]
    return [Absolute(node, absolute_module(source, node, package)) for node in nodes if package is not None]


def absolute_module(source: Source, node: ast.ImportFrom, package: str) -> str:
    """Return the full module name of an import in a file of `package` (such as transformers.models.qwen2)."""
    parents = package.split(".") if node.level else []
    if node.level > len(parents):
        raise source.refuse(node, f"the import reaches {node.level} levels up, out of {package}")
    return ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])


def quantizer_import(source: Source, quantizer: str, *others: str) -> Above:
    """Return the lines that import FAQuantizer and logger, after the lines `others`; they go above the first import.

    Above the first import: if the file assigns a `logger` of its own, this later assignment stays in effect.
    """
    for node in source.tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)) and getattr(node, "module", "") != "__future__":
            return Above(node, (*others, *QUANTIZERS[quantizer]))
    raise source.refuse(source.tree, "found no import statement: this is not a modeling file")
