import importlib.metadata

import pytest

from fa3cli.errors import MissingCapabilityError, UnsupportedError
from fa3cli.patching.origins.installed import Installed, installed_transformers

AUTO = """
MODEL_MAPPING_NAMES = OrderedDict(
    [
        ("other", "OtherModel"),
    ]
)
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = OrderedDict(
    [
        ("plain", "PlainForCausalLM"),
        ("dashed-name", "DashedForCausalLM"),
        ("plain_text", "PlainTextForCausalLM"),
        ("old", "OldForCausalLM"),
        ("twin", "PlainForCausalLM"),
        ("lost", "LostForCausalLM"),
    ]
)
"""
FILES = {
    "models/auto/modeling_auto.py": AUTO,
    "models/auto/auto_mappings.py": 'CONFIG_MAPPING_NAMES = OrderedDict(\n    [\n        ("plain", "PlainConfig"),\n    ]\n)\n',
    "models/auto/configuration_auto.py": 'CONFIG_MAPPING_NAMES = OrderedDict(**{"a": "B"}, **CONFIG_MAPPING_NAMES)\nSPECIAL_MODEL_TYPE_TO_MODULE_NAME = OrderedDict(\n    [\n        ("plain_text", "plain"),\n    ]\n)\n',
    "models/plain/modeling_plain.py": "class PlainForCausalLM(X): ...\nclass PlainTextForCausalLM(X): ...\n",
    "models/plain/modeling_aplain.py": "class PlainForCausalLMHead(X): ...\n",
    "models/dashed_name/modeling_dashed_name.py": "class DashedForCausalLM: ...\n",
    "models/deprecated/old/modeling_old.py": "class OldForCausalLM: ...\n",
    "modeling_utils.py": "class PreTrainedModel: ...\n",
}  # fmt: skip


@pytest.fixture
def installed(tmp_path) -> Installed:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return Installed(tmp_path, "4.43.1")


@pytest.mark.parametrize(
    ("model_type", "path", "package", "causal_lm"),
    [
        ("plain", "models/plain/modeling_plain.py", "models.plain", "PlainForCausalLM"),
        (
            "dashed-name",
            "models/dashed_name/modeling_dashed_name.py",
            "models.dashed_name",
            "DashedForCausalLM",
        ),
        ("plain_text", "models/plain/modeling_plain.py", "models.plain", "PlainTextForCausalLM"),
        ("old", "models/deprecated/old/modeling_old.py", "models.deprecated.old", "OldForCausalLM"),
        ("twin", "models/plain/modeling_plain.py", "models.plain", "PlainForCausalLM"),
    ],
)
def test_a_model_type_has_its_modeling_file(
    installed, model_type: str, path: str, package: str, causal_lm: str
) -> None:
    found = installed.modeling_file(model_type)
    assert (found.path, found.package, found.causal_lm) == (
        installed.folder / path,
        f"transformers.{package}",
        causal_lm,
    )


def test_an_unknown_type_is_refused_with_the_nearest_one(installed) -> None:
    with pytest.raises(UnsupportedError, match="'plian'") as caught:
        installed.modeling_file("plian")
    assert "plain" in caught.value.hint
    with pytest.raises(UnsupportedError, match="'other'"):
        installed.modeling_file("other")
    with pytest.raises(UnsupportedError, match="no class LostForCausalLM"):
        installed.modeling_file("lost")


@pytest.mark.parametrize(
    ("version", "works"), [("4.9.2", False), ("4.42.4", False), ("4.43.0.dev0", True), ("5.0", True)]
)
def test_a_transformers_that_is_too_old_is_refused(monkeypatch, version: str, works: bool) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    if works:
        assert installed_transformers().version == version
        return
    with pytest.raises(MissingCapabilityError, match=f"transformers {version} is installed, expected 4.43 or newer"):
        installed_transformers()


def test_causal_lms_are_read_from_the_installed_files(installed) -> None:
    assert installed.causal_lms["twin"] == "PlainForCausalLM"
    assert installed.knows("old")
    assert not installed.knows("other")
    assert installed.config_class("plain") == "PlainConfig"
    assert installed.config_class("plain_text") is None


def test_some_versions_know_custom_code(installed) -> None:
    assert not installed.knows_custom_code
    (installed.folder / "modeling_utils.py").write_text("    def is_custom_code(cls): ...\n")
    assert installed.knows_custom_code


def test_transformers_is_found_without_importing_it() -> None:
    try:
        found = installed_transformers()
    except MissingCapabilityError:
        pytest.skip("transformers is not installed")
    assert found.modeling_file("qwen2").path.name == "modeling_qwen2.py"
