from pathlib import Path

import pytest

from fa3cli.errors import InvalidInputError
from fa3cli.pipelines.prompts import read_prompts


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_text_file_has_one_prompt_per_line(tmp_path) -> None:
    file = write(tmp_path / "prompts.txt", "\ufeffa cat\r\n\n  a dog, in the rain \n{}\u2028x\n\n")
    assert read_prompts(file) == ("a cat", "a dog, in the rain", "{}\u2028x")


def test_jsonl_has_one_object_per_line(tmp_path) -> None:
    file = write(tmp_path / "p.jsonl", '{"prompt": "two\\nlines"}\n\n{"prompt": "", "id": 3}\n')
    assert read_prompts(file) == ("two\nlines", "")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", " \n\n", "p.txt: no prompts"),
        ("p.jsonl", "", "p.jsonl: no prompts"),
        ("p.txt", b"a\xff", "p.txt, line 1: cannot be read"),
        ("p.jsonl", '{"prompt": "a"}\n\n{"prompt"\n', "p.jsonl, line 3: not json"),
        ("p.jsonl", '{"prompt": "a"}\n{"text": "a"}\n', 'p.jsonl, line 2: .* "prompt"'),
        ("p.jsonl", '{"prompt": 3}', 'p.jsonl, line 1: .* "prompt"'),
        ("p.jsonl", '["prompt"]', "p.jsonl, line 1"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": "\\ud800"}', "p.jsonl, line 2: not json"),
        ("p.json", '["a cat"]', "p.json: expected text, one prompt per line, or .jsonl"),
        ("p.jsonl", "[" * 100_000, "p.jsonl, line 1: not json"),
    ],
)
def test_invalid_prompts_are_refused(tmp_path, name: str, text: str | bytes, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read_prompts(write(tmp_path / name, text))


def test_a_missing_file_is_an_error(tmp_path) -> None:
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_prompts(tmp_path / "none.txt")
