"""Loads the tokenizer of a weights folder on first use, from checked files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from fa3cli.errors import InvalidInputError, brief
from fa3cli.models.untrusted.checked_folder import checked_copy, checked_file, require_regular_files
from fa3cli.models.untrusted.trust import trust_hint, without_trust_prompt

__all__ = ["LazyTokenizer"]

_CONFIG = "tokenizer_config.json"


class LazyTokenizer:
    """The tokenizer of a folder, loaded when the first line needs it: lines with token ids need none."""

    def __init__(self, folder: Path, trust_remote_code: bool) -> None:
        self._folder, self._trusted = folder, trust_remote_code
        self._tokenizer: Callable[..., Any] | None = None

    def __call__(self) -> Any:
        if self._tokenizer is None:
            self._tokenizer = self._load()
        return self._tokenizer

    def _load(self) -> Any:
        """Load the tokenizer from the folder if its code is trusted, else from a checked copy.

        Raises InvalidInputError if the tokenizer is missing or broken.
        """
        from transformers import AutoTokenizer

        # Checked first: transformers would wait forever at a pipe.
        require_regular_files(self._folder)
        config = self._folder / _CONFIG
        if config.is_file():
            checked_file(config)
        where = nullcontext(self._folder) if self._trusted else checked_copy(self._folder)
        with where as place, without_trust_prompt():
            try:
                # local_files_only: otherwise transformers may ask the hub for files that the folder lacks.
                return AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=self._trusted)
            except Exception as error:  # the error classes differ by transformers version
                # The message names the user's folder, not the temporary copy.
                reason = brief(error).replace(str(place), str(self._folder))
                raise InvalidInputError(
                    f"{self._folder}: no tokenizer for text ({reason})",
                    hint=trust_hint(error)
                    or 'copy the tokenizer files into the folder, or give token ids: {"input_ids": […]}',
                ) from error
