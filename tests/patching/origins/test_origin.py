import json

import pytest

from fa3cli.errors import InvalidInputError, UnsupportedError
from fa3cli.patching.folders.config_json import read_config
from fa3cli.patching.origins.installed import installed_transformers
from fa3cli.patching.origins.origin import find_origin, read_source
from tests.patching.conftest import CONFIG

OWN = {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}


@pytest.fixture
def origin(weights):
    """The origin found for a folder whose config.json has these fields."""

    def find(modeling=None, **fields):
        (weights / "config.json").write_text(json.dumps({**CONFIG, **fields}))
        return find_origin(installed_transformers(), read_config(weights / "config.json"), modeling)

    return find


def test_a_model_without_its_own_code_uses_the_installed_file(origin) -> None:
    for auto_map in (
        None,
        {},
        {"AutoModelForCausalLM": None},
        {"AutoConfig": "configuration_own.Qwen2Config"},
    ):
        found = origin(auto_map=auto_map)
        assert (found.kind, found.path.name, found.is_native) == ("installed", "modeling_qwen2.py", True)
        assert (found.class_name, found.package) == ("Qwen2ForCausalLM", "transformers.models.qwen2")


@pytest.mark.parametrize("model_type", ["qwen2", "own"])
def test_code_in_the_folder_has_priority_and_names_the_class(origin, weights, model_type: str) -> None:
    (weights / "modeling_own.py").write_text("")
    found = origin(auto_map=OWN, model_type=model_type, architectures=["Else"])
    assert (found.kind, found.path) == ("folder", weights / "modeling_own.py")
    assert (found.class_name, found.package, found.is_native) == ("OwnForCausalLM", None, False)


def test_code_that_is_missing_or_a_broken_link_is_named(origin, weights) -> None:
    with pytest.raises(InvalidInputError, match=r"modeling_own\.py is missing"):
        origin(auto_map=OWN)
    (weights / "modeling_own.py").symlink_to("nowhere")
    with pytest.raises(InvalidInputError, match="broken link to nowhere"):
        read_source(origin(auto_map=OWN).path)


@pytest.mark.parametrize(("model_type", "native"), [("qwen2", True), ("own", False)])
def test_code_of_another_repository_is_refused_with_a_hint(origin, model_type: str, native: bool) -> None:
    with pytest.raises(UnsupportedError, match="own/repo") as caught:
        origin(auto_map={"AutoModelForCausalLM": "own/repo--modeling_own.Own"}, model_type=model_type)
    assert "download that file" in caught.value.hint
    assert ("transformers' own" in caught.value.hint) == native


@pytest.mark.parametrize("entry", ["own", ["modeling_own.Own"], "a/modeling_own.Own", "../m.Own", "a.b.C", 3, ""])
def test_an_entry_that_names_no_file_of_the_folder_is_invalid(origin, entry) -> None:
    with pytest.raises(InvalidInputError, match="expected 'file.Class'"):
        origin(auto_map={"AutoModelForCausalLM": entry})


def test_a_foreign_config_class_for_a_native_model_is_refused(origin) -> None:
    with pytest.raises(UnsupportedError, match="needs a Qwen2Config"):
        origin(auto_map={"AutoConfig": "configuration_own.OwnConfig"})


def test_a_given_file_with_parent_imports_belongs_to_transformers(origin, tmp_path) -> None:
    path = tmp_path / "given.py"
    path.write_text("from ...utils import logging\n")
    found = origin(path)
    assert (found.kind, found.package, found.is_native) == ("given", "transformers.models.qwen2", True)
    with pytest.raises(UnsupportedError, match="'own'"):
        origin(path, model_type="own")
    inside = origin().path
    assert origin(inside, auto_map=OWN).package == "transformers.models.qwen2"


def test_a_given_file_without_parent_imports_belongs_to_the_folder(origin, tmp_path) -> None:
    path = tmp_path / "given.py"
    path.write_text("from .configuration_own import OwnConfig\n")
    found = origin(path, auto_map={"AutoModelForCausalLM": "own/repo--modeling_own.Own"}, model_type="own")
    assert (found.class_name, found.package, found.is_native) == ("Own", None, False)
    assert origin(path, architectures=None).class_name == "Qwen2ForCausalLM"
    assert origin(path).is_native
