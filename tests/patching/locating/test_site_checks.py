import ast

import pytest

from fa3cli.errors import UnsupportedError
from fa3cli.patching.locating.site_checks import check_states
from fa3cli.patching.locating.views import View
from fa3cli.patching.source import parse


def check(body: str, axes: str | None = "BHSD", names: str = "abc") -> None:
    source = parse(body, "m.py")
    states = {role: View(ast.Name(name), axes) for role, name in zip("qkv", names)}
    check_states(states, source.tree.body, source.refuse)


def test_three_states_with_heads_are_accepted() -> None:
    check(
        "a, b, c = split(x)\nb = repeat_kv(b, 2)\nb, c = cache.update(b, c)\na = self.q_proj(x.view(shape))",
        "BHSD",
    )


@pytest.mark.parametrize("line", ["b: Tensor", "assert (b := b.clone()) is not None"])
def test_an_annotation_or_a_walrus_assignment_is_accepted(line: str) -> None:
    check(f"a, b, c = split(x)\n{line}")


@pytest.mark.parametrize(
    ("body", "axes", "names", "reason"),
    [
        ("x = f()", "BHSD", "abb", "one tensor, b"),
        ("x = f()", "BHSD", "bbc", "one tensor"),
        ("x = f()", "NSD", "abc", "laid out NSD"),
        ("x = f()", None, "abc", "is reshaped"),
        ("c = repeat_kv(c, 2)", "BHSD", "abc", "heads of c are, or may be, repeated"),
        (
            "b = b[:, :, None].expand(shape).reshape(s)\nb = b * 2",
            "BHSD",
            "abc",
            "heads of b are, or may be, repeated",
        ),
        ("assert (b := repeat_kv(b, 2)) is not None", "BHSD", "abc", "heads of b are, or may be, repeated"),
        ("a = self.q_proj(x) * scale", "BHSD", "abc", "a has no axis of heads"),
    ],
)
def test_an_uncertain_site_is_refused(body: str, axes: str | None, names: str, reason: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"m\.py:1: .*{reason}"):
        check(body, axes, names)
