import ast

import pytest

from fa3cli.errors import UnsupportedError
from fa3cli.patching.locating.repeats import mark_calls, repeated_state
from fa3cli.patching.sources import patch_source
from tests.patching.samples import CACHE, modeling

OWN = """

def spread(states, times):
    many = states[:, :, None].expand(*shape(states, times))
    return many.reshape(*flat(states, times))


def turn(states, angle):
    return states * angle
"""


def attention(after_cache: str, k: str = "b", v: str = "c") -> str:
    core = f"\nreturn torch.softmax(a @ {k}.transpose(-1, -2), dim=-1) @ {v}"
    return modeling(CACHE + after_cache + core) + OWN


@pytest.mark.parametrize(
    ("expression", "state"),
    [
        ("torch.cat([b] * 2, dim=1)", "b"),
        ("torch.cat(2 * [b], dim=1)", "b"),
        ("torch.stack([b, b], dim=2)", "b"),
        ("repeat(b, 'b h s d -> b (h g) s d', g=2)", "b"),
        ("torch.cat([b, c], dim=1)", None),
        ("torch.cat((past[0], b), dim=2)", None),
        ("repeat(b, 2)", None),
        ("torch.cat([])", None),
        ("b", None),
        ("f()", None),
    ],
)
def test_expressions_that_repeat_a_state_are_recognised(expression: str, state: str | None) -> None:
    found = repeated_state(ast.parse(expression, mode="eval").body)
    assert (found and ast.unparse(found)) == state


def test_calls_of_repeating_and_foreign_functions_are_marked() -> None:
    tree = ast.parse("def own(x): ...\nown(a)\nother(b)\nself.own(c)\nself.k_norm(d)\nlen(e)\nx.view(f)")
    mark_calls(tree, lambda function: function.name == "own")
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert [ast.unparse(call) for call in calls if call.repeats_heads] == ["own(a)", "self.own(c)"]
    assert [ast.unparse(call) for call in calls if call.foreign] == ["other(b)"]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("b, c = spread(b, 2), spread(c, 2)", "bc"),
        ("w, t = spread(b, 2), spread(c, 2)", "wt"),
        ("if self.groups > 1:\n    b = spread(b, 2)\n    c = spread(c, 2)", "bc"),
        ("if self.groups > 1:\n    b = repeat_kv(b, 2)\n    c = repeat_kv(c, 2)", "bc"),
        ("b = torch.cat([b] * 2, dim=1)\nc = torch.cat([c] * 2, dim=1)", "bc"),
        ("b = torch.index_select(b, 1, self.index)\nc = torch.index_select(c, 1, self.index)", "bc"),
    ],
)
def test_states_are_taken_before_heads_are_repeated(line: str, names: str) -> None:
    text = attention(line, *names)
    (found,) = patch_source(text, architecture="Attention").attention
    assert found.states == ("a", "b", "c")
    assert "past.update" in text.split("\n")[found.place - 1]


@pytest.mark.parametrize(
    "line",
    [
        "b = elsewhere(b, 2)\nc = elsewhere(c, 2)",
        "b = self.unknown(b)\nc = self.unknown(c)",
        "b = b[:, self.index]\nc = c[:, self.index]",
        "b = torch.stack([b, b], dim=2).flatten(1, 2)\nc = torch.stack([c, c], dim=2).flatten(1, 2)",
    ],
)
def test_code_that_may_repeat_heads_is_refused(line: str) -> None:
    with pytest.raises(UnsupportedError, match=r"m\.py:\d+: .*are, or may be, repeated"):
        patch_source(attention(line), architecture="Attention", name="m.py")


@pytest.mark.parametrize("line", ["b = turn(b, self.angle)", "b = self.k_norm(b)", "b = b[:, :, -self.window :]"])
def test_other_changes_after_the_cache_are_not_repetitions(line: str) -> None:
    text = attention(line)
    (found,) = patch_source(text, architecture="Attention").attention
    assert text.split("\n")[found.place - 1].strip() == line
