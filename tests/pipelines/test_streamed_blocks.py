from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fa3cli.models.streamed_model import StreamedModel
from fa3cli.pipelines.opening import OpenedPipeline, load_pipeline, open_pipeline
from fa3cli.pipelines.sampling import sample
from fa3cli.pipelines.streamed_blocks import blocks_streamed
from tests.patching.diffusion.tiny_pipelines import INPUTS
from tests.pipelines.whole_pipelines import plain_pipeline, sampling_of


def loaded(model: StreamedModel) -> set[str]:
    """The parts of a model that are loaded: its blocks by name, and "" for the rest."""
    names = [name for name, parameter in model.model.named_parameters() if not parameter.is_meta]
    owners = [[block for block in model.layers if name.startswith(f"{block}.")] for name in names]
    return {owner[0] if owner else "" for owner in owners}


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.fixture
def model(patched_flux: Path) -> StreamedModel:
    return open_pipeline(patched_flux, fa=True).transformers["transformer"]


def test_only_one_block_is_loaded_at_a_time(model: StreamedModel) -> None:
    seen: list[set[str]] = []
    inner = {
        block.get_submodule("attn"): {"", name} for name, block in model.layers.items()
    }  # every block has an attention
    for module in inner:
        module.register_forward_pre_hook(lambda *_: seen.append(loaded(model)))
    with torch.no_grad(), blocks_streamed(model):
        assert loaded(model) == {""}
        model.model(**INPUTS["FluxTransformer2DModel"]())
        assert loaded(model) == {""}
        assert seen == list(inner.values())
    assert loaded(model) == set()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_no_weights_and_no_hooks(model: StreamedModel, error: type[BaseException]) -> None:
    def fail(*_: Any) -> None:
        assert len(loaded(model)) == 2
        raise error

    before = hooks(model.model)
    failing = model.layers["single_transformer_blocks.0"].attn.register_forward_hook(fail)
    with pytest.raises(error), torch.no_grad(), blocks_streamed(model):
        model.model(**INPUTS["FluxTransformer2DModel"]())
    failing.remove()
    assert loaded(model) == set()
    assert hooks(model.model) == before


def streamed(opened: OpenedPipeline, number: int, sampling: Any) -> torch.Tensor:
    with ExitStack() as stack:
        for transformer in opened.transformers.values():
            stack.enter_context(blocks_streamed(transformer))
        modules = {name: transformer.model for name, transformer in opened.transformers.items()}
        pipeline = load_pipeline(opened, modules)
        assert pipeline._execution_device == pipeline.device == opened.device
        assert all(getattr(pipeline, name) is module for name, module in modules.items())
        return sample(pipeline, sampling, number)


CASES = [
    (name, patched, dtype)
    for name, first in (("flux", "float32"), ("hunyuan", "bfloat16"), ("wan", "float32"))
    for patched, dtype in ((False, first), (True, "bfloat16" if first == "float32" else "float32"))
]


@pytest.mark.parametrize(("name", "patched", "dtype"), CASES)
def test_latents_are_those_of_the_plain_pipeline(made: Any, name: str, patched: bool, dtype: str) -> None:
    sampling = sampling_of(name)
    plain = plain_pipeline(made(name), getattr(torch, dtype))
    opened = open_pipeline(made(name, patched), fa=patched, dtype=dtype)
    for number in range(2):
        expected = sample(plain, sampling, number)
        assert torch.equal(streamed(opened, number, sampling), expected)
        assert expected.isfinite().all() and expected.std() > 0.1
