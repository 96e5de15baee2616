import ast

import pytest

from fa3cli.errors import UnsupportedError
from fa3cli.patching.locating.cores import find_cores
from fa3cli.patching.source import parse


def cores(body: str) -> list[dict[str, str]]:
    source = parse("def forward(self):\n" + "".join(f"    {line}\n" for line in body.split("\n")), "m.py")
    found = find_cores(source.tree.body[0], source.refuse)
    return [{role: ast.unparse(operand) for role, operand in core.operands.items()} for core in found]


@pytest.mark.parametrize(
    "body",
    [
        "f = eager_attention_forward\nif g:\n    f = ALL_ATTENTION_FUNCTIONS[i]\nreturn f(self, a, b, c, mask)",
        "return ALL_ATTENTION_FUNCTIONS[i](self, a, b, c, mask)",
        "return F.scaled_dot_product_attention(a, b, value=c)",
        "return self._flash_attention_forward(a, b, c, mask)",
        "return softmax(a @ b) @ c",
        "s = torch.matmul(a, b)\ns = s / 8\ns += mask\nw = F.softmax(s.float(), -1)\nreturn drop(w).matmul(c)",
        "s = torch.baddbmm(x, a, b)\nreturn torch.bmm(nn.Softmax(-1)(s), c)",
    ],
)
def test_the_operands_of_a_core_are_the_states(body: str) -> None:
    assert cores(body) == [{"q": "a", "k": "b", "v": "c"}]


@pytest.mark.parametrize("body", ["return F.softmax(self.gate(x), -1) @ y", "f = eager_attention_forward\nreturn f"])
def test_code_without_attention_has_no_core(body: str) -> None:
    assert cores(body) == []


def test_scores_without_values_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="m.py:2: .*with the values"):
        cores("return softmax(a @ b)")
