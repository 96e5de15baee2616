import json
import os

import pytest

from fa3cli.patching import patch, plan, status, undo
from fa3cli.patching.folders.receipt import RECEIPT, sha256
from tests.patching import remote_samples, rule_samples


def test_an_unpatched_folder_has_state_unpatched(weights) -> None:
    found = status(weights)
    assert (found.state, found.reproducible, found.module, found.class_name) == (
        "unpatched",
        False,
        None,
        None,
    )


def test_a_patched_folder_is_reproducible(weights) -> None:
    patch(weights)
    found = status(weights)
    assert (found.state, found.reproducible, found.class_name) == ("patched", True, "Qwen2ForCausalLM")
    assert found.module == weights / "modeling_qwen2_fa3.py"
    assert "Qwen2Attention" in found.attention


def test_a_forged_receipt_does_not_make_a_patch_reproducible(weights) -> None:
    patch(weights)
    module, receipt = weights / "modeling_qwen2_fa3.py", weights / RECEIPT
    module.write_text("print('evil')\n")
    data = json.loads(receipt.read_text())
    data["files"][0]["modeling"]["after"] = sha256(module.read_bytes())
    receipt.write_text(json.dumps(data))
    found = status(weights)
    assert (found.state, found.reproducible) == ("stale", False)


def test_another_auto_map_entry_is_never_reproducible(weights) -> None:
    config = json.loads((weights / "config.json").read_bytes())
    (weights / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "evil.Qwen2Config"}}))
    patch(weights)
    found = status(weights)
    assert (found.state, found.reproducible) == ("patched", False)


def test_a_given_source_and_another_quantizer_are_never_reproducible(weights) -> None:
    path = weights.parent / "modeling_given.py"
    path.write_text(plan(weights).texts[0][0])
    patch(weights, modeling=path)
    assert (status(weights).state, status(weights).reproducible) == ("patched", False)
    patch(weights, quantizer="msmodelslim")
    assert (status(weights).state, status(weights).reproducible) == ("patched", False)
    path.write_text("changed")
    patch(weights)
    assert status(weights).reproducible


def test_a_users_rules_are_never_reproducible(weights, tmp_path) -> None:
    rule = tmp_path / "rules" / "mine.toml"
    rule.parent.mkdir()
    rule.write_text(rule_samples.QWEN2)
    patch(weights, rules=rule.parent)
    found = status(weights)
    assert (found.state, found.reproducible) == ("patched", False)
    assert found.reason == f"made by the rules of {rule.parent}"
    rule.write_text(rule_samples.QWEN2.replace("Qwen2", "Other"))
    patch(weights, rules=rule.parent)  # rules without effect are unchecked rules too
    assert not status(weights).reproducible


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"modeling": "PIPE"}, "made from PIPE, not from the installed transformers"),
        ({"modeling": "/dev/zero"}, "made from /dev/zero, not from"),
        ({"rules": "PIPE"}, "made by the rules of PIPE"),
        ({"quantizer": "evil"}, "it uses the quantizer of evil"),
    ],
)
def test_paths_named_in_a_receipt_are_not_opened(weights, tmp_path, options, reason) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening the pipe would block
    path = str(tmp_path / "pipe")
    patch(weights)
    data = json.loads((weights / RECEIPT).read_text())
    data["options"] |= {key: value.replace("PIPE", path) for key, value in options.items()}
    data["files"][0]["source"] = path
    (weights / RECEIPT).write_text(json.dumps(data | {"link": path}))
    found = status(weights)
    assert (found.state, found.reproducible, found.code) == ("patched", False, {})
    assert reason.replace("PIPE", path) in found.reason
    undo(weights)
    assert not (weights / "config.json").is_symlink() and status(weights).state == "unpatched"


def test_an_incomplete_patch_with_a_given_source_is_stale(weights) -> None:
    path = weights.parent / "modeling_given.py"
    path.write_text(plan(weights).texts[0][0])
    patch(weights, modeling=path).files[0].module.unlink()
    assert status(weights).state == "stale"


@pytest.mark.parametrize("name", ["modeling_qwen2_fa3.py", "config.json"])
def test_a_file_changed_after_the_patch_is_edited(weights, name: str) -> None:
    patch(weights)
    (weights / name).write_bytes((weights / name).read_bytes() + b"\n")
    found = status(weights)
    assert (found.state, found.reproducible) == ("edited", False)
    assert name in found.reason


def test_a_patch_without_a_valid_receipt_is_foreign_or_hand_patched(weights) -> None:
    patch(weights)
    (weights / RECEIPT).write_text("{}")
    assert status(weights).state == "foreign"
    (weights / RECEIPT).unlink()
    assert status(weights).state == "hand-patched"
    assert status(weights).class_name == "Qwen2ForCausalLM"


@pytest.mark.parametrize("linked", [False, True])
def test_code_in_the_weights_folder_is_never_reproducible(tmp_path, linked: bool) -> None:
    folder = remote_samples.write(tmp_path / "remote", "helpers")
    assert status(folder).state == "unpatched"
    output = tmp_path / "linked" if linked else folder
    patch(folder, output=output)
    found = status(output)
    assert (found.state, found.reproducible, found.class_name) == ("patched", False, "TinyForCausalLM")
    assert "not from the installed transformers" in found.reason
    source = folder / "modeling_tiny.py"
    source.write_text(source.read_text() + "# newer\n")
    assert (status(output).state, status(output).reproducible) == ("stale", False)
    assert "modeling_tiny.py has changed" in status(output).reason
    source.unlink()
    assert "modeling_tiny.py" in status(output).reason
    undo(output)
    assert status(output).module == output / "modeling_tiny.py"


def test_status_explains_why_a_patch_is_not_reproducible(weights) -> None:
    patch(weights, quantizer="msmodelslim")
    assert "msmodelslim" in status(weights).reason
    patch(weights)
    assert status(weights).reason is None


def test_status_returns_the_code_of_a_reproducible_patch(weights) -> None:
    assert status(weights).code == {}
    module = patch(weights).files[0].module
    assert status(weights).code == {module.name: module.read_text()}
    patch(weights, quantizer="msmodelslim")
    assert status(weights).code == {}
