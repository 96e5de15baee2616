import ast
import textwrap

import pytest

from fa3cli.errors import UnsupportedError
from fa3cli.patching.locating.helpers import all_cores
from fa3cli.patching.source import parse

CLASS = textwrap.dedent("""
    class Attention:
        def forward(self, x):
            return self._attn(self.mask, value=c, key=b, query=a)

        def _attn(self, mask, query, key, value):
            query = query.to(torch.float32)
            scores = torch.matmul(query, key.transpose(-1, -2))
            return torch.matmul(torch.softmax(scores, -1), value)
""")


def cores(text: str):
    source = parse(text, "m.py")
    methods = {node.name: node for node in source.tree.body[0].body}
    return all_cores(
        methods["forward"],
        lambda name: ("Attention", methods[name]) if name in methods else None,
        source.refuse,
    )


def test_a_helper_call_is_a_core_with_its_arguments_as_operands() -> None:
    (core,) = cores(CLASS)
    assert {role: ast.unparse(operand) for role, operand in core.operands.items()} == {
        "q": "a",
        "k": "b",
        "v": "c",
    }
    assert core.axes == {"q": "BHSD", "k": "BHSD", "v": "BHSD"}


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("query.to(torch.float32)", "query * 2", "changes a state"),
        ("return torch.matmul", "return key, torch.matmul", "outside attention"),
        (", query=a", "", "does not get query from its arguments"),
    ],
)
def test_a_helper_that_does_more_than_attention_is_refused(before: str, after: str, reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        cores(CLASS.replace(before, after))
