from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fa3cli.exports.verification import verify_export
from tests.exports.exports import Export, build_export, edited, findings_of

Q = "model.layers.0.self_attn.q_proj"
DOWN = "model.layers.0.mlp.down_proj"
FA = "model.layers.0.self_attn"
NORM = "model.layers.0.input_layernorm"


def describe(**entries: object) -> Callable[[Export], None]:
    return edited(lambda export: export.description.update(entries))


def value(name: str, found: object) -> Callable[[Export], None]:
    return edited(lambda export: export.description.update({name: found}))


def no_fa_tensors(export: Export) -> None:
    export.drop(*[name for name in export.tensors if ".fa_" in name])


def untied_head_missing(export: Export) -> None:
    del export.tensors["lm_head.weight"]


def head_not_described(export: Export) -> None:
    export.drop("lm_head.weight")
    export.config["tie_word_embeddings"] = True


def float_with_a_scale(export: Export) -> None:
    export.add(f"{DOWN}.weight_scale", torch.ones(32, 1), "W8A8")


def norm_without_its_module(export: Export) -> None:
    export.add(f"{NORM}.bias", export.tensors[f"{NORM}.weight"] * 0, "FLOAT")
    export.add(f"{NORM}.module.bias", export.tensors[f"{NORM}.weight"] * 0, "W8A8")


def norm_of_another_shape(export: Export) -> None:
    norm_without_its_module(export)
    export.add(f"{NORM}.module.weight", torch.ones(8), "W8A8")


@pytest.mark.parametrize(
    ("check", "mutation", "subject"),
    [
        ("quant-types", describe(model_quant_type="W8A16"), "model_quant_type"),
        (
            "quant-types",
            edited(lambda export: export.description.pop("model_quant_type")),
            "model_quant_type",
        ),
        ("quant-types", describe(fa_quant_type=None), "fa_quant_type"),
        ("quant-types", describe(fa_quant_type="FAQUANT"), "fa_quant_type"),
        ("quant-types", edited(lambda export: export.description.pop("fa_quant_type")), "fa_quant_type"),
        ("quant-types", edited(no_fa_tensors), "fa_quant_type"),
        ("described", edited(lambda export: export.description.pop("lm_head.weight")), "lm_head.weight"),
        ("described", edited(lambda export: export.description.pop(f"{Q}.deq_scale")), f"{Q}.deq_scale"),
        ("described", edited(lambda export: export.tensors.pop(f"{Q}.deq_scale")), f"{Q}.deq_scale"),
        ("described", edited(lambda export: export.tensors.pop("model.norm.weight")), "model.norm.weight"),
        ("described", edited(untied_head_missing), "lm_head.weight"),
        ("described", edited(head_not_described), "lm_head.weight"),
        ("values", value(f"{DOWN}.weight", "float"), f"{DOWN}.weight"),
        ("values", value(f"{DOWN}.weight", ["FLOAT"]), f"{DOWN}.weight"),
        ("values", value(f"{Q}.input_scale", "FLOAT"), f"{Q}.input_scale"),
        ("values", value(f"{FA}.fa_q.scale", "W8A8"), f"{FA}.fa_q.scale"),
        ("values", value(f"{NORM}.weight", "FAQuant"), f"{NORM}.weight"),
        ("linears", value(f"{Q}.weight", "FLOAT"), Q),
        ("linears", value(f"{NORM}.weight", "W8A8"), NORM),
        ("linears", edited(lambda export: export.drop(f"{Q}.quant_bias")), Q),
        ("linears", edited(lambda export: export.drop(f"{Q}.weight")), Q),
        ("linears", edited(float_with_a_scale), DOWN),
        ("attentions", edited(lambda export: export.drop(f"{FA}.fa_v.offset")), FA),
        ("attentions", edited(lambda export: export.drop(f"{FA}.fa_q.scale", f"{FA}.fa_q.offset")), FA),
        ("norms", edited(norm_without_its_module), NORM),
        ("norms", edited(norm_of_another_shape), NORM),
    ],
)
def test_a_mutation_is_found_by_one_check(
    check: str, mutation: Callable[[Export], None], subject: str, found_by: Callable
) -> None:
    [finding] = found_by(check, mutation)
    assert finding.subject == subject


def test_a_missing_tie_word_embeddings_gives_a_warning(found_by: Callable) -> None:
    def silent(export: Export) -> None:
        untied_head_missing(export)
        del export.config["tie_word_embeddings"]

    found_by("described", edited(silent), "warning")


def test_the_bias_of_a_quantized_linear_is_float(export: Export) -> None:
    export.add(f"{Q}.bias", torch.zeros(export.tensors[f"{Q}.weight"].shape[0]), "FLOAT")
    export.save()
    assert verify_export(export.folder).ok
    export.description[f"{Q}.bias"] = "W8A8"
    export.save()
    assert [finding.check for finding in verify_export(export.folder).findings if finding.severity == "error"] == [
        "values"
    ]


def test_fa_quant_type_may_be_absent_without_fa3(export: Export) -> None:
    no_fa_tensors(export)
    del export.description["fa_quant_type"]
    export.save()
    assert verify_export(export.folder).ok


def test_anti_outlier_norms_are_accepted_in_bfloat16(tmp_path) -> None:
    export = build_export(tmp_path, torch.bfloat16)
    for name, described in (("bias", "FLOAT"), ("module.weight", "W8A8"), ("module.bias", "W8A8")):
        export.add(f"{NORM}.{name}", torch.zeros(32), described)
    export.save()
    assert findings_of(export.folder) == []
