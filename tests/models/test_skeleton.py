from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fa3cli.errors import Fa3Error, InvalidInputError, UnsupportedError
from fa3cli.models.opening import open_model
from fa3cli.models.skeleton import _require_rope, build_skeleton, read_config
from tests.conftest import EXAMPLES, ROOT
from tests.models.published.test_conversions import TYPES
from tests.runs.same_configs import differing
from tests.sample_models import edit_config, write_model


def test_a_config_equals_that_of_transformers() -> None:
    assert differing() == []


@pytest.mark.versions
@pytest.mark.parametrize("version", ["4.43.1", "4.57.6", "5.23.0"])
def test_a_config_is_the_same_under_every_version(version: str) -> None:
    python = ROOT / ".venvs" / version / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no environment for transformers {version} (make versions)")
    done = subprocess.run(
        [python, "-m", "tests.runs.same_configs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.parametrize("implementation", [None, "eager", "sdpa"])
def test_a_known_class_is_built_as_transformers_builds_it(implementation: str | None) -> None:
    from transformers import AutoModelForCausalLM

    folder = EXAMPLES / "qwen2-tiny"
    expected = build_skeleton(read_config(folder, trusted=False), torch.bfloat16, implementation)
    found = build_skeleton(
        read_config(folder, trusted=False), torch.bfloat16, implementation, known_class=type(expected)
    )
    assert type(found) is AutoModelForCausalLM._model_mapping[type(found.config)]
    assert found.config._attn_implementation == expected.config._attn_implementation
    assert {name: (t.shape, t.dtype, t.device.type) for name, t in found.state_dict().items()} == {
        name: (t.shape, t.dtype, t.device.type) for name, t in expected.state_dict().items()
    }
    assert not found.training


@pytest.mark.parametrize("model_type", ["deepseek_v3", "glm4_moe", "ernie4_5_moe", "hunyuan_v1_moe"])
def test_a_model_has_the_dtypes_that_transformers_loads(model_type: str, tmp_path: Path) -> None:
    """Routers, or their biases, are float32 in a bfloat16 model."""
    from transformers import AutoModelForCausalLM

    folder = write_model(tmp_path, model_type, patched=False, dtype=torch.bfloat16, **TYPES[model_type])
    expected = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    found = build_skeleton(read_config(folder, trusted=False), torch.bfloat16, None).state_dict()
    dtypes = {name: tensor.dtype for name, tensor in expected.items()}
    assert {name: tensor.dtype for name, tensor in found.items()} == dtypes
    assert torch.float32 in dtypes.values()


def test_a_missing_config_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no config.json"):
        read_config(tmp_path, trusted=False)


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "no_such_type"},
        {"hidden_size": "wide"},
        {"hidden_size": -1},
        {"num_attention_heads": 0},
        {"num_hidden_layers": -3},
        {"num_hidden_layers": None},
        {"vocab_size": 1.5},
        {"hidden_act": "no_such_function"},
        {"rope_scaling": {"rope_type": "no_such_rope"}},
        {"rope_scaling": "no dict"},
    ],
)
def test_a_config_without_a_usable_model_is_refused(tmp_path: Path, values: dict[str, object]) -> None:
    folder = write_model(tmp_path, patched=False)
    edit_config(folder, **values)
    with pytest.raises((InvalidInputError, UnsupportedError)) as raised:
        open_model(folder, fa=False)
    assert str(folder) in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"architectures": ["LlamaForCausalLM"]}'])
def test_a_broken_config_is_refused(tmp_path: Path, text: str) -> None:
    folder = write_model(tmp_path, patched=False)
    (folder / "config.json").write_text(text)
    with pytest.raises(Fa3Error, match="config.json"):
        open_model(folder, fa=False)


def test_a_model_that_is_not_a_causal_lm_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path, patched=False)
    edit_config(folder, model_type="t5", architectures=["T5EncoderModel"])
    with pytest.raises(UnsupportedError, match="t5"):
        open_model(folder, fa=False)


@pytest.mark.parametrize(
    "values",
    [
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 10**400},
        {"num_hidden_layers": 90_000},
        {"num_labels": 10**9},
        {"num_attention_heads": 10**9, "head_dim": 10**9},
        {"vocab_size": 10**12},
        {"max_position_embeddings": "many"},
        {"text_config": {"num_hidden_layers": 10**9}},
    ],
)
def test_a_config_with_huge_sizes_is_refused_quickly(tmp_path: Path, values: dict[str, object]) -> None:
    folder = write_model(tmp_path, patched=False)
    edit_config(folder, **values)
    began = time.process_time()
    with pytest.raises(Fa3Error) as raised:
        open_model(folder, fa=False)
    assert raised.value.exit_code in (3, 5) and str(folder) in str(raised.value)
    assert time.process_time() - began < 60


@pytest.mark.parametrize("value", ["many", [64], {"a": 1}, True])
def test_sizes_that_limit_samples_must_be_numbers(
    tmp_path: Path, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old transformers versions accept any value, and a model need not check it."""
    folder = write_model(tmp_path, patched=False)
    config = read_config(folder, trusted=False)
    vars(config)["max_position_embeddings"] = value
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", lambda *_, **__: config)
    with pytest.raises(InvalidInputError, match="max_position_embeddings is .* expected a number"):
        read_config(folder, trusted=False)


def test_a_plan_without_weights_limits_the_number_of_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path, patched=False)
    (folder / "model.safetensors").unlink()
    monkeypatch.setattr("fa3cli.models.untrusted.bounded._MODULES", 10)
    with pytest.raises(UnsupportedError, match="more than 10 modules"):
        open_model(folder, fa=False, only_plan=True)


def test_code_and_config_of_other_folders_are_not_read(tmp_path: Path) -> None:
    """Configs of other models may name a backbone in another folder, which transformers would read."""
    folder = write_model(tmp_path / "model", patched=False)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "evil.py").write_text(f"open({str(tmp_path / 'CANARY')!r}, 'w')\n")
    edit_config(other, model_type="mine", auto_map={"AutoConfig": "evil.Config"})
    edit_config(folder, model_type="detr", backbone=str(other), use_timm_backbone=False, backbone_config=None)
    with pytest.raises(UnsupportedError, match="detr"):
        open_model(folder, fa=False)
    assert not (tmp_path / "CANARY").exists()


def test_errors_do_not_name_the_temporary_copy(tmp_path: Path) -> None:
    folder = write_model(tmp_path, patched=False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "no_such_type"}))
    with pytest.raises(InvalidInputError) as raised:
        open_model(folder, fa=False)
    assert "fa3-checked" not in str(raised.value)


@pytest.mark.parametrize(
    ("rope", "named"),
    [
        ({"rope_theta": 5e5, "rope_type": "default"}, "rope_theta=500000.0"),
        ({"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}, "rope_type='linear', factor=2.0"),
        ({"full_attention": {"rope_theta": 1e4}}, "full_attention="),
    ],
)
def test_a_rope_that_transformers_4_ignores_is_refused(
    rope: dict[str, object], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path, patched=False)
    monkeypatch.setattr("transformers.__version__", "4.57.6")
    config = SimpleNamespace(rope_theta=1e4, rope_scaling=None)
    edit_config(folder, rope_parameters={"rope_theta": 1e4, "rope_type": "default"})
    _require_rope(config, folder / "config.json")
    edit_config(folder, rope_parameters=rope)
    with pytest.raises(UnsupportedError, match="does not read rope_parameters") as raised:
        _require_rope(config, folder / "config.json")
    assert named in str(raised.value) and "transformers 5" in str(raised.value.hint)
    monkeypatch.setattr("transformers.__version__", "5.0.0")
    _require_rope(config, folder / "config.json")
