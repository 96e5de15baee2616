"""Turns one record of calibration or evaluation data into token ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fa3cli.errors import brief
from fa3cli.models.untrusted.bounded import bounded_memory, bounded_time

__all__ = ["KEYS", "token_ids"]

KEYS = "text, inputs_pretokenized, title/passage/question, messages, or input_ids with or without attention_mask"
_LARGEST = 2**31
# Limits for applying a chat template to one conversation: a normal template takes milliseconds.
_TEMPLATE_SECONDS, _TEMPLATE_BYTES, _TEMPLATE_CHARACTERS = 10, 1 << 30, 10_000_000


def token_ids(record: dict[str, Any], tokenizer: Callable[[], Any]) -> tuple[Tensor, Tensor | None]:
    """Turn one record into token ids `[B, S]` and its attention mask, if it has one.

    Raises ValueError, TypeError or KeyError for a record of another form.
    """
    if "input_ids" in record:
        ids = _whole_numbers(record, "input_ids")
        mask = _whole_numbers(record, "attention_mask") if "attention_mask" in record else None
        if mask is not None and mask.shape != ids.shape:
            raise ValueError("attention_mask is not as long as input_ids")
        return ids, mask
    if "messages" in record:
        text = _chat_text(record["messages"], tokenizer())
        # The chat template has written the special tokens already.
        ids = tokenizer()(text, add_special_tokens=False, verbose=False)["input_ids"]
    else:
        text = _text(record)  # before the tokenizer is loaded: a broken line is reported first
        ids = tokenizer()(text, verbose=False)["input_ids"]
    return torch.tensor([ids], dtype=torch.long), None


def _whole_numbers(record: dict[str, Any], key: str) -> Tensor:
    """Return a list of whole numbers as `[1, S]`, or B lists of equal length as `[B, S]`."""
    rows = record[key]
    if isinstance(rows, list) and not (rows and all(isinstance(row, list) for row in rows)):
        rows = [rows]
    # type, not isinstance: True and False are not token ids.
    if not isinstance(rows, list) or not all(type(value) is int for row in rows for value in row):
        raise TypeError(f"{key} is not a list of whole numbers")
    if not all(abs(value) < _LARGEST for row in rows for value in row):
        raise ValueError(f"{key} holds a number of 32 bits or more")
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"the lists in {key} differ in length")
    return torch.tensor(rows, dtype=torch.long)


def _chat_text(messages: Any, tokenizer: Any) -> str:
    """Return a conversation in the form of the tokenizer's chat template, up to the begin of the answer."""
    if not (isinstance(messages, list) and messages and all(isinstance(message, dict) for message in messages)):
        raise TypeError("messages is not a list of objects")
    if not tokenizer.chat_template:  # old transformers versions would use a default template
        raise ValueError("messages need a chat template, and the tokenizer has none")
    try:
        with bounded_time(_TEMPLATE_SECONDS), bounded_memory(_TEMPLATE_BYTES):
            text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is code of the model's author, and may raise any error
        raise ValueError(f"the chat template cannot be applied ({brief(error)})") from error
    if len(text) > _TEMPLATE_CHARACTERS:
        raise ValueError(f"the chat template returns {len(text)} characters, more than {_TEMPLATE_CHARACTERS}")
    return text


def _text(record: dict[str, Any]) -> str:
    """Return a record's text; a BoolQ record becomes the guide's prompt."""
    boolq = ("title", "passage", "question")
    if all(key in record for key in boolq):
        title, passage, question = (_string(record, key) for key in boolq)
        return f"{title} -- {passage}\nQuestion:{question}?\nAnswer:"
    for key in ("text", "inputs_pretokenized"):
        if key in record:
            return _string(record, key)
    raise ValueError(f"no key that fa3 knows, only {', '.join(map(repr, record)) or 'an empty object'}")


def _string(record: dict[str, Any], key: str) -> str:
    value = record[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is not a string")
    return value
