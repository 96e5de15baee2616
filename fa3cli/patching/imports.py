"""Relative imports become absolute, since the patched file lives outside the transformers package."""

from __future__ import annotations

import ast
import re

from fa3cli.patching.edits import Edit
from fa3cli.patching.source import Source

__all__ = ["absolute_imports", "absolute_module", "quantizer_import"]

_IMPORT_LINES = {
    "fa3cli": ("from fa3cli.fa_quantizer import FAQuantizer", "from fa3cli import logger"),
    "msmodelslim": (
        "from msmodelslim.pytorch.llm_ptq.llm_ptq_tools.fa_quant import FAQuantizer",
        "from msmodelslim import logger",
    ),
}

# What may stand between words: a backslash lets a line go on in the next.
_BLANK = " \t\f\r\n\\"


def absolute_imports(source: Source, package: str | None) -> list[Edit]:
    """Edits that resolve every relative import, at any level and depth, from `package` (transformers.models.x).

    Without a package there are none: the imports of a file that came with the weights lead to files beside it.
    """
    edits: list[Edit] = []
    if package is None:
        return edits
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            target = absolute_module(source, node, package)
            start, end = source.start(node), source.end(node)
            # What stands between the two keywords, which may touch the dots: `from..utils import x`, `from .import y`.
            found = re.match(r"from(.*?)\bimport\b", source.text[start:end], re.DOTALL)
            written = found.group(1)
            before = written[: len(written) - len(written.lstrip(_BLANK))]
            after = written[len(written.rstrip(_BLANK)) :]
            edits.append(Edit(start + found.start(1), written, f"{before or ' '}{target}{after or ' '}"))
    return edits


def absolute_module(source: Source, node: ast.ImportFrom, package: str) -> str:
    """The module an import leads to from a file of `package`."""
    if not node.level:
        return node.module
    parents = package.split(".")
    if node.level > len(parents):
        raise source.refuse(node, f"the import reaches {node.level} levels up, out of {package}")
    return ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])


def quantizer_import(source: Source, quantizer: str) -> Edit:
    """The edit that imports FAQuantizer and logger, above the first import.

    There the file's own `logger`, if it has one, is assigned later and stays what the file's code uses.
    """
    imports = [
        node
        for node in source.tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom)) and getattr(node, "module", "") != "__future__"
    ]
    if not imports:
        raise source.refuse(source.tree, "found no import statement: this is not a modeling file")
    source.indent(imports[0])  # nothing may stand in front of it
    lines = "".join(line + source.newline for line in (*_IMPORT_LINES[quantizer], ""))
    return Edit(source.line_start(imports[0]), "", lines)
