"""Tests that files which libcst cannot reproduce are refused, and that libcst is imported only to write a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fa3cli.errors import UnsupportedError
from fa3cli.patching.places import Below
from fa3cli.patching.rewriting import write
from fa3cli.patching.source import parse
from fa3cli.patching.sources import patch_source
from tests.patching.samples import INTERFACE, marked

ROOT = Path(__file__).parents[2]
TEXT = marked(INTERFACE)[0]


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (TEXT.replace("\n", "\r"), 21, "does not keep"),
        (TEXT.replace("class Att", "\fclass Att"), 6, "does not keep"),
        (TEXT.replace("import torch\n", "import torch\n(x): int = 1\n"), 2, "cannot parse"),
        (f"\ufeff{TEXT}" + "\n\n(x): int = 1\n", 24, "cannot parse"),
    ],
)
def test_code_that_libcst_cannot_reproduce_is_refused(text: str, line: int, reason: str) -> None:
    compile(text.removeprefix("\ufeff"), "m.py", "exec")
    with pytest.raises(UnsupportedError, match=rf"^m\.py:{line}: libcst {reason}"):
        patch_source(text.encode(), name="m.py")


@pytest.mark.parametrize(
    "line",
    [
        f"x = {' + '.join(['1'] * 98)}",
        f"x = {'[' * 97}{']' * 97}",
        f"x = {'(' * 190}1{')' * 190}",
        f"x = a{'.b' * 96}",
        "".join(f"{' ' * level}if a:\n" for level in range(97)) + " " * 97 + "from . import x",
    ],
)
def test_the_deepest_code_that_the_analysis_accepts_is_written(line: str) -> None:
    assert f"{line}\n".replace("from . ", "from transformers.models.model ") in patch_source(f"{TEXT}{line}\n").text


@pytest.mark.parametrize("blank", ["\n   \n", "\n\n   ", "\f\n\f\n", "   ", "\r\n \r\n\r\n"])
@pytest.mark.parametrize("native_class", [False, True])
def test_blank_lines_at_the_end_keep_their_spaces(blank: str, native_class: bool) -> None:
    text = TEXT.replace("\n", "\r\n") if "\r" in blank else TEXT
    assert patch_source(text + blank, native_class=native_class).text.endswith(blank)


def test_a_file_without_places_is_unchanged() -> None:
    text = "\ufeffa = 1\r\f\n(b): int = 1"
    assert write(parse(text, "m.py"), []) == text


@pytest.mark.parametrize(
    ("text", "index"), [("a = 1; b = 2\n", 0), ("if a: b = 2\n", None), ("def f(): a = 1; b = 2\n", None)]
)
def test_a_statement_that_shares_its_line_is_refused(text: str, index: int | None) -> None:
    source = parse(text, "m.py")
    node = source.tree.body[0].body[-1] if index is None else source.tree.body[index]
    with pytest.raises(UnsupportedError, match=r"m\.py:1: .*shares its line"):
        write(source, [Below(node, ("new = 1",))])


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("list_source(text)", False),
        ("patch_source(text.replace('a, b, c, mask', 'a, b, b, mask'))", False),
        ("patch_source(text)", True),
    ],
)
def test_libcst_is_imported_only_to_write_a_file(call: str, expected: bool) -> None:
    code = (
        "import sys, fa3cli.cli\nfrom fa3cli.errors import Fa3Error\n"
        "from fa3cli.patching import list_source, patch_source\nfrom tests.patching.samples import *\n"
        f"text = marked(INTERFACE)[0]\ntry: {call}\nexcept Fa3Error: pass\n"
        "print('libcst' in sys.modules, 'libcst.matchers' in sys.modules, 'libcst.codemod' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(expected), "False", "False"]
