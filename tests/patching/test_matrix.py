"""Tests that the comparison finds every kind of wrong patch, and reports no correct one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fa3cli.patching import patch
from tests.patching.matrix.environments import ROOT, variables
from tests.patching.matrix.factors import factors, multiply, own_heads
from tests.patching.test_versions import python

CALLS = re.compile(r'(?: +\w+ = self\.fa_quantizer\.quant\(\w+, qkv="[qkv]"\)\n){3}')
CALL = ' +\\w+ = self\\.fa_quantizer\\.quant\\(\\w+, qkv="{}"\\)\n'
UPDATE = "        if past_key_values is not None:\n"
ROPE = "        query_states, key_states = apply_rotary_pos_emb("
VALUES = "repeat_kv(value, module.num_key_value_groups)"


def right(text: str) -> str:
    return text


def q_twice(text: str) -> str:
    return re.sub(f"({CALL.format('q')})", r"\1\1", text)


def k_never(text: str) -> str:
    return re.sub(CALL.format("k"), "", text)


def moved_above(mark: str, role: str) -> Callable[[str], str]:
    def move(text: str) -> str:
        call = re.search(CALL.format(role), text).group()
        return text.replace(call, "").replace(mark, call + mark, 1)

    return move


def v_after_expansion(text: str) -> str:
    """The number of calls is correct, but they happen under eager attention only."""
    text = re.sub(CALL.format("v"), "", text)
    return text.replace(VALUES, f'module.fa_quantizer.quant({VALUES}, qkv="v")')


def half_of_the_layers(text: str) -> str:
    return CALLS.sub(lambda calls: "        if self.layer_idx % 2:\n" + indented(calls.group()), text)


def only_with_a_cache(text: str) -> str:
    return CALLS.sub(lambda calls: UPDATE + indented(calls.group()), text)


def k_and_v_swapped(text: str) -> str:
    return text.replace('qkv="k"', 'qkv="x"').replace('qkv="v"', 'qkv="k"').replace('qkv="x"', 'qkv="v"')


def heads_last(text: str) -> str:
    """The states are transposed to positions before heads, and returned as they were."""
    return re.sub(r"quant\(key_states, qkv=\"k\"\)", 'quant(key_states.transpose(1, 2), qkv="k").transpose(1, 2)', text)


def indented(calls: str) -> str:
    return re.sub("^", "    ", calls, flags=re.MULTILINE).removesuffix("    ")


# A spoiled patch, and checks that must find it.
PATCHES = {
    "right": (right, ()),
    "q_twice": (q_twice, ("plain, scaled", "plain, once")),
    "k_never": (k_never, ("plain, scaled", "plain, once")),
    "q_before_rope": (moved_above(ROPE, "q"), ("plain, seen", "cached, seen")),
    "k_before_rope": (moved_above(ROPE, "k"), ("plain, seen", "cached, scaled")),
    "v_before_the_cache": (moved_above(UPDATE, "v"), ("cached, scaled", "generated, scaled")),
    "v_after_expansion": (v_after_expansion, ("plain, scaled", "plain, seen")),
    "half_of_the_layers": (half_of_the_layers, ("plain, scaled", "plain, once")),
    "only_with_a_cache": (only_with_a_cache, ("plain, scaled", "plain, once")),
    "k_and_v_swapped": (k_and_v_swapped, ("plain, scaled", "plain, seen")),
    "heads_last": (heads_last, ("plain, layout",)),
}  # fmt: skip


def side(folder: Path, *arguments: object) -> str:
    call = [sys.executable, "-m", "tests.patching.matrix.side", *map(str, arguments)]
    done = subprocess.run(
        call, env=variables(folder / "modules"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str | None]]:
    """The comparison's verdict on every patch of a tiny qwen2."""
    root = tmp_path_factory.mktemp("matrix")
    side(root, "native", root, "qwen2")
    for name, (spoil, _) in PATCHES.items():
        module = patch(root / "models" / "qwen2", output=root / name).files[0].module
        text = module.read_text()
        assert (spoil(text) == text) == (name == "right")
        module.write_text(spoil(text))
    return json.loads(side(root, "compare", root / "answers" / "qwen2.pt", *(root / name for name in PATCHES)))


@pytest.mark.xdist_group("matrix")
def test_a_correct_patch_passes_every_check(found) -> None:
    assert len(found["right"]) > 30
    assert not any(found["right"].values())


@pytest.mark.xdist_group("matrix")
@pytest.mark.parametrize("name", [name for name in PATCHES if name != "right"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_wrong_patch_is_found(found, name: str, implementation: str) -> None:
    for check in PATCHES[name][1]:
        assert found[name][f"{implementation} {check}"], found[name]


@given(
    kv=st.integers(1, 4),
    times=st.integers(1, 3),
    tiled=st.booleans(),
    stride=st.booleans(),
)
def test_repeated_heads_are_recognised_in_any_order(kv: int, times: int, tiled: bool, stride: bool) -> None:
    states = torch.randn(2, kv, 3, 4)
    if stride and kv == 1:
        repeated = states.expand(2, times, 3, 4)
    else:
        repeated = states.repeat(1, times, 1, 1) if tiled else states.repeat_interleave(times, dim=1)
    own = own_heads(repeated)
    assert torch.equal(states[:, own], repeated)
    scaled = multiply(repeated, factors("k", own).view(-1, 1, 1))
    assert torch.equal(scaled, (states * factors("k", torch.arange(kv)).view(-1, 1, 1))[:, own])
    assert scaled.stride() == repeated.stride()


@pytest.mark.versions
def test_a_quantized_tuple_cache_is_found(tmp_path: Path) -> None:
    """Up to 4.47 many models return their cache as a tuple of the states themselves."""

    def run(module: str, *arguments: object) -> str:
        call = python("4.43.1", module, *arguments)
        done = subprocess.run(
            call, env=variables(tmp_path / "modules"), cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("tests.patching.matrix.side", "native", tmp_path, "gpt2")
    for name in ("right", "wrong"):
        run("fa3cli", "patch", tmp_path / "models" / "gpt2", "--output", tmp_path / name)
    module = tmp_path / "wrong" / "modeling_gpt2_fa3.py"
    made = re.compile(rf"( +if use_cache is True:\n +present = .*?)({CALLS.pattern})", re.DOTALL)
    assert made.search(module.read_text())
    module.write_text(made.sub(r"\2\1", module.read_text()))
    answers = tmp_path / "answers" / "gpt2.pt"
    found = json.loads(run("tests.patching.matrix.side", "compare", answers, tmp_path / "right", tmp_path / "wrong"))
    assert not any(found["right"].values())
    assert "cache" in found["wrong"]["eager cached, scaled"]
    assert not found["wrong"]["eager plain, scaled"]
