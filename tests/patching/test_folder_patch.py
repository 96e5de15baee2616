import json
import os

import pytest

from fa3cli.errors import ConflictError, InvalidInputError, UnsupportedError
from fa3cli.patching import attention_of, patch, plan, status, undo
from fa3cli.patching.folders.receipt import RECEIPT
from tests.patching import remote_samples, rule_samples
from tests.patching.conftest import snapshot


def test_patch_then_undo_restores_every_byte(weights) -> None:
    before = snapshot(weights)
    result = patch(weights)
    assert (result.state, result.files[0].class_name) == ("patched", "Qwen2ForCausalLM")
    assert sorted(snapshot(weights)) == [
        ".fa3/patch.json",
        "config.json",
        "model.safetensors",
        "modeling_qwen2_fa3.py",
    ]
    config = json.loads((weights / "config.json").read_bytes())
    assert config["auto_map"] == {"AutoModelForCausalLM": "modeling_qwen2_fa3.Qwen2ForCausalLM"}
    done = undo(weights)
    assert done.restored == (weights / "config.json",)
    assert snapshot(weights) == before
    assert not (weights / ".fa3").exists()


def test_patching_twice_writes_nothing(weights) -> None:
    patch(weights)
    first = {name: (weights / name).stat().st_mtime_ns for name in snapshot(weights)}
    assert patch(weights).state == "already-patched"
    assert {name: (weights / name).stat().st_mtime_ns for name in snapshot(weights)} == first


def test_plan_writes_nothing(weights) -> None:
    before = snapshot(weights)
    assert plan(weights).result.state == "would-patch"
    assert snapshot(weights) == before


def test_another_choice_replaces_the_patch_and_undo_restores_the_original(weights) -> None:
    before = snapshot(weights)
    patch(weights)
    assert plan(weights, quantizer="msmodelslim").result.state == "stale"
    assert patch(weights, quantizer="msmodelslim").state == "patched"
    assert b"from msmodelslim import logger" in snapshot(weights)["modeling_qwen2_fa3.py"]
    undo(weights)
    assert snapshot(weights) == before


def test_undo_of_an_unpatched_folder_does_nothing(weights) -> None:
    before = snapshot(weights)
    assert undo(weights).removed == ()
    assert snapshot(weights) == before


@pytest.mark.parametrize("name", ["modeling_qwen2_fa3.py", "config.json"])
def test_edits_by_hand_are_overwritten_only_with_force(weights, name: str) -> None:
    before = snapshot(weights)
    patch(weights)
    changed = (weights / name).read_bytes().replace(b"hidden_size", b"hidden_size2") + b"\n"
    (weights / name).write_bytes(changed)
    edited = snapshot(weights)
    for act in (patch, undo, plan):
        with pytest.raises(ConflictError, match=f"{name} changed since"):
            act(weights)
    assert snapshot(weights) == edited
    assert patch(weights, force=True).state == "patched"
    undo(weights)
    if name == "config.json":  # edits by hand are kept after undo
        before[name] = before[name].replace(b"hidden_size", b"hidden_size2") + b"\n"
    assert snapshot(weights) == before


def test_undo_with_force_keeps_edits_of_config(weights) -> None:
    patch(weights)
    path = weights / "config.json"
    path.write_bytes(path.read_bytes().replace(b"64", b"128"))
    undo(weights, force=True)
    config = json.loads(path.read_bytes())
    assert config["hidden_size"] == 128
    assert "auto_map" not in config


def test_a_foreign_patch_is_not_changed(weights) -> None:
    module = weights / "modeling_qwen2_fa3.py"
    module.write_text("mine")
    for act in (patch, undo):
        with pytest.raises(ConflictError, match="modeling_qwen2_fa3.py exists"):
            act(weights)
    module.unlink()
    change(weights, auto_map={"AutoModelForCausalLM": "modeling_qwen2_fa3.Model"})
    before = snapshot(weights)
    for act in (patch, undo):
        with pytest.raises(ConflictError, match=r"no \.fa3/patch\.json"):
            act(weights, force=True)
    assert snapshot(weights) == before


def test_a_file_that_only_mentions_a_quantizer_is_not_changed(weights) -> None:
    (weights / "theirs.py").write_text("self.fa_quantizer = mine")
    change(weights, auto_map={"AutoModelForCausalLM": "theirs.Model"})
    before = snapshot(weights)
    with pytest.raises(ConflictError, match=r"theirs\.py:1: found a fa_quantizer, but not both imports"):
        patch(weights, force=True)
    assert undo(weights, force=True).removed == ()
    assert snapshot(weights) == before


def test_a_linked_config_is_replaced_and_restored_by_undo(weights) -> None:
    blob = weights.parent / "blob"
    (weights / "config.json").rename(blob)
    (weights / "config.json").symlink_to("../blob")
    content = blob.read_bytes()
    patch(weights)
    assert blob.read_bytes() == content
    assert not (weights / "config.json").is_symlink()
    undo(weights)
    assert os.readlink(weights / "config.json") == "../blob"
    assert blob.read_bytes() == content


def test_output_is_a_complete_folder_and_the_source_is_unchanged(weights) -> None:
    before, output = snapshot(weights), weights.parent / "out"
    assert plan(weights, output=output).result.state == "would-patch"
    assert not output.exists()
    result = patch(weights, output=output)
    assert snapshot(weights) == before
    assert result.files[0].module == output / "modeling_qwen2_fa3.py"
    assert (output / "model.safetensors").is_symlink()
    assert status(output).reproducible
    assert patch(weights, output=output).state == "already-patched"
    assert patch(weights, output=output, quantizer="msmodelslim").state == "patched"
    undo(output)
    assert snapshot(output) == before


@pytest.mark.parametrize("target", ["nowhere", "../outside", "/dev/zero"])
def test_a_linked_receipt_folder_is_neither_read_nor_written(weights, target: str) -> None:
    outside = weights.parent / "outside"
    outside.mkdir()
    (outside / "patch.json").write_text("{}")
    (weights / ".fa3").symlink_to(target)
    before = snapshot(weights.parent)
    for act in (patch, undo, plan, lambda folder: patch(folder, output=folder.parent / "out")):
        with pytest.raises(ConflictError, match=r"\.fa3 is a link to") as caught:
            act(weights)
        assert "remove" not in caught.value.hint
    assert status(weights).state == "foreign"
    assert snapshot(weights.parent) == before


@pytest.mark.parametrize("patched", [True, False])
def test_a_folder_in_place_of_the_patched_file_is_a_conflict(weights, patched: bool) -> None:
    module = weights / "modeling_qwen2_fa3.py"
    if patched:
        patch(weights).files[0].module.unlink()
    (module / "mine").mkdir(parents=True)
    before = snapshot(weights)
    for act in (patch, undo):
        for force in (False, True):
            with pytest.raises(ConflictError, match=r"modeling_qwen2_fa3\.py"):
                act(weights, force=force)
    assert snapshot(weights) == before and (module / "mine").is_dir()


@pytest.mark.parametrize("patched", [True, False])
def test_an_empty_receipt_folder_is_removed(weights, patched: bool) -> None:
    (weights / ".fa3").mkdir()
    (weights / ".fa3-0123456789abcdef.tmp").write_text("half")
    if patched:
        patch(weights)
    undo(weights)
    assert sorted(path.name for path in weights.iterdir()) == ["config.json", "model.safetensors"]


def test_undo_keeps_a_file_named_in_a_forged_receipt(weights) -> None:
    patch(weights)
    (weights / "modeling_mine_fa3.py").write_text("mine")
    data = json.loads((weights / RECEIPT).read_text())
    data["files"][0]["module"] = "modeling_mine_fa3.py"
    (weights / RECEIPT).write_text(json.dumps(data))
    with pytest.raises(ConflictError, match=r"modeling_mine_fa3\.py changed since"):
        undo(weights)
    data["files"][0]["module"] = "config.json"
    (weights / RECEIPT).write_text(json.dumps(data))
    with pytest.raises(ConflictError, match="would not write"):
        undo(weights, force=True)
    assert (weights / "config.json").exists()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero"), "sparse"])
@pytest.mark.parametrize("name", ["config.json", "modeling_tiny.py", "helpers_tiny.py", "given.py", "rule.toml"])
def test_special_and_huge_files_are_errors(tmp_path, name: str, make) -> None:
    folder = remote_samples.write(tmp_path / "remote", "helpers")
    path = folder / name if (folder / name).exists() else tmp_path / name
    path.unlink(missing_ok=True)
    if make == "sparse":
        with open(path, "wb") as file:
            file.truncate(1 << 40)
    else:
        make(path)
    options = {"given.py": {"modeling": path}, "rule.toml": {"rules": tmp_path}}.get(name, {})
    with pytest.raises(InvalidInputError, match=name.replace(".", r"\.")):
        patch(folder, **options)


@pytest.mark.parametrize(
    "fields",
    [
        *({"model_type": value} for value in (7, [], {}, "", "a" * 5000, 1e300)),
        *({"architectures": value} for value in (7, {}, "A", [7], [["A"]], [None])),
        *({"auto_map": value} for value in (7, [], "A", {"AutoConfig": 7}, {"AutoModelForCausalLM": []})),
        *({"auto_map": {"AutoModelForCausalLM": value}} for value in (7, {}, "", "a", "../a.B", "a\0.B", [7])),
        *({"torch_dtype": value} for value in (7, [], 1e300)),
        *({"rope_scaling": value} for value in (7, [], "linear")),
        *({"transformers_version": value} for value in (7, [], {})),
        {"_class_name": 7},
    ],
)
def test_a_config_with_wrong_types_is_invalid(weights, fields: dict) -> None:
    change(weights, **fields)
    before = snapshot(weights)
    for act in (patch, plan, attention_of, undo):
        if act is undo and "model_type" not in fields and "auto_map" not in fields:
            continue
        with pytest.raises(InvalidInputError, match=r"config\.json"):
            act(weights)
    assert snapshot(weights) == before


def change(weights, **fields) -> None:
    config = json.loads((weights / "config.json").read_bytes())
    (weights / "config.json").write_text(json.dumps({**config, **fields}))


def test_a_refused_patch_does_not_change_the_folder(weights, monkeypatch) -> None:
    cases = [
        ({"model_type": "qwen22"}, UnsupportedError, "qwen22"),
        ({"model_type": "fuyu", "architectures": ["FuyuForCausalLM"]}, UnsupportedError, "composite"),
        ({"model_type": "qwen2", "architectures": ["Missing"]}, UnsupportedError, "Missing"),
        ({"model_type": None}, InvalidInputError, "model_type"),
    ]
    for fields, kind, message in cases:
        change(weights, **fields)
        before = snapshot(weights)
        with pytest.raises(kind, match=message):
            patch(weights)
        assert snapshot(weights) == before


def test_an_unknown_class_is_refused_with_the_known_classes(weights) -> None:
    with pytest.raises(UnsupportedError, match="no attention class Qwen3Attention") as caught:
        patch(weights, attention=["Qwen3Attention"])
    assert "Qwen2Attention (" in caught.value.hint


def test_user_rules_are_used_and_a_bad_rule_changes_nothing(weights, tmp_path) -> None:
    before, rule = snapshot(weights), tmp_path / "rules" / "mine.toml"
    rule.parent.mkdir()
    rule.write_text(rule_samples.QWEN2)
    result = patch(weights, rules=rule.parent)
    assert "FAQuantizer(SimpleNamespace(num_attention_heads=config." in result.files[0].module.read_text()
    assert (result.rules, result.files[0].attention[0].rule) == (str(rule.parent), "mine.toml")
    assert attention_of(weights, rules=rule.parent)[0].rule == "mine.toml"
    assert plan(weights, rules=rule.parent).result.state == "already-patched"
    assert "patched with --rules" in plan(weights).result.reason
    rule.write_text(rule_samples.QWEN2 + "# the same rule\n")
    assert plan(weights, rules=rule.parent).result.state == "already-patched"
    rule.write_text(rule_samples.QWEN2.replace('"config.hidden_size"', '"config.hidden_size * 1"'))
    changed = plan(weights, rules=rule.parent).result
    assert (changed.state, changed.reason) == ("stale", "the rule mine.toml has changed")
    undo(weights)
    assert snapshot(weights) == before
    rule.write_text(rule_samples.QWEN2.replace("arguments", "something else"))
    for act in (patch, plan, attention_of):
        with pytest.raises(InvalidInputError, match=r"mine\.toml: example 1 was refused for another reason"):
            act(weights, rules=rule.parent)
    assert snapshot(weights) == before


def test_attention_of_lists_the_classes(weights) -> None:
    assert "Qwen2Attention" in [attention.name for attention in attention_of(weights)]


@pytest.fixture
def hub(tmp_path):
    """Make a snapshot like the hub's cache: every file is a link to a blob."""
    blobs, snapshot_folder = tmp_path / "blobs", tmp_path / "snapshots" / "0f1e2d"
    blobs.mkdir()
    snapshot_folder.mkdir(parents=True)
    written = remote_samples.write(tmp_path / "written", "helpers")
    for number, path in enumerate(sorted(written.iterdir())):
        path.rename(blobs / str(number))
        (snapshot_folder / path.name).symlink_to(f"../../blobs/{number}")
    (snapshot_folder / "model.safetensors").symlink_to("../../blobs/still-downloading")
    return snapshot_folder


def links(folder) -> dict[str, str]:
    return {path.name: os.readlink(path) for path in folder.iterdir() if path.is_symlink()}


def test_the_hub_cache_is_never_changed(hub) -> None:
    blobs, before = hub.parents[1] / "blobs", links(hub)
    content = snapshot(blobs)
    patch(hub)
    assert links(hub) == {name: link for name, link in before.items() if name != "config.json"}
    assert status(hub).state == "patched"
    undo(hub)
    assert (links(hub), {path.name for path in hub.iterdir()}) == (before, set(before))
    patch(hub, output=hub.parent / "out")
    assert status(hub.parent / "out").state == "patched"
    undo(hub.parent / "out")
    assert (links(hub), snapshot(blobs)) == (before, content)


def test_a_link_to_the_folder_works_like_the_folder(weights, tmp_path) -> None:
    before, link = snapshot(weights), tmp_path / "link"
    link.symlink_to(weights)
    assert patch(link).files[0].module == link / "modeling_qwen2_fa3.py"
    assert patch(weights).state == "already-patched"
    undo(link)
    assert (link.is_symlink(), snapshot(weights)) == (True, before)
    patch(link, output=tmp_path / "out")
    assert status(tmp_path / "out").state == "patched"
    assert snapshot(weights) == before


def test_folder_names_may_have_spaces_and_letters_of_any_alphabet(weights) -> None:
    folder = weights.rename(weights.with_name("Gewichte – 权重 v1.5"))
    before = snapshot(folder)
    patch(folder)
    assert status(folder).reproducible
    undo(folder)
    assert snapshot(folder) == before


def test_a_read_only_folder_is_a_conflict_and_output_works(weights) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    before = snapshot(weights)
    weights.chmod(0o555)
    with pytest.raises(ConflictError, match="cannot write") as caught:
        patch(weights)
    assert "--output" in caught.value.hint
    assert patch(weights, output=weights.parent / "out").state == "patched"
    weights.chmod(0o755)
    assert snapshot(weights) == before


def test_the_reason_why_a_patch_is_stale_is_named(weights) -> None:
    patch(weights, quantizer="msmodelslim")
    assert plan(weights).result.reason == "patched with --quantizer msmodelslim, requested is fa3cli"
    (weights / "modeling_qwen2_fa3.py").unlink()
    assert "is missing" in plan(weights).result.reason
    undo(weights)
    assert plan(weights).result.reason is None
