import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fa3cli.errors import ConflictError, Fa3Error, InvalidInputError, UnsupportedError
from fa3cli.pipelines import opening
from fa3cli.pipelines.opening import load_pipeline, open_pipeline

INDEX = "model_index.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(made: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    return lambda name, patched=False: Path(shutil.copytree(made(name, patched), tmp_path / name))


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_an_opened_pipeline_has_its_transformers_without_weights(made: Callable[..., Path]) -> None:
    opened = open_pipeline(made("wan", True), fa=True)
    assert opened.pipeline_class_name == "WanPipeline"
    assert list(opened.transformers) == list(opened.configs) == ["transformer", "transformer_2"]
    assert opened.configs["transformer"]["num_layers"] == 2
    assert (opened.dtype, opened.device) == (torch.float32, torch.device("cpu"))
    for model in opened.transformers.values():
        assert list(model.layers) == ["blocks.0", "blocks.1"]
        assert list(model.attentions("blocks.1")) == ["blocks.1.attn1", "blocks.1.attn2"]
        assert "blocks.0.ffn.net.2" in model.linears("blocks.0")
        assert "proj_out.weight" in model.outside
        assert all(parameter.is_meta for parameter in model.model.parameters())


def test_without_fa_the_installed_class_is_used(made: Callable[..., Path]) -> None:
    import diffusers

    for patched in (False, True):
        model = open_pipeline(made("hunyuan", patched), fa=False).transformers["transformer"]
        assert type(model.model) is diffusers.HunyuanVideoTransformer3DModel
        assert not model.attentions()
        assert [name for name in model.layers if "refiner" in name] == []


def test_dtype_is_that_of_most_stored_values(copy: Callable[..., Path]) -> None:
    folder = copy("flux")
    file = folder / "transformer" / WEIGHTS
    tensors = load_file(file)
    save_file(
        {name: tensor if "norm" in name else tensor.bfloat16() for name, tensor in tensors.items()},
        file,
    )
    assert open_pipeline(folder, fa=False).dtype == torch.bfloat16
    assert open_pipeline(folder, fa=False, dtype="float32").dtype == torch.float32
    with pytest.raises(UnsupportedError, match="--dtype int8"):
        open_pipeline(folder, fa=False, dtype="int8")


def test_with_fa_the_pipeline_must_be_patched(flux: Path) -> None:
    with pytest.raises(InvalidInputError, match="not patched") as raised:
        open_pipeline(flux, fa=True)
    assert (raised.value.exit_code, "run fa3 patch" in raised.value.hint) == (5, True)


def test_an_edited_patch_runs_only_with_trust(copy: Callable[..., Path]) -> None:
    folder = copy("flux", True)
    [module] = folder.glob("transformer/*.py")
    module.write_text(module.read_text() + "\nEDITED = True\n")
    with pytest.raises(ConflictError, match="changed since fa3 wrote it") as raised:
        open_pipeline(folder, fa=True)
    assert (raised.value.exit_code, "--trust-remote-code" in raised.value.hint) == (4, True)
    opened = open_pipeline(folder, fa=True, trust_remote_code=True)
    assert opened.trusted and opened.transformers["transformer"].attentions()
    module.unlink()
    with pytest.raises(ConflictError):
        open_pipeline(folder, fa=True, trust_remote_code=True)


CODE = "from diffusers import FluxPipeline\n\n\nclass Mine(FluxPipeline):\n    RUN = True\n"


@pytest.mark.parametrize("fa", [False, True])
@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("mine.py", {"_class_name": ["mine", "Mine"]}),
        ("scheduler/mine.py", {"scheduler": ["mine", "FlowMatchEulerDiscreteScheduler"]}),
    ],
)
def test_other_code_in_the_folder_needs_trust(
    copy: Callable[..., Path], file: str, changes: dict[str, Any], fa: bool
) -> None:
    folder = copy("flux")
    (folder / file).write_text(CODE + "\n\nfrom diffusers import FlowMatchEulerDiscreteScheduler\n")
    edit(folder / INDEX, **changes)
    if fa:
        from fa3cli import patching

        patching.patch(folder)
    with pytest.raises(ConflictError, match="load code") as raised:
        open_pipeline(folder, fa=fa)
    assert "--trust-remote-code" in raised.value.hint
    opened = open_pipeline(folder, fa=fa, trust_remote_code=True)
    pipeline = load_pipeline(opened, {name: model.model for name, model in opened.transformers.items()})
    assert hasattr(pipeline, "RUN") == (file == "mine.py")


def test_a_file_replaced_after_the_check_is_not_run(
    copy: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy("flux", True)
    [module] = folder.glob("transformer/*.py")
    original = opening.require_known_code

    def swapped(*arguments: Any, **options: Any) -> None:
        original(*arguments, **options)
        module.write_text(f"open({str(tmp_path / 'CANARY')!r}, 'w').close()\n" + module.read_text())

    monkeypatch.setattr(opening, "require_known_code", swapped)
    opened = open_pipeline(folder, fa=True)
    assert opened.transformers["transformer"].attentions()
    load_pipeline(opened, {name: model.model for name, model in opened.transformers.items()})
    assert not (tmp_path / "CANARY").exists()


def test_code_in_components_is_not_run_and_no_question_is_asked(
    copy: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even code of files that are added after the folder was checked."""
    folder = copy("flux")
    opened = open_pipeline(folder, fa=False)
    code = f"open({str(tmp_path / 'CANARY')!r}, 'w').close()\n"
    for name in ("text_encoder", "tokenizer", "scheduler", "vae", "."):
        for file in ("mine.py", "pipeline.py", "diffusers.py", "transformers.py", "handler.py"):
            (folder / name / file).write_text(code)
    entries = {name: "mine.Mine" for name in ("AutoConfig", "AutoModel", "AutoTokenizer")}
    edit(folder / "text_encoder" / "config.json", auto_map=entries)
    edit(folder / "tokenizer" / "tokenizer_config.json", auto_map=entries)
    edit(folder / "vae" / "config.json", auto_map=entries)
    (folder / "text_encoder" / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(folder / "vae")})
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    load_pipeline(opened, {name: model.model for name, model in opened.transformers.items()})
    assert sys.stdin.read() == "y\n" and not (tmp_path / "CANARY").exists()


@pytest.mark.parametrize("name", ["text_encoder/config.json", "tokenizer/vocab.json", "vae/x.json", "x.json"])
def test_a_pipe_among_the_files_is_refused(copy: Callable[..., Path], name: str) -> None:
    folder = copy("flux")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(InvalidInputError, match=f"{name}: not a regular file"):
        open_pipeline(folder, fa=False)


@pytest.mark.parametrize(
    ("file", "changes", "error"),
    [
        ("text_encoder/config.json", {"configuration_files": ["config.4.0.0.json"]}, ConflictError),
        ("tokenizer/tokenizer_config.json", {"gguf_file": "../x.gguf"}, InvalidInputError),
        (
            "text_encoder/model.safetensors.index.json",
            {"weight_map": {"a": "../../x.bin"}},
            InvalidInputError,
        ),
    ],
)
def test_a_component_that_refers_to_other_files_is_refused(
    copy: Callable[..., Path], file: str, changes: dict[str, Any], error: type[Fa3Error]
) -> None:
    folder = copy("flux")
    opened = open_pipeline(folder, fa=False)
    if not (folder / file).exists():
        (folder / file).write_text("{}")
    edit(folder / file, **changes)
    with pytest.raises(error, match=Path(file).name):
        load_pipeline(opened, {name: model.model for name, model in opened.transformers.items()})


def test_a_folder_without_a_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no model_index.json"):
        open_pipeline(tmp_path, fa=False)


@pytest.mark.parametrize(
    ("break_it", "error", "message"),
    [
        (lambda f: edit(f / INDEX, _class_name="NoPipeline"), UnsupportedError, "has no NoPipeline"),
        (lambda f: edit(f / INDEX, _class_name=None), InvalidInputError, "_class_name is None"),
        (lambda f: edit(f / INDEX, transformer=[None, None]), UnsupportedError, "names no transformer"),
        (lambda f: (f / "transformer" / "config.json").unlink(), InvalidInputError, "config.json"),
        (lambda f: (f / "transformer" / WEIGHTS).unlink(), InvalidInputError, f"expected {WEIGHTS}"),
        (
            lambda f: edit(f / "transformer" / "config.json", num_layers=3),
            InvalidInputError,
            "the checkpoint lacks transformer_blocks.2",
        ),
        (
            lambda f: edit(f / "transformer" / "config.json", in_channels=8),
            InvalidInputError,
            "config.json asks for",
        ),
        (
            lambda f: save_file({"a": torch.ones(2, dtype=torch.int8)}, f / "transformer" / WEIGHTS),
            InvalidInputError,
            "flux/transformer: the weights hold no float tensors",
        ),
        (
            lambda f: save_file({}, f / "transformer" / WEIGHTS),
            InvalidInputError,
            "flux/transformer: the weights hold no float tensors",
        ),
        (
            lambda f: edit(f / "transformer" / "config.json", num_layers=10**9),
            InvalidInputError,
            "num_layers is 1000000000, more than any model has",
        ),
        (
            lambda f: edit(f / "transformer" / "config.json", num_layers=90_000),
            UnsupportedError,
            "it builds more than",
        ),
        (lambda f: shutil.rmtree(f / "vae"), InvalidInputError, "flux/vae: no such folder"),
    ],
)
def test_broken_folders_are_refused(
    copy: Callable[..., Path], break_it: Callable[[Path], None], error: type[Fa3Error], message: str
) -> None:
    folder = copy("flux")
    break_it(folder)
    with pytest.raises(error, match=message):
        open_pipeline(folder, fa=False)


def test_a_component_that_diffusers_cannot_load_is_an_error(copy: Callable[..., Path]) -> None:
    folder = copy("flux")
    (folder / "vae" / "config.json").unlink()
    opened = open_pipeline(folder, fa=False)
    with pytest.raises(InvalidInputError, match="cannot load the pipeline") as raised:
        load_pipeline(opened, {name: model.model for name, model in opened.transformers.items()})
    assert "fa3-pipeline-" not in str(raised.value)
    assert str(raised.value).count(str(folder)) > 1


@pytest.mark.parametrize("name", ["model.bin", "pytorch_model-00001-of-00002.bin", "a.ckpt", "a.pt", "a.pth"])
def test_pickled_weights_are_refused(copy: Callable[..., Path], name: str) -> None:
    folder = copy("flux")
    encoder = folder / "text_encoder"
    (encoder / name).write_bytes(b"")
    open_pipeline(folder, fa=False)
    for file in encoder.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(InvalidInputError, match="flux/text_encoder: its weights are pickled") as raised:
        open_pipeline(folder, fa=False)
    assert raised.value.hint == "pickled weights are never read: convert them to safetensors first"


def test_pickled_weights_are_not_read_instead_of_renamed_safetensors(copy: Callable[..., Path]) -> None:
    folder = copy("flux")
    vae = folder / "vae"
    torch.save(load_file(vae / WEIGHTS), vae / "diffusion_pytorch_model.bin")
    (vae / WEIGHTS).rename(vae / "other.safetensors")
    opened = open_pipeline(folder, fa=False)
    with pytest.raises(InvalidInputError, match="cannot load the pipeline"):
        load_pipeline(opened, {name: model.model for name, model in opened.transformers.items()})


def test_loading_prints_nothing(patched_flux: Path, capfd: pytest.CaptureFixture) -> None:
    opened = open_pipeline(patched_flux, fa=True)
    capfd.readouterr()
    load_pipeline(opened, {name: model.model for name, model in opened.transformers.items()})
    assert capfd.readouterr() == ("", "")
