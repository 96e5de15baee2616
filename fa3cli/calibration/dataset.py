"""Calibration and evaluation text: one json object a line, one line a forward."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from fa3cli.errors import InvalidInputError, brief

__all__ = ["DEFAULT_CALIBRATION", "Sample", "read_samples"]

DEFAULT_CALIBRATION = Path(__file__).parent.parent / "data" / "calibration.jsonl"
_KEYS = "text, inputs_pretokenized, title/passage/question, messages or input_ids"


@dataclass(frozen=True)
class Sample:
    """Token ids of one line, the line's number in its file, from 1, and whether it was longer."""

    line: int
    input_ids: tuple[int, ...]
    cut: bool = False

    def inputs(self, device: torch.device) -> dict[str, Any]:
        """Return the arguments of a causal LM's forward: a batch of one, without a cache."""
        return {"input_ids": torch.tensor([self.input_ids], device=device), "use_cache": False}


def read_samples(
    file: Path,
    folder: Path,
    *,
    count: int | None = None,
    max_length: int | None = None,
    longest: int | None = None,
    vocab_size: int | None = None,
    trust_remote_code: bool = False,
) -> list[Sample]:
    """Read the first `count` lines of a jsonl file as token ids, with the tokenizer of `folder` where needed.

    Each is cut to `max_length` tokens. Raises InvalidInputError with the line's number for a broken or
    empty line, a token outside the vocabulary, or a sample longer than `longest`, the model's positions.
    """
    samples = []
    tokenizer = _LazyTokenizer(folder, trust_remote_code)
    for number, record in islice(_read_records(file), count):
        try:
            whole = _token_ids(record, tokenizer)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInputError(
                f"{file}, line {number}: {error}", hint=f"a line holds {_KEYS}"
            ) from error
        ids = whole[:max_length]
        if len(ids) == 0:
            raise InvalidInputError(f"{file}, line {number}: no tokens", hint="remove the line")
        if longest is not None and len(ids) > longest:
            raise InvalidInputError(
                f"{file}, line {number}: {len(ids)} tokens, but the model takes {longest}",
                hint=f"cut samples with --max-length {longest}",
            )
        if vocab_size is not None and not all(0 <= token < vocab_size for token in ids):
            raise InvalidInputError(
                f"{file}, line {number}: a token id is outside the vocabulary of {vocab_size}"
            )
        samples.append(Sample(number, tuple(ids), cut=len(ids) < len(whole)))
    return samples


def _read_records(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the json objects of a file with their line numbers; blank lines at the end don't count."""
    try:
        text = file.read_text(encoding="utf-8-sig").rstrip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{file}: cannot be read ({error})") from error
    if not text:
        raise InvalidInputError(
            f"{file}: empty; expected one json object a line", hint=f"a line holds {_KEYS}"
        )
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(f"{file}, line {number}: not json ({error})") from error
        if not isinstance(record, dict):
            raise InvalidInputError(
                f"{file}, line {number}: expected a json object", hint=f"a line holds {_KEYS}"
            )
        yield number, record


def _token_ids(record: dict[str, Any], tokenizer: _LazyTokenizer) -> list[int]:
    """Turn one record into token ids; raises ValueError, TypeError or KeyError for a record of another form."""
    if "input_ids" in record:
        ids = record["input_ids"]
        if not isinstance(ids, list) or not all(type(token) is int for token in ids):
            raise TypeError("input_ids is not a list of whole numbers")
        return ids
    if "messages" in record:
        text = _chat_text(record["messages"], tokenizer())
        return tokenizer()(text, add_special_tokens=False, verbose=False)["input_ids"]
    text = _text(record)  # a line without any is a broken line, tokenizer or not
    return tokenizer()(text, verbose=False)["input_ids"]


def _chat_text(messages: Any, tokenizer: Any) -> str:
    """Return a conversation as the tokenizer's chat template writes it, up to where the answer would begin."""
    if not (isinstance(messages, list) and messages and all(isinstance(each, dict) for each in messages)):
        raise TypeError("messages is not a list of objects")
    if not tokenizer.chat_template:  # old transformers versions would make one up
        raise ValueError("messages need a chat template, and the tokenizer has none")
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program of the model's author: it raises what it likes
        raise ValueError(f"the chat template cannot be applied ({brief(error)})") from error


def _text(record: dict[str, Any]) -> str:
    """Return a record's text; a BoolQ record becomes the guide's prompt."""
    boolq = ("title", "passage", "question")
    if all(key in record for key in boolq):
        title, passage, question = (_string(record, key) for key in boolq)
        return f"{title} -- {passage}\nQuestion:{question}?\nAnswer:"
    for key in ("text", "inputs_pretokenized"):
        if key in record:
            return _string(record, key)
    raise ValueError(f"none of the keys fa3 knows, only {', '.join(map(repr, record)) or 'an empty object'}")


def _string(record: dict[str, Any], key: str) -> str:
    if not isinstance(record[key], str):
        raise TypeError(f"{key} is not a string")
    return record[key]


class _LazyTokenizer:
    """The tokenizer of a folder, loaded when the first line needs it: token ids need none."""

    def __init__(self, folder: Path, trust_remote_code: bool) -> None:
        self._folder, self._trust_remote_code = folder, trust_remote_code
        self._tokenizer: Callable[..., Any] | None = None

    def __call__(self) -> Any:
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            try:
                self._tokenizer = AutoTokenizer.from_pretrained(
                    self._folder, local_files_only=True, trust_remote_code=self._trust_remote_code
                )
            except Exception as error:  # each transformers version raises others for a missing or broken one
                raise InvalidInputError(
                    f"{self._folder}: no tokenizer for text ({brief(error)})",
                    hint='copy the tokenizer files into the folder, or give token ids: {"input_ids": […]}',
                ) from error
        return self._tokenizer
