"""Reads the prompts to sample a pipeline with, from text or json objects, one prompt per line."""

from __future__ import annotations

from pathlib import Path

from fa3cli.errors import InvalidInputError
from fa3cli.files.documents import parse_json
from fa3cli.samples.text_lines import numbered_lines

__all__ = ["read_prompts"]

_HINT = 'a line holds one prompt; in a .jsonl file it is {"prompt": "..."}'


def read_prompts(file: Path) -> tuple[str, ...]:
    """Return the prompts of a file in order, without blank lines.

    Raises InvalidInputError for a file that cannot be read or decoded, a file without prompts, and a .json file. In a
    .jsonl file, each line must be an object with the text "prompt"; the error has the number of a bad line.
    """
    if file.suffix.lower() == ".json":
        raise InvalidInputError(f"{file}: expected text, one prompt per line, or .jsonl", hint=_HINT)
    lines = [(number, line.strip()) for number, line in numbered_lines(file)]
    of_line = _of_json if file.suffix == ".jsonl" else lambda line, _: line
    prompts = tuple(of_line(line, f"{file}, line {number}") for number, line in lines if line)
    if not prompts:
        raise InvalidInputError(f"{file}: no prompts", hint=_HINT)
    return prompts


def _of_json(line: str, origin: str) -> str:
    try:
        found = parse_json(line)
    except ValueError as error:
        raise InvalidInputError(f"{origin}: not json ({error})", hint=_HINT) from error
    prompt = found.get("prompt") if isinstance(found, dict) else None
    if not isinstance(prompt, str):
        raise InvalidInputError(f'{origin}: expected an object with the text "prompt"', hint=_HINT)
    return prompt
