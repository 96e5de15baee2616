from pathlib import Path

import diffusers
import pytest
import torch
from packaging.version import Version
from torch import nn

from fa3cli.errors import UnsupportedError
from fa3cli.pipelines.skeleton import block_names, build_transformer
from tests.patching.diffusion.tiny_pipelines import TRANSFORMERS, randomized

BLOCKS = {
    "FluxTransformer2DModel": ["transformer_blocks", "single_transformer_blocks"],
    "HunyuanVideoTransformer3DModel": ["transformer_blocks", "single_transformer_blocks"],
    "QwenImageTransformer2DModel": ["transformer_blocks"],
    "CogVideoXTransformer3DModel": ["transformer_blocks"],
    "WanTransformer3DModel": ["blocks"],
}
HERE = [name for name in TRANSFORMERS if hasattr(diffusers, name)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("class_name", HERE)
def test_dtypes_and_buffers_are_those_of_from_pretrained(tmp_path: Path, class_name: str, dtype: torch.dtype) -> None:
    transformer_class = getattr(diffusers, class_name)
    key = "dtype" if Version(diffusers.__version__) >= Version("0.42") else "torch_dtype"
    randomized(class_name).save_pretrained(tmp_path)
    loaded = transformer_class.from_pretrained(tmp_path, **{key: dtype})
    built = build_transformer(transformer_class, transformer_class.load_config(tmp_path), dtype)
    assert not built.training
    assert all(parameter.is_meta for parameter in built.parameters())
    held, wanted = built.state_dict(), loaded.state_dict()
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in held.items()} == {
        name: (tensor.dtype, tensor.shape) for name, tensor in wanted.items()
    }
    buffers = dict(built.named_buffers())
    for name, buffer in loaded.named_buffers():
        torch.testing.assert_close(buffers.pop(name), buffer, rtol=0, atol=0)
    assert not buffers
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("class_name", HERE)
def test_blocks_are_the_lists_with_attention_in_module_order(class_name: str) -> None:
    expected = [f"{name}.{index}" for name in BLOCKS[class_name] for index in range(2)]
    assert block_names(randomized(class_name)) == expected


def test_a_model_without_a_list_of_blocks_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="Sequential: found no list of blocks"):
        block_names(nn.Sequential(nn.ModuleList([nn.Linear(2, 2)])))


def test_an_invalid_transformer_config_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="cannot build FluxTransformer2DModel from its config.json"):
        build_transformer(diffusers.FluxTransformer2DModel, {"num_layers": "two"}, torch.float32)
    assert torch.get_default_dtype() == torch.float32
