from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fa3cli.exports.verification import verify_export
from tests.exports.exports import Export, build_export, edited, findings_of

Q = "model.layers.0.self_attn.q_proj"
FA = "model.layers.1.self_attn"


def put(name: str, value: float) -> Callable[[Export], None]:
    """Overwrite the tensor's last element."""
    return edited(lambda export: export.tensors[name].view(-1)[-1:].fill_(value))


def decoded_twice_as_large(export: Export) -> None:
    packed = export.tensors[f"{Q}.deq_scale"]
    export.tensors[f"{Q}.deq_scale"] = (packed.int().view(torch.float32) * 2).view(torch.int32).long()


def high_bits_set(export: Export) -> None:
    export.tensors[f"{Q}.deq_scale"] += 1 << 32


def another_modules_deq_scale(export: Export) -> None:
    export.tensors[f"{Q}.deq_scale"] = export.tensors[f"{Q.replace('layers.0', 'layers.1')}.deq_scale"].clone()


@pytest.mark.parametrize(
    ("check", "mutation", "subject"),
    [
        ("scales", put(f"{Q}.weight_scale", 0), f"{Q}.weight_scale"),
        ("scales", put(f"{Q}.weight_scale", -0.01), f"{Q}.weight_scale"),
        ("scales", put(f"{Q}.input_scale", torch.inf), f"{Q}.input_scale"),
        ("scales", put(f"{FA}.fa_k.scale", torch.nan), f"{FA}.fa_k.scale"),
        ("offsets", put(f"{Q}.weight_offset", 1), f"{Q}.weight_offset"),
        ("offsets", put(f"{Q}.input_offset", 128), f"{Q}.input_offset"),
        ("offsets", put(f"{Q}.input_offset", 0.5), f"{Q}.input_offset"),
        ("offsets", put(f"{Q}.input_offset", torch.nan), f"{Q}.input_offset"),
        ("offsets", put(f"{FA}.fa_v.offset", 1), f"{FA}.fa_v.offset"),
        ("deq-scale", put(f"{Q}.deq_scale", 0), f"{Q}.deq_scale"),
        ("deq-scale", edited(decoded_twice_as_large), f"{Q}.deq_scale"),
        ("deq-scale", edited(high_bits_set), f"{Q}.deq_scale"),
        ("deq-scale", edited(another_modules_deq_scale), f"{Q}.deq_scale"),
        ("finite", put("model.norm.weight", torch.nan), "model.norm.weight"),
        (
            "finite",
            put("model.layers.0.input_layernorm.weight", -torch.inf),
            "model.layers.0.input_layernorm.weight",
        ),
    ],
)
def test_a_mutation_is_found_by_one_check(
    check: str, mutation: Callable[[Export], None], subject: str, found_by: Callable
) -> None:
    [finding] = found_by(check, mutation)
    assert finding.subject == subject


def test_underflow_in_float16_is_a_warning(tmp_path) -> None:
    export = build_export(tmp_path, torch.float16)
    export.tensors[f"{Q}.weight_scale"].fill_(2**-23)
    export.tensors[f"{Q}.deq_scale"].zero_()
    export.tensors[f"{Q}.quant_bias"].fill_(-(2**31))  # the reference stores this number then
    export.save()
    [finding] = findings_of(tmp_path)
    assert (finding.check, finding.severity) == ("deq-scale", "warning")


@settings(max_examples=20, deadline=None)
@given(
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    product_in_float32=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_products_in_float32_or_the_model_dtype_are_accepted(tmp_path_factory, dtype, product_in_float32, seed) -> None:
    """The reference multiplies in the model's dtype, improved numerics in float32."""
    export = build_export(tmp_path_factory.mktemp("export"), dtype)
    generator = torch.Generator().manual_seed(seed)
    weight_scale = torch.empty(32, 1).log_normal_(-6, 1, generator=generator).clamp(min=2**-13).to(dtype)
    input_scale = torch.empty(1).log_normal_(-3, 1, generator=generator).to(dtype)
    factors = (input_scale.float(), weight_scale.float()) if product_in_float32 else (input_scale, weight_scale)
    deq_scale = (factors[0] * factors[1])[:, 0].float()
    export.tensors[f"{Q}.weight_scale"], export.tensors[f"{Q}.input_scale"] = weight_scale, input_scale
    export.tensors[f"{Q}.deq_scale"] = deq_scale if dtype == torch.bfloat16 else deq_scale.view(torch.int32).long()
    export.tensors[f"{Q}.quant_bias"] = export.tensors[f"{Q}.weight"].sum(1, dtype=torch.int32) * 3
    export.save()
    assert verify_export(export.folder).ok
