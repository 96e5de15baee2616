import json

import pytest

from fa3cli.errors import ConflictError, InvalidInputError, UnsupportedError
from fa3cli.patching import attention_of, patch, plan
from fa3cli.patching.folders.config_json import CAUSAL_LM
from tests.patching import remote_samples
from tests.patching.conftest import snapshot


@pytest.fixture
def remote(tmp_path):
    """A weights folder with its own code."""
    return remote_samples.write(tmp_path / "remote", "helpers")


def test_a_file_of_another_version_is_refused_with_its_missing_names(weights) -> None:
    source = plan(weights).texts[0][0]
    path = weights.parent / "modeling_other.py"
    path.write_text(source.replace("import ACT2FN", "import ACT2FN, NEVER_THERE"))
    with pytest.raises(UnsupportedError, match="NEVER_THERE of transformers.activations"):
        patch(weights, modeling=path)
    path.write_text("import surely_not_installed\n" + source)
    with pytest.raises(UnsupportedError, match="modeling_other.py:1: imports surely_not_installed"):
        patch(weights, modeling=path)
    path.write_text("def f(:\n")
    with pytest.raises(InvalidInputError, match="modeling_other.py:1: does not parse"):
        patch(weights, modeling=path)
    with pytest.raises(InvalidInputError, match="No such file"):
        patch(weights, modeling=weights / "none.py")


def test_the_file_in_the_folder_is_patched_and_keeps_its_imports(remote) -> None:
    before = snapshot(remote)
    [made] = patch(remote).files
    assert (made.origin, made.source, made.class_name) == (
        "folder",
        remote / "modeling_tiny.py",
        "TinyForCausalLM",
    )
    assert [attention.name for attention in made.attention] == ["TinyAttention"]
    after = snapshot(remote)
    assert b"from .configuration_tiny import TinyConfig" in after["modeling_fa3_tiny_fa3.py"]
    assert b"is_custom_code" not in after["modeling_fa3_tiny_fa3.py"]
    auto_map = json.loads(after["config.json"])["auto_map"]
    assert auto_map == {
        **remote_samples.CONFIG["auto_map"],
        CAUSAL_LM: "modeling_fa3_tiny_fa3.TinyForCausalLM",
    }
    assert list(auto_map) == list(remote_samples.CONFIG["auto_map"])
    assert {name: after[name] for name in before if name != "config.json"} == {
        name: data for name, data in before.items() if name != "config.json"
    }
    assert [attention.name for attention in attention_of(remote)] == ["TinyAttention"]


def test_a_given_file_replaces_the_file_of_the_folder(remote) -> None:
    path = remote.parent / "given.py"
    path.write_bytes((remote / "modeling_tiny.py").read_bytes())
    (remote / "modeling_tiny.py").unlink()
    with pytest.raises(InvalidInputError, match="modeling_tiny.py is missing"):
        plan(remote)
    made = plan(remote, modeling=path)
    [file] = made.result.files
    assert (file.origin, file.class_name) == ("given", "TinyForCausalLM")
    assert "from .configuration_tiny" in made.texts[0][1]
    (remote / "helpers_tiny.py").unlink()
    with pytest.raises(InvalidInputError, match=r"given.py:\d+: imports .helpers_tiny"):
        plan(remote, modeling=path)


def test_attention_in_another_file_is_refused_by_name(remote) -> None:
    path = remote / "modeling_tiny.py"
    text = path.read_text()
    (remote / "attention_tiny.py").write_text(text)
    (remote / "modeling_tiny.py").write_text(
        "from .attention_tiny import TinyForCausalLM as Base\n\n\nclass TinyForCausalLM(Base):\n    pass\n"
    )
    with pytest.raises(UnsupportedError, match=r"TinyAttention .*attention_tiny.py:\d+"):
        plan(remote)
    path.write_text(
        text.replace(
            "from torch import nn", "from torch import nn\nfrom .attention_tiny import TinyLayer as Old", 1
        ).replace("TinyLayer(config, layer) for", "(TinyLayer if layer else Old)(config, layer) for")
    )
    with pytest.raises(UnsupportedError, match="also uses attention that is not in this file") as caught:
        plan(remote)
    assert "--attention" in caught.value.hint
    made = plan(remote, attention=["TinyAttention"])
    assert "not in this file" in made.result.warnings[-1]


def test_a_missing_required_package_is_named(remote) -> None:
    path = remote / "modeling_tiny.py"
    path.write_text(path.read_text().replace("import math", "import math\nimport surely_not_installed", 1))
    with pytest.raises(UnsupportedError, match=r"modeling_tiny.py:3: imports surely_not_installed"):
        plan(remote)
    path.write_text(path.read_text().replace("import surely", "if math.pi > 4:\n    import surely", 1))
    assert "try: import surely_not_installed" in plan(remote).texts[0][1]


def test_a_file_patched_by_hand_is_refused(remote) -> None:
    path = remote / "modeling_tiny.py"
    path.write_text(path.read_text() + "# self.fa_quantizer\n")
    with pytest.raises(ConflictError, match="already has a fa_quantizer"):
        plan(remote)
    given = remote.parent / "given.py"
    given.write_bytes(path.read_bytes())
    path.write_text("")
    with pytest.raises(ConflictError, match="given.py already has a fa_quantizer"):
        plan(remote, modeling=given)


def test_a_file_that_does_not_parse_is_named_with_its_line(remote) -> None:
    for name in ("modeling_tiny.py", "scales_tiny.py"):
        path = remote / name
        text = path.read_text()
        path.write_text(f"{text}\ndef f(:\n")
        with pytest.raises(InvalidInputError, match=rf"{name}:{len(text.splitlines()) + 2}: does not parse"):
            plan(remote)
        path.write_text(text)
