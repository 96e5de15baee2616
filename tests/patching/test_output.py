import pytest

from fa3cli.errors import ConflictError
from fa3cli.patching import api, patch, plan
from tests.patching.conftest import snapshot


def test_an_output_that_was_cut_off_is_finished(weights, monkeypatch) -> None:
    output = weights.parent / "out"
    with monkeypatch.context() as crash:
        crash.setattr(api, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            patch(weights, output=output)
    assert sorted(snapshot(output)) == ["config.json", "model.safetensors"]
    (output / "modeling_qwen2_fa3.py").write_text("mine")
    with pytest.raises(ConflictError, match="something else"):
        patch(weights, output=output)
    (output / "modeling_qwen2_fa3.py").unlink()
    assert patch(weights, output=output).state == "patched"


def test_output_that_holds_something_else_is_refused(weights) -> None:
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
    with pytest.raises(ConflictError, match="patched itself"):
        patch(weights, output=weights.parent / "other")
