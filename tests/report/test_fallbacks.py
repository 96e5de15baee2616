"""What stayed float is told by name, place and reason."""

from __future__ import annotations

from dataclasses import replace

from fa3cli.report.data import gather
from fa3cli.report.facts import FloatModule
from fa3cli.report.fallbacks import Fallback, fallbacks, linears_by_reason, reason_text
from tests.exports.exports import Export


def test_layers_of_one_name_and_reason_are_one_row(export: Export) -> None:
    assert fallbacks(gather(export.folder)) == [
        Fallback("mlp.down_proj", "all 2 layers", 2, "named by disable_names"),
        Fallback("q, k and v of the attention", "layer 1", 1, "among the lowest scores, by fa_amp"),
        Fallback("model.embed_tokens", "outside the layers", 1, "not a linear"),
        Fallback("lm_head", "outside the layers", 1, "the last linear, by disable_last_linear"),
    ]


def test_experts_are_one_row(export: Export) -> None:
    facts = gather(export.folder)
    first = facts.layers[0]
    experts = tuple(FloatModule(f"{first.name}.mlp.experts.{n}.up_proj", "no sample") for n in range(64))
    layer = replace(first, float_linears=experts)
    rows = fallbacks(replace(facts, layers=(layer, facts.layers[1])))
    assert Fallback("mlp.experts.*.up_proj", "layer 0", 64, "no sample") in rows
    assert linears_by_reason(layer) == "up_proj ×64 (no sample)"


def test_reasons() -> None:
    assert reason_text(None) == "not recorded"
    assert reason_text("a reason of a later version") == "a reason of a later version"
