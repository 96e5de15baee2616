import pytest

from fa3cli.errors import InvalidInputError, UnsupportedError
from fa3cli.patching.source import parse


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_nodes_are_found_in_the_text_as_it_is(newline: str, bom: str) -> None:
    text = bom + newline.join(["é = '中文'; f(é)", "@d", "def g():", "    return  é  # ü", ""])
    source = parse(text.encode(), "m.py")
    call, function = source.tree.body[1], source.tree.body[2]
    assert text[source.start(call) : source.end(call)] == "f(é)"
    assert text[source.line_start(function) :].startswith("@d")
    assert source.indent(function.body[0]) == "    "
    assert text[source.line_end(function) :] == ""
    assert source.newline == newline
    assert source.text == text


def test_a_shared_line_is_refused() -> None:
    source = parse("a = 1; b = 2\n", "m.py")
    with pytest.raises(UnsupportedError, match="m.py:1: .*shares its line"):
        source.line_end(source.tree.body[0])


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"def f(:\n", "m.py:1: does not parse"), (b"a = '\xff'", "not UTF-8"), (b"a\0", "m.py")],
)
def test_what_is_no_python_is_invalid(data: bytes, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        parse(data, "m.py")
