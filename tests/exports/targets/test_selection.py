from __future__ import annotations

import pytest

from tests.exports.targets.made import selection, without


@pytest.mark.parametrize(("layers", "expected"), [(0, False), (1, True), (2, False)])
def test_partly_fa_means_some_layers_but_not_all(layers: int, expected: bool) -> None:
    assert selection(fa_layers=layers).partly_fa is expected


@pytest.mark.parametrize(
    ("leaves", "count"),
    [
        ((), 0),
        (("q_proj", "k_proj", "v_proj"), 0),
        (("down_proj", "o_proj"), 0),
        (("k_proj",), 2),
        (("q_proj", "gate_proj"), 4),
    ],
)
def test_partly_float_groups_are_counted_and_named(leaves: tuple[str, ...], count: int) -> None:
    found = list(selection(quantized=without(*leaves)).half_float())
    assert len(found) == bool(count)
    if count:
        assert f"model.layers.0.self_attn.{leaves[0]}" in found[0] and f"and {count - 1} others" in found[0]
