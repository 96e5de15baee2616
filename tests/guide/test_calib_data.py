"""Tests which forms of calib_data are accepted, and the errors for all others."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fa3cli.errors import InvalidInputError
from fa3cli.guide.calib_data import samples_of
from fa3cli.samples.dataset import Sample
from tests.sample_models import random_model

IDS = torch.tensor([[3, 1, 4, 1, 5]])
MASK = torch.tensor([[0, 1, 1, 1, 1]])


@cache
def model() -> nn.Module:
    return random_model("llama", num_hidden_layers=1)


def batch_encoding() -> Any:
    from transformers import BatchEncoding

    return BatchEncoding({"input_ids": IDS, "attention_mask": MASK})


def arguments(samples: list[Sample]) -> list[dict[str, Tensor]]:
    return [dict(sample.arguments) for sample in samples]


@pytest.mark.parametrize(
    "item",
    [
        [IDS, MASK],
        (IDS, MASK),
        {"input_ids": IDS, "attention_mask": MASK},
        {"attention_mask": MASK, "input_ids": IDS},
        batch_encoding(),
        [IDS, MASK, None, None],
        {"input_ids": IDS, "attention_mask": MASK, "position_ids": None},
    ],
    ids=[
        "list",
        "tuple",
        "dict",
        "dict in another order",
        "BatchEncoding",
        "None at the end",
        "None in a dict",
    ],
)
def test_an_item_contains_the_arguments_of_a_forward(item: Any) -> None:
    (sample,) = samples_of([item], model())
    assert sample.arguments.keys() == {"input_ids", "attention_mask"}
    assert sample.arguments["input_ids"] is IDS
    assert sample.arguments["attention_mask"] is MASK
    assert sample.tokens == 5
    assert sample.mask.tolist() == [[False, True, True, True, True]]
    assert not sample.cut


def test_none_skips_an_argument_and_keeps_the_position_of_the_next() -> None:
    positions = torch.arange(5).unsqueeze(0)
    (sample,) = samples_of([[IDS, None, positions]], model())
    assert sample.arguments.keys() == {"input_ids", "position_ids"}
    assert sample.arguments["position_ids"] is positions
    assert sample.mask is None


class OtherOrder(nn.Module):
    """Takes its arguments in another order, as models with remote code may."""

    def __init__(self) -> None:
        super().__init__()
        self.config = model().config

    def forward(self, attention_mask: Tensor, input_ids: Tensor) -> None: ...


def test_a_list_follows_the_order_of_the_models_own_forward() -> None:
    (sample,) = samples_of([[MASK, IDS]], OtherOrder())
    assert sample.arguments["input_ids"] is IDS
    assert sample.arguments["attention_mask"] is MASK


def test_samples_keep_their_order_and_are_named_by_it() -> None:
    samples = samples_of(([IDS[:, :length]] for length in (4, 2, 3)), model())
    assert [sample.origin for sample in samples] == ["calib_data[0]", "calib_data[1]", "calib_data[2]"]
    assert [sample.tokens for sample in samples] == [4, 2, 3]


@pytest.mark.parametrize("nothing", [None, [], ()])
def test_no_data_is_refused(nothing: Any) -> None:
    with pytest.raises(InvalidInputError, match="calib_data is empty"):
        samples_of(nothing, model())


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ("a text", "is a str; expected"),
        (7, "is a int; expected"),
        (None, "is a NoneType; expected"),
        (IDS, "is a Tensor; expected"),
        ([], "input_ids is missing"),
        ({}, "input_ids is missing"),
        ({"attention_mask": MASK}, "input_ids is missing"),
        ([None, MASK], "input_ids is missing"),
        ([[3, 1, 4]], "input_ids is a list; expected token ids"),
        (["a text"], "input_ids is a str; expected token ids"),
        ([IDS[0]], r"input_ids is int64 \[5\]; expected token ids, a tensor of shape \[batch, length\]"),
        ([IDS.unsqueeze(0)], r"input_ids is int64 \[1, 1, 5\]"),
        ([IDS.float()], r"input_ids is float32 \[1, 5\]"),
        ([IDS[:, :0]], "no tokens"),
        ([torch.ones(1, 65, dtype=torch.long)], "65 tokens, but the model accepts at most 64"),
        ([torch.full((1, 3), 96)], "a token id is outside the vocabulary of 96"),
        ([torch.tensor([[3, -1]])], "a token id is outside the vocabulary of 96"),
    ],
)
def test_an_invalid_item_is_named(item: Any, problem: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"^calib_data\[1\]:? ?{problem}"):
        samples_of([[IDS, MASK], item], model())


def test_the_longest_sample_and_the_last_token_are_accepted() -> None:
    ids = torch.full((1, 64), 95)
    assert arguments(samples_of([[ids]], model())) == [{"input_ids": ids}]


def test_a_model_without_a_limit_accepts_any_length() -> None:
    unlimited = OtherOrder()
    unlimited.config = type("Config", (), {"vocab_size": 96})()
    (sample,) = samples_of([{"input_ids": torch.ones(1, 1000, dtype=torch.long)}], unlimited)
    assert sample.tokens == 1000
