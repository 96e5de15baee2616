"""Tests that, without trust, only code of a folder runs that patching produces again."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fa3cli import patching
from fa3cli.errors import ConflictError, Fa3Error, InvalidInputError
from fa3cli.models import opening
from fa3cli.models.opening import check_loaded_code, open_model
from tests.sample_models import edit_config, write_model

MODULE = "modeling_llama_fa3.py"


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "CANARY"


@pytest.fixture
def evil(canary: Path) -> str:
    """Python code that leaves a trace when it is run."""
    return f"open({str(canary)!r}, 'w').close()\n"


@pytest.mark.parametrize("fa", [True, False])
def test_a_config_that_names_another_config_file_is_refused(tmp_path: Path, canary: Path, evil: str, fa: bool) -> None:
    folder = write_model(tmp_path / "model", patched=False)
    config = json.loads((folder / "config.json").read_text())
    other = {**config, "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (folder / "config.4.0.0.json").write_text(json.dumps(other))
    (folder / "evil.py").write_text(evil)
    edit_config(folder, configuration_files=["config.4.0.0.json"])
    if fa:
        patching.patch(folder)
    with pytest.raises(ConflictError, match="configuration_files") as raised:
        open_model(folder, fa=fa)
    assert raised.value.exit_code == 4 and "--trust-remote-code" in raised.value.hint
    assert not canary.exists()
    with pytest.raises(Fa3Error):
        open_model(folder, fa=fa, trust_remote_code=True)
    assert canary.exists()


@pytest.mark.parametrize("entry", ["AutoConfig", "AutoTokenizer", "AutoModelForCausalLM"])
def test_no_question_is_asked_on_the_terminal(
    tmp_path: Path, canary: Path, evil: str, entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "model", patched=False)
    (folder / "evil.py").write_text(evil)
    edit_config(folder, model_type="mine", auto_map={entry: "evil.Mine"})
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(Fa3Error):
        open_model(folder, fa=False)
    assert sys.stdin.read() == "y\n" and not canary.exists()


def swap_before(monkeypatch: pytest.MonkeyPatch, function: str, folder: Path, text: str) -> None:
    """Replace the patched file right before opening calls this function."""
    original = getattr(opening, function)

    def replaced(*arguments: Any, **options: Any) -> Any:
        (folder / MODULE).write_text(text)
        return original(*arguments, **options)

    monkeypatch.setattr(opening, function, replaced)


@pytest.mark.parametrize("function", ["require_known_code", "Checkpoint", "read_config", "build_skeleton"])
def test_a_file_replaced_after_the_check_is_not_run(
    tmp_path: Path, canary: Path, evil: str, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / f"model-{function}")
    text = (folder / MODULE).read_text()
    swap_before(monkeypatch, function, folder, evil + text)
    model = open_model(folder, fa=True)
    assert len(model.attentions()) == 3
    assert not canary.exists()


def test_a_config_replaced_after_the_check_runs_no_code(
    tmp_path: Path, canary: Path, evil: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "evil.py").write_text(evil)
    original = opening.require_known_code

    def swapped(*arguments: Any, **options: Any) -> None:
        original(*arguments, **options)
        entries = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
        edit_config(folder, auto_map=entries)

    monkeypatch.setattr(opening, "require_known_code", swapped)
    assert len(open_model(folder, fa=True).attentions()) == 3
    assert not canary.exists()


def test_a_trusted_file_must_not_change_while_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / f"model-{tmp_path.name}")
    edited = (folder / MODULE).read_text() + "\nEDITED = True\n"
    (folder / MODULE).write_text(edited)
    with pytest.raises(ConflictError, match="changed since fa3 wrote it"):
        open_model(folder, fa=True)
    assert open_model(folder, fa=True, trust_remote_code=True).attentions()
    swap_before(monkeypatch, "read_config", folder, edited + "# another\n")
    with pytest.raises(ConflictError, match="changed while it was loaded"):
        open_model(folder, fa=True, trust_remote_code=True)


@pytest.mark.parametrize(
    "name",
    ["generation_config.json", "tokenizer.json", "special_tokens_map.json", "model.safetensors.index.json"],
)
@pytest.mark.parametrize("trusted", [True, False])
def test_a_pipe_among_the_files_is_refused(tmp_path: Path, name: str, trusted: bool) -> None:
    folder = write_model(tmp_path / "model", patched=False)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(InvalidInputError, match=f"{name}: not a regular file"):
        open_model(folder, fa=False, trust_remote_code=trusted)


def test_loaded_code_that_differs_from_the_folder_is_refused(qwen2_tiny: Path) -> None:
    module = qwen2_tiny / "modeling_qwen2_fa3.py"
    module.write_bytes(module.read_bytes() + b"\n# of another hand\n")
    seen = module.read_bytes()
    model = open_model(qwen2_tiny, fa=True, trust_remote_code=True).model
    check_loaded_code(model, module, seen)
    # As another process that loads a folder of the same name does.
    loaded = Path(sys.modules[type(model).__module__].__file__)
    loaded.write_bytes(loaded.read_bytes() + b"\n")
    with pytest.raises(ConflictError, match=r"is not .*modeling_qwen2_fa3\.py") as caught:
        check_loaded_code(model, module, seen)
    assert "HF_MODULES_CACHE" in caught.value.hint
    module.write_bytes(b"")
    with pytest.raises(ConflictError, match="changed while it was loaded"):
        check_loaded_code(model, module, seen)


def test_without_a_dtype_in_config_that_of_the_stored_values_is_used(tmp_path: Path) -> None:
    folder = write_model(tmp_path, patched=False, dtype=torch.bfloat16)
    config = json.loads((folder / "config.json").read_text())
    for name in ("dtype", "torch_dtype"):
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config))
    assert open_model(folder, fa=False).dtype == torch.bfloat16
