import pytest

from fa3cli.errors import InvalidInputError
from fa3cli.patching.rules.tables import Table, expression, statement


def test_code_is_compared_without_its_looks() -> None:
    assert statement("x = f( 'a',\n  b )") == statement('x=f("a", b)') == "x = f('a', b)"
    assert expression("( a+b )") == "a + b"


@pytest.mark.parametrize(
    ("ask", "complaint"),
    [
        (lambda table: table.allow_keys("match"), "site.matsch is not a key of a rule; did you mean match?"),
        (lambda table: table.allow_keys("q"), "site.matsch is not a key of a rule; known are q"),
        (lambda table: table.text("name", required=True), "site.name is missing; expected a text"),
        (lambda table: table.text("matsch"), "site.matsch must be a text, found 3"),
        (lambda table: table.texts("matsch"), "site.matsch must be a text or a list of texts, found 3"),
        (lambda table: table.table("matsch"), "site.matsch must be a table, found 3"),
        (
            lambda table: table.code("q", "a b", expression),
            "site.q must be an expression of Python, found 'a b'",
        ),
        (lambda table: table.code("q", "a; b", statement), "site.q must be one whole statement of Python"),
    ],
)
def test_a_complaint_names_file_key_and_what_is_there(ask, complaint: str) -> None:
    with pytest.raises(InvalidInputError) as error:
        ask(Table("mine.toml", "site", {"matsch": 3}))
    assert str(error.value).startswith(f"mine.toml: {complaint}")


def test_what_may_be_missing_is_empty() -> None:
    table = Table("mine.toml", "", {"match": "A"})
    assert (table.text("x"), table.texts("x"), table.table("x"), table.tables("x")) == (None, (), {}, [])
    assert table.texts("match") == ("A",)
