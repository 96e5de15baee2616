"""Compares a modeling file that was patched by hand after the guide with the patch that fa3 makes."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest
from typing import Any

from fa3cli.errors import ConflictError
from fa3cli.patching.imports import QUANTIZERS, absolute_module
from fa3cli.patching.locating.statements import names_in
from fa3cli.patching.source import Source, parse
from fa3cli.patching.sources import patch_source

__all__ = ["check_hand_made"]

_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
_HINT = (
    "correct that line as the guide says; or remove AutoModelForCausalLM from auto_map, and fa3 patches the "
    "file of the installed transformers"
)


def check_hand_made(hand: Source, installed: Source, package: str, config: Mapping[str, Any]) -> None:
    """Require that a file is the installed file of `package` plus the guide's lines, at the places that fa3 uses.

    Comments are not compared. ConflictError names file:line of the first difference, the text found there and the text
    expected.
    """
    imported = {ast.unparse(node) for node in hand.tree.body if isinstance(node, ast.ImportFrom)}
    quantizer = next((name for name, lines in QUANTIZERS.items() if imported.issuperset(lines)), None)
    if quantizer is None:
        imports = " and ".join(map(repr, QUANTIZERS["msmodelslim"]))
        raise ConflictError(
            f"{hand.name}:1: found a fa_quantizer, but not both imports of the guide, expected {imports}", hint=_HINT
        )
    names = _names(hand.tree, _is_quant_call)
    if not names:
        raise ConflictError(f"{hand.name}:1: no class calls its fa_quantizer as the guide says", hint=_HINT)
    text, name = installed.text, installed.name
    patched = patch_source(text, name=name, package=package, attention=names, quantizer=quantizer, config=config)
    own = parse(patched.text, name)
    _require_same_imports(hand, own, package)
    own_tree = own.tree
    for tree in (hand.tree, own_tree):
        for node in ast.walk(tree):
            for name in _BLOCKS:
                if isinstance(block := getattr(node, name, None), list):
                    setattr(node, name, _canonical(block))
    # fa3 patches the siblings of a class too (eager, sdpa and flash attention); the guide names one class.
    for is_line in (_creates_quantizer, _is_quant_call):
        named = _names(hand.tree, is_line)
        for owner in [node for node in _classes(own_tree) if named and node.name not in named]:
            for method in [node for node in owner.body if isinstance(node, ast.FunctionDef)]:
                method.body = [node for node in method.body if not is_line(node)]
    end = len(hand.lines), (0, "", "the end of the file")
    for found, expected in zip_longest(_statements(hand.tree), _statements(own_tree), fillvalue=end):
        if found[1] != expected[1]:
            texts = [text for _, (_, _, text) in (found, expected)]
            start = max(0, len(os.path.commonprefix(texts)) - 40)
            texts = [f"{'...' * (start > 0)}{text[start : start + 120]!r}" for text in texts]
            raise ConflictError(f"{hand.name}:{found[0]}: found {', expected '.join(texts)}", hint=_HINT)


def _require_same_imports(hand: Source, own: Source, package: str) -> None:
    found, expected = _imports(hand, package), _imports(own, package)
    for name in sorted(found.keys() ^ expected.keys(), key=lambda name: found.get(name, 1)):
        here, there = ("", "no ") if name in found else ("no ", "")
        raise ConflictError(
            f"{hand.name}:{found.get(name, 1)}: found {here}{name!r}, expected {there}such import", hint=_HINT
        )


def _imports(source: Source, package: str) -> dict[str, int]:
    """Map each import of a file, with its full module name, to its line."""
    found: dict[str, int] = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            start = f"from {absolute_module(source, node, package)} " if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                found.setdefault(f"{start}import {ast.unparse(alias)}", node.lineno)
    return found


def _classes(tree: ast.Module) -> list[ast.ClassDef]:
    return [node for node in tree.body if isinstance(node, ast.ClassDef)]


def _names(tree: ast.Module, is_line: Callable[[ast.AST], bool]) -> list[str]:
    """Return the names of the classes that contain such a line of the guide."""
    return [node.name for node in _classes(tree) if any(map(is_line, ast.walk(node)))]


def _creates_quantizer(node: ast.AST) -> bool:
    """Tell whether a statement creates a quantizer."""
    return isinstance(node, ast.Assign) and getattr(node.targets[0], "attr", "") == "fa_quantizer"


def _is_quant_call(node: ast.AST) -> bool:
    """Tell whether a statement quantizes a state."""
    called = getattr(getattr(node, "value", None), "func", None)
    return (
        isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and called is not None
        and ast.unparse(called).endswith(".fa_quantizer.quant")
    )


def _canonical(block: list[Any]) -> list[Any]:
    """Remove a block's imports, and move the guide's lines to a fixed place among the places with the same effect.

    The calls move up to the last statement that names a state; the line that creates the quantizer moves to the end.
    """
    states = {node.targets[0].id for node in block if _is_quant_call(node)}
    placed, last, number = [], 0, 0
    for at, node in enumerate(block):
        if _is_import(node):
            continue
        if _is_quant_call(node):
            placed.append((last, ast.unparse(node), node))
        elif _creates_quantizer(node) and not any(
            "super().__init__(" in ast.unparse(later) for later in block[at + 1 :]
        ):
            config = ast.unparse(node.value).replace("(config,", "(self.config,")
            node.value = ast.parse(config, mode="eval").body
            placed.append((len(block), "", node))
        else:
            number += 1
            last = number if names_in(node) & states else last
            placed.append((number, "", node))
    return [node for _, _, node in sorted(placed, key=lambda entry: entry[:2])]


def _is_import(node: ast.AST) -> bool:
    if isinstance(node, ast.Try):
        inner = [*node.body, *(part for handler in node.handlers for part in handler.body), *node.orelse]
        return not node.finalbody and all(isinstance(part, ast.Raise | ast.Pass) or _is_import(part) for part in inner)
    return isinstance(node, (ast.Import, ast.ImportFrom))


def _statements(node: ast.AST, depth: int = 0) -> Iterator[tuple[int, tuple[int, str, str]]]:
    """Yield every statement in a node: its line, and its depth, its kind of block and its text without inner blocks."""
    for name in _BLOCKS:
        for child in getattr(node, name, None) or ():
            lines = ast.unparse(child).splitlines()
            head = lines[: len(getattr(child, "decorator_list", ())) + 1] if hasattr(child, "body") else lines
            yield getattr(child, "lineno", 1), (depth, name, "\n".join(head))
            yield from _statements(child, depth + 1)
