from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fa3cli.errors import InvalidInputError
from fa3cli.files.reading import LARGE
from fa3cli.models.untrusted.checked_folder import checked_copy, require_regular_files


def fill(folder: Path) -> Path:
    (folder / "additional_chat_templates").mkdir(parents=True)
    (folder / "additional_chat_templates" / "rag.jinja").write_text("{{ a }}")
    (folder / "checkpoint-1").mkdir()
    (folder / "checkpoint-1" / "config.json").write_text("{}")
    for name in ("config.json", "tokenizer.json", "adapter_config.json", "generation_config.json"):
        (folder / name).write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"vocab_file": "/x", "model_max_length": 5}))
    for name in ("modeling.py", "model.safetensors", "pytorch_model.bin", "dict.txt"):
        (folder / name).write_text(name)
    (folder / "broken.json").symlink_to("nowhere")
    return folder


def test_a_copy_contains_only_files_that_may_be_read(tmp_path: Path) -> None:
    folder = fill(tmp_path / "model")
    with checked_copy(folder) as copy:
        names = {str(path.relative_to(copy)) for path in copy.rglob("*") if not path.is_dir()}
        assert names == {
            "additional_chat_templates/rag.jinja", "config.json", "dict.txt", "generation_config.json",
            "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        }  # fmt: skip
        assert json.loads((copy / "tokenizer_config.json").read_text()) == {"model_max_length": 5}
        assert (copy / "model.safetensors").read_text() == "model.safetensors"
        (folder / "tokenizer.json").write_text("[]")
        assert (copy / "tokenizer.json").read_text() == "{}"
    assert not copy.exists()
    with checked_copy(folder, "config.json") as copy:
        assert [path.name for path in copy.iterdir()] == ["config.json"]


def grow(path: Path) -> None:
    path.touch()
    os.truncate(path, LARGE + 1)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), grow])
@pytest.mark.parametrize(
    "name",
    [
        "tokenizer.json", "special_tokens_map.json", "generation_config.json", "added_tokens.json", "chat_template.jinja",
        "model.safetensors.index.json", "additional_chat_templates/x.jinja",
    ],
)  # fmt: skip
def test_endless_and_huge_files_are_refused(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    make(tmp_path / name)
    with pytest.raises(InvalidInputError, match=name) as raised:
        require_regular_files(tmp_path)
    assert raised.value.exit_code == 5


def test_weights_may_be_large_but_must_be_regular_files(tmp_path: Path) -> None:
    grow(tmp_path / "model.safetensors")
    require_regular_files(tmp_path)
    os.mkfifo(tmp_path / "other.safetensors")
    with pytest.raises(InvalidInputError, match="not a regular file"):
        require_regular_files(tmp_path)
