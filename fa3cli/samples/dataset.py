"""Reads calibration and evaluation text: one json object per line, one forward per line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fa3cli.errors import InvalidInputError
from fa3cli.files.documents import parse_json
from fa3cli.samples.lazy_tokenizer import LazyTokenizer
from fa3cli.samples.records import KEYS, token_ids
from fa3cli.samples.text_lines import numbered_lines
from fa3cli.samples.token_estimate import TokenEstimate, has_tokenizer

__all__ = ["DEFAULT_CALIBRATION", "Sample", "read_samples", "require_fit"]

DEFAULT_CALIBRATION = Path(__file__).parent.parent / "data" / "calibration.jsonl"


@dataclass(frozen=True)
class Sample:
    """The arguments of one forward of a causal LM, its `origin` (file and line), and whether it was `cut` (shortened).

    An `estimated` sample has about as many tokens as its text would have, but their ids are not real.
    """

    origin: str
    arguments: Mapping[str, Any]
    cut: bool = False
    estimated: bool = False
    timestep: ClassVar[None] = None

    @property
    def _ids(self) -> Tensor:
        ids: Tensor = self.arguments["input_ids"]
        return ids

    @property
    def tokens(self) -> int:
        """Number of token ids, padding included."""
        return self._ids.numel()

    @property
    def mask(self) -> Tensor | None:
        """True for real tokens, False for padding, bool `[B, S]`; None if there is no padding."""
        mask: Tensor | None = self.arguments.get("attention_mask")
        if mask is None or mask.shape != self._ids.shape or mask.all():
            return None
        return mask.bool()

    def inputs(self, device: torch.device) -> dict[str, Any]:
        """Return the arguments on `device`, without a cache."""
        moved = {
            name: value.to(device) if isinstance(value, Tensor) else value for name, value in self.arguments.items()
        }
        # A cache would hold K and V of all layers in each waiting forward.
        return {**moved, "use_cache": False}


def read_samples(
    file: Path,
    folder: Path,
    *,
    count: int | None = None,
    max_length: int | None = None,
    longest: int | None = None,
    vocab_size: int | None = None,
    trust_remote_code: bool = False,
    estimate: bool = False,
) -> list[Sample]:
    """Read the first `count` lines of a jsonl file as token ids, with the tokenizer of `folder` where needed.

    Each sample is cut to `max_length` tokens. With `estimate`, the folder may lack a tokenizer. Raises
    InvalidInputError with the line's number for a broken or empty line, a token outside the vocabulary, or a sample
    longer than `longest`, the model's positions.
    """
    samples = []
    estimate = estimate and not has_tokenizer(folder)
    tokenizer = partial(TokenEstimate, longest) if estimate else LazyTokenizer(folder, trust_remote_code)
    # Line by line: lines after the first `count` are neither read nor checked.
    for number, record in islice(_read_records(file), count):
        origin = f"{file}, line {number}"
        try:
            ids, mask = token_ids(record, tokenizer)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInputError(f"{origin}: {error}", hint=f"a line holds {KEYS}") from error
        cut = max_length is not None and ids.shape[1] > max_length
        arguments = {"input_ids": ids[:, :max_length]}
        if mask is not None:
            arguments["attention_mask"] = mask[:, :max_length]
        sample = Sample(origin, arguments, cut, estimate and "input_ids" not in record)
        require_fit(sample, longest, vocab_size)
        samples.append(sample)
    return samples


def require_fit(sample: Sample, longest: int | None, vocab_size: int | None) -> None:
    """Raise InvalidInputError for a sample without tokens, longer than the model's positions, or outside its vocabulary."""
    ids = sample.arguments["input_ids"]
    if ids.numel() == 0:
        raise InvalidInputError(f"{sample.origin}: no tokens", hint="remove the line")
    if longest is not None and ids.shape[-1] > longest:
        raise InvalidInputError(
            f"{sample.origin}: {ids.shape[-1]} tokens, but the model accepts at most {longest}",
            hint=f"cut samples with --max-length {longest}",
        )
    if vocab_size is not None and not (ids.min() >= 0 and ids.max() < vocab_size):
        raise InvalidInputError(f"{sample.origin}: a token id is outside the vocabulary of {vocab_size}")


def _read_records(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the json objects of a file with their line numbers; blank lines at the end are omitted."""
    number = 0
    for number, line in numbered_lines(file):
        try:
            record = parse_json(line)
        except ValueError as error:
            raise InvalidInputError(f"{file}, line {number}: not json ({error})") from error
        if not isinstance(record, dict):
            raise InvalidInputError(f"{file}, line {number}: expected a json object", hint=f"a line holds {KEYS}")
        yield number, record
    if not number:
        raise InvalidInputError(f"{file}: empty; expected one json object per line", hint=f"a line holds {KEYS}")
