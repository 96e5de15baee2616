"""Patches a pipeline's folder and undoes it, with a small diffusers package instead of the installed one."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from fa3cli.errors import ConflictError, InvalidInputError, MissingCapabilityError, UnsupportedError
from fa3cli.patching import attention_of, patch, plan, status, undo
from fa3cli.patching.diffusion import library as installed
from fa3cli.patching.formats import pipeline
from tests.patching.conftest import snapshot
from tests.patching.diffusion import samples


def modules(folder: Path) -> dict[str, str]:
    """The files that fa3 wrote."""
    return {name: data.decode() for name, data in snapshot(folder).items() if name.endswith(".py")}


def test_patch_then_undo_restores_every_byte(flux) -> None:
    before = snapshot(flux)
    result = patch(flux)
    assert result.state == "patched" and status(flux).reproducible
    ((name, text),) = modules(flux).items()
    assert name.startswith("transformer/transformer_flux_fa3_")
    index = json.loads((flux / "model_index.json").read_bytes())
    assert index["transformer"] == [Path(name).stem, "FluxTransformer2DModel"]
    assert index["vae"] == ["diffusers", "AutoencoderKL"]
    assert text.count('attn.fa_quantizer.quant(query, qkv="q")') == 2
    assert "self.attn.fa_quantizer = FAQuantizer(SimpleNamespace(num_attention_heads=self.attn.heads" in text
    assert undo(flux).restored == (flux / "model_index.json",)
    assert snapshot(flux) == before and not (flux / ".fa3").exists()


def test_patching_twice_writes_nothing(flux) -> None:
    patch(flux)
    first = {name: (flux / name).stat().st_mtime_ns for name in snapshot(flux)}
    assert patch(flux).state == "already-patched"
    assert {name: (flux / name).stat().st_mtime_ns for name in snapshot(flux)} == first


def test_plan_writes_nothing(flux) -> None:
    before = snapshot(flux)
    assert plan(flux).result.state == "would-patch"
    assert snapshot(flux) == before


def test_several_transformers_are_all_patched(tmp_path, library) -> None:
    parts = {"transformer": "FluxTransformer2DModel", "transformer_2": "FluxTransformer2DModel"}
    folder = samples.pipeline(tmp_path / "two", **parts, image_encoder="NewTransformer2DModel")
    before = snapshot(folder)
    assert [file.component for file in patch(folder).files] == [*parts, "image_encoder"]
    assert len(modules(folder)) == 3
    assert patch(folder).state == "already-patched"
    (folder / "model_index.json").write_bytes((folder / "model_index.json").read_bytes() + b"\r\n")
    undo(folder, force=True)
    before["model_index.json"] += b"\r\n"
    assert snapshot(folder) == before


def test_a_class_from_another_file_is_listed_with_its_line_there(flux, library) -> None:
    lines = samples.PROCESSORS.lstrip("\n").splitlines()
    for found in attention_of(flux):
        assert found.file == str(library.folder / "models" / "attention_processor.py")
        assert lines[found.line - 1] == f"class {found.name}:"
    fused = attention_of(flux)[1]
    assert lines[fused.place - 1].strip().startswith("query, key, value = attn.to_qkv")


def test_modules_and_processors_beside_the_model_are_patched(tmp_path, library) -> None:
    folder = samples.pipeline(tmp_path / "new", transformer="NewTransformer2DModel")
    result = patch(folder)
    assert result.warnings == ("FluxIPAdapterAttnProcessor is not patched: the model itself does not use it",)
    (text,) = modules(folder).values()
    assert 'num_key_value_heads=self.heads), logger, layout="BSHD")' in text
    # On an NPU the module is made with a name of another file, which would bring back the class that isn't patched.
    assert "from diffusers.models.transformers" not in text and "import FluxAttnProcessor2_0_NPU" not in text
    assert text.index("class FluxAttnProcessor2_0_NPU") > text.index("class NewTransformer2DModel")


def test_the_quantizer_of_msmodelslim_gets_states_in_bhsd(tmp_path, library) -> None:
    folder = samples.pipeline(tmp_path / "new", transformer="NewTransformer2DModel")
    patch(folder, quantizer="msmodelslim")
    (text,) = modules(folder).values()
    assert "layout=" not in text
    assert 'attn.fa_quantizer.quant(query.transpose(1, 2), qkv="q").transpose(1, 2)' in text


def test_imports_for_npus_come_from_their_original_file(flux) -> None:
    patch(flux)
    (text,) = modules(flux).values()
    assert "from diffusers.models.attention_processor import math\n" in text
    assert (
        "try:\n    from diffusers.models.attention_processor import torch_npu\nexcept ImportError:\n    pass\n" in text
    )


@pytest.mark.parametrize(
    ("class_name", "reason"),
    [
        (
            "SD3Transformer2DModel",
            r"transformer_sd3.py:3: .* made of JointTransformerBlock, whose attention is in",
        ),
        (
            "DefaultTransformer2DModel",
            r"transformer_default.py:10: Attention is made with the default processor",
        ),
    ],
)
def test_attention_that_cannot_be_patched_is_refused(tmp_path, library, class_name, reason) -> None:
    folder = samples.pipeline(tmp_path / "other", transformer=class_name)
    before = snapshot(folder)
    with pytest.raises(UnsupportedError, match=reason):
        patch(folder)
    assert snapshot(folder) == before


def test_a_pipeline_without_transformers_is_refused(tmp_path, library) -> None:
    folder = samples.pipeline(tmp_path / "unet", unet="UNet2DConditionModel")
    with pytest.raises(UnsupportedError, match="names no transformer that diffusers 0.31.0 has"):
        patch(folder)


def test_a_missing_component_is_named(flux) -> None:
    for path in sorted((flux / "transformer").iterdir()):
        path.unlink()
    (flux / "transformer").rmdir()
    with pytest.raises(InvalidInputError, match="transformer is missing, but"):
        patch(flux)


def test_code_in_the_pipeline_folder_is_refused(flux) -> None:
    index = flux / "model_index.json"
    index.write_bytes(index.read_bytes().replace(b'"diffusers",\r\n    "Flux', b'"own",\r\n    "Flux'))
    (flux / "transformer" / "own.py").write_text("import torch\n")
    with pytest.raises(UnsupportedError, match="transformer is loaded from own.py, its own code in the folder"):
        patch(flux)
    (flux / "transformer" / "own.py").write_text("self.fa_quantizer = None\n")
    with pytest.raises(ConflictError, match="already has a fa_quantizer"):
        patch(flux)


def test_a_file_edited_by_hand_is_overwritten_only_with_force(flux) -> None:
    before = snapshot(flux)
    patch(flux)
    path = flux / next(iter(modules(flux)))
    path.write_text(path.read_text() + "# mine\n")
    for act in (patch, undo, plan):
        with pytest.raises(ConflictError, match=r"transformer_flux_fa3_\w+.py changed since"):
            act(flux)
    assert status(flux).state == "edited"
    assert patch(flux, force=True).state == "patched"
    undo(flux)
    assert snapshot(flux) == before


def test_a_stale_patch_names_its_reason_and_is_replaced(flux, library, monkeypatch) -> None:
    before = snapshot(flux)
    patch(flux)
    newer = replace(library, version="0.32.0")
    monkeypatch.setattr(pipeline, "installed_diffusers", lambda: newer)
    assert plan(flux).result.state == "already-patched"  # the same text
    path = library.folder / "models" / "attention_processor.py"
    path.write_text(path.read_text().replace("attn.heads, 8", "attn.heads, 9"))
    made = plan(flux).result
    assert (made.state, made.reason) == ("stale", "patched with diffusers 0.31.0, installed is 0.32.0")
    assert not status(flux).reproducible
    old = set(modules(flux))
    assert patch(flux).state == "patched"
    assert len(modules(flux)) == 1 and not old & set(modules(flux))
    undo(flux)
    assert snapshot(flux) == before


@pytest.mark.parametrize("patched", [True, False])
def test_a_linked_component_is_not_changed(flux, tmp_path, patched: bool) -> None:
    if patched:
        patch(flux)
    elsewhere = (flux / "transformer").rename(tmp_path / "elsewhere")
    (flux / "transformer").symlink_to(elsewhere)
    before = snapshot(elsewhere)
    for act in (patch, undo) if patched else (patch,):
        for force in (False, True):
            with pytest.raises(ConflictError, match="transformer is a link to") as caught:
                act(flux, force=force)
            assert "--output" in caught.value.hint
    assert snapshot(elsewhere) == before
    if not patched:
        assert patch(flux, output=tmp_path / "out").state == "patched"
        assert snapshot(elsewhere) == before
        assert undo(flux).removed == ()


def test_a_folder_in_place_of_a_patched_file_is_a_conflict(flux) -> None:
    name = plan(flux).receipt.files[0].module
    (flux / name).mkdir()
    with pytest.raises(ConflictError, match="exists, and there is no"):
        patch(flux)
    (flux / name).rmdir()
    patch(flux)
    (flux / name).unlink()
    (flux / name).mkdir()
    for act in (patch, undo):
        for force in (False, True):
            with pytest.raises(ConflictError, match="transformer_flux_fa3"):
                act(flux, force=force)


@pytest.mark.parametrize(
    "fields",
    [
        *({"transformer": value} for value in (7, "A", {}, [], ["diffusers", 7], [1e300, "A"], [None, "A"])),
        *({"transformer": value} for value in (["../x", "A"], ["a\0b", "A"], ["diffusers"] * 3)),
        *({name: ["diffusers", "FluxTransformer2DModel"]} for name in ("../x", ".", "a\0b", "", "x" * 300)),
        *({"_class_name": value} for value in (7, {}, [7, "A"])),
    ],
)
def test_an_index_with_wrong_types_is_invalid(flux, fields: dict) -> None:
    index = flux / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_bytes()) | fields))
    before = snapshot(flux)
    for act in (patch, plan, attention_of):
        with pytest.raises(InvalidInputError, match=r"model_index\.json"):
            act(flux)
    assert snapshot(flux) == before


@pytest.mark.parametrize("name", ["model_index.json", "transformer/config.json"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_special_file_is_an_error(flux, name: str, make) -> None:
    (flux / name).unlink()
    make(flux / name)
    with pytest.raises(InvalidInputError, match=name):
        patch(flux)


@pytest.mark.parametrize(
    "change",
    [
        {"files": []},
        {"files": None},
        {"files": [7]},
        {"index": 7},
        {"link": []},
        {"options": {"rules": 7}},
        {"unknown": 1},
        {"library": None},
    ],
)
def test_a_receipt_with_wrong_types_is_a_conflict(flux, change: dict) -> None:
    patch(flux)
    receipt = flux / ".fa3" / "patch.json"
    receipt.write_text(json.dumps(json.loads(receipt.read_text()) | change))
    for act in (patch, undo, plan):
        with pytest.raises(ConflictError, match=r"patch\.json"):
            act(flux)
    assert status(flux).state == "foreign"


@pytest.mark.parametrize(
    ("component", "module"),
    [
        ("vae", "transformer/a_fa3_0123456789ab.py"),
        ("..", "../a_fa3_0123456789ab.py"),
        ("", "/a_fa3_0123456789ab.py"),
        (None, "vae/a_fa3_0123456789ab.py"),
        (None, "model.py"),
        ("vae", "vae/config.json"),
        ("a/b", "a/b/a_fa3_0123456789ab.py"),
    ],
)
def test_a_receipt_may_name_only_files_that_fa3_would_write(flux, component, module) -> None:
    patch(flux)
    receipt = flux / ".fa3" / "patch.json"
    data = json.loads(receipt.read_text())
    data["files"][0] |= {"component": component, "module": module}
    receipt.write_text(json.dumps(data))
    with pytest.raises(ConflictError, match="would not write"):
        undo(flux, force=True)


def test_paths_named_in_a_receipt_are_not_opened(flux, tmp_path) -> None:
    patch(flux)
    assert status(flux).code == modules(flux)
    os.mkfifo(tmp_path / "pipe")  # opening the pipe would block
    path, receipt = str(tmp_path / "pipe"), flux / ".fa3" / "patch.json"
    data = json.loads(receipt.read_text())
    for key in ("modeling", "rules"):
        receipt.write_text(json.dumps(data | {"options": data["options"] | {key: path}, "link": path}))
        found = status(flux)
        assert (found.state, found.reproducible, found.code) == ("patched", False, {})
        assert path in found.reason
    undo(flux)
    assert not (flux / "model_index.json").is_symlink()


def test_output_does_not_change_the_folder(flux, tmp_path) -> None:
    before = snapshot(flux)
    output = tmp_path / "out" / "flux"
    patch(flux, output=output)
    assert snapshot(flux) == before
    assert (output / "vae").is_symlink() and not (output / "transformer").is_symlink()
    assert (output / "transformer" / "diffusion_pytorch_model.safetensors").is_symlink()
    assert patch(flux, output=output).state == "already-patched"
    undo(output)
    after = snapshot(output)
    assert after == {name: before[name] for name in after} and "transformer/config.json" in after
    assert (output / "vae" / "config.json").read_bytes() == before["vae/config.json"]
    (output / "other").write_text("")
    with pytest.raises(ConflictError, match="already holds something else"):
        patch(flux, output=output)


def test_a_link_stays_a_link_after_undo(flux) -> None:
    (flux / "model_index.json").rename(flux / "blob")
    os.symlink("blob", flux / "model_index.json")
    patch(flux)
    assert not (flux / "model_index.json").is_symlink()
    undo(flux)
    assert os.readlink(flux / "model_index.json") == "blob"


def test_a_receipt_that_names_a_file_outside_is_refused(flux) -> None:
    patch(flux)
    receipt = flux / ".fa3" / "patch.json"
    receipt.write_text(receipt.read_text().replace('"transformer/', '"transformer/../../'))
    with pytest.raises(ConflictError, match="names a file outside its folder"):
        undo(flux)


def test_an_existing_file_is_not_overwritten(flux) -> None:
    name = plan(flux).receipt.files[0].module
    (flux / name).write_text("")
    with pytest.raises(ConflictError, match="exists, and there is no"):
        patch(flux)


def test_a_missing_diffusers_is_a_missing_capability(flux, monkeypatch) -> None:
    monkeypatch.setattr(pipeline, "installed_diffusers", installed.installed_diffusers)
    monkeypatch.setattr(installed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingCapabilityError, match="diffusers is not installed"):
        patch(flux)
