"""Tests that modules that stayed float are listed by name, layers and reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fa3cli.report.data import gather
from fa3cli.report.facts import FloatModule
from fa3cli.report.fallbacks import Fallback, fallbacks, linears_by_reason, reason_text
from tests.exports.exports import Export
from tests.exports.pipelines import QUANTIZED, write_flux


def test_layers_with_the_same_module_and_reason_share_a_row(export: Export) -> None:
    assert fallbacks(gather(export.folder)) == [
        Fallback("mlp.down_proj", "all 2 layers", 2, "named by disable_names"),
        Fallback("q, k and v of the attention", "layer 1", 1, "among the lowest scores, by fa_amp"),
        Fallback("model.embed_tokens", "outside the layers", 1, "not a linear"),
        Fallback("lm_head", "outside the layers", 1, "the last linear, by disable_last_linear"),
    ]


def test_layer_numbers_name_their_stack_if_there_are_several(tmp_path: Path) -> None:
    write_flux(tmp_path, quantized=QUANTIZED[1:])
    rows = fallbacks(gather(tmp_path))
    assert Fallback("norm1.linear", "blocks 0–1 of transformer_blocks", 2, "not recorded") in rows
    assert Fallback("attn.to_q", "block 0 of transformer_blocks", 1, "not recorded") in rows
    assert Fallback("norm.linear", "block 0 of single_transformer_blocks", 1, "not recorded") in rows
    assert Fallback("x_embedder", "outside the blocks", 1, "not recorded") in rows


def test_experts_share_a_row(export: Export) -> None:
    facts = gather(export.folder)
    first = facts.layers[0]
    experts = tuple(FloatModule(f"{first.name}.mlp.experts.{n}.up_proj", "no sample") for n in range(64))
    layer = replace(first, float_linears=experts)
    rows = fallbacks(replace(facts, layers=(layer, facts.layers[1])))
    assert Fallback("mlp.experts.*.up_proj", "layer 0", 64, "no sample") in rows
    assert linears_by_reason(layer) == "up_proj ×64 (no sample)"


def test_missing_and_unknown_reasons_have_a_text() -> None:
    assert reason_text(None) == "not recorded"
    assert reason_text("a reason of a later version") == "a reason of a later version"
