from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fa3cli.exports.verification import verify_export
from tests.exports.exports import Export, build_export, edited, findings_of

Q = "model.layers.0.self_attn.q_proj"
FA = "model.layers.0.self_attn"


def cast(name: str, dtype: torch.dtype) -> Callable[[Export], None]:
    return edited(lambda export: export.tensors.update({name: export.tensors[name].to(dtype)}))


def reshape(name: str, *shape: int) -> Callable[[Export], None]:
    return edited(lambda export: export.tensors.update({name: export.tensors[name].reshape(shape).contiguous()}))


def halve(name: str) -> Callable[[Export], None]:
    return edited(lambda export: export.tensors.update({name: export.tensors[name][::2].contiguous()}))


def configure(**values: object) -> Callable[[Export], None]:
    return edited(lambda export: export.config.update(values))


def half_the_heads(export: Export) -> None:
    for tensor in ("fa_k.scale", "fa_k.offset", "fa_v.scale", "fa_v.offset"):
        export.tensors[f"{FA}.{tensor}"] = export.tensors[f"{FA}.{tensor}"][:1].contiguous()


def extra_layer(export: Export) -> None:
    for name in [name for name in export.tensors if ".layers.0." in name]:
        copy = name.replace(".layers.0.", f".layers.{export.config['num_hidden_layers']}.")
        export.add(copy, export.tensors[name].clone(), export.description[name])


@pytest.mark.parametrize(
    ("check", "mutation"),
    [
        ("dtypes", cast(f"{Q}.weight", torch.float32)),
        ("dtypes", cast(f"{Q}.weight_scale", torch.bfloat16)),
        ("dtypes", cast(f"{Q}.input_scale", torch.float16)),
        ("dtypes", cast(f"{Q}.quant_bias", torch.int64)),
        ("dtypes", cast(f"{Q}.deq_scale", torch.float32)),
        ("dtypes", cast(f"{FA}.fa_q.scale", torch.bfloat16)),
        ("dtypes", cast(f"{FA}.fa_q.offset", torch.float32)),
        ("dtypes", cast("model.layers.0.mlp.down_proj.weight", torch.int8)),
        ("linear-shapes", reshape(f"{Q}.weight", -1)),
        ("linear-shapes", reshape(f"{Q}.weight_scale", -1)),
        ("linear-shapes", reshape(f"{Q}.input_scale", 1, 1)),
        ("linear-shapes", reshape(f"{Q}.deq_scale", -1, 1)),
        ("linear-shapes", halve(f"{Q}.quant_bias")),
        ("fa-shapes", reshape(f"{FA}.fa_q.scale", -1)),
        ("fa-shapes", reshape(f"{FA}.fa_k.scale", 1, -1)),
        ("fa-shapes", reshape(f"{FA}.fa_v.offset", -1)),
        ("fa-shapes", halve(f"{FA}.fa_q.offset")),
        ("config-sizes", edited(half_the_heads)),
        ("config-sizes", configure(vocab_size=100)),
        ("config-sizes", configure(intermediate_size=40)),
        ("config-sizes", configure(num_key_value_heads=4)),
        ("config-sizes", configure(head_dim=16)),
        ("layer-count", configure(num_hidden_layers=9)),
        ("layer-count", configure(num_hidden_layers=10**15)),
        ("layer-count", edited(extra_layer)),
    ],
)
def test_a_mutation_is_found_by_one_check(check: str, mutation: Callable[[Export], None], found_by: Callable) -> None:
    found_by(check, mutation)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_deq_scale_is_packed_for_the_model_dtype(dtype: torch.dtype, tmp_path) -> None:
    export = build_export(tmp_path, dtype)
    name = f"{Q}.deq_scale"
    swapped = export.tensors[name].float() if dtype == torch.float16 else export.tensors[name].long()
    export.tensors[name] = swapped
    export.save()
    assert [(finding.check, finding.subject) for finding in findings_of(tmp_path)] == [("dtypes", name)]


def test_float32_input_parameters_are_accepted_in_a_float16_model(tmp_path) -> None:
    export = build_export(tmp_path, torch.float16)
    for tensor in ("input_scale", "input_offset"):
        export.tensors[f"{Q}.{tensor}"] = export.tensors[f"{Q}.{tensor}"].float()
    export.save()
    assert findings_of(tmp_path) == []


def test_a_weight_in_another_float_dtype_gives_a_warning(found_by: Callable) -> None:
    found_by("dtypes", cast("model.layers.0.mlp.down_proj.weight", torch.float16), "warning")


def test_extra_layers_named_in_config_are_accepted(export: Export) -> None:
    extra_layer(export)
    export.config["num_nextn_predict_layers"] = 1
    export.save()
    assert verify_export(export.folder).ok


def test_sizes_of_a_composite_model_come_from_text_config(export: Export) -> None:
    text = {**export.config, "vocab_size": 100}
    export.config = {"text_config": text, "torch_dtype": "float32", "hidden_size": 7}
    export.save()
    subjects = {finding.subject for finding in verify_export(export.folder).findings if finding.severity == "error"}
    assert subjects == {"model.embed_tokens.weight", "lm_head.weight"}


def test_missing_prediction_layers_give_a_warning(found_by: Callable) -> None:
    found_by("mtp-layers", configure(num_nextn_predict_layers=1), "warning")
