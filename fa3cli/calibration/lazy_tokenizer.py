"""The tokenizer of a folder of weights, as transformers makes it of files that were checked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from fa3cli.calibration.checked_folder import checked_copy, checked_file, require_regular_files
from fa3cli.calibration.trust import never_asking, trust_hint
from fa3cli.errors import InvalidInputError, brief

__all__ = ["LazyTokenizer"]

_CONFIG = "tokenizer_config.json"


class LazyTokenizer:
    """The tokenizer of a folder, loaded when the first line needs it: token ids need none."""

    def __init__(self, folder: Path, trust_remote_code: bool) -> None:
        self._folder, self._trusted = folder, trust_remote_code
        self._tokenizer: Callable[..., Any] | None = None

    def __call__(self) -> Any:
        if self._tokenizer is None:
            self._tokenizer = self._load()
        return self._tokenizer

    def _load(self) -> Any:
        """Load it from the folder itself where its code may be run, else from what was copied of it.

        Raises InvalidInputError where there is none, or a broken one.
        """
        from transformers import AutoTokenizer

        require_regular_files(self._folder)
        config = self._folder / _CONFIG
        if config.is_file():
            checked_file(config)
        where = nullcontext(self._folder) if self._trusted else checked_copy(self._folder)
        with where as place, never_asking():
            try:
                return AutoTokenizer.from_pretrained(
                    place, local_files_only=True, trust_remote_code=self._trusted
                )
            except Exception as error:  # each transformers version raises others for a missing or broken one
                said = brief(error).replace(str(place), str(self._folder))
                raise InvalidInputError(
                    f"{self._folder}: no tokenizer for text ({said})",
                    hint=trust_hint(error)
                    or 'copy the tokenizer files into the folder, or give token ids: {"input_ids": […]}',
                ) from error
