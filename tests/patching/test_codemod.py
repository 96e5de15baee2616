"""Tests that the codemod writes its places and keeps all other bytes, with any line ends, tabs and comments."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fa3cli.patching.edits import reverse
from fa3cli.patching.places import Above, Absolute, Around, Below, End, Guarded, Passed, Place
from fa3cli.patching.rewriting import write
from fa3cli.patching.source import BOM, Source, parse
from fa3cli.patching.sources import patch_source
from tests.patching.samples import FLASH, INTERFACE, TUPLE_CACHE, marked, modeling

NOTE = "  # bemerkt: é 中文"
BETWEEN = ["", "   ", "\f", "# left", "        # mid", "                    # right", "\t"]


def written(text: str, *places: Place) -> str:
    return write(parse(text, "m.py"), places)


def body(source: Source) -> list:
    return source.tree.body


def test_lines_are_inserted_around_a_statement_and_its_comments() -> None:
    source = parse("# first\n\n# its own\nimport a  # beside\n# next\nb = 1\n", "m.py")
    places = [Above(body(source)[0], ("x = 1", "y = 2")), Below(body(source)[0], ("", "z = 3"))]
    assert write(source, places) == (
        "# first\n\n# its own\nx = 1\ny = 2\n\nimport a  # beside\n\nz = 3\n# next\nb = 1\n"
    )


def test_lines_below_a_block_belong_to_the_enclosing_block() -> None:
    source = parse("def f():\n\tif a:\n\t\tb = 1\n\treturn b\n", "m.py")
    place = Below(body(source)[0].body[0], ("", "c = 2"))
    assert write(source, [place]) == "def f():\n\tif a:\n\t\tb = 1\n\n\tc = 2\n\treturn b\n"


def test_lines_are_inserted_below_all_statements_of_a_line() -> None:
    source = parse("a = 1; b = 2;  # both\nc = 3\n", "m.py")
    assert write(source, [Below(body(source)[1], ("new = 1",))]) == "a = 1; b = 2;  # both\nnew = 1\nc = 3\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = g(é, (a), b)\n", "x = g(é, (f(a, h=1)), b)\n"),
        ("x = g(\n    é,\n    (  # why\n        a\n    ),\n)\n", "x = g(\n    é,\n    (  # why\n        f(a, h=1)\n    ),\n)\n"),
    ],
)  # fmt: skip
def test_a_call_is_put_around_an_expression_inside_its_parentheses(text: str, expected: str) -> None:
    source = parse(text, "m.py")
    node = body(source)[0].value.args[1]
    assert write(source, [Around(node, "f(_, h=1)")]) == expected


def test_an_expression_is_passed_to_a_call_once() -> None:
    text = "m = torch.bmm(self._shape(a, n).view(*flat), b)\n"
    source = parse(text, "m.py")
    shaped = body(source)[0].value.args[0].func.value
    assert write(source, [Around(shaped, 'q(_, qkv="q")')]) == text.replace(
        "self._shape(a, n)", 'q(self._shape(a, n), qkv="q")'
    )


def test_an_import_can_be_made_absolute_guarded_and_followed_by_lines() -> None:
    source = parse("if a:\n    from ..b import c  # why\n    d = c\n", "m.py")
    node = body(source)[0].body[0]
    places = [Guarded(node), Absolute(node, "x.b"), Below(node, ("e = c",))]
    assert write(source, places) == (
        "if a:\n    try: from x.b import c  # why\n    except ImportError: raise\n    e = c\n    d = c\n"
    )


def test_an_import_is_replaced_by_pass() -> None:
    source = parse("def f():\n    a = 1; from ..b import (\n        c,\n    ); d = 2\n", "m.py")
    assert write(source, [Passed(body(source)[0].body[1])]) == "def f():\n    a = 1; pass; d = 2\n"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "\n", "\n# the end", "\n    \n\n# the end\n"])
def test_appended_lines_use_the_line_ends_of_the_file(newline: str, last: str) -> None:
    text = f"a = 1\nb = 2{last}".replace("\n", newline)
    end = '\n\n# taken over\nif b:\n    """two\n    lines"""\n\n    c = 2  # why\n# behind\n'
    source = parse(text, "m.py")
    gap = "" if text.endswith(newline) else newline
    assert write(source, [End(source.tree, end)]) == text + gap + end.replace("\n", newline)


@st.composite
def decorated(draw: st.DrawFn, plain: str) -> str:
    """A file with other line ends, tabs, comments and form feeds, with or without a mark and a last line end."""
    ends = draw(st.sampled_from([["\n"], ["\r\n"], ["\n", "\r\n"]]))
    drawn = draw(st.randoms(use_true_random=False))
    lines = ["# -*- coding: utf-8 -*-"] if draw(st.booleans()) else []
    for line in plain.rstrip("\n").split("\n"):
        lines += drawn.choices(BETWEEN, k=drawn.choice([0, 0, 1, 3]))
        lines.append(line + NOTE * (bool(line.strip()) and drawn.random() < 0.3))
    if draw(st.booleans()):
        lines = [re.sub(r"^( {4})+", lambda found: "\t" * (len(found[0]) // 4), line) for line in lines]
    text = draw(st.sampled_from(["", BOM])) + "".join(f"{line}{drawn.choice(ends)}" for line in lines)
    return text if draw(st.booleans()) else text.rstrip()


def undecorated(text: str) -> str:
    """Remove the decoration of a file again, so that only its code remains."""
    text = text.removeprefix(BOM).replace("\r\n", "\n").replace("\t", "    ").replace(NOTE, "")
    return "\n".join(line for line in text.split("\n") if line.strip() and not line.strip().startswith("#"))


@settings(max_examples=50, deadline=None)
@given(data=st.data(), sample=st.sampled_from([INTERFACE, FLASH, TUPLE_CACHE]))
def test_lines_are_added_and_all_other_bytes_are_kept(data: st.DataObject, sample: str) -> None:
    plain = marked(sample)[0]
    text = data.draw(decorated(plain))
    patched = patch_source(text.encode(), package=None)
    assert reverse(patched.text, patched.edits) == text
    assert [edit.removed for edit in patched.edits] == [""] * 3
    first = re.search(r"\r?\n", text)[0]
    for edit in patched.edits:
        assert edit.inserted == edit.inserted.replace("\r\n", "\n").replace("\n", first)
    assert undecorated(patched.text) == undecorated(patch_source(plain, package=None).text)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_decorated_files_get_the_same_patch_as_plain_files(data: st.DataObject) -> None:
    plain = modeling(
        "import einops\n" + TUPLE_CACHE.replace("# HERE a b c\n", "").replace("present = (b, c)\n", "")
        .replace("scores @ c, present", "scores @ c, (b, c)")
    ) + "\nclass Model(PreTrainedModel):\n    pass\n"  # fmt: skip
    choices = {"package": "transformers.models.x", "native_class": True}
    text = data.draw(decorated(plain))
    patched = patch_source(text.encode(), **choices)
    expected = patch_source(plain, **choices).text
    assert all(part in expected for part in ("quant(a @", "quant(a,", "except ImportError", "is_custom_code")[1:])
    assert reverse(patched.text, patched.edits) == text
    assert undecorated(patched.text) == undecorated(expected)
