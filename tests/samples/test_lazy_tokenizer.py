from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from fa3cli.errors import InvalidInputError
from fa3cli.samples.lazy_tokenizer import LazyTokenizer
from tests.conftest import EXAMPLES, copy_model

MODEL = EXAMPLES / "qwen2-tiny"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_model(MODEL, tmp_path / "model")


def edit(folder: Path, **values: Any) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def ids(folder: Path, trusted: bool = False) -> list[int]:
    return LazyTokenizer(folder, trusted)()("In the beginning")["input_ids"]


@pytest.mark.parametrize(
    "leftover",
    [
        {"tokenizer_file": "/nowhere/tokenizer.json"},
        {"tokenizer_file": None},
        {"vocab_file": "/etc/passwd", "merges_file": "../merges.txt"},
        {"special_tokens_map_file": "/home/x/special_tokens_map.json", "name_or_path": "/home/x/model"},
        {"fast_tokenizer_files": ["/nowhere/tokenizer.4.0.0.json"]},
        {"init_inputs": ["/etc/passwd"]},
    ],
)
def test_leftover_paths_in_the_config_are_ignored(folder: Path, leftover: dict[str, Any]) -> None:
    edit(folder, **leftover)
    assert ids(folder) == ids(MODEL)


@pytest.mark.parametrize("trusted", [False, True])
def test_a_gguf_file_is_refused(folder: Path, trusted: bool) -> None:
    edit(folder, gguf_file="../secret.gguf")
    with pytest.raises(InvalidInputError, match=r"tokenizer_config.json: gguf_file is '../secret.gguf'"):
        ids(folder, trusted)


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("name", ["tokenizer.json", "added_tokens.json", "chat_template.jinja"])
def test_a_pipe_is_refused(folder: Path, name: str, trusted: bool) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(InvalidInputError, match=f"{name}: not a regular file"):
        ids(folder, trusted)


@pytest.mark.parametrize("known", [True, False])
def test_code_needs_trust_and_no_question_is_asked(
    folder: Path, tmp_path: Path, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'CANARY')!r}, 'w').close()\n")
    edit(folder, auto_map={"AutoTokenizer": ["evil.T", None]}, **({} if known else {"tokenizer_class": "T"}))
    if not known:
        edit_model_type(folder)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    if known:
        assert ids(folder) == ids(MODEL)
    else:
        with pytest.raises(InvalidInputError, match="no tokenizer for text") as raised:
            ids(folder)
        assert "--trust-remote-code" in raised.value.hint
    assert sys.stdin.read() == "y\n" and not (tmp_path / "CANARY").exists()


def edit_model_type(folder: Path) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "mine"}))


def test_errors_do_not_name_the_temporary_copy(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as raised:
        ids(tmp_path)
    assert "fa3-checked" not in str(raised.value)
