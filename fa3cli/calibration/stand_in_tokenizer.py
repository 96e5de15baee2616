"""In the place of a tokenizer that is not there: about how many tokens a text has, for a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["StandInTokenizer", "has_tokenizer"]

_FILES = ("tokenizer*", "vocab.*", "merges.txt", "*.model", "*.tiktoken")
_BYTES_A_TOKEN = (
    4  # of UTF-8: English has a token to 4 or 5 letters, Chinese one to 1 or 2 characters of 3 bytes
)


class StandInTokenizer:
    """Gives a text about as many tokens as vocabularies of 100,000 and more do, and at most `longest`."""

    chat_template = "none: roles and contents are what counts"

    def __init__(self, longest: int | None) -> None:
        self._longest = longest

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        """Return the token ids of a text, all of them 0."""
        tokens = 1 + len(text.encode("utf-8", "replace")) // _BYTES_A_TOKEN
        return {"input_ids": [0] * min(tokens, self._longest or tokens)}

    def apply_chat_template(self, messages: list[dict[str, Any]], **_: Any) -> str:
        """Return a conversation's words."""
        return "\n".join(str(value) for message in messages for value in message.values())


def has_tokenizer(folder: Path) -> bool:
    """Tell whether a folder holds files of a tokenizer, sound or not."""
    return any(any(folder.glob(pattern)) for pattern in _FILES)
