import json
import sys

import pytest

from fa3cli.cli import main
from tests.patching import remote_samples, rule_samples
from tests.patching.conftest import snapshot, weights  # noqa: F401
from tests.patching.diffusion.conftest import flux, library  # noqa: F401


@pytest.fixture
def fa3(monkeypatch, capsys):
    """Run `fa3 patch ...`: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fa3", "patch", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            main()
            sys.exit(0)
        captured = capsys.readouterr()
        return done.value.code or 0, captured.out, captured.err

    return run


def test_patch_prints_on_stderr_only(fa3, weights) -> None:  # noqa: F811
    code, out, err = fa3(weights, "--attention", "Qwen2Attention")
    assert (code, out) == (0, "")
    assert "wrote" in err
    assert "Qwen2Attention: query_states, key_states, value_states" in err
    code, out, err = fa3(weights)
    assert (code, out) == (0, "")
    assert "patched already" in err


def test_json_contains_the_result(fa3, weights) -> None:  # noqa: F811
    code, out, _ = fa3(weights, "--json")
    result = json.loads(out)
    [file] = result["files"]
    assert (code, result["state"], file["class_name"]) == (0, "patched", "Qwen2ForCausalLM")
    assert file["attention"][0]["states"] == ["query_states", "key_states", "value_states"]
    assert json.loads(fa3(weights, "--json")[1])["state"] == "already-patched"
    assert len(json.loads(fa3(weights, "--undo", "--json")[1])["removed"]) == 2


def test_check_reports_by_exit_code_and_writes_nothing(fa3, weights) -> None:  # noqa: F811
    before = snapshot(weights)
    assert fa3(weights, "--check")[0] == 1
    assert snapshot(weights) == before
    fa3(weights)
    assert fa3(weights, "--check")[0] == 0
    assert json.loads(fa3(weights, "--check", "--json")[1])["state"] == "already-patched"
    code, _, err = fa3(weights, "--check", "--quantizer", "msmodelslim")
    assert (code, "stale (patched with --quantizer fa3cli, requested is msmodelslim)" in err) == (1, True)
    (weights / "modeling_qwen2_fa3.py").write_text("edited")
    code, out, err = fa3(weights, "--check")
    assert (code, out) == (1, "")
    assert "changed since" in err
    assert "changed since" in json.loads(fa3(weights, "--check", "--json")[1])["reason"]


def test_code_in_the_weights_folder_is_patched_and_restored(fa3, tmp_path) -> None:
    folder = remote_samples.write(tmp_path / "remote", "if_update")
    before = snapshot(folder)
    assert json.loads(fa3(folder, "--list", "--json")[1])["attention"][0]["name"] == "TinyAttention"
    assert "+        q = self.fa_quantizer.quant" in fa3(folder, "--diff")[1]
    assert snapshot(folder) == before
    code, _, err = fa3(folder)
    assert code == 0
    assert f"{folder / 'modeling_tiny.py'} (came with the weights)" in err
    assert "--trust-remote-code" in err
    assert fa3(folder, "--check")[0] == 0
    assert json.loads(fa3(folder, "--json")[1])["files"][0]["origin"] == "folder"
    assert fa3(folder, "--undo")[0] == 0
    assert snapshot(folder) == before
    assert fa3(folder, "--output", tmp_path / "out")[0] == 0
    assert fa3(folder, "--output", tmp_path / "out", "--check")[0] == 0


def test_diff_shows_both_files_and_writes_nothing(fa3, weights) -> None:  # noqa: F811
    before = snapshot(weights)
    code, out, _ = fa3(weights, "--diff")
    assert code == 0
    assert '+        query_states = self.fa_quantizer.quant(query_states, qkv="q")' in out
    assert '+    "AutoModelForCausalLM": "modeling_qwen2_fa3.Qwen2ForCausalLM"' in out
    assert snapshot(weights) == before


def test_list_names_classes_lines_and_states(fa3, weights) -> None:  # noqa: F811
    code, out, _ = fa3(weights, "--list")
    assert code == 0
    assert "Qwen2Attention" in out
    assert "query_states, key_states, value_states (below line" in out
    assert json.loads(fa3(weights, "--list", "--json")[1])["attention"][0]["line"] > 0


def test_list_names_the_matching_rule(fa3, weights, tmp_path) -> None:  # noqa: F811
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "mine.toml").write_text(rule_samples.QWEN2)
    assert "(below line" in (line := fa3(weights, "--list", "--rules", rules)[1].splitlines()[0])
    assert line.endswith(" [mine.toml]")
    idle = rule_samples.QWEN2.partition("[attach]")[0] + 'idle = "nothing in it"\n'
    (rules / "mine.toml").write_text(idle + rule_samples.EXAMPLE.replace("Attention", "Qwen2Attention"))
    assert "needs no patch: nothing in it [mine.toml]" in fa3(weights, "--list", "--rules", rules)[1]


def test_undo_restores_the_folder_and_a_second_undo_does_nothing(fa3, weights) -> None:  # noqa: F811
    before = snapshot(weights)
    fa3(weights)
    assert fa3(weights, "--undo")[0] == 0
    assert snapshot(weights) == before
    code, _, err = fa3(weights, "--undo")
    assert code == 0
    assert "nothing to undo" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--attention", "Qwen9Attention"], 3, "Qwen2Attention"),
        (["--modeling", "nowhere.py"], 5, "nowhere.py"),
        (["--list", "--undo"], 2, "exclude"),
        (["--rules", "nowhere"], 5, "nowhere is not a folder"),
        (["--quantizer", "other"], 2, "other"),
    ],
)
def test_errors_exit_with_their_codes(fa3, weights, arguments: list[str], code: int, words: str) -> None:  # noqa: F811
    before = snapshot(weights)
    found, out, err = fa3(weights, *arguments)
    assert (found, out) == (code, "")
    assert words in err
    assert "Traceback" not in err
    assert snapshot(weights) == before


def test_a_diff_can_be_printed_as_json(fa3, weights) -> None:  # noqa: F811
    code, out, _ = fa3(weights, "--diff", "--json")
    assert code == 0
    assert json.loads(out) == {"diff": fa3(weights, "--diff")[1]}


def test_a_folder_without_config_exits_5(fa3, tmp_path) -> None:
    code, _, err = fa3(tmp_path)
    assert code == 5
    assert "config.json not found" in err


def test_a_foreign_patch_exits_4(fa3, weights) -> None:  # noqa: F811
    (weights / "modeling_qwen2_fa3.py").write_text("mine")
    assert fa3(weights)[0] == 4
    assert fa3(weights, "--undo")[0] == 4
    assert fa3(weights, "--check")[0] == 1


def test_a_pipeline_is_patched_checked_and_restored(fa3, flux) -> None:  # noqa: F811
    before = snapshot(flux)
    assert fa3(flux, "--check")[0] == 1
    code, out, err = fa3(flux, "--list")
    assert code == 0 and "FluxAttnProcessor2_0" in out and "of attention_processor.py" in out
    code, out, _ = fa3(flux, "--diff")
    assert code == 0 and '+        query = attn.fa_quantizer.quant(query, qkv="q")' in out
    assert '-    "diffusers",' in out and '+    "transformer_flux_fa3_' in out
    assert snapshot(flux) == before
    code, out, err = fa3(flux)
    assert (code, out) == (0, "") and f"next: fa3 quantize {flux} --prompts FILE\n" in err
    assert "transformer: " in err and "(diffusers 0.31.0)" in err
    assert fa3(flux, "--check")[0] == 0 and "patched already" in fa3(flux)[2]
    assert json.loads(fa3(flux, "--json")[1])["files"][0]["component"] == "transformer"
    assert "removed" in fa3(flux, "--undo")[2]
    assert snapshot(flux) == before
