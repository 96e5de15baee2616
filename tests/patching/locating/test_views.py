import ast

import pytest

from fa3cli.patching.locating.views import view_of


@pytest.mark.parametrize(
    ("expression", "axes", "above", "expanded"),
    [
        ("x", "BHSD", "BHSD", False),
        ("x.transpose(1, 2)", "BHSD", "BSHD", False),
        ("x.permute(0, 2, 3, 1)", "BHDS", "BSHD", False),
        ("torch.transpose(x, -1, -2)", "BHDS", "BHSD", False),
        ("x.mT", "BHDS", "BHSD", False),
        ("x.contiguous().to(torch.float16)", "BHSD", "BHSD", False),
        ("nn.functional.pad(x, [0, 8])", "BHSD", "BHSD", False),
        ("repeat_kv(x, 4)", "BHSD", "BHSD", True),
        ("x.repeat_interleave(4, dim=1)", "BHSD", "BHSD", True),
        ("x[:, :, None].expand(b, h, 4, s, d).reshape(b, 4 * h, s, d)", "BHSD", "BHSD", True),
        ("x.view(b * h, s, d)", "NSD", "BHSD", False),
        ("x.view(n, s)", "BSD", None, False),
        ("x.transpose(dim, 2)", "BHSD", None, False),
    ],
)
def test_a_view_gives_the_tensor_and_its_axes(expression: str, axes: str, above: str, expanded: bool) -> None:
    view = view_of(ast.parse(expression, mode="eval").body, axes)
    assert (view.name.id, view.axes, view.expanded) == ("x", above, expanded)


@pytest.mark.parametrize(
    "expression",
    ["x * 2", "x[:, :4]", "f(x)", "torch.cat([x, y])", "self.x", "x.softmax(-1)", "x + y", "-x", "3"],
)
def test_other_expressions_are_not_views(expression: str) -> None:
    assert view_of(ast.parse(expression, mode="eval").body, "BHSD") is None
