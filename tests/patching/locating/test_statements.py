import ast
import textwrap

from fa3cli.patching.locating.statements import (
    parents,
    simple_statements,
    statements_on_path,
    targets,
    used_names,
)

TEXT = textwrap.dedent("""
    a = 1
    if p:
        b = 2
    else:
        c = 3
    for i in r:
        d = 4
    with w:
        e = 5
""")


def names(statements) -> str:
    return "".join(targets(line)[0].id for line in statements)


def test_simple_statements_are_in_source_order() -> None:
    assert names(simple_statements(ast.parse(TEXT).body)) == "abcde"


def test_statements_on_a_path_exclude_other_branches() -> None:
    body = ast.parse(TEXT).body
    in_else = list(simple_statements(body))[2]
    assert names(statements_on_path(body, in_else)) == "acde"


def test_targets_of_a_tuple_are_separate_names() -> None:
    assert [target.id for target in targets(ast.parse("(x, y) = z = f()").body[0])] == ["x", "y", "z"]
    assert targets(ast.parse("f(x)").body[0]) == []


def test_reading_a_property_of_a_tensor_is_not_a_use() -> None:
    tree = ast.parse("f(a, b.shape[0], c.to(d.dtype), e is None, len(g), h.size(1), i[j])")
    used = {name.id for name in used_names(tree, parents(tree))} - {"len"}
    assert used == {"f", "a", "c", "i", "j"}
