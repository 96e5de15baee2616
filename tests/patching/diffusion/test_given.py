"""Tests files of other repositories as --modeling: small forms of Tencent's HunyuanVideo and MindIE's FLUX.1-dev."""

from __future__ import annotations

from pathlib import Path

import pytest

from fa3cli.errors import InvalidInputError, UnsupportedError
from fa3cli.patching import attention_of, patch, plan, status, undo
from tests.patching.conftest import snapshot
from tests.patching.diffusion import samples


def repository(folder: Path, name: str, text: str) -> Path:
    """A file of a package."""
    path = folder / name
    path.parent.mkdir(parents=True)
    for parent in Path(name).parents[:-1]:
        (folder / parent / "__init__.py").touch()
    path.write_text(text.lstrip("\n"))
    return path


def patched(folder: Path) -> str:
    (path,) = folder.glob("*.py")
    return path.read_text()


def test_blocks_of_tencent_are_patched(tmp_path, library) -> None:
    modeling = repository(tmp_path / "repo", "hyvideo/modules/models.py", samples.TENCENT)
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "mp_rank_00_model_states.pt").write_bytes(b"weights")
    before = snapshot(folder)
    result = patch(folder, modeling=modeling)
    assert [attention.name for attention in result.files[0].attention] == [
        "MMDoubleStreamBlock",
        "MMSingleStreamBlock",
    ]
    text = patched(folder)
    assert text.count('layout="BSHD")') == 2 and text.count("self.fa_quantizer.quant(q, ") == 2
    assert "num_attention_heads=heads_num, hidden_size=hidden_size" in text
    assert "from hyvideo.modules.attenion import attention, parallel_attention" in text
    double = text[text.index("class MMDouble") : text.index("class MMSingle")]
    assert double.index("v = torch.cat") < double.index("quant(q,") < double.index("if not self.hybrid")
    single = text[text.index("class MMSingle") :]
    assert (
        single.index("q = torch.cat") < single.index("\n        q = self.fa_quantizer") < single.index("if not self.h")
    )
    assert patch(folder, modeling=modeling).state == "already-patched"
    assert not status(folder).reproducible and "not from the installed diffusers" in status(folder).reason
    undo(folder)
    assert snapshot(folder) == before


def test_processors_of_mindie_are_patched_on_both_paths(flux, tmp_path, library) -> None:
    modeling = repository(tmp_path / "repo", "FLUX1dev/layers/attention_processor.py", samples.MINDIE)
    before = snapshot(flux)
    patch(flux, modeling=modeling)
    assert (flux / "model_index.json").read_bytes() == before["model_index.json"]
    text = patched(flux)
    for role, name in zip("qkv", ("query", "key", "value")):
        assert text.count(f'{name} = attn.fa_quantizer.quant({name}, qkv="{role}")') == 2
    assert text.count("FAQuantizer(SimpleNamespace(") == 1
    assert "num_key_value_heads=self.inner_kv_dim * self.heads // self.inner_dim), logger, layout=" in text
    assert "from FLUX1dev.utils import get_world_size" in text
    parallel = text[text.index("def forward_parallel") :]
    assert parallel.index("value = value.view") < parallel.index("quant(query") < parallel.index("attn.apply_fa")
    undo(flux)
    assert snapshot(flux) == before


def test_a_file_outside_its_package_is_refused(tmp_path, library) -> None:
    modeling = tmp_path / "models.py"
    modeling.write_text(samples.TENCENT.lstrip("\n"))
    (tmp_path / "weights").mkdir()
    with pytest.raises(UnsupportedError, match=r"models.py:5: imports files beside it, but .* is not a package"):
        patch(tmp_path / "weights", modeling=modeling)


def test_attention_by_an_unknown_object_is_refused(tmp_path, library) -> None:
    """An earlier version of Tencent's file, for several devices only."""
    text = samples.TENCENT.replace("parallel_attention(\n", "unknown_attention(\n")
    modeling = repository(tmp_path / "repo", "hyvideo/modules/models.py", text)
    (tmp_path / "weights").mkdir()
    with pytest.raises(UnsupportedError, match="calls unknown_attention, which may be attention"):
        patch(tmp_path / "weights", modeling=modeling)


def test_a_given_transformer_file_is_loaded_as_the_transformer(flux, library) -> None:
    modeling = library.folder / "models" / "transformers" / "transformer_flux.py"
    result = patch(flux, modeling=modeling)
    assert (result.files[0].component, result.files[0].origin) == ("transformer", "given")
    assert not status(flux).reproducible


def test_a_folder_without_an_index_needs_the_option_modeling(tmp_path, library) -> None:
    modeling = repository(tmp_path / "repo", "hyvideo/modules/models.py", samples.TENCENT)
    folder = tmp_path / "weights"
    folder.mkdir()
    patch(folder, modeling=modeling)
    for act in (patch, plan, attention_of):
        with pytest.raises(InvalidInputError, match="has no model_index.json") as caught:
            act(folder)
        assert "--modeling" in caught.value.hint
