import ast

import pytest

from fa3cli.errors import UnsupportedError
from fa3cli.patching.locating.cores import find_cores
from fa3cli.patching.locating.inside import locate_inside
from fa3cli.patching.source import parse
from tests.patching.samples import CACHE, INLINE, REFUSED, marked, modeling

# body, and the expressions that are to be wrapped
RIGHT = {
    "relative_positions": (
        CACHE
        + "s = torch.matmul(a, b.transpose(-1, -2))\n"
        + "if self.kind == 'relative':\n    s = s + torch.einsum('bhld,lrd->bhlr', a, self.r)\n"
        + "return torch.matmul(s.softmax(dim=-1), c)",
        ["a", "b", "c"],
    ),
    "kept_tuple": (
        CACHE + "s = self.softmax(torch.matmul(a, b.transpose(-1, -2)))\nreturn torch.matmul(s, c), (b, c)",
        ["a", "b", "c"],
    ),
    "flat_query": (
        ("a = self.q_proj(x) * self.scaling\nb, c = self._shape(self.k(x)), self._shape(self.v(x))\n"
        "flat = (batch * self.heads, -1, self.size)\na = self._shape(a).view(*flat)\n"
        "b = b.reshape(*flat)\nc = c.reshape(*flat)\nlength = b.size(1)\n"
        "s = torch.bmm(a, b.transpose(1, 2))\nif s.dtype == torch.float16:\n"
        "    s = s.softmax(-1, dtype=torch.float32).to(torch.float16)\nelse:\n    s = s.softmax(-1)\n"
        "return torch.bmm(s, c)"),
        ["self._shape(a)", "b", "c"],
    ),
    "expanded_below": (
        CACHE + "b = repeat_kv(b, 2)\nout, _ = eager_attention_forward(self, a, b, repeat_kv(c, 2))\nreturn out, a",
        ["a", "b", "c"],
    ),
    "before_flash": (
        CACHE + "b = b.transpose(1, 2)\n"
        "out = flash_attn_func(a.transpose(1, 2), b, c.transpose(1, 2))\nreturn out, c",
        ["a", "b", "c"],
    ),
    "changed_in_a_branch": (REFUSED["branch_changes"][0], ["a", "b", "c"] * 2),
    "own_table": (
        CACHE + "out = MY_ATTENTION_FUNCTION[self.kind](a, b, c, dtype=self.dtype_of(c))\nreturn out",
        ["a", "b", "c"],
    ),
    "other_branch_in_training_only": (
        CACHE + "if self.fast and self.training:\n    out = fast(a, b, c)\nelse:\n"
        "    out, _ = eager_attention_forward(self, a, b, c)\nreturn out",
        ["a", "b", "c"],
    ),
}  # fmt: skip

# body, and a part of the reason
WRONG = {
    "one_tensor": (REFUSED["one_tensor"][0], "one tensor"),
    "loop": (REFUSED["loop"][0], "loop"),
    "between_calls": (REFUSED["between_calls"][0], "more than once"),
    "expanded_first": (REFUSED["expanded_first"][0], "no axis of heads"),
    "three_dimensions": (REFUSED["three_dimensions"][0], "no axis of heads"),
    "flat": (REFUSED["flat"][0], "no axis of heads"),
    "read_once_flat": (
        ("a, b, c = split(x)\na = a.view(n, s, d)\nr = a.sum()\n"
        "return torch.bmm(torch.softmax(torch.bmm(a, b.view(n, s, d).mT), -1), c.view(n, s, d)) + r"),
        "a is used outside attention",
    ),
    "flat_in_some_cases": (
        ("a, b, c = split(x)\nif past is None:\n    a = a.view(n, s, d)\n"
        "return torch.bmm(torch.softmax(torch.bmm(a, b.view(n, s, d).mT), -1), c.view(n, s, d))"),
        "no axis of heads",
    ),
    "unknown_attention": (
        CACHE + "if self.fast:\n    out = fast(a, b, c)\nelse:\n"
        "    out, _ = eager_attention_forward(self, a, b, c)\nreturn out",
        "a branch without attention",
    ),
}  # fmt: skip


def inside(body: str) -> list[tuple[str, str]]:
    source = parse(modeling(body), "m.py")
    forward = source.tree.body[-1].body[1]
    site = locate_inside(forward, find_cores(forward, source.refuse), source.refuse)
    return [(role, ast.unparse(expression)) for role, expression in site.inside]


@pytest.mark.parametrize("family", RIGHT)
def test_the_states_are_wrapped_where_only_attention_sees_them(family: str) -> None:
    body, expressions = RIGHT[family]
    assert inside(body) == list(zip("qkv" * (len(expressions) // 3), expressions))


@pytest.mark.parametrize("family", WRONG)
def test_uncertain_code_is_refused_with_line_and_reason(family: str) -> None:
    body, reason = WRONG[family]
    with pytest.raises(UnsupportedError, match=rf"^m\.py:\d+: .*{reason}"):
        inside(body)


def test_names_are_wrapped_before_heads_are_repeated() -> None:
    body = "\n".join(marked(INLINE)[0].split("\n")[12:])
    source = parse(modeling(body), "m.py")
    forward = source.tree.body[-1].body[1]
    site = locate_inside(forward, find_cores(forward, source.refuse), source.refuse)
    above = {ast.unparse(expression): expression.lineno for _, expression in site.inside}
    text = source.text.split("\n")
    assert "repeat_kv(b" in text[above["b"] - 1]
    assert "repeat_kv(c" in text[above["c"] - 1]
