"""Tests that files which break Python parsers are refused, and quickly."""

from __future__ import annotations

import random
import time
import warnings

import pytest

from fa3cli.errors import Fa3Error, InvalidInputError, UnsupportedError
from fa3cli.files.python_code import Unbounded, bounded_tree
from fa3cli.patching import list_source, patch_source
from fa3cli.patching.origins.installed import installed_transformers
from tests.patching import hostile
from tests.patching.mutations import mutated

ONLY_COMPILED = {"blocks", "global", "nonlocal", "return", "await", "arguments", "keyword"}


@pytest.mark.parametrize("name", hostile.HOSTILE)
def test_hostile_python_is_refused_with_file_and_line(name: str) -> None:
    start = time.process_time()
    for act in (patch_source,) if name in ONLY_COMPILED else (patch_source, list_source):
        with pytest.raises(UnsupportedError, match=r"^m\.py:\d+: "):
            act(hostile.HOSTILE[name], name="m.py")
    assert time.process_time() - start < 5


@pytest.mark.parametrize("name", hostile.BROKEN)
def test_text_that_is_not_python_is_invalid(name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^m\.py:\d+: does not parse"):
        patch_source(hostile.BROKEN[name], name="m.py")


@pytest.mark.parametrize("name", ["terms", "attributes", "parentheses", "minuses"])
def test_the_error_names_the_line_of_the_statement(name: str) -> None:
    text = hostile.HOSTILE[name]
    line = text.split("\n").index(next(candidate for candidate in text.split("\n") if len(candidate) > 1000)) + 1
    with pytest.raises(UnsupportedError, match=rf"^m\.py:{line}: "):
        patch_source(text, name="m.py")


@pytest.mark.parametrize(
    "extra",
    [
        "class D(D):\n    pass",
        "class D:\n    pass\n\n\nclass D:\n    pass",
        "x = '\\ud800'",
        "def f():\n    return g()\n\n\ndef g():\n    return f()",
        "A = B\nB = A",
        "class A0: pass\nclass B0: pass\n"
        + "".join(f"class {c}{n}(A{n - 1}, B{n - 1}): pass\n" for n in range(1, 40) for c in "AB"),
        "\n".join(f"class C{n}:\n    def forward(self):\n        return C{n - 1}()" for n in range(2000)),
        "\n".join(f"class C{n}Attention(nn.Module):\n    x = 1" for n in range(3000)),
        "class M:\n" + "\n".join(f"    def f{n}(self):\n        return self.f{n - 1}()" for n in range(3000)),
        "from . import a\n" * 10_000,
    ],
)
def test_unusual_but_valid_python_is_patched_quickly(extra: str) -> None:
    start = time.process_time()
    assert patch_source(hostile.modeling(extra), name="m.py", package="transformers.models.x").edits
    assert time.process_time() - start < 10


def test_a_tree_at_the_depth_limit_is_accepted() -> None:
    assert bounded_tree("x = " + "[" * 90 + "]" * 90)
    with pytest.raises(Unbounded):
        bounded_tree("[" * 110 + "]" * 110, mode="eval")


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_mutated_files_raise_only_errors_of_fa3(model_type: str) -> None:
    text = installed_transformers().modeling_file(model_type).path.read_text()
    ended: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(150):
            try:
                patch_source(mutated(random.Random(seed), text), name="m.py", package="transformers.models.x")
                ended.add("patched")
            except Fa3Error as error:
                ended.add(type(error).__name__)
    assert ended >= {"patched", "InvalidInputError"}


@pytest.mark.parametrize(
    "line",
    [
        "x = " + "a or " * 19_000 + "b",
        "x = " + "(a or b) and " * 3_000 + "c",
        "import a" + ".a" * 28_000,
        "from a" + ".a" * 600 + " import b",
        "from .a" + ".a" * 600 + " import b",
        "x = (" + "'a'\n" * 900 + ")",
        "x = (" + "'a'\n" * 20_000 + ")",
        "x = " + "f'{a}' " * 900,
        "x = b'' " + "b'' " * 3_000,
        "x = [a " + "for a in b " * 400 + "]",
        "x = " + "(" * 95 + "a or " * 60 + "(" + "b or " * 60 + "c" + ")" * 96,
    ],
    ids=range(11),
)
def test_code_nested_only_for_libcst_is_refused(line: str) -> None:
    """Otherwise libcst would crash, or Python's stack would overflow."""
    for text in (f"{line}\n", f"class A:\n    def forward(self):\n        {line}\n"):
        with pytest.raises(UnsupportedError, match=r"^m\.py:\d+: (nested deeper|a line of more|more than)"):
            list_source(text, name="m.py")


def test_a_long_docstring_is_accepted() -> None:
    assert bounded_tree('def f():\n    """' + "'x' \n" * 500 + '"""\n')
