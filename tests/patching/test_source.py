import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fa3cli.errors import InvalidInputError
from fa3cli.patching import patch_source
from fa3cli.patching.edits import reverse
from fa3cli.patching.origins.installed import installed_transformers
from fa3cli.patching.source import BOM, parse


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_nodes_are_found_in_the_original_text(newline: str, bom: str) -> None:
    text = bom + newline.join(["é = '中文'; f(é)", "@d", "def g():", "    return  é  # ü", ""])
    source = parse(text.encode(), "m.py")
    data = text.removeprefix(bom).encode()
    found = {}
    for node in (*source.tree.body, source.tree.body[2].body[0]):
        start, length = source.span(node)
        found[type(node).__name__] = data[start : start + length].decode()
    assert found["Expr"] == "f(é)"
    assert found["FunctionDef"].startswith("def g():")
    assert found["Return"] == "return  é"
    assert "".join(source.lines) == text.removeprefix(bom)
    assert [line.strip() for line in source.lines[1:3]] == ["@d", "def g():"]
    assert source.text == text


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"def f(:\n", "m.py:1: does not parse"), (b"a = '\xff'", "not UTF-8"), (b"a\0", "m.py")],
)
def test_text_that_is_not_python_is_invalid(data: bytes, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        parse(data, "m.py")


@settings(max_examples=5)
@given(data=st.data())
def test_line_ends_and_the_byte_order_mark_are_kept(data) -> None:
    found = installed_transformers().modeling_file("qwen2")
    choices = {"package": found.package, "architecture": found.causal_lm}
    plain = found.path.read_text("utf-8")
    lines = plain.split("\n")
    ends = data.draw(st.sampled_from([["\r\n"], ["\n", "\r\n"]]))
    drawn = data.draw(st.randoms(use_true_random=False))
    text = data.draw(st.sampled_from(["", BOM])) + "".join(f"{line}{drawn.choice(ends)}" for line in lines[:-1])
    patched = patch_source((text + lines[-1]).encode(), **choices)
    assert reverse(patched.text, patched.edits) == text + lines[-1]
    made = patched.text.removeprefix(BOM).replace("\r\n", "\n")
    assert made == patch_source(plain, **choices).text
