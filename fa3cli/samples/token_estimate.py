"""Estimates token counts for a plan when the folder has no tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["TokenEstimate", "has_tokenizer"]

_FILES = ("tokenizer*", "vocab.*", "merges.txt", "*.model", "*.tiktoken")
_BYTES_PER_TOKEN = 4  # of UTF-8: a token is 4 or 5 English letters, or 1 or 2 Chinese characters of 3 bytes


class TokenEstimate:
    """Replaces a tokenizer: counts about as many tokens as with a vocabulary of 100,000 or more, at most `longest`."""

    chat_template = "none: roles and contents are what counts"

    def __init__(self, longest: int | None) -> None:
        self._longest = longest

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        """Return the token ids of a text, all of them 0."""
        # replace: json may hold half of a surrogate pair, which UTF-8 cannot encode.
        tokens = 1 + len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN
        return {"input_ids": [0] * min(tokens, self._longest or tokens)}

    def apply_chat_template(self, messages: list[dict[str, Any]], **_: Any) -> str:
        """Return the roles and contents of a conversation as text."""
        return "\n".join(str(value) for message in messages for value in message.values())


def has_tokenizer(folder: Path) -> bool:
    """Tell whether a folder holds files of a tokenizer, valid or not."""
    return any(any(folder.glob(pattern)) for pattern in _FILES)
