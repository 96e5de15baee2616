"""Draws the rooms of fa3cli from their imports: `python -m tests.rooms` writes the picture of docs/architecture.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["DOCUMENT", "ORDER", "imports", "picture", "with_picture"]

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "architecture.md"
# Imports go only from a later room to an earlier one.
ORDER = (
    "errors", "options", "patch_options", "fa_quantizer", "files", "numerics", "observers", "quantization", "patching", "exports", "models",
    "samples", "calibration", "runs", "planning", "pipelines", "comparing", "report", "guide", "doctor", "api", "cli",
    "__main__",
)  # fmt: skip
_HIDDEN = {"errors", "files", "__main__"}  # imported by almost every room, and the start of the program
_BLOCK = re.compile(r"(?s)(?<=<!-- rooms -->\n).*?(?=<!-- end of rooms -->)")


def imports() -> dict[tuple[str, str], list[str]]:
    """Map each pair of rooms to the modules of the first that import the second."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in sorted((ROOT / "fa3cli").rglob("*.py")):
        module = path.relative_to(ROOT).with_suffix("").parts[1:]
        for other in _imported(ast.parse(path.read_text())):
            if module != ("__init__",) and other != module[0]:
                found.setdefault((module[0], other), []).append(".".join(module))
    return found


def _imported(tree: ast.Module) -> Iterator[str]:
    """The rooms that a module imports, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "fa3cli":
            names = [node.module.partition(".")[2]] if "." in node.module else [name.name for name in node.names]
            yield from (name.partition(".")[0] for name in names if name.partition(".")[0] in ORDER)


def picture() -> str:
    """The rooms as a mermaid graph, without edges that others imply."""
    pairs = imports().keys()
    below = {room: {to for start, to in pairs if start == room} - _HIDDEN for room in ORDER}
    lines = ["```mermaid", "graph TD"]
    for room in reversed(ORDER):
        if room in _HIDDEN:
            continue
        lines.append(f"    {room}")
        implied = set().union(*(_reached(below, other) for other in below[room]))
        lines += [f"    {room} --> {other}" for other in sorted(below[room] - implied, key=ORDER.index)]
    return "\n".join([*lines, "```", ""])


def _reached(below: dict[str, set[str]], room: str) -> set[str]:
    """Every room that a room imports, directly or through others."""
    return below[room].union(*(_reached(below, other) for other in below[room]))


def with_picture(text: str) -> str:
    """The document with the picture of today's imports."""
    return _BLOCK.sub(lambda _: picture(), text)


if __name__ == "__main__":
    DOCUMENT.write_text(with_picture(DOCUMENT.read_text()))
