"""Tests observers on the inputs of linears: which linears share one, and which input a linear gets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fa3cli.calibration.linear_inputs import FakeQuantizedInputs, LinearInputs
from fa3cli.numerics.affine import asymmetric_offset, asymmetric_scale, fake_quantize
from fa3cli.observers.reference_range import ReferenceRange


class Block(nn.Module):
    """q and k share an input, o has its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.o = nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 2)

    @torch.no_grad()
    def forward(self, values: Tensor) -> Tensor:
        return self.o(self.q(values) * self.k(values))


@pytest.fixture
def block() -> Block:
    return Block()


def watch(block: Block, *, fake: bool = False, shared: bool = True) -> LinearInputs[ReferenceRange]:
    linears = {name: block.get_submodule(name) for name in ("q", "k", "o")}
    one = ReferenceRange()
    kind = FakeQuantizedInputs if fake else LinearInputs
    return kind(linears, {name: one if shared else ReferenceRange() for name in linears})


def samples(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, 5 + index, 4, generator=generator) * (index + 1) for index in range(count)]


def assert_left_alone(block: Block) -> None:
    assert not any(module._forward_pre_hooks for module in block.modules())


def test_linears_with_the_same_input_tensor_share_one_observer(block: Block) -> None:
    with watch(block) as inputs:
        for sample in samples():
            inputs.see(None)
            block(sample)
            assert inputs.observers["q"] is inputs.observers["k"]
            assert inputs.observers["o"] is not inputs.observers["q"]
    low, high = inputs.observers["q"].bounds()
    assert low == torch.stack([sample.min() for sample in samples()]).mean()
    assert high == torch.stack([sample.max() for sample in samples()]).mean()
    assert inputs.observers["q"].tokens == inputs.observers["o"].tokens == 18


def test_linears_with_equal_input_tensors_do_not_share_an_observer(block: Block) -> None:
    with watch(block) as inputs:
        block.q(samples()[0])
        block.k(samples()[0].clone())
    assert inputs.observers["q"] is not inputs.observers["k"]
    assert [inputs.observers[name].tokens for name in "qko"] == [5, 5, 0]


def test_linears_with_different_samples_do_not_share_an_observer(block: Block) -> None:
    """k missed a sample of q: the next shared input must not add that sample to k."""
    first, second, _ = samples()
    with watch(block) as inputs:
        block.q(first)
        block(second)
    assert inputs.observers["q"].tokens == 11 and inputs.observers["k"].tokens == 6
    assert inputs.observers["k"].bounds()[1] == second.max()
    with watch(block, shared=False) as inputs:
        block(first)
    assert inputs.observers["q"] is not inputs.observers["k"]


def test_the_given_observers_are_not_changed(block: Block) -> None:
    observers = {"q": ReferenceRange()}
    with LinearInputs({"q": block.q}, observers) as inputs:
        block(samples()[0])
    assert observers["q"].tokens == 0 and inputs.observers["q"].tokens == 5
    assert inputs.observers.keys() == {"q"}


def test_fake_passes_the_input_rounded_in_the_current_range(block: Block) -> None:
    known = ReferenceRange()
    with watch(block, fake=True) as inputs:
        for sample in samples():
            known = known.updated(sample)
            low, high = known.bounds()
            scale = asymmetric_scale(low, high)
            rounded = fake_quantize(sample, scale, asymmetric_offset(low, scale))
            before = sample.clone()
            with torch.no_grad():
                found = block.q(sample), block.k(sample)
            assert torch.equal(sample, before) and not torch.equal(rounded, sample)
            assert torch.equal(found[0], nn.functional.linear(rounded, block.q.weight, block.q.bias))
            assert torch.equal(found[1], nn.functional.linear(rounded, block.k.weight))
    assert inputs.observers["q"] is inputs.observers["k"]


def test_without_fake_the_output_is_unchanged(block: Block) -> None:
    (sample,) = samples(1)
    expected = block(sample)
    with watch(block):
        assert torch.equal(block(sample), expected)


@pytest.mark.parametrize("fake", [False, True])
@pytest.mark.parametrize("shape", [(2, 5, 4), (10, 4)])
def test_a_mask_excludes_padding(block: Block, shape: tuple[int, ...], fake: bool) -> None:
    values = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[0, 3:] = mask[1, :1] = False
    real = values[mask]
    values[~mask] = 1000.0
    with watch(block, fake=fake) as inputs:
        inputs.see(mask)
        output = block(values.view(shape))
    assert inputs.observers["q"].tokens == 7 and output.shape[:-1] == shape[:-1]
    low, high = inputs.observers["q"].bounds()
    assert low == real.min() and high == real.max()
    assert inputs.observers["o"].tokens == 7


@pytest.mark.parametrize("fake", [False, True])
def test_a_sample_of_only_padding_is_ignored(block: Block, fake: bool) -> None:
    first, second, _ = samples()
    with watch(block, fake=fake) as inputs:
        inputs.see(None)
        block(first)
        inputs.see(torch.zeros(1, 6, dtype=torch.bool))
        block(second)
    assert inputs.observers["q"].tokens == 5
    assert inputs.observers["q"].bounds()[1] == first.max()


@pytest.mark.parametrize("fake", [False, True])
def test_an_input_without_tokens_is_ignored(block: Block, fake: bool) -> None:
    with watch(block, fake=fake) as inputs:
        assert block.q(torch.empty(0, 4)).shape == (0, 4)
        block.q(torch.ones(2, 4))
    assert inputs.observers["q"].tokens == 2


@pytest.mark.parametrize("fake", [False, True])
def test_hooks_are_removed_after_the_block_and_after_an_error(block: Block, fake: bool) -> None:
    (sample,) = samples(1)
    expected = block(sample)
    with watch(block, fake=fake) as inputs:
        block(sample)
    assert_left_alone(block)
    assert torch.equal(block(sample), expected) and inputs.observers["q"].tokens == 5
    with pytest.raises(ArithmeticError), watch(block, fake=fake):
        raise ArithmeticError
    assert_left_alone(block)


def test_no_input_is_kept_after_the_block(block: Block) -> None:
    """The same tensor is observed again in another block."""
    (sample,) = samples(1)
    inputs = watch(block)
    for tokens in (5, 10):
        with inputs:
            block(sample)
        assert inputs.observers["q"].tokens == inputs.observers["k"].tokens == tokens
        assert inputs._seen is None
