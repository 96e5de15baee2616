import json
from pathlib import Path

import pytest

from fa3cli.errors import ConflictError
from fa3cli.patching import patch, plan, undo
from fa3cli.patching.folders.output import make_output
from tests.patching.conftest import snapshot


def test_an_output_with_other_files_is_refused(weights) -> None:
    output = weights.parent / "out"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    for act in (patch, plan):
        with pytest.raises(ConflictError, match="something else"):
            act(weights, output=output)
    assert snapshot(output) == {"notes.txt": b"mine"}
    with pytest.raises(ConflictError, match="not a folder"):
        patch(weights, output=output / "notes.txt")
    patch(weights)
    with pytest.raises(ConflictError, match="itself is patched"):
        patch(weights, output=weights.parent / "other")


def test_the_parent_folder_is_refused_as_output(weights) -> None:
    before = snapshot(weights.parent)
    with pytest.raises(ConflictError, match="something else") as caught:
        patch(weights, output=weights.parent)
    assert "remove" not in caught.value.hint and snapshot(weights.parent) == before


def test_an_output_may_be_inside_the_weights_folder(weights) -> None:
    before = snapshot(weights)
    patch(weights, output=weights / "out")
    assert sorted(path.name for path in (weights / "out").iterdir()) == [
        ".fa3",
        "config.json",
        "model.safetensors",
        "modeling_qwen2_fa3.py",
    ]
    undo(weights / "out")
    assert {name: data for name, data in snapshot(weights).items() if not name.startswith("out")} == before


@pytest.mark.parametrize("same_names", [True, False])
def test_another_patched_model_is_never_overwritten(weights, same_names: bool) -> None:
    other = weights.parent / "other"
    other.mkdir()
    config = json.loads((weights / "config.json").read_bytes())
    (other / "config.json").write_text(json.dumps({**config, "hidden_size": 32}))
    (other / ("model.safetensors" if same_names else "model-2.safetensors")).write_bytes(b"weights")
    patch(other)
    before = snapshot(other)
    with pytest.raises(ConflictError, match="was not made from") as caught:
        patch(weights, output=other)
    assert "new or empty" in caught.value.hint and snapshot(other) == before


def test_an_output_follows_the_config_it_was_made_from(weights) -> None:
    output = weights.parent / "out"
    patch(weights, output=output)
    (weights / "config.json").write_bytes((weights / "config.json").read_bytes().replace(b"64", b"32"))
    assert patch(weights, output=output).state == "patched"
    undo(output)
    assert snapshot(output) == snapshot(weights)


def test_an_output_of_links_may_have_new_files_at_any_depth(tmp_path: Path) -> None:
    source, output = tmp_path / "source", tmp_path / "out"
    (source / "part").mkdir(parents=True)
    for name in ("weights", "index", "part/weights"):
        (source / name).write_bytes(b"old")
    make_output(source, output, {".fa3/a": b"a", "index": b"new", "part/module": b"m"})
    assert snapshot(output) == {
        ".fa3/a": b"a",
        "index": b"new",
        "weights": b"old",
        "part/module": b"m",
        "part/weights": b"old",
    }
    assert (output / "weights").is_symlink() and (output / "part" / "weights").is_symlink()
    assert not (output / "part").is_symlink() and (source / "index").read_bytes() == b"old"
