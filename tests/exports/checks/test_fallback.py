from __future__ import annotations

from collections.abc import Callable

from fa3cli.exports.verification import verify_export
from tests.exports.exports import Export, edited

ATTENTION = "model.layers.1.self_attn"


def make_float(export: Export, module: str) -> None:
    weight = export.tensors[f"{module}.weight"].float()
    export.drop(*[name for name in export.tensors if name.startswith(f"{module}.")])
    export.add(f"{module}.weight", weight, "FLOAT")


def test_a_partly_float_group_gives_a_warning(found_by: Callable) -> None:
    mutation = edited(lambda export: make_float(export, f"{ATTENTION}.k_proj"))
    [finding] = found_by("fused-groups", mutation, "warning")
    assert finding.subject == ATTENTION and "vLLM-Ascend" in finding.message


def test_gate_and_up_are_a_group(found_by: Callable) -> None:
    found_by("fused-groups", edited(lambda export: make_float(export, "model.layers.0.mlp.up_proj")), "warning")


def test_a_layer_without_fa3_gives_a_warning(found_by: Callable) -> None:
    def drop(export: Export) -> None:
        export.drop(*[name for name in export.tensors if name.startswith(f"{ATTENTION}.fa_")])

    [finding] = found_by("fa-layers", edited(drop), "warning")
    assert finding.subject == ATTENTION and "MindIE" in finding.message


def test_a_completely_float_group_is_accepted(export: Export) -> None:
    for name in ("q_proj", "k_proj", "v_proj"):
        make_float(export, f"{ATTENTION}.{name}")
    export.save()
    assert "fused-groups" not in {finding.check for finding in verify_export(export.folder).findings}
