import ast

import pytest
import torch

from fa3cli.patching.locating.layout_change import layout_change
from fa3cli.patching.locating.views import View

JOINED = "x = self.split(h)\nx = x.transpose(1, 2).reshape(n * self.num_heads, s, d)\nx = torch.cat((past, x), dim=1)"


def change_of(text: str, axes: str | None) -> tuple[str, str] | None:
    return layout_change(View(ast.Name("x"), axes), ast.parse(text).body)


@pytest.mark.parametrize(("axes", "shape"), [("NSD", (6, 5, 4)), ("NDS", (6, 4, 5))])
def test_flat_states_are_reshaped_to_four_axes_and_back(axes: str, shape: tuple[int, ...]) -> None:
    to, back = change_of(JOINED.replace("self.num_heads", "num_heads"), axes)
    state, scope = torch.randn(shape), {"num_heads": 3}
    wide = eval(f"x{to}", {"x": state, **scope})
    assert wide.shape == (2, 3, 5, 4)
    assert torch.equal(eval(f"x{back}", {"x": wide}), state)


def test_positions_and_heads_are_swapped_and_swapped_back() -> None:
    to, back = change_of("x = rotate(x)", "BSHD")
    state = torch.randn(2, 5, 3, 4)
    wide = eval(f"x{to}", {"x": state})
    assert wide.shape == (2, 3, 5, 4)
    assert torch.equal(eval(f"x{back}", {"x": wide}), state)


@pytest.mark.parametrize(
    ("text", "axes"),
    [
        (JOINED, "BHDS"),
        (JOINED, None),
        (JOINED.replace("n * self.num_heads", "-1"), "NSD"),
        (JOINED.replace("n * self.num_heads", "self.num_heads * n"), "NSD"),
        ("y = x.reshape(n * heads, s, d)", "NSD"),
    ],
)
def test_without_the_number_of_heads_there_is_no_layout_change(text: str, axes: str | None) -> None:
    assert change_of(text, axes) is None
