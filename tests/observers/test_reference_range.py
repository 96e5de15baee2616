"""act_method 1 of the reference: the mean of the stacked minima and maxima, in the model's dtype."""

from __future__ import annotations

import pytest
import torch

from fa3cli.observers.reference_range import ReferenceRange

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 2, 7, 50])
def test_the_range_is_the_mean_of_stacked_minima_and_maxima(dtype: torch.dtype, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    samples = [torch.randn(1, 3, 4, generator=generator).to(dtype) for _ in range(count)]
    observed = ReferenceRange()
    for index, sample in enumerate(samples, start=1):
        observed = observed.updated(sample)
        low, high = observed.bounds()
        assert low.dtype == high.dtype == dtype and low.shape == high.shape == (1,)
        assert low == torch.stack([sample.min() for sample in samples[:index]]).mean()
        assert high == torch.stack([sample.max() for sample in samples[:index]]).mean()
    assert observed.tokens == 3 * count


def test_an_update_does_not_change_the_old_value() -> None:
    first = ReferenceRange().updated(torch.ones(2, 2))
    first.updated(torch.full((2, 2), 5.0))
    assert first.tokens == 2 and first.bounds()[1].item() == 1
